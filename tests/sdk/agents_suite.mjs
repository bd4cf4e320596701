// The official OpenAI SDK for Node with agents as its models, in front of aimock.
//
//     TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... OTHER_KEY=sk-... AIMOCK_URL=http://127.0.0.1:4010 \
//         node tests/sdk/agents_suite.mjs [WORD ...]
//
// OTHER_KEY may use no tools. With words, only the cases whose names contain one of them run.
import assert from "node:assert/strict";

import { OpenAI, client, collect, options, refused, run, said, textOf, upstreamRequests } from "./suite.mjs";

const AGENT = "agent/reckoner";
const CAREFUL = "agent/careful";
const SIX = "What are six times seven?";
const FORTY_TWO = "Six times seven is forty-two.";
const BRIDGE = "Six times seven, and is Eastgate open?";
const OPEN = "Is the Eastgate bridge open?";
const TIDE = "Yes, until the tide turns at nine.";

const parameters = {
  type: "object",
  properties: { bridge: { type: "string" } },
  required: ["bridge"],
};
const bridgeState = { type: "function", function: { name: "bridge_state", parameters } };

const other = new OpenAI({ ...options, apiKey: process.env.OTHER_KEY });
const ask = (text, more = {}) => client.chat.completions.create({ model: AGENT, messages: said(text), ...more });
const respond = (input, more = {}) => client.responses.create({ model: AGENT, input, ...more });

/** The bodies of what the gateway sent to aimock with the marker in it. */
const asked = async (marker) => (await upstreamRequests(marker)).map((entry) => entry.body);
const counts = (usage) => [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens];

const cases = {
  // ------------------------------------------------------------------------------- chat completions
  async agent_answers_with_what_its_tool_has_found() {
    const answer = await ask(`${SIX} whole-js`);
    const [choice] = answer.choices;
    assert.deepEqual([answer.object, answer.model], ["chat.completion", AGENT]);
    assert.deepEqual([choice.message.role, choice.message.content], ["assistant", FORTY_TWO]);
    // The agent's own calls are no calls for the client to make.
    assert.deepEqual([choice.index, choice.finish_reason, choice.message.tool_calls], [0, "stop", undefined]);
    assert.deepEqual(counts(answer.usage), [100, 12, 112]);
    const [first, second] = await asked("whole-js");
    assert.match(first.messages[0].content, /You reckon at the ferry\./);
    const result = second.messages.at(-1);
    assert.deepEqual([result.role, result.tool_call_id], ["tool", "call_six"]);
    assert.match(result.content, /42/);
  },

  async stream_has_one_id_a_role_first_one_finish_and_usage_last() {
    const chunks = await collect(await ask(SIX, { stream: true, stream_options: { include_usage: true } }));
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.ok(chunks.every((chunk) => chunk.object === "chat.completion.chunk" && chunk.model === AGENT));
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(textOf(chunks), FORTY_TWO);
    const last = chunks.pop();
    assert.deepEqual([last.choices, counts(last.usage)], [[], [100, 12, 112]]);
    assert.ok(chunks.every((chunk) => chunk.usage == null));
    const finishes = chunks.map((chunk) => chunk.choices[0].finish_reason);
    assert.deepEqual(finishes, [...Array(chunks.length - 1).fill(null), "stop"]);
    const told = chunks.flatMap((chunk) => chunk.x_agent ?? []);
    assert.deepEqual(
      told.flatMap((event) => event.type ?? []),
      ["tool_call.started", "tool_call.completed"],
    );
  },

  async stream_has_no_usage_unless_asked() {
    for (const chunk of await collect(await ask(SIX, { stream: true }))) {
      assert.ok(chunk.choices.length === 1 && chunk.usage == null, JSON.stringify(chunk));
    }
  },

  async stream_helper_puts_the_answer_together() {
    const run = client.chat.completions.stream({ model: AGENT, messages: said(SIX) });
    let heard = "";
    run.on("content", (delta) => (heard += delta));
    const final = await run.finalChatCompletion();
    assert.deepEqual([heard, final.choices[0].message.content], [FORTY_TWO, FORTY_TWO]);
  },

  async stream_can_be_left_and_the_client_goes_on() {
    const chunks = await ask("Read me the whole harbour log.", { stream: true });
    for await (const chunk of chunks) if (chunk.choices[0].delta.content) break;
    assert.ok(chunks.controller.signal.aborted, "leaving the loop aborts the request");
    assert.equal((await ask(SIX)).choices[0].message.content, FORTY_TWO);
  },

  async tool_of_an_mcp_server_is_used() {
    const chunks = await collect(await ask("Call across the harbour.", { stream: true }));
    assert.equal(textOf(chunks), "It came back: ahoy.");
    assert.deepEqual(
      chunks.flatMap((chunk) => chunk.x_agent?.tool ?? []),
      ["mcp.harbour.echo"],
    );
  },

  async tool_runner_goes_round_to_the_answer() {
    for (const stream of [false, true]) {
      const asked = [];
      const state = ({ bridge }) => {
        asked.push(bridge);
        return "open";
      };
      const tools = [
        { type: "function", function: { ...bridgeState.function, function: state, parse: JSON.parse } },
      ];
      const run = client.chat.completions.runTools({ model: AGENT, messages: said(OPEN), tools, stream });
      assert.equal(await run.finalContent(), TIDE);
      assert.deepEqual(asked, ["Eastgate"]);
    }
  },

  async functions_of_the_caller_stand_beside_the_agents_tools() {
    const more = { tools: ["calculator", bridgeState] };
    const [choice] = (await ask(BRIDGE, more)).choices;
    assert.equal(choice.finish_reason, "tool_calls");
    assert.deepEqual(
      choice.message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
      [["bridge_state", { bridge: "Eastgate" }]],
    );
    const result = { role: "tool", tool_call_id: choice.message.tool_calls[0].id, content: "open" };
    const messages = [...said(BRIDGE), choice.message, result];
    const answer = await client.chat.completions.create({ model: AGENT, messages, ...more });
    assert.equal(answer.choices[0].message.content, "Forty-two, and it is open.");
  },

  async call_that_waits_is_approved_once() {
    const messages = said(SIX);
    const [choice] = (await client.chat.completions.create({ model: CAREFUL, messages })).choices;
    const [call] = choice.message.tool_calls;
    assert.deepEqual([choice.finish_reason, call.function.name], ["tool_calls", "approve_tool_call"]);
    messages.push(choice.message, { role: "tool", tool_call_id: call.id, content: "approve" });
    const again = () => client.chat.completions.create({ model: CAREFUL, messages });
    assert.equal((await again()).choices[0].message.content, FORTY_TWO);
    assert.equal((await refused(OpenAI.ConflictError, again)).code, "already_decided");
  },

  // -------------------------------------------------------------------------------------- responses
  async response_has_text_and_usage() {
    const response = await respond(SIX);
    assert.deepEqual([response.object, response.status, response.model], ["response", "completed", AGENT]);
    assert.equal(response.output_text, FORTY_TWO);
    assert.deepEqual([response.usage.input_tokens, response.usage.output_tokens], [100, 12]);
    const kept = await client.responses.retrieve(response.id);
    assert.equal(kept.output_text ?? kept.output[0].content[0].text, FORTY_TWO);
    await client.responses.delete(response.id);
    await refused(OpenAI.NotFoundError, () => client.responses.retrieve(response.id));
  },

  async response_is_gone_on_from() {
    const first = await respond(SIX);
    const again = await respond("Call across the harbour.", { previous_response_id: first.id });
    assert.equal(again.output_text, "It came back: ahoy.");
    const seen = (await asked("across the harbour")).at(-1);
    assert.ok(JSON.stringify(seen.messages).includes(FORTY_TWO));
  },

  async response_stream_begins_grows_and_ends() {
    const events = await collect(await respond(SIX, { stream: true }));
    assert.deepEqual(
      events.map((event) => event.sequence_number),
      events.map((_, at) => at),
    );
    assert.equal(events[0].type, "response.created");
    assert.equal(events.at(-1).type, "response.completed");
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), FORTY_TWO);
    const { usage } = events.at(-1).response;
    assert.deepEqual([usage.input_tokens, usage.output_tokens], [100, 12]);
  },

  async response_stream_helper_puts_the_answer_together() {
    const final = await client.responses.stream({ model: AGENT, input: SIX }).finalResponse();
    assert.equal(final.output_text, FORTY_TWO);
  },

  async function_calls_of_responses_go_round() {
    const tools = [{ type: "function", name: "bridge_state", parameters }];
    for (const stream of [false, true]) {
      const made = await respond(OPEN, { tools, stream });
      const first = stream ? (await collect(made)).at(-1).response : made;
      const call = first.output.find((item) => item.type === "function_call");
      assert.deepEqual([call.name, JSON.parse(call.arguments).bridge], ["bridge_state", "Eastgate"]);
      const output = { type: "function_call_output", call_id: call.call_id, output: "open" };
      const again = await respond([output], { tools, previous_response_id: first.id });
      assert.equal(again.output_text, TIDE);
    }
  },

  // ----------------------------------------------------------------------------------------- models
  async agents_are_listed_and_retrieved_among_the_models() {
    const ids = (await collect(await client.models.list())).map((listed) => listed.id);
    for (const id of ["gpt-4o-mini", AGENT, CAREFUL]) assert.ok(ids.includes(id), `${id} is not among ${ids}`);
    const retrieved = await client.models.retrieve(AGENT);
    assert.deepEqual([retrieved.id, retrieved.object], [AGENT, "model"]);
    const error = await refused(OpenAI.NotFoundError, () => client.models.retrieve("agent/nobody"));
    assert.equal(error.code, "model_not_found");
  },

  // ----------------------------------------------------------------------------------------- errors
  async unknown_agent_is_not_found() {
    for (const stream of [false, true]) {
      for (const call of [ask, respond]) {
        const error = await refused(OpenAI.NotFoundError, () => call("Hi", { model: "agent/nobody", stream }));
        assert.equal(error.code, "agent_not_found");
        assert.ok(error.requestID, "an error has a request id");
      }
    }
  },

  async tool_that_is_not_allowed_is_refused() {
    const create = (tools) => other.chat.completions.create({ model: AGENT, messages: said(SIX), tools });
    const error = await refused(OpenAI.PermissionDeniedError, () => create(["calculator"]));
    assert.deepEqual([error.code, error.param], ["tool_not_allowed", "tools"]);
    const unknown = await refused(OpenAI.BadRequestError, () => create(["mind_reader"]));
    assert.equal(unknown.code, "tool_not_found");
    assert.equal((await create()).choices[0].message.content, "I have nothing to reckon with.");
  },

  async bad_input_is_refused() {
    const create = (more) => client.chat.completions.create({ model: AGENT, ...more });
    for (const [call, param] of [
      [() => create({}), "messages"],
      [() => create({ messages: [] }), "messages"],
      [() => create({ messages: [{ content: "Hi" }] }), "messages"],
      [() => ask("Hi", { n: 2 }), "n"],
      [() => ask("Hi", { max_steps: 0 }), "max_steps"],
      [() => ask("Hi", { tools: [{ type: "function" }] }), "tools[0]"],
      [() => client.responses.create({ model: AGENT }), "input"],
    ]) {
      assert.equal((await refused(OpenAI.BadRequestError, call)).param, param);
    }
  },

  async errors_of_the_agents_model_are_the_sdks_own() {
    for (const [status, kind] of [
      [400, OpenAI.BadRequestError],
      [401, OpenAI.AuthenticationError],
      [500, OpenAI.InternalServerError],
    ]) {
      for (const stream of [false, true]) {
        const error = await refused(kind, () => ask(`Break with ${status}`, { stream }));
        assert.equal(error.status, status);
      }
    }
  },

  // ------------------------------------------------------------------------------------------- many
  async ten_agents_at_once_get_their_own_answers() {
    const boats = Array.from({ length: 10 }, (_, at) => at + 20);
    const one = async (boat) => {
      const text = `Where is berth ${boat}?`;
      if (boat % 2) return textOf(await collect(await ask(text, { stream: true })));
      return (await ask(text)).choices[0].message.content;
    };
    const want = boats.map((boat) => `Berth ${boat} is ${boat * 7} paces from the gate.`);
    assert.deepEqual(await Promise.all(boats.map(one)), want);
  },

  async every_answer_names_its_run_and_its_request() {
    for (const stream of [false, true]) {
      const { data, response, request_id } = await ask(SIX, { stream }).withResponse();
      if (stream) await collect(data);
      const id = response.headers.get("x-tollway-run-id");
      assert.ok(id.startsWith("run_") && request_id, id);
      const run = await client.get(`/agent/runs/${id}`);
      assert.deepEqual([run.status, run.usage.total_tokens], ["completed", 112]);
    }
  },
};

await run(cases);
