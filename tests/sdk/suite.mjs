// What the suites of the OpenAI SDK for Node share: the client, cases, and how they are run.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../../.tools/node/", import.meta.url));
export const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")).href);

const aimock = process.env.AIMOCK_URL.replace(/\/$/, "");

// A slow machine is no failure, and what fails is not to be hidden by trying again.
export const options = {
  baseURL: `${process.env.TOLLWAY_URL.replace(/\/$/, "")}/v1`,
  apiKey: process.env.TOLLWAY_KEY,
  maxRetries: 0,
  timeout: 60_000,
};
export const client = new OpenAI(options);
export const said = (content) => [{ role: "user", content }];

export async function collect(chunks) {
  const all = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

export const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

/** Calls, and gives the error of the kind that must come of it. */
export async function refused(kind, call) {
  const error = await call().then(
    (answer) => assert.fail(`no error but ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.equal(error.constructor.name, kind.name, String(error));
  return error;
}

/** What the gateway sent to aimock: the requests that contain the marker. */
export async function upstreamRequests(marker) {
  const journal = await (await fetch(`${aimock}/__aimock/journal`)).json();
  return journal.filter((entry) => JSON.stringify(entry.body ?? "").includes(marker));
}

/** Runs the cases whose names contain one of the words of the command line, or all, and ends. */
export async function run(cases) {
  const words = process.argv.slice(2);
  const names = Object.keys(cases).filter((name) => !words.length || words.some((word) => name.includes(word)));
  let failed = 0;
  for (const name of names) {
    try {
      await cases[name]();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n    ${String(error?.stack ?? error).replaceAll("\n", "\n    ")}`);
    }
  }
  console.log(`${names.length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
