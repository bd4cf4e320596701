"""The official OpenAI SDK for Python with agents as its models, in front of aimock.

    TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... OTHER_KEY=sk-... AIMOCK_URL=http://127.0.0.1:4010 \
        SIDE=openai .tools/python/bin/python tests/sdk/agents_suite.py [WORD ...]

`OTHER_KEY` may use no tools. With words, only the cases whose names contain one of them run.
"""

import asyncio
import json
import os

import openai
from openai import AsyncOpenAI, OpenAI

from suite import OPENAI as OPTIONS, case, equal, run, said, upstream_requests
from suite import refused_exactly as refused

AGENT, CAREFUL = "agent/reckoner", "agent/careful"
SIX = "What are six times seven?"
FORTY_TWO = "Six times seven is forty-two."
BRIDGE = "Six times seven, and is Eastgate open?"

client = OpenAI(**OPTIONS)
other = OpenAI(**{**OPTIONS, "api_key": os.environ["OTHER_KEY"]})

PARAMETERS = {
    "type": "object",
    "properties": {"bridge": {"type": "string"}},
    "required": ["bridge"],
}
BRIDGE_STATE = {"type": "function", "function": {"name": "bridge_state", "parameters": PARAMETERS}}
BRIDGE_STATE_FLAT = {"type": "function", "name": "bridge_state", "parameters": PARAMETERS}


def ask(text, model=AGENT, **more):
    return client.chat.completions.create(model=model, messages=said(text), **more)


def respond(text, model=AGENT, **more):
    return client.responses.create(model=model, input=text, **more)


def asked(marker):
    """The bodies of what the gateway sent to aimock with the marker in it."""
    return [entry["body"] for entry in upstream_requests(marker)]


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# ------------------------------------------------------------------------------- chat completions


@case
def agent_answers_with_what_its_tool_has_found():
    answer = ask(SIX + " whole-py")
    equal((answer.object, answer.model), ("chat.completion", AGENT))
    equal([choice.index for choice in answer.choices], [0])
    equal(answer.choices[0].message.content, FORTY_TWO)
    equal((answer.choices[0].message.role, answer.choices[0].finish_reason), ("assistant", "stop"))
    # The agent's own calls are no calls for the client to make.
    equal(answer.choices[0].message.tool_calls, None)
    assert answer.id and answer.created > 1_600_000_000, answer
    first, second = asked("whole-py")
    equal(first["messages"][0]["role"], "system")
    assert "You reckon at the ferry." in first["messages"][0]["content"], first
    names = {tool["function"]["name"] for tool in first["tools"]}
    assert {"calculator", "mcp_harbour_echo"} <= names, names
    result = second["messages"][-1]
    equal((result["role"], result["tool_call_id"]), ("tool", "call_six"))
    assert "42" in result["content"], result


@case
def usage_is_that_of_all_steps():
    usage = ask(SIX).usage
    equal((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (100, 12, 112))


@case
def stream_has_one_id_a_role_first_one_finish_and_usage_last():
    chunks = list(ask(SIX, stream=True, stream_options={"include_usage": True}))
    equal({(c.object, c.model) for c in chunks}, {("chat.completion.chunk", AGENT)})
    equal(len({chunk.id for chunk in chunks}), 1)
    equal(chunks[0].choices[0].delta.role, "assistant")
    equal(text_of(chunks), FORTY_TWO)
    *chunks, last = chunks
    equal(last.choices, [])
    equal((last.usage.prompt_tokens, last.usage.completion_tokens), (100, 12))
    assert all(chunk.usage is None for chunk in chunks), chunks
    finishes = [chunk.choices[0].finish_reason for chunk in chunks]
    equal(finishes, [None] * (len(chunks) - 1) + ["stop"])
    # What the SDK has no word for stands beside it.
    told = [chunk.x_agent for chunk in chunks if hasattr(chunk, "x_agent")]
    equal(
        [event["type"] for event in told if "type" in event],
        ["tool_call.started", "tool_call.completed"],
    )
    equal(told[0]["tool"], "calculator")
    assert told[-1]["run_id"].startswith("run_"), told


@case
def stream_has_no_usage_unless_asked():
    for chunk in ask(SIX, stream=True):
        assert len(chunk.choices) == 1 and chunk.usage is None, chunk


@case
def stream_helper_puts_the_answer_together():
    with client.chat.completions.stream(model=AGENT, messages=said(SIX)) as stream:
        heard = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    equal((heard, final.choices[0].message.content), (FORTY_TWO, FORTY_TWO))


@case
def stream_can_be_left_and_the_client_goes_on():
    with ask("Read me the whole harbour log.", stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    equal(ask(SIX).choices[0].message.content, FORTY_TWO)


@case
def tool_of_an_mcp_server_is_used():
    chunks = list(ask("Call across the harbour.", stream=True))
    equal(text_of(chunks), "It came back: ahoy.")
    tools = [c.x_agent["tool"] for c in chunks if "tool" in (getattr(c, "x_agent", None) or {})]
    equal(tools, ["mcp.harbour.echo"])


@case
def functions_of_the_caller_go_round():
    for stream in (False, True):
        messages = said(BRIDGE)
        # Beside them the agent has its own tools. The helper for streams takes no names of tools.
        more = {"model": AGENT, "tools": [BRIDGE_STATE]}
        if stream:
            with client.chat.completions.stream(messages=messages, **more) as events:
                choice = events.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(messages=messages, **more).choices[0]
        equal(choice.finish_reason, "tool_calls")
        (call,) = choice.message.tool_calls
        equal((call.type, call.function.name), ("function", "bridge_state"))
        equal(json.loads(call.function.arguments), {"bridge": "Eastgate"})
        messages.append(choice.message.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "open"})
        answer = client.chat.completions.create(messages=messages, **more)
        equal(answer.choices[0].message.content, "Forty-two, and it is open.")
        # The usage is the whole run's; both results have reached the model.
        last = asked("Eastgate open?")[-1]["messages"]
        results = [message["content"] for message in last if message["role"] == "tool"]
        equal(len(results), 2)
        assert "42" in results[0] and results[1] == "open", results


@case
def call_that_waits_is_approved_or_not():
    for said_of_it, want in [("approve", FORTY_TWO), ("no, too dear", FORTY_TWO)]:
        messages = said(SIX + " approval-py")
        choice = client.chat.completions.create(model=CAREFUL, messages=messages).choices[0]
        equal(choice.finish_reason, "tool_calls")
        (call,) = choice.message.tool_calls
        equal(call.function.name, "approve_tool_call")
        shown = json.loads(call.function.arguments)
        equal((shown["tool"], json.loads(shown["arguments"])), ("calculator", {"expression": "6 * 7"}))
        messages.append(choice.message.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": said_of_it})
        again = {"model": CAREFUL, "messages": messages}
        equal(client.chat.completions.create(**again).choices[0].message.content, want)
        # It is decided once.
        error = refused(openai.ConflictError, lambda: client.chat.completions.create(**again))
        equal(error.code, "already_decided")
    results = [body["messages"][-1]["content"] for body in asked("approval-py")]
    assert "42" in results[1] and "too dear" in results[3] and "42" not in results[3], results


# -------------------------------------------------------------------------------------- responses


@case
def response_has_text_and_usage():
    response = respond(SIX)
    equal((response.object, response.status, response.model), ("response", "completed", AGENT))
    equal(response.output_text, FORTY_TWO)
    equal((response.usage.input_tokens, response.usage.output_tokens), (100, 12))
    equal(client.responses.retrieve(response.id).output_text, FORTY_TWO)
    items = client.responses.input_items.list(response.id).data
    equal([item.content[0].text for item in items], [SIX])
    client.responses.delete(response.id)
    refused(openai.NotFoundError, lambda: client.responses.retrieve(response.id))


@case
def response_is_gone_on_from():
    first = respond(SIX, instructions="Say it nicely.")
    again = respond("Call across the harbour.", previous_response_id=first.id)
    equal(again.output_text, "It came back: ahoy.")
    seen = asked("across the harbour")[-1]["messages"]
    assert FORTY_TWO in json.dumps(seen) and "nicely" not in json.dumps(seen), seen


@case
def response_stream_begins_grows_and_ends():
    events = list(respond(SIX, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))))
    types = [event.type for event in events]
    equal(types[:2], ["response.created", "response.in_progress"])
    equal(types[-1], "response.completed")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    done = [e.text for e in events if e.type == "response.output_text.done"]
    final = events[-1].response
    equal((text, done, final.output_text), (FORTY_TWO, [FORTY_TWO], FORTY_TWO))
    equal((final.usage.input_tokens, final.usage.output_tokens), (100, 12))
    equal(client.responses.retrieve(final.id).output_text, FORTY_TWO)


@case
def response_stream_helper_puts_the_answer_together():
    with client.responses.stream(model=AGENT, input=SIX) as stream:
        for _ in stream:
            pass
        equal(stream.get_final_response().output_text, FORTY_TWO)


@case
def function_calls_of_responses_go_round():
    tools = [BRIDGE_STATE_FLAT]
    first = respond("Is the Eastgate bridge open?", tools=tools)
    (call,) = [item for item in first.output if item.type == "function_call"]
    equal((call.name, json.loads(call.arguments)["bridge"]), ("bridge_state", "Eastgate"))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "open"}
    again = respond([output], previous_response_id=first.id, tools=tools)
    equal(again.output_text, "Yes, until the tide turns at nine.")
    # The same, with the items written out and streamed.
    first = respond("Is the Eastgate bridge open?", tools=tools, stream=True)
    first = [event for event in first][-1].response
    (call,) = [item for item in first.output if item.type == "function_call"]
    items = [{"role": "user", "content": "Is the Eastgate bridge open?"}]
    items.append(call.model_dump(exclude_none=True))
    items.append({**output, "call_id": call.call_id})
    events = list(respond(items, tools=tools, stream=True))
    equal(events[-1].response.output_text, "Yes, until the tide turns at nine.")


# ----------------------------------------------------------------------------------------- models


@case
def agents_are_listed_and_retrieved_among_the_models():
    ids = [model.id for model in client.models.list()]
    assert {"gpt-4o-mini", AGENT, CAREFUL} <= set(ids), ids
    model = client.models.retrieve(AGENT)
    equal((model.id, model.object), (AGENT, "model"))
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("agent/nobody"))
    equal(error.code, "model_not_found")


# ----------------------------------------------------------------------------------------- errors


@case
def unknown_agent_is_not_found():
    for call in (
        lambda: ask("Hi", model="agent/nobody"),
        lambda: ask("Hi", model="agent/nobody", stream=True),
        lambda: ask("Hi", model="agent/"),
        lambda: respond("Hi", model="agent/nobody"),
        lambda: respond("Hi", model="agent/nobody", stream=True),
    ):
        error = refused(openai.NotFoundError, call)
        equal(error.code, "agent_not_found")
        assert error.request_id, "an error has a request id"
        equal(sorted(error.body), ["code", "message", "param", "type"])


@case
def tool_that_is_not_allowed_is_refused_and_not_used():
    def with_tool(name):
        return lambda: other.chat.completions.create(
            model=AGENT, messages=said(SIX), tools=[name]
        )

    error = refused(openai.PermissionDeniedError, with_tool("calculator"))
    equal((error.code, error.param), ("tool_not_allowed", "tools"))
    error = refused(openai.BadRequestError, with_tool("mind_reader"))
    equal((error.code, error.param), ("tool_not_found", "tools"))
    # Whoever names none has what the key may use: nothing.
    answer = other.chat.completions.create(model=AGENT, messages=said(SIX))
    equal(answer.choices[0].message.content, "I have nothing to reckon with.")


@case
def bad_input_is_refused():
    create = client.chat.completions.create
    for call, param in [
        (lambda: create(model=AGENT, messages=[]), "messages"),
        (lambda: create(model=AGENT, messages=[{"content": "Hi"}]), "messages"),
        (lambda: ask("Hi", n=2), "n"),
        (lambda: ask("Hi", extra_body={"max_steps": 0}), "max_steps"),
        (lambda: ask("Hi", tools=[{"type": "function"}]), "tools[0]"),
        (lambda: client.responses.create(model=AGENT), "input"),
        (lambda: respond("Hi", previous_response_id="resp_none"), "previous_response_id"),
    ]:
        error = refused(openai.BadRequestError, call)
        equal(error.param, param)


@case
def agents_do_what_models_of_chats_do_and_nothing_else():
    for call in (
        lambda: client.embeddings.create(model=AGENT, input="rope"),
        lambda: client.completions.create(model=AGENT, prompt="A boat"),
    ):
        error = refused(openai.BadRequestError, call)
        equal(error.param, "model")


@case
def errors_of_the_agents_model_are_the_sdks_own():
    for status, kind in [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (422, openai.UnprocessableEntityError),
        (500, openai.InternalServerError),
    ]:
        for stream in (False, True):
            error = refused(kind, lambda: ask(f"Break with {status}", stream=stream))
            equal(error.status_code, status)
            assert error.request_id, "an error has a request id"


# ------------------------------------------------------------------------------------------- many


@case
def ten_agents_at_once_get_their_own_answers():
    async def all_of_them():
        async with AsyncOpenAI(**OPTIONS) as many:

            async def one(boat):
                messages = said(f"Where is berth {boat}?")
                more = {"model": AGENT, "messages": messages}
                if boat % 2:
                    stream = await many.chat.completions.create(**more, stream=True)
                    return text_of([chunk async for chunk in stream])
                return (await many.chat.completions.create(**more)).choices[0].message.content

            return await asyncio.gather(*(one(boat) for boat in range(10, 20)))

    want = [f"Berth {boat} is {boat * 7} paces from the gate." for boat in range(10, 20)]
    equal(asyncio.run(all_of_them()), want)


@case
def every_answer_names_its_run_and_its_request():
    raw = client.chat.completions.with_raw_response.create(model=AGENT, messages=said(SIX))
    equal(raw.parse().choices[0].message.content, FORTY_TWO)
    run_id = raw.headers["x-tollway-run-id"]
    assert run_id.startswith("run_") and raw.request_id, dict(raw.headers)
    run = client.get(f"/agent/runs/{run_id}", cast_to=object)
    equal((run["status"], run["usage"]["total_tokens"]), ("completed", 112))


run()
