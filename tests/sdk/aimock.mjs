// A provider nobody here wrote: aimock, with fixtures.json beside this file.
//
//   node aimock.mjs [PORT]     prints `READY http://127.0.0.1:PORT`; without PORT it takes a free one
//
// It is found in .tools/node, where `make tools` puts it.
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const tools = new URL("../../.tools/node/", import.meta.url);
const aimock = createRequire(tools).resolve("@copilotkit/aimock");
const { LLMock } = await import(pathToFileURL(aimock).href);

const mock = new LLMock({ port: Number(process.argv[2] ?? 0), host: "127.0.0.1", journalMaxEntries: 0 });
mock.loadFixtureFile(fileURLToPath(new URL("fixtures.json", import.meta.url)));
// Twenty questions that are told apart by their answers.
for (let boat = 10; boat < 30; boat += 1) {
  mock.onMessage(`Where is berth ${boat}?`, { content: `Berth ${boat} is ${boat * 7} paces from the gate.` });
}
await mock.start();
console.log(`READY ${mock.url}`);
