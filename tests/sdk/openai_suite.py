"""The official OpenAI SDK for Python against a gateway in front of aimock.

    TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... AIMOCK_URL=http://127.0.0.1:4010 SIDE=openai \
        .tools/python/bin/python tests/sdk/openai_suite.py [WORD ...]

SIDE says how the gateway calls aimock: as `openai` or as `anthropic`. With words, only the cases
whose names contain one of them run. Every case is one line of output; the last line counts them.
"""

import asyncio
import json
import time

import httpx
import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from suite import KEY, MODEL, OPENAI as OPTIONS, SIDE, case, equal, run, said, upstream_requests
from suite import refused_exactly as refused

EMBEDDING = "text-embedding-3-small"
# The simulated provider: aimock has neither legacy completions nor embeddings in base64.
DEMO = "demo"

SIGN = 'Bäckerei Müßig — パン屋 🥐 «хлеб» שלום 👩🏽‍🚀 "quoted\\slashed"\nsecond line\ttabbed'
GATE = 'Tür zu! «Закрой дверь» — 門を閉めて, סגור, κλείσε "bitte"\n\tdanke'

BRIDGE_STATE = {
    "type": "function",
    "function": {
        "name": "bridge_state",
        "description": "Says whether a bridge is open.",
        "parameters": {
            "type": "object",
            "properties": {"bridge": {"type": "string"}, "note": {"type": "string"}},
            "required": ["bridge"],
        },
    },
}


class Barge(BaseModel):
    """What goes into the register."""

    name: str
    tonnes: int
    cargo: list[str]
    flag: str | None


client = OpenAI(**OPTIONS)


def ask(text, **more):
    return client.chat.completions.create(model=MODEL, messages=said(text), **more)


def stream(text, **more):
    return ask(text, stream=True, **more)


def upstream_request(marker):
    """The one request that the gateway sent to aimock with the marker in it."""
    (entry,) = upstream_requests(marker)
    return entry


# ------------------------------------------------------------------------------------------ answers


@case
def answer_is_the_providers_under_the_name_that_was_asked_for():
    answer = ask("What does the ferryman charge?")
    equal(answer.choices[0].message.content, "Two coins for the crossing, and one for the dog.")
    equal(answer.choices[0].message.role, "assistant")
    equal(answer.choices[0].message.tool_calls, None)
    equal(answer.choices[0].finish_reason, "stop")
    equal([choice.index for choice in answer.choices], [0])
    equal((answer.model, answer.object), (MODEL, "chat.completion"))
    assert answer.id and answer.created > 1_600_000_000, answer


@case
def every_chat_model_of_the_config_answers():
    for model in ("gpt-4o-mini", "gpt-4o"):
        answer = client.chat.completions.create(
            model=model, messages=said("What does the ferryman charge?")
        )
        equal(answer.model, model)
        assert answer.choices[0].message.content.startswith("Two coins"), answer


@case
def usage_is_the_providers_own():
    usage = ask("Weigh this crate.").usage
    equal((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (23, 6, 29))


@case
def unicode_survives_both_ways():
    question = "Spell the sign over the bakery. " + SIGN + " \u2028 \ufeff \x7f py"
    equal(ask(question).choices[0].message.content, SIGN)
    sent = upstream_request("\u2028 \ufeff \x7f py")["body"]["messages"][-1]["content"]
    equal(sent if isinstance(sent, str) else sent[0]["text"], question)


@case
def unicode_survives_a_stream():
    # aimock cuts between UTF-16 units, so only the text without surrogates comes in small pieces.
    for text, want, count in [
        ("Spell the sign over the bakery.", SIGN, 1),
        ("Spell the sign over the gate.", GATE, 20),
    ]:
        deltas = [chunk.choices[0].delta.content for chunk in stream(text)]
        pieces = [delta for delta in deltas if delta]
        equal("".join(pieces), want)
        assert len(pieces) >= count, pieces


@case
def finish_reasons_are_openais():
    for text, reason in [
        ("What does the ferryman charge?", "stop"),
        ("Name every lighthouse on the coast.", "length"),
        ("Tell me what the smugglers did.", "content_filter"),
    ]:
        equal(ask(text).choices[0].finish_reason, reason)
        reasons = [c.choices[0].finish_reason for c in stream(text) if c.choices]
        equal([given for given in reasons if given], [reason])


@case
def common_parameters_are_taken():
    more = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 64, "stop": ["\n\n"], "user": "pilot-7"}
    answer = ask("What does the ferryman charge?", **more)
    assert answer.choices[0].message.content.startswith("Two coins"), answer


@case
def developer_role_and_content_parts_reach_the_provider():
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "You answer for the ferry py."}],
        },
        {"role": "user", "content": "Good morning."},
        {"role": "assistant", "content": "Good morning. Where to?"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Across. "},
                {"type": "text", "text": "What does the ferryman charge?"},
            ],
        },
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content.startswith("Two coins"), answer
    sent = upstream_request("You answer for the ferry py.")["body"]["messages"]
    roles = [message["role"] for message in sent]
    first = "developer" if SIDE == "openai" else "system"
    equal(roles, [first, "user", "assistant", "user"])
    assert "Across. " in json.dumps(sent[-1]) and "ferryman" in json.dumps(sent[-1]), sent


@case
def members_the_sdk_does_not_know_reach_the_provider():
    ask(
        "What does the ferryman charge?", extra_body={"x_tide_py": {"high": [4, 16.5], "low": None}}
    )
    if SIDE == "openai":
        sent = upstream_request("x_tide_py")["body"]
        equal(sent["x_tide_py"], {"high": [4, 16.5], "low": None})


@case
def own_credentials_and_headers_stay_at_the_gateway():
    ask("What does the ferryman charge? hdr-py", extra_headers={"x-harbour": "canary"})
    headers = upstream_request("hdr-py")["headers"]
    assert "canary" not in json.dumps(headers) and KEY not in json.dumps(headers), headers
    if SIDE == "openai":
        equal(upstream_request("hdr-py")["path"], "/v1/chat/completions")
    else:
        equal(upstream_request("hdr-py")["path"], "/v1/messages")
        equal(headers["anthropic-version"], "2023-06-01")


# ------------------------------------------------------------------------------------------ streams


@case
def stream_has_one_id_a_role_first_and_one_finish():
    chunks = list(stream("What does the ferryman charge?"))
    equal(len({chunk.id for chunk in chunks}), 1)
    equal({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
    equal({chunk.model for chunk in chunks}, {MODEL})
    equal(chunks[0].choices[0].delta.role, "assistant")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    equal(text, "Two coins for the crossing, and one for the dog.")
    finishes = [chunk.choices[0].finish_reason for chunk in chunks]
    equal(finishes, [None] * (len(chunks) - 1) + ["stop"])


@case
def stream_has_no_usage_unless_asked():
    for chunk in stream("Weigh this crate."):
        assert chunk.choices and chunk.usage is None, chunk


@case
def stream_ends_with_usage_when_asked():
    chunks = list(stream("Weigh this crate.", stream_options={"include_usage": True}))
    equal([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
    equal(chunks[-1].choices, [])
    usage = chunks[-1].usage
    equal((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (23, 6, 29))
    equal(chunks[-2].choices[0].finish_reason, "stop")


@case
def stream_comes_as_it_is_written_and_can_be_left():
    # aimock takes a quarter of a second for each of nearly sixty pieces. A gateway that collects
    # them has nothing to show before all of them are there, however fast the machine.
    whole_takes = 230 / 4 * 0.25
    began = time.monotonic()
    with stream("Read me the whole harbour log.") as chunks:
        text = next(c.choices[0].delta.content for c in chunks if c.choices[0].delta.content)
        waited = time.monotonic() - began
    assert text and "At dawn".startswith(text.strip()), text
    assert waited < whole_takes / 2, f"the first piece took {waited} s"
    # The same client goes on.
    assert ask("What does the ferryman charge?").choices[0].message.content.startswith("Two coins")


@case
def stream_helper_puts_the_answer_together():
    with client.chat.completions.stream(
        model=MODEL, messages=said("What does the ferryman charge?")
    ) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    equal(final.choices[0].message.content, "Two coins for the crossing, and one for the dog.")
    equal(final.choices[0].finish_reason, "stop")


@case
def stream_that_is_cut_raises_and_never_says_stop():
    finishes = []
    try:
        for chunk in stream("Cut the line in the middle."):
            finishes += [choice.finish_reason for choice in chunk.choices]
    except (openai.APIError, httpx.HTTPError) as error:
        assert set(finishes) <= {None}, finishes
        assert "tide" not in str(error), error
        return
    raise AssertionError(f"no error, and these finishes: {finishes}")


# -------------------------------------------------------------------------------------------- tools


def calls_of(message):
    return [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls
    ]


EAST = ("call_east", "bridge_state", {"bridge": "Eastgate", "note": 'naïve "quotes"'})
BOTH = [
    ("call_east", "bridge_state", {"bridge": "Eastgate"}),
    ("call_west", "bridge_state", {"bridge": "Westgate"}),
]


@case
def tool_is_called():
    choice = ask("Is the Eastgate bridge open?", tools=[BRIDGE_STATE], tool_choice="auto").choices[
        0
    ]
    equal(choice.finish_reason, "tool_calls")
    equal(choice.message.content, None)
    equal(choice.message.tool_calls[0].type, "function")
    equal(calls_of(choice.message), [EAST])


@case
def tools_are_called_in_parallel():
    choice = ask(
        "Compare Eastgate and Westgate.", tools=[BRIDGE_STATE], parallel_tool_calls=True
    ).choices[0]
    equal(choice.finish_reason, "tool_calls")
    equal(calls_of(choice.message), BOTH)


def streamed_calls(text):
    """Tool calls put together by hand, from the deltas as they come."""
    calls, finishes = {}, []
    for chunk in stream(text, tools=[BRIDGE_STATE]):
        choice = chunk.choices[0]
        finishes += [choice.finish_reason] if choice.finish_reason else []
        for delta in choice.delta.tool_calls or []:
            if delta.index not in calls:
                assert delta.id and delta.function.name and delta.type == "function", delta
                calls[delta.index] = [delta.id, delta.function.name, ""]
            else:
                assert delta.id in (None, calls[delta.index][0]), delta
            calls[delta.index][2] += delta.function.arguments or ""
    equal(finishes, ["tool_calls"])
    equal(list(calls), list(range(len(calls))))
    return [(id, name, json.loads(arguments)) for id, name, arguments in calls.values()]


@case
def tool_call_is_streamed():
    equal(streamed_calls("Is the Eastgate bridge open?"), [EAST])


@case
def parallel_tool_calls_are_streamed_apart():
    equal(streamed_calls("Compare Eastgate and Westgate."), BOTH)


@case
def stream_helper_puts_tool_calls_together():
    with client.chat.completions.stream(
        model=MODEL, messages=said("Compare Eastgate and Westgate."), tools=[BRIDGE_STATE]
    ) as events:
        final = events.get_final_completion()
    equal(calls_of(final.choices[0].message), BOTH)


@case
def tool_results_lead_to_an_answer():
    for streamed in (False, True):
        messages = said("Compare Eastgate and Westgate.")
        first = ask("Compare Eastgate and Westgate.", tools=[BRIDGE_STATE]).choices[0].message
        messages.append(first)
        for call in first.tool_calls:
            state = "open" if "East" in call.function.arguments else "shut"
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"is": state})}
            )
        more = {"model": MODEL, "messages": messages, "tools": [BRIDGE_STATE]}
        if streamed:
            chunks = client.chat.completions.create(stream=True, **more)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            text = client.chat.completions.create(**more).choices[0].message.content
        equal(text, "Eastgate is open, Westgate is shut.")


# ------------------------------------------------------------------------------- structured output


@case
def json_schema_gives_json():
    format = {
        "type": "json_schema",
        "json_schema": {
            "name": "barge",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "tonnes": {"type": "integer"},
                    "cargo": {"type": "array", "items": {"type": "string"}},
                    "flag": {"type": ["string", "null"]},
                },
                "required": ["name", "tonnes", "cargo", "flag"],
                "additionalProperties": False,
            },
        },
    }
    want = {"name": "Halcyon", "tonnes": 340, "cargo": ["slate", "cider"], "flag": None}
    choice = ask("Enter the barge in the register.", response_format=format).choices[0]
    equal(json.loads(choice.message.content), want)
    equal((choice.finish_reason, choice.message.tool_calls), ("stop", None))
    chunks = list(stream("Enter the barge in the register.", response_format=format))
    equal(json.loads("".join(c.choices[0].delta.content or "" for c in chunks)), want)
    equal(chunks[-1].choices[0].finish_reason, "stop")
    assert all(not c.choices[0].delta.tool_calls for c in chunks), chunks


@case
def parse_gives_an_object():
    answer = client.chat.completions.parse(
        model=MODEL, messages=said("Enter the barge in the register."), response_format=Barge
    )
    want = Barge(name="Halcyon", tonnes=340, cargo=["slate", "cider"], flag=None)
    equal(answer.choices[0].message.parsed, want)


# ------------------------------------------------------------- embeddings, completions, models


@case
def embeddings_come_in_the_order_of_the_input():
    texts = ["rope", "tar", "sailcloth", "Möwe 🕊"]
    batch = client.embeddings.create(
        model=EMBEDDING, input=texts, encoding_format="float", dimensions=8
    )
    equal((batch.object, batch.model), ("list", EMBEDDING))
    equal([item.index for item in batch.data], [0, 1, 2, 3])
    for text, item in zip(texts, batch.data):
        alone = client.embeddings.create(
            model=EMBEDDING, input=text, encoding_format="float", dimensions=8
        )
        equal(alone.data[0].embedding, item.embedding)
        equal(len(item.embedding), 8)
    equal(len({tuple(item.embedding) for item in batch.data}), 4)


@case
def embeddings_in_base64_are_the_same_numbers():
    # Base64 is what the SDK asks for by itself.
    texts = ["rope", "tar"]
    packed = client.embeddings.create(model=DEMO, input=texts, dimensions=16)
    plain = client.embeddings.create(
        model=DEMO, input=texts, dimensions=16, encoding_format="float"
    )
    raw = client.embeddings.with_raw_response.create(
        model=DEMO, input=texts, encoding_format="base64"
    )
    assert isinstance(json.loads(raw.text)["data"][0]["embedding"], str), raw.text
    for one, other in zip(packed.data, plain.data, strict=True):
        equal(len(one.embedding), 16)
        assert all(abs(a - b) < 1e-6 for a, b in zip(one.embedding, other.embedding)), (one, other)
    assert packed.usage.prompt_tokens > 0, packed.usage
    equal(packed.usage.prompt_tokens, packed.usage.total_tokens)


@case
def legacy_completion_is_cut_at_max_tokens():
    answer = client.completions.create(model=DEMO, prompt="A boat", max_tokens=3)
    equal((answer.object, answer.model), ("text_completion", DEMO))
    equal(answer.choices[0].finish_reason, "length")
    equal(answer.usage.completion_tokens, 3)
    chunks = list(client.completions.create(model=DEMO, prompt="A boat", max_tokens=3, stream=True))
    equal("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text)
    equal([c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason], ["length"])


@case
def models_are_listed():
    models = {model.id: model for model in client.models.list()}
    assert {"gpt-4o-mini", "gpt-4o", EMBEDDING, DEMO} <= set(models), list(models)
    equal({model.object for model in models.values()}, {"model"})


@case
def model_is_retrieved_by_its_name():
    model = client.models.retrieve("gpt-4o")
    equal((model.id, model.object), ("gpt-4o", "model"))
    assert model.created > 0 and model.owned_by, model


@case
def unknown_model_is_not_found():
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-nothing"))
    equal(error.code, "model_not_found")


# ------------------------------------------------------------------------------------------- errors

REFUSALS = {
    400: (openai.BadRequestError, "The crate has no label."),
    401: (openai.AuthenticationError, "The harbour does not know you."),
    403: (openai.PermissionDeniedError, "The north quay is closed to you."),
    404: (openai.NotFoundError, "There is no such quay."),
    422: (openai.UnprocessableEntityError, "The manifest cannot be read."),
    429: (openai.RateLimitError, "Too many boats today."),
    500: (openai.InternalServerError, "The crane fell over."),
    503: (openai.InternalServerError, "The harbour is frozen."),
}


@case
def provider_errors_become_the_sdks_own():
    for status, (kind, message) in REFUSALS.items():
        for call in (ask, stream):
            error = refused(kind, lambda: call(f"Break with {status}"))
            equal(error.status_code, status)
            assert message in error.message, error.message
            assert set(error.body) == {"message", "type", "param", "code"}, error.body
            assert error.request_id, "an error has a request id"


@case
def rate_limit_says_when_to_come_back():
    error = refused(openai.RateLimitError, lambda: ask("Break with 429"))
    equal(error.response.headers["retry-after"], "17")
    equal(error.code, "rate_limit_exceeded" if SIDE == "openai" else error.code)


@case
def provider_error_code_is_kept():
    if SIDE == "openai":
        equal(refused(openai.BadRequestError, lambda: ask("Break with 400")).code, "bad_crate")


@case
def wrong_key_is_refused():
    stranger = OpenAI(**{**OPTIONS, "api_key": "sk-stranger-000"})
    error = refused(openai.AuthenticationError, stranger.models.list)
    equal(error.code, "invalid_api_key")
    call = lambda: stranger.chat.completions.create(model=MODEL, messages=said("Hi"))
    assert "sk-stranger" not in refused(openai.AuthenticationError, call).message


@case
def call_of_an_unknown_model_is_refused():
    call = lambda: client.chat.completions.create(model="gpt-nothing", messages=said("Hi"))
    error = refused(openai.BadRequestError, call)
    equal((error.code, error.param), ("model_not_found", "model"))


@case
def request_without_messages_is_refused():
    call = lambda: client.post("/chat/completions", body={"model": MODEL}, cast_to=object)
    error = refused(openai.BadRequestError, call)
    equal((error.param, error.type), ("messages", "invalid_request_error"))


# ------------------------------------------------------------------------------------ many, and ids


@case
def twenty_calls_at_once_get_their_own_answers():
    async def one(client, boat):
        more = {"model": MODEL, "messages": said(f"Where is berth {boat}?")}
        if boat % 2:
            chunks = await client.chat.completions.create(stream=True, **more)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        return (await client.chat.completions.create(**more)).choices[0].message.content

    async def all_of_them():
        async with AsyncOpenAI(**OPTIONS) as client:
            return await asyncio.gather(*(one(client, boat) for boat in range(10, 30)))

    want = [f"Berth {boat} is {boat * 7} paces from the gate." for boat in range(10, 30)]
    equal(asyncio.run(all_of_them()), want)


@case
def every_answer_has_a_request_id_of_its_own():
    ids = [ask("What does the ferryman charge?")._request_id for _ in range(3)]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=said("What does the ferryman charge?"), stream=True
    )
    ids.append(raw.headers.get("x-request-id"))
    list(raw.parse())
    assert all(ids) and len(set(ids)) == 4, ids


run()
