"""Google's official Gen AI SDK for Python against a gateway in front of aimock.

    TOLLWAY_URL=http://127.0.0.1:4000 TOLLWAY_KEY=sk-... SIDE=openai \\
        .tools/python/bin/python tests/sdk/google_suite.py [WORD ...]

SIDE says how the gateway calls aimock. The rest is as in openai_suite.py.
"""

import json

from google import genai
from google.genai import errors, types

from suite import KEY, MODEL, SIDE, URL, case, equal, refused, run

OPTIONS = types.HttpOptions(base_url=URL, timeout=60_000)
client = genai.Client(api_key=KEY, http_options=OPTIONS)
models = client.models

BRIDGE_STATE = types.FunctionDeclaration(
    name="bridge_state",
    description="Says whether a bridge is open.",
    parameters=types.Schema(type="OBJECT", properties={"bridge": types.Schema(type="STRING")}),
)
TOOLS = types.GenerateContentConfig(
    tools=[types.Tool(function_declarations=[BRIDGE_STATE])],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)


def ask(text, config=None):
    return models.generate_content(model=MODEL, contents=text, config=config)


def stream(text, config=None):
    return list(models.generate_content_stream(model=MODEL, contents=text, config=config))


@case
def a_content_is_generated():
    answer = ask("Weigh this crate.")
    usage = answer.usage_metadata
    equal(answer.text, "Forty-one kilos.")
    equal(answer.candidates[0].finish_reason, types.FinishReason.STOP)
    equal((usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count), (23, 6, 29))


@case
def a_stream_is_put_together():
    chunks = stream("Weigh this crate.")
    equal("".join(chunk.text or "" for chunk in chunks), "Forty-one kilos.")
    equal(chunks[-1].usage_metadata.total_token_count, 29)
    equal(chunks[-1].candidates[0].finish_reason, types.FinishReason.STOP)


@case
def a_chat_goes_on():
    chat = client.chats.create(model=MODEL)
    equal(chat.send_message("What does the ferryman charge?").text, "Two coins for the crossing, and one for the dog.")
    equal(chat.send_message("Weigh this crate.").text, "Forty-one kilos.")


@case
def a_full_answer_says_so():
    reason = ask("Name every lighthouse on the coast.").candidates[0].finish_reason
    equal(reason, types.FinishReason.MAX_TOKENS)


@case
def a_function_is_called_and_its_result_used():
    question = "Is the Eastgate bridge open?"
    answer = ask(question, TOOLS)
    (call,) = answer.function_calls
    equal((call.name, call.args["bridge"]), ("bridge_state", "Eastgate"))
    result = types.Part.from_function_response(name=call.name, response={"state": "open"})
    result.function_response.id = call.id
    history = [
        types.Content(role="user", parts=[types.Part(text=question)]),
        answer.candidates[0].content,
        types.Content(role="user", parts=[result]),
    ]
    equal(ask(history, TOOLS).text, "Yes, until the tide turns at nine.")


@case
def two_functions_are_called_in_a_stream():
    chunks = stream("Compare Eastgate and Westgate.", TOOLS)
    calls = [call for chunk in chunks for call in chunk.function_calls or []]
    equal([call.args["bridge"] for call in calls], ["Eastgate", "Westgate"])


@case
def json_is_answered_to_a_schema():
    schema = {"type": "OBJECT", "properties": {"name": {"type": "STRING"}, "tonnes": {"type": "INTEGER"}}}
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=schema)
    # aimock does not see that Gemini is asked for JSON.
    if SIDE != "gemini":
        equal(json.loads(ask("Enter the barge in the register.", config).text)["name"], "Halcyon")


@case
def thoughts_are_shown_to_those_who_ask():
    question = "Think about the tide."
    equal(ask(question).text, "It turns at nine.")
    # The other models cannot be asked to think.
    if SIDE == "gemini":
        show = types.ThinkingConfig(include_thoughts=True)
        config = types.GenerateContentConfig(thinking_config=show)
        for answer in ([ask(question, config)], stream(question, config)):
            parts = [part for chunk in answer for part in chunk.candidates[0].content.parts or []]
            thought = "".join(part.text or "" for part in parts if part.thought)
            text = "".join(part.text or "" for part in parts if not part.thought)
            equal((thought, text), ("The moon pulls at it.", "It turns at nine."))


@case
def tokens_are_counted():
    assert models.count_tokens(model=MODEL, contents="Weigh this crate.").total_tokens >= 3


@case
def models_are_listed():
    assert f"models/{MODEL}" in [model.name for model in models.list()]
    equal(models.get(model=MODEL).name, f"models/{MODEL}")
    refused(errors.ClientError, lambda: models.get(model="nobody"))


@case
def errors_are_of_their_class():
    for status, kind, word in [
        (400, errors.ClientError, "INVALID_ARGUMENT"),
        (401, errors.ClientError, "UNAUTHENTICATED"),
        (403, errors.ClientError, "PERMISSION_DENIED"),
        (404, errors.ClientError, "NOT_FOUND"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (503, errors.ServerError, "UNAVAILABLE"),
    ]:
        for call in (ask, stream):
            error = refused(kind, lambda: call(f"Break with {status}"))
            equal((error.code, error.status), (status, word))


@case
def a_wrong_key_is_refused():
    wrong = genai.Client(api_key="sk-stranger", http_options=OPTIONS)
    error = refused(
        errors.ClientError, lambda: wrong.models.generate_content(model=MODEL, contents="Hello?")
    )
    equal((error.code, error.status), (401, "UNAUTHENTICATED"))


@case
def an_unknown_model_is_refused():
    error = refused(
        errors.ClientError, lambda: models.generate_content(model="nobody", contents="Hello?")
    )
    equal(error.status, "INVALID_ARGUMENT")


@case
def a_stream_that_breaks_raises():
    refused(errors.ServerError, lambda: stream("Cut the line in the middle."))


run()
