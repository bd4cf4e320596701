// The official OpenAI SDK for Node against a gateway in front of aimock.
//
//     TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... AIMOCK_URL=http://127.0.0.1:4010 SIDE=openai \
//         node tests/sdk/openai_suite.mjs [WORD ...]
//
// SIDE says how the gateway calls aimock: as `openai` or as `anthropic`. With words, only the cases
// whose names contain one of them run. Every case is one line of output; the last line counts them.
import assert from "node:assert/strict";

import { OpenAI, client, collect, options, refused, run, said, textOf, upstreamRequests } from "./suite.mjs";

const { SIDE } = process.env;
const model = "gpt-4o-mini";
const embedding = "text-embedding-3-small";
// The simulated provider: aimock has neither legacy completions nor embeddings in base64.
const demo = "demo";

const SIGN = 'Bäckerei Müßig — パン屋 🥐 «хлеб» שלום 👩🏽‍🚀 "quoted\\slashed"\nsecond line\ttabbed';
const GATE = 'Tür zu! «Закрой дверь» — 門を閉めて, סגור, κλείσε "bitte"\n\tdanke';
const COINS = "Two coins for the crossing, and one for the dog.";
const EAST = ["call_east", "bridge_state", { bridge: "Eastgate", note: 'naïve "quotes"' }];
const BOTH = [
  ["call_east", "bridge_state", { bridge: "Eastgate" }],
  ["call_west", "bridge_state", { bridge: "Westgate" }],
];

const bridgeState = {
  type: "function",
  function: {
    name: "bridge_state",
    description: "Says whether a bridge is open.",
    parameters: {
      type: "object",
      properties: { bridge: { type: "string" }, note: { type: "string" } },
      required: ["bridge"],
    },
  },
};

const barge = {
  type: "json_schema",
  json_schema: {
    name: "barge",
    strict: true,
    schema: {
      type: "object",
      properties: {
        name: { type: "string" },
        tonnes: { type: "integer" },
        cargo: { type: "array", items: { type: "string" } },
        flag: { type: ["string", "null"] },
      },
      required: ["name", "tonnes", "cargo", "flag"],
      additionalProperties: false,
    },
  },
};
const halcyon = { name: "Halcyon", tonnes: 340, cargo: ["slate", "cider"], flag: null };

const ask = (text, more = {}) => client.chat.completions.create({ model, messages: said(text), ...more });
const stream = (text, more = {}) => ask(text, { stream: true, ...more });

const callsOf = (message) =>
  message.tool_calls.map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);

/** The one request that the gateway sent to aimock with the marker in it. */
async function upstreamRequest(marker) {
  const entries = await upstreamRequests(marker);
  assert.equal(entries.length, 1, marker);
  return entries[0];
}

const cases = {
  // ---------------------------------------------------------------------------------------- answers
  async answer_is_the_providers_under_the_name_that_was_asked_for() {
    const answer = await ask("What does the ferryman charge?");
    const [choice] = answer.choices;
    assert.deepEqual([choice.message.role, choice.message.content], ["assistant", COINS]);
    assert.deepEqual([choice.index, choice.finish_reason], [0, "stop"]);
    assert.deepEqual([answer.model, answer.object], [model, "chat.completion"]);
    assert.ok(answer.id && answer.created > 1_600_000_000);
  },

  async every_chat_model_of_the_config_answers() {
    for (const model of ["gpt-4o-mini", "gpt-4o"]) {
      const answer = await ask("What does the ferryman charge?", { model });
      assert.deepEqual([answer.model, answer.choices[0].message.content], [model, COINS]);
    }
  },

  async usage_is_the_providers_own() {
    const { usage } = await ask("Weigh this crate.");
    const counts = [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens];
    assert.deepEqual(counts, [23, 6, 29]);
  },

  async unicode_survives_both_ways() {
    const question = `Spell the sign over the bakery. ${SIGN} \u2028 \ufeff \x7f js`;
    assert.equal((await ask(question)).choices[0].message.content, SIGN);
    const { content } = (await upstreamRequest("\u2028 \ufeff \x7f js")).body.messages.at(-1);
    assert.equal(typeof content === "string" ? content : content[0].text, question);
  },

  async unicode_survives_a_stream() {
    // aimock cuts between UTF-16 units, so only the text without surrogates comes in small pieces.
    assert.equal(textOf(await collect(await stream("Spell the sign over the bakery."))), SIGN);
    const pieces = await collect(await stream("Spell the sign over the gate."));
    assert.equal(textOf(pieces), GATE);
    assert.ok(pieces.length > 20);
  },

  async finish_reasons_are_openais() {
    for (const [text, reason] of [
      ["What does the ferryman charge?", "stop"],
      ["Name every lighthouse on the coast.", "length"],
      ["Tell me what the smugglers did.", "content_filter"],
    ]) {
      assert.equal((await ask(text)).choices[0].finish_reason, reason);
      const chunks = await collect(await stream(text));
      const reasons = chunks.map((chunk) => chunk.choices[0].finish_reason).filter(Boolean);
      assert.deepEqual(reasons, [reason]);
    }
  },

  async developer_role_and_content_parts_reach_the_provider() {
    const messages = [
      { role: "developer", content: "You answer for the ferry js." },
      { role: "user", content: "Good morning." },
      { role: "assistant", content: [{ type: "text", text: "Good morning. Where to?" }] },
      {
        role: "user",
        content: [
          { type: "text", text: "Across. " },
          { type: "text", text: "What does the ferryman charge?" },
        ],
      },
    ];
    assert.equal((await ask("", { messages })).choices[0].message.content, COINS);
    const sent = (await upstreamRequest("You answer for the ferry js.")).body.messages;
    const first = SIDE === "openai" ? "developer" : "system";
    assert.deepEqual(sent.map((message) => message.role), [first, "user", "assistant", "user"]);
    assert.match(JSON.stringify(sent.at(-1)), /Across\. .*ferryman/);
  },

  async members_the_sdk_does_not_know_reach_the_provider() {
    await ask("What does the ferryman charge?", { x_tide_js: { high: [4, 16.5], low: null } });
    if (SIDE === "openai") {
      const { body } = await upstreamRequest("x_tide_js");
      assert.deepEqual(body.x_tide_js, { high: [4, 16.5], low: null });
    }
  },

  async own_credentials_and_headers_stay_at_the_gateway() {
    const body = { model, messages: said("What does the ferryman charge? hdr-js") };
    await client.chat.completions.create(body, { headers: { "x-harbour": "canary" } });
    const headers = JSON.stringify((await upstreamRequest("hdr-js")).headers);
    assert.ok(!headers.includes("canary") && !headers.includes(options.apiKey), headers);
  },

  // ---------------------------------------------------------------------------------------- streams
  async stream_has_one_id_a_role_first_and_one_finish() {
    const chunks = await collect(await stream("What does the ferryman charge?"));
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.deepEqual([...new Set(chunks.map((chunk) => chunk.model))], [model]);
    assert.ok(chunks.every((chunk) => chunk.object === "chat.completion.chunk"));
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(textOf(chunks), COINS);
    const finishes = chunks.map((chunk) => chunk.choices[0].finish_reason);
    assert.deepEqual(finishes, [...Array(chunks.length - 1).fill(null), "stop"]);
  },

  async stream_has_no_usage_unless_asked() {
    for (const chunk of await collect(await stream("Weigh this crate."))) {
      assert.ok(chunk.choices.length === 1 && chunk.usage == null, JSON.stringify(chunk));
    }
  },

  async stream_ends_with_usage_when_asked() {
    const stream_options = { include_usage: true };
    const chunks = await collect(await stream("Weigh this crate.", { stream_options }));
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.deepEqual([last.usage.prompt_tokens, last.usage.completion_tokens], [23, 6]);
    assert.ok(chunks.every((chunk) => chunk.usage == null));
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  },

  async stream_comes_as_it_is_written_and_can_be_left() {
    // aimock takes a quarter of a second for each of nearly sixty pieces. A gateway that collects
    // them has nothing to show before all of them are there, however fast the machine.
    const wholeTakes = (230 / 4) * 250;
    const began = performance.now();
    const chunks = await stream("Read me the whole harbour log.");
    let text = "";
    for await (const chunk of chunks) {
      text += chunk.choices[0].delta.content ?? "";
      if (text) break;
    }
    const waited = performance.now() - began;
    assert.ok(chunks.controller.signal.aborted, "leaving the loop aborts the request");
    assert.ok("At dawn".startsWith(text.trim()), text);
    assert.ok(waited < wholeTakes / 2, `the first piece took ${waited} ms`);
    // The same client goes on.
    assert.equal((await ask("What does the ferryman charge?")).choices[0].message.content, COINS);
  },

  async aborted_call_is_an_abort_and_the_next_one_works() {
    const controller = new AbortController();
    const body = { model, messages: said("Read me the whole harbour log."), stream: true };
    const chunks = await client.chat.completions.create(body, { signal: controller.signal });
    let seen = 0;
    for await (const _ of chunks) {
      seen += 1;
      controller.abort();
    }
    assert.ok(seen > 0 && seen < 20, `${seen} chunks after the abort`);
    assert.equal((await ask("What does the ferryman charge?")).choices[0].message.content, COINS);
  },

  async stream_helper_puts_the_answer_together() {
    const run = client.chat.completions.stream({ model, messages: said("What does the ferryman charge?") });
    let heard = "";
    run.on("content", (delta) => (heard += delta));
    const final = await run.finalChatCompletion();
    assert.deepEqual([heard, final.choices[0].message.content], [COINS, COINS]);
    assert.equal(final.choices[0].finish_reason, "stop");
  },

  async stream_that_is_cut_raises_and_never_says_stop() {
    const finishes = [];
    const read = async () => {
      for await (const chunk of await stream("Cut the line in the middle.")) {
        finishes.push(...chunk.choices.map((choice) => choice.finish_reason));
      }
    };
    await assert.rejects(read);
    assert.ok(finishes.every((reason) => reason === null), JSON.stringify(finishes));
  },

  // ------------------------------------------------------------------------------------------ tools
  async tool_is_called() {
    const [choice] = (await ask("Is the Eastgate bridge open?", { tools: [bridgeState] })).choices;
    assert.deepEqual([choice.finish_reason, choice.message.content], ["tool_calls", null]);
    assert.deepEqual(callsOf(choice.message), [EAST]);
  },

  async tools_are_called_in_parallel() {
    const more = { tools: [bridgeState], parallel_tool_calls: true };
    const [choice] = (await ask("Compare Eastgate and Westgate.", more)).choices;
    assert.deepEqual([choice.finish_reason, callsOf(choice.message)], ["tool_calls", BOTH]);
  },

  async tool_calls_are_streamed_apart() {
    for (const [text, want] of [
      ["Is the Eastgate bridge open?", [EAST]],
      ["Compare Eastgate and Westgate.", BOTH],
    ]) {
      const calls = [];
      const finishes = [];
      for await (const { choices } of await stream(text, { tools: [bridgeState] })) {
        if (choices[0].finish_reason) finishes.push(choices[0].finish_reason);
        for (const delta of choices[0].delta.tool_calls ?? []) {
          if (delta.index === calls.length) {
            calls.push({ id: delta.id, name: delta.function.name, arguments: "" });
          }
          calls[delta.index].arguments += delta.function.arguments ?? "";
        }
      }
      assert.deepEqual(finishes, ["tool_calls"]);
      assert.deepEqual(calls.map((call) => [call.id, call.name, JSON.parse(call.arguments)]), want);
    }
  },

  async stream_helper_puts_tool_calls_together() {
    const messages = said("Compare Eastgate and Westgate.");
    const run = client.chat.completions.stream({ model, messages, tools: [bridgeState] });
    assert.deepEqual(callsOf((await run.finalChatCompletion()).choices[0].message), BOTH);
  },

  async tool_runner_goes_round_to_the_answer() {
    for (const stream of [false, true]) {
      const asked = [];
      const state = ({ bridge }) => {
        asked.push(bridge);
        return bridge === "Eastgate" ? "open" : "shut";
      };
      const tools = [
        { type: "function", function: { ...bridgeState.function, function: state, parse: JSON.parse } },
      ];
      const messages = said("Compare Eastgate and Westgate.");
      const run = client.chat.completions.runTools({ model, messages, tools, stream });
      assert.equal(await run.finalContent(), "Eastgate is open, Westgate is shut.");
      assert.deepEqual(asked, ["Eastgate", "Westgate"]);
    }
  },

  // ------------------------------------------------------------------------------ structured output
  async json_schema_gives_json() {
    const [choice] = (await ask("Enter the barge in the register.", { response_format: barge })).choices;
    assert.deepEqual(JSON.parse(choice.message.content), halcyon);
    assert.equal(choice.finish_reason, "stop");
    const more = { response_format: barge };
    const chunks = await collect(await stream("Enter the barge in the register.", more));
    assert.deepEqual(JSON.parse(textOf(chunks)), halcyon);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  },

  async parse_gives_an_object() {
    const messages = said("Enter the barge in the register.");
    const answer = await client.chat.completions.parse({ model, messages, response_format: barge });
    assert.deepEqual(answer.choices[0].message.parsed, halcyon);
  },

  // -------------------------------------------------------------------- embeddings, completions, models
  async embeddings_come_in_the_order_of_the_input() {
    const more = { model: embedding, encoding_format: "float", dimensions: 8 };
    const texts = ["rope", "tar", "sailcloth", "Möwe 🕊"];
    const batch = await client.embeddings.create({ ...more, input: texts });
    assert.deepEqual(batch.data.map((item) => item.index), [0, 1, 2, 3]);
    for (const [at, input] of texts.entries()) {
      const [alone] = (await client.embeddings.create({ ...more, input })).data;
      assert.equal(alone.embedding.length, 8);
      assert.deepEqual(alone.embedding, batch.data[at].embedding);
    }
    assert.equal(new Set(batch.data.map((item) => String(item.embedding))).size, 4);
  },

  async embeddings_in_base64_are_the_same_numbers() {
    // Base64 is what the SDK asks for by itself.
    const body = { model: demo, input: ["rope", "tar"], dimensions: 16 };
    const packed = (await client.embeddings.create(body)).data;
    const plain = (await client.embeddings.create({ ...body, encoding_format: "float" })).data;
    assert.equal(packed.length, 2);
    for (const [at, item] of packed.entries()) {
      assert.equal(item.embedding.length, 16);
      item.embedding.forEach((number, n) => assert.ok(Math.abs(number - plain[at].embedding[n]) < 1e-6));
    }
  },

  async legacy_completion_is_cut_at_max_tokens() {
    const body = { model: demo, prompt: "A boat", max_tokens: 3 };
    const answer = await client.completions.create(body);
    assert.deepEqual([answer.object, answer.choices[0].finish_reason], ["text_completion", "length"]);
    assert.equal(answer.usage.completion_tokens, 3);
    const chunks = await collect(await client.completions.create({ ...body, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), answer.choices[0].text);
  },

  async models_are_listed_and_retrieved() {
    const ids = (await collect(await client.models.list())).map((listed) => listed.id);
    for (const id of ["gpt-4o-mini", "gpt-4o", embedding, demo]) {
      assert.ok(ids.includes(id), `${id} is not among ${ids}`);
    }
    const retrieved = await client.models.retrieve("gpt-4o");
    assert.deepEqual([retrieved.id, retrieved.object], ["gpt-4o", "model"]);
    const error = await refused(OpenAI.NotFoundError, () => client.models.retrieve("gpt-nothing"));
    assert.equal(error.code, "model_not_found");
  },

  // ----------------------------------------------------------------------------------------- errors
  async provider_errors_become_the_sdks_own() {
    for (const [status, kind, message] of [
      [400, OpenAI.BadRequestError, "The crate has no label."],
      [401, OpenAI.AuthenticationError, "The harbour does not know you."],
      [403, OpenAI.PermissionDeniedError, "The north quay is closed to you."],
      [404, OpenAI.NotFoundError, "There is no such quay."],
      [422, OpenAI.UnprocessableEntityError, "The manifest cannot be read."],
      [429, OpenAI.RateLimitError, "Too many boats today."],
      [500, OpenAI.InternalServerError, "The crane fell over."],
      [503, OpenAI.InternalServerError, "The harbour is frozen."],
    ]) {
      for (const call of [ask, stream]) {
        const error = await refused(kind, () => call(`Break with ${status}`));
        assert.equal(error.status, status);
        assert.ok(error.message.includes(message), error.message);
        assert.ok(error.requestID, "an error has a request id");
        assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
      }
    }
  },

  async rate_limit_says_when_to_come_back() {
    const error = await refused(OpenAI.RateLimitError, () => ask("Break with 429"));
    assert.equal(error.headers.get("retry-after"), "17");
  },

  async wrong_key_is_refused() {
    const stranger = new OpenAI({ ...options, apiKey: "sk-stranger-000" });
    const call = () => stranger.chat.completions.create({ model, messages: said("Hi") });
    const error = await refused(OpenAI.AuthenticationError, call);
    assert.equal(error.code, "invalid_api_key");
    assert.ok(!error.message.includes("sk-stranger"), error.message);
  },

  async call_of_an_unknown_model_is_refused() {
    const error = await refused(OpenAI.BadRequestError, () => ask("Hi", { model: "gpt-nothing" }));
    assert.deepEqual([error.code, error.param], ["model_not_found", "model"]);
  },

  async request_without_messages_is_refused() {
    const call = () => client.chat.completions.create({ model });
    assert.equal((await refused(OpenAI.BadRequestError, call)).param, "messages");
  },

  // ---------------------------------------------------------------------------------- many, and ids
  async twenty_calls_at_once_get_their_own_answers() {
    const boats = Array.from({ length: 20 }, (_, at) => at + 10);
    const one = async (boat) => {
      const text = `Where is berth ${boat}?`;
      if (boat % 2) return textOf(await collect(await stream(text)));
      return (await ask(text)).choices[0].message.content;
    };
    const want = boats.map((boat) => `Berth ${boat} is ${boat * 7} paces from the gate.`);
    assert.deepEqual(await Promise.all(boats.map(one)), want);
  },

  async every_answer_has_a_request_id_of_its_own() {
    const ids = [];
    for (let at = 0; at < 3; at += 1) ids.push((await ask("What does the ferryman charge?"))._request_id);
    const { data, request_id } = await stream("What does the ferryman charge?").withResponse();
    await collect(data);
    ids.push(request_id);
    assert.ok(ids.every(Boolean) && new Set(ids).size === 4, String(ids));
  },
};

await run(cases);
