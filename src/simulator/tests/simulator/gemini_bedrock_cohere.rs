//! The dialects of Google, Amazon and Cohere: what is their own.

use serde_json::{Value, json};
use tollway_simulator::{Credential, Options, Reply, Simulator};

use crate::client::{Client, Response};
use crate::cuts::frames;
use crate::simulator;

async fn post(simulator: &Simulator, path: &str, body: &Value) -> Response {
    Client::new(simulator).await.post(path, "", body).await.unwrap()
}

const GEMINI: &str = "/v1beta/models/g:generateContent";

fn contents(text: &str) -> Value {
    json!({"contents": [{"parts": [{"text": text}]}]})
}

#[tokio::test]
async fn gemini_answers_thoughts_text_and_signed_calls() {
    let simulator = simulator().await;
    let directive = "[[sim think=hm say=\"one two\" tool=find args={\"q\":1} cached=2]]";
    let answer = post(&simulator, GEMINI, &contents(directive)).await.json();
    let candidate = &answer["candidates"][0];
    let expected = json!([
        {"text": "hm", "thought": true},
        {"text": "one two"},
        {
            "functionCall": {"name": "find", "args": {"q": 1}},
            "thoughtSignature": "c2ltdWxhdGVkLXRob3VnaHQ=",
        },
    ]);
    assert_eq!(candidate["content"]["parts"], expected);
    assert_eq!((&candidate["finishReason"], &candidate["index"]), (&json!("STOP"), &json!(0)));
    let usage = &answer["usageMetadata"];
    assert_eq!(usage["thoughtsTokenCount"], 1);
    assert_eq!(usage["candidatesTokenCount"], 5);
    assert_eq!(usage["cachedContentTokenCount"], 2);
    let sum = usage["promptTokenCount"].as_u64().unwrap() + 6;
    assert_eq!(usage["totalTokenCount"], sum);
    assert_eq!(simulator.billed().completion_tokens, 6);

    let mut body = contents("[[sim tokens=9]]");
    body["generationConfig"] = json!({"maxOutputTokens": 3, "candidateCount": 2});
    let answer = post(&simulator, GEMINI, &body).await.json();
    assert_eq!(answer["candidates"][1]["finishReason"], "MAX_TOKENS");
    let answer = post(&simulator, GEMINI, &contents("[[sim finish=content_filter]]")).await.json();
    assert_eq!(answer["candidates"][0]["finishReason"], "SAFETY");
}

#[tokio::test]
async fn gemini_calls_tools_and_reports_their_results() {
    let simulator = simulator().await;
    let path = "/v1beta/models/tools:generateContent";
    let schema = json!({
        "type": "OBJECT",
        "properties": {"city": {"type": "STRING"}},
        "required": ["city"],
    });
    let mut body = contents("weather in Ulm");
    body["tools"] = json!([{"functionDeclarations": [{"name": "weather", "parameters": schema}]}]);
    let answer = post(&simulator, path, &body).await.json();
    let content = answer["candidates"][0]["content"].clone();
    let call = json!({"name": "weather", "args": {"city": "weather in Ulm"}});
    assert_eq!(content["parts"][0]["functionCall"], call);
    let result = json!({"functionResponse": {"name": "weather", "response": {"result": "12 °C"}}});
    let contents = body["contents"].as_array_mut().unwrap();
    contents.extend([content, json!({"role": "user", "parts": [result]})]);
    let answer = post(&simulator, path, &body).await.json();
    let text = &answer["candidates"][0]["content"]["parts"][0]["text"];
    assert_eq!(text, "The tool answered: 12 °C");
}

#[tokio::test]
async fn gemini_embeds_counts_lists_and_refuses() {
    let simulator = simulator().await;
    let model = "/v1beta/models/e";
    let content = json!({"parts": [{"text": "a b"}]});
    let body = json!({"content": content, "outputDimensionality": 3});
    let answer = post(&simulator, &format!("{model}:embedContent"), &body).await.json();
    let one = answer["embedding"]["values"].clone();
    assert_eq!(one.as_array().map(Vec::len), Some(3));
    let body = json!({"requests": [body, body]});
    let answer = post(&simulator, &format!("{model}:batchEmbedContents"), &body).await.json();
    assert_eq!(answer["embeddings"][1]["values"], one);
    let vertex = "/v1/projects/p/locations/l/publishers/google/models/e";
    let body = json!({
        "instances": [{"content": "a b"}],
        "parameters": {"outputDimensionality": 3},
    });
    let answer = post(&simulator, &format!("{vertex}:predict"), &body).await.json();
    let embeddings = &answer["predictions"][0]["embeddings"];
    assert_eq!(
        (&embeddings["values"], &embeddings["statistics"]["token_count"]),
        (&one, &json!(2))
    );
    assert_eq!(simulator.billed().prompt_tokens, 8);
    let answer = post(&simulator, &format!("{vertex}:countTokens"), &contents("a b")).await.json();
    assert_eq!(answer["totalTokens"], 5);
    let error = post(&simulator, &format!("{vertex}:generateContent"), &json!({})).await;
    assert_eq!((error.status, &error.json()["error"]["status"]), (400, &json!("INVALID_ARGUMENT")));
    assert_eq!(post(&simulator, &format!("{model}:sing"), &json!({})).await.status, 404);
    for head in [
        "GET /v1beta/models HTTP/1.1\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nx-goog-api-key: k\r\n\r\n",
    ] {
        let mut client = Client::new(&simulator).await;
        client.send(head).await;
        assert_eq!(client.response().await.unwrap().json()["models"][0]["name"], "models/chat");
    }
    let error = post(&simulator, GEMINI, &contents("[[sim status=429 retry_after=1500ms]]")).await;
    assert_eq!(error.json()["error"]["details"][0]["retryDelay"], "1.5s");
}

#[tokio::test]
async fn bedrock_frames_bear_their_headers_and_blocks_in_order() {
    let simulator = simulator().await;
    let directive = "[[sim think=hm say=one tool=find args={\"q\":1} cached=2]]";
    let body = json!({"messages": [{"role": "user", "content": [{"text": directive}]}]});
    let response = post(&simulator, "/model/a%3Ab/converse-stream", &body).await;
    let kind = response.header("content-type");
    assert_eq!(kind.as_deref(), Some("application/vnd.amazon.eventstream"));
    let frames = frames(&response.body);
    let kinds: Vec<&str> = frames.iter().filter_map(|frame| frame.header(":event-type")).collect();
    let expected = [
        "messageStart",
        "contentBlockDelta",
        "contentBlockDelta",
        "contentBlockStop",
        "contentBlockDelta",
        "contentBlockStop",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ];
    assert_eq!(kinds, expected);
    assert!(frames.iter().all(|frame| frame.header(":message-type") == Some("event")));
    assert!(frames[2].payload["delta"]["reasoningContent"]["signature"].is_string());
    assert_eq!(frames[10].payload, json!({"stopReason": "tool_use"}));
    let usage = &frames[11].payload["usage"];
    assert_eq!(usage["cacheReadInputTokens"], 2);
    let prompt = usage["inputTokens"].as_u64().unwrap() + 2;
    assert_eq!(usage["totalTokens"].as_u64(), usage["outputTokens"].as_u64().map(|n| n + prompt));

    let whole = post(&simulator, "/model/a%3Ab/converse", &body).await.json();
    assert_eq!(whole["usage"], *usage);
    assert_eq!(whole["output"]["message"]["content"][2]["toolUse"]["input"], json!({"q": 1}));
    assert_eq!(simulator.requests()[1].model().as_deref(), Some("a:b"));
    assert!(simulator.requests()[0].is_stream() && !simulator.requests()[1].is_stream());
}

#[tokio::test]
async fn bedrock_frames_break_as_they_are_told_to() {
    let simulator = simulator().await;
    let ask = async |directive: &str| {
        let text = format!("[[sim tokens=4 {directive}]]");
        let body = json!({"messages": [{"role": "user", "content": [{"text": text}]}]});
        post(&simulator, "/model/m/converse-stream", &body).await.body
    };
    let exception = frames(&ask("error_event=2 type=ThrottlingException").await);
    let last = exception.last().unwrap();
    assert_eq!(last.header(":message-type"), Some("exception"));
    assert_eq!(last.header(":exception-type"), Some("throttlingException"));
    assert!(last.payload["message"].is_string());
    let (plain, bad) = (ask("").await, ask("bad_crc=2").await);
    assert_eq!(frames(&bad).len(), frames(&plain).len() + 1);
    let extra = frames(&bad)[3].payload["delta"]["text"].clone();
    assert_eq!(extra, "damaged");
    // A frame of raw bytes can be scripted as well.
    simulator.enqueue(Reply::events([plain.clone()]));
    assert_eq!(ask("").await, plain);
}

#[tokio::test]
async fn hosted_claude_takes_no_model_in_the_body() {
    let simulator = simulator().await;
    let messages = json!([{"role": "user", "content": "[[sim say=yes]]"}]);
    let body = json!({"anthropic_version": "v", "max_tokens": 9, "messages": messages});
    let vertex = "/v1/projects/p/locations/l/publishers/anthropic/models";
    for path in ["/model/m/invoke".to_owned(), format!("{vertex}/m:rawPredict")] {
        let response = post(&simulator, &path, &body).await;
        assert_eq!(response.json()["content"][0]["text"], "yes", "{path}");
        assert_eq!(response.json()["model"], "m", "{path}");
        let mut wrong = body.clone();
        wrong["model"] = "m".into();
        assert_eq!(post(&simulator, &path, &wrong).await.status, 400, "{path}");
        let wrong = json!({"max_tokens": 9, "messages": messages});
        assert_eq!(post(&simulator, &path, &wrong).await.status, 400, "{path}");
    }
    let response = post(&simulator, "/model/m/invoke", &body).await;
    assert_eq!(response.header("x-amzn-bedrock-output-token-count").as_deref(), Some("1"));
    let body = json!({"model": "m", "messages": messages});
    let path = format!("{vertex}/count-tokens:rawPredict");
    assert!(post(&simulator, &path, &body).await.json()["input_tokens"].is_u64());
    let titan = post(&simulator, "/model/t/invoke", &json!({"inputText": "a b"})).await.json();
    assert_eq!(titan["inputTextTokenCount"], 2);
}

#[tokio::test]
async fn credentials_of_every_kind_are_told_apart() {
    let options = Options { required_key: Some("k".into()), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let signature = "authorization: AWS4-HMAC-SHA256 \
                     Credential=k/20261122/us-east-1/bedrock/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature=ab12\r\n\
                     x-amz-date: 20261122T000000Z\r\n";
    let body = contents("hi");
    for (headers, path) in [
        (signature, GEMINI.to_owned()),
        ("Authorization: Bearer k\r\n", GEMINI.to_owned()),
        ("x-goog-api-key: k\r\n", GEMINI.to_owned()),
        ("", format!("{GEMINI}?key=k")),
    ] {
        let response = Client::new(&simulator).await.post(&path, headers, &body).await.unwrap();
        assert_eq!(response.status, 200, "{headers}");
        let seen = simulator.next_request().await.credential();
        match seen {
            Credential::Signature(signature) => {
                assert_eq!(signature.signed_headers, "host;x-amz-date");
                assert_eq!((&*signature.signature, &*signature.date), ("ab12", "20261122T000000Z"));
            }
            Credential::Bearer(key) => assert_eq!(key, "k"),
            Credential::Header(name, key) => assert_eq!((name, &*key), ("x-goog-api-key", "k")),
            Credential::Query(key) => assert_eq!(key, "k"),
            other => panic!("{other:?}"),
        }
    }
    let response = post(&simulator, GEMINI, &body).await;
    assert_eq!(
        (response.status, &response.json()["error"]["status"]),
        (401, &json!("UNAUTHENTICATED"))
    );
    assert_eq!(simulator.next_request().await.credential(), Credential::None);
}

#[tokio::test]
async fn tokens_are_granted_for_what_has_the_form_of_a_grant() {
    let options = Options { required_key: Some("k".into()), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let ask = async |path: &str, form: &str| {
        let length = form.len();
        let mut client = Client::new(&simulator).await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                 content-length: {length}\r\n\r\n{form}"
            ))
            .await;
        let response = client.response().await.unwrap();
        (response.status, response.json())
    };
    // {"alg":"RS256"}, {"iss":"a","aud":"b","scope":"c","iat":1,"exp":3601}, and a byte.
    let jwt = "eyJhbGciOiJSUzI1NiJ9.\
               eyJpc3MiOiJhIiwiYXVkIjoiYiIsInNjb3BlIjoiYyIsImlhdCI6MSwiZXhwIjozNjAxfQ.AA";
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let (status, answer) = ask("/token", &format!("{grant}{jwt}")).await;
    assert_eq!((status, &answer["access_token"]), (200, &json!("k")));
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3599)));
    let azure = "grant_type=client_credentials&client_id=a&client_secret=b&scope=c";
    assert_eq!(ask("/tenant/oauth2/v2.0/token", azure).await.0, 200);
    for (form, error) in [
        ("", "invalid_request"),
        ("grant_type=password", "unsupported_grant_type"),
        ("grant_type=refresh_token&refresh_token=a", "invalid_grant"),
        (&*format!("{grant}a.b.c"), "invalid_grant"),
        (&*format!("{grant}{}", jwt.replace(".AA", ".")), "invalid_grant"),
    ] {
        let (status, answer) = ask("/token", form).await;
        assert_eq!((status, &answer["error"]), (400, &json!(error)), "{form}");
    }
    let asked = simulator.requests().iter().filter(|request| request.path == "/token").count();
    assert_eq!(asked, 6);
}

#[tokio::test]
async fn cohere_chats_embeds_and_ranks() {
    let simulator = simulator().await;
    let directive = "[[sim think=hm say=one tool=find args={\"q\":1}]]";
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": directive}]});
    let answer = post(&simulator, "/v2/chat", &body).await.json();
    assert_eq!(answer["finish_reason"], "TOOL_CALL");
    assert_eq!(answer["message"]["content"][0], json!({"type": "thinking", "thinking": "hm"}));
    assert_eq!(answer["message"]["tool_calls"][0]["function"]["arguments"], "{\"q\":1}");
    body["stream"] = true.into();
    let stream = post(&simulator, "/v2/chat", &body).await;
    let events = stream.events();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let expected = [
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "content-start",
        "content-delta",
        "content-end",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(events.last(), Some(&json!("[DONE]")));
    assert_eq!(events[11]["delta"]["usage"], answer["usage"]);

    let document = json!({"type": "document", "document": {"data": "12 °C"}});
    let messages = json!([
        {"role": "user", "content": "weather"},
        {"role": "assistant", "tool_calls": answer["message"]["tool_calls"]},
        {"role": "tool", "tool_call_id": "x", "content": [document]},
    ]);
    let body = json!({"model": "m", "messages": messages});
    let answer = post(&simulator, "/v2/chat", &body).await.json();
    assert_eq!(answer["message"]["content"][0]["text"], "The tool answered: 12 °C");

    let body = json!({
        "model": "e",
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float", "int8"],
    });
    let answer = post(&simulator, "/v2/embed", &body).await.json();
    assert_eq!(answer["embeddings"]["int8"].as_array().map(Vec::len), Some(2));
    assert_eq!(answer["meta"]["billed_units"]["input_tokens"], 2);
    let body = json!({
        "model": "r",
        "query": "the cat",
        "documents": ["tax law", "a cat", {"text": "the cat"}],
        "top_n": 2,
        "return_documents": true,
    });
    for path in ["/v2/rerank", "/v1/rerank"] {
        let results = post(&simulator, path, &body).await.json()["results"].clone();
        let order: Vec<_> =
            results.as_array().unwrap().iter().map(|result| &result["index"]).collect();
        assert_eq!(order, [2, 1], "{path}");
        assert_eq!(results[0].get("document").is_some(), path == "/v1/rerank");
    }
    assert_eq!(post(&simulator, "/v2/rerank", &json!({"model": "r"})).await.status, 400);
}
