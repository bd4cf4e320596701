"""The official Anthropic SDK for Python against a gateway in front of aimock.

    TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... SIDE=openai \\
        .tools/python/bin/python tests/sdk/anthropic_suite.py [WORD ...]

SIDE says how the gateway calls aimock. The rest is as in openai_suite.py.
"""

import anthropic

from suite import KEY, MODEL, URL, case, equal, refused, run, said

OPTIONS = {"base_url": URL, "max_retries": 0, "timeout": 60.0}
client = anthropic.Anthropic(api_key=KEY, **OPTIONS)

BRIDGE_STATE = {
    "name": "bridge_state",
    "description": "Says whether a bridge is open.",
    "input_schema": {"type": "object", "properties": {"bridge": {"type": "string"}}},
}


def ask(text, **more):
    return client.messages.create(model=MODEL, max_tokens=500, messages=said(text), **more)


def stream(text, **more):
    return client.messages.stream(model=MODEL, max_tokens=500, messages=said(text), **more)


@case
def a_message_is_answered():
    answer = ask("Weigh this crate.")
    equal((answer.type, answer.role, answer.model), ("message", "assistant", MODEL))
    equal([(block.type, block.text) for block in answer.content], [("text", "Forty-one kilos.")])
    equal((answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens), ("end_turn", 23, 6))
    assert answer.id.startswith("msg_"), answer.id
    assert answer._request_id


@case
def a_stream_is_put_together():
    with stream("Weigh this crate.") as events:
        kinds = [event.type for event in events]
        message = events.get_final_message()
    equal((kinds[0], kinds[-1]), ("message_start", "message_stop"))
    equal((message.content[0].text, message.stop_reason), ("Forty-one kilos.", "end_turn"))
    equal(message.usage.output_tokens, 6)


@case
def a_full_answer_says_so():
    equal(ask("Name every lighthouse on the coast.").stop_reason, "max_tokens")


@case
def a_tool_is_called_and_its_result_used():
    question = "Is the Eastgate bridge open?"
    answer = ask(question, tools=[BRIDGE_STATE])
    call = answer.content[-1]
    equal((answer.stop_reason, call.type, call.name), ("tool_use", "tool_use", "bridge_state"))
    equal(call.input["bridge"], "Eastgate")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "open"}
    history = said(question) + [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=500, messages=history, tools=[BRIDGE_STATE])
    equal(answer.content[0].text, "Yes, until the tide turns at nine.")


@case
def two_tools_are_called_in_a_stream():
    with stream("Compare Eastgate and Westgate.", tools=[BRIDGE_STATE]) as events:
        message = events.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    equal([call.input["bridge"] for call in calls], ["Eastgate", "Westgate"])
    equal(message.stop_reason, "tool_use")


@case
def thinking_is_shown():
    with stream("Think about the tide.") as events:
        streamed = events.get_final_message()
    for message in (ask("Think about the tide."), streamed):
        thought = [block.thinking for block in message.content if block.type == "thinking"]
        text = [block.text for block in message.content if block.type == "text"]
        equal((thought, text), (["The moon pulls at it."], ["It turns at nine."]))


@case
def tokens_are_counted():
    assert client.messages.count_tokens(model=MODEL, messages=said("Weigh this crate.")).input_tokens >= 3


@case
def models_are_listed():
    models = list(client.models.list())
    assert MODEL in [model.id for model in models]
    equal({model.type for model in models}, {"model"})
    equal(client.models.retrieve(MODEL).display_name, MODEL)
    refused(anthropic.NotFoundError, lambda: client.models.retrieve("nobody"))


@case
def errors_are_of_their_class():
    for status, kind, word in [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.APIStatusError, "overloaded_error"),
    ]:
        error = refused(kind, lambda: ask(f"Break with {status}"))
        equal((error.status_code, error.body["type"], error.body["error"]["type"]), (status, "error", word))
        assert error.request_id
        refused(kind, lambda: list(ask(f"Break with {status}", stream=True)))
    equal(refused(anthropic.RateLimitError, lambda: ask("Break with 429")).response.headers["retry-after"], "17")


@case
def a_wrong_key_is_refused_and_a_bearer_is_a_key():
    wrong = anthropic.Anthropic(api_key="sk-stranger", **OPTIONS)
    refused(
        anthropic.AuthenticationError,
        lambda: wrong.messages.create(model=MODEL, max_tokens=5, messages=said("Weigh this crate.")),
    )
    bearer = anthropic.Anthropic(auth_token=KEY, api_key=None, **OPTIONS)
    answer = bearer.messages.create(model=MODEL, max_tokens=5, messages=said("Weigh this crate."))
    equal(answer.content[0].text, "Forty-one kilos.")


@case
def an_unknown_model_is_refused():
    call = lambda: client.messages.create(model="nobody", max_tokens=5, messages=said("Hello?"))
    refused(anthropic.BadRequestError, call)


@case
def a_stream_that_breaks_raises():
    def read():
        return [event.type for event in ask("Cut the line in the middle.", stream=True)]

    refused(anthropic.APIStatusError, read)


run()
