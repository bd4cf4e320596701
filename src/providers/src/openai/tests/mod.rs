use bytes::Bytes;
use serde_json::{Value, json};
use tollway_wire::scan::{Limits, scan};

use super::*;
use crate::presets::{preset, provider};

mod translated;

fn request(
    name: &str,
    model: &str,
    drop_params: bool,
    body: Value,
) -> Result<(Value, bool), RequestError> {
    let bytes = Bytes::from(body.to_string());
    let object = scan(&bytes, &Limits::default()).expect("a valid object");
    let stream = body["stream"] == true;
    let call =
        Call::new(Operation::ChatCompletions, Dialect::OpenAi, &bytes, &object).streamed(stream);
    let target = Target { model: model.into(), drop_params, max_output_tokens: None };
    let upstream = preset(name).expect("a preset").request(&call, &target)?;
    Ok((serde_json::from_slice(&upstream.bytes).expect("JSON"), upstream.usage_added))
}

#[track_caller]
fn check(name: &str, model: &str, body: Value, expect: Value) {
    assert_eq!(request(name, model, false, body).map(|(body, _)| body), Ok(expect));
}

#[test]
fn only_the_model_changes() {
    check(
        "openai",
        "gpt-4o",
        json!({"model": "alias", "messages": [], "x_unknown": {"a": 1}, "seed": 7}),
        json!({"model": "gpt-4o", "messages": [], "x_unknown": {"a": 1}, "seed": 7}),
    );
}

#[test]
fn nothing_to_change_is_the_same_bytes() {
    let bytes = Bytes::from_static(br#"{ "model" : "gpt-4o", "messages":[] }"#);
    let object = scan(&bytes, &Limits::default()).expect("a valid object");
    let operation = Operation::ChatCompletions;
    let call = Call::new(operation, Dialect::OpenAi, &bytes, &object);
    let target = Target { model: "gpt-4o".into(), drop_params: false, max_output_tokens: None };
    let sent = preset("openai").expect("a preset").request(&call, &target).expect("valid");
    assert_eq!(sent.bytes.as_ptr(), bytes.as_ptr());
}

#[test]
fn what_is_the_gateways_is_taken_out() {
    check(
        "groq",
        "m",
        json!({"model": "m", "messages": [], "cache": {"no-cache": true}, "tags": ["a"], "num_retries": 3,
            "litellm_trace_id": "x", "metadata": {"a": "b"}, "fallbacks": [], "user": "u",
            "additional_drop_params": ["seed"], "seed": 1}),
        json!({"model": "m", "messages": [], "user": "u"}),
    );
    check(
        "openai",
        "m",
        json!({"model": "m", "messages": [], "metadata": {"a": "b"}, "store": true}),
        json!({"model": "m", "messages": [], "metadata": {"a": "b"}, "store": true}),
    );
}

#[test]
fn models_that_only_chat_have_no_text_completions() {
    let serves = |name, model| {
        let text = Operation::Completions;
        provider(name).expect("a provider").dialect(text, Dialect::OpenAi, model).is_some()
    };
    assert!(!serves("openai", "gpt-4o-mini") && !serves("azure", "gpt-4o-mini"));
    assert!(serves("openai", "gpt-3.5-turbo-instruct"));
    // Nobody knows what these can do.
    assert!(serves("openai", "my-own-model") && serves("azure", "our-deployment"));
    assert!(serves("hosted_vllm", "gpt-4o-mini"));
}

#[test]
fn usage_is_asked_for_in_streams() {
    let body = json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_obfuscation": false}});
    let (sent, added) = request("openai", "m", false, body).expect("valid");
    assert_eq!(
        sent["stream_options"],
        json!({"include_obfuscation": false, "include_usage": true})
    );
    assert!(added);
    let asked = json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(request("openai", "m", false, asked.clone()), Ok((asked.clone(), false)));
    let (sent, added) = request("mistral", "m", false, asked).expect("valid");
    assert_eq!((sent.get("stream_options"), added), (None, false));
}

#[test]
fn reasoning_models_have_their_rules() {
    check(
        "openai",
        "o3-mini",
        json!({"model": "o3-mini", "messages": [], "max_tokens": 9, "temperature": 1}),
        json!({"model": "o3-mini", "messages": [], "max_completion_tokens": 9, "temperature": 1}),
    );
    let warm = json!({"model": "gpt-5", "messages": [], "temperature": 0.2});
    let refused = request("openai", "gpt-5", false, warm.clone());
    let message = refused.expect_err("refused").to_string();
    assert!(
        message.starts_with(
            "litellm.UnsupportedParamsError: openai does not support parameters: ['temperature'], for model=gpt-5."
        ),
        "{message}"
    );
    let dropped = request("openai", "gpt-5", true, warm).expect("dropped");
    assert_eq!(dropped.0, json!({"model": "gpt-5", "messages": []}));
    let off = json!({"model": "gpt-5.2", "messages": [], "temperature": 0.2});
    check("openai", "gpt-5.2", off.clone(), off);
}

#[test]
fn mistral_has_words_of_its_own() {
    check(
        "mistral",
        "m",
        json!({"model": "m", "messages": [], "tool_choice": "required", "seed": 3, "max_completion_tokens": 5, "user": "u"}),
        json!({"model": "m", "messages": [], "tool_choice": "any", "random_seed": 3, "max_tokens": 5}),
    );
}

#[test]
fn bases_forgive_what_people_write() {
    let base = |name, base| provider(name).map(|provider| provider.base(base).into_owned());
    let expect = Some("http://h:11434/v1".to_owned());
    assert_eq!(base("ollama", "http://h:11434"), expect);
    assert_eq!(base("ollama", "http://h:11434/v1/"), expect);
    assert_eq!(base("openai", "http://h:11434/v1/chat/completions"), expect);
    let expect = Some("https://api.anthropic.com".to_owned());
    for written in ["https://api.anthropic.com", "https://api.anthropic.com/v1/"] {
        assert_eq!(base("anthropic", written), expect);
    }
}

#[test]
fn credentials_are_marked_sensitive() {
    let access = Access { api_key: Some("sk-1"), organization: Some("org"), ..Access::default() };
    let headers = preset("openai").expect("a preset").headers(&access).expect("valid");
    assert_eq!(headers[0].1, "Bearer sk-1");
    assert!(headers[0].1.is_sensitive());
    assert_eq!(headers[1].0, "openai-organization");
    let bad = Access { api_key: Some("a\nb"), ..Access::default() };
    assert!(preset("openai").expect("a preset").headers(&bad).is_err());
}

/// What an operation's body becomes, and where it goes.
#[track_caller]
fn check_operation(name: &str, operation: Operation, client: Dialect, body: Value, expect: Value) {
    let provider = provider(name).expect("a provider");
    let dialect = provider.dialect(operation, client, "m").expect("it has the operation");
    let bytes = Bytes::from(body.to_string());
    let object = scan(&bytes, &Limits::default()).expect("a valid object");
    let stream = body["stream"] == true;
    let call = Call::new(operation, dialect, &bytes, &object).streamed(stream);
    let target = Target { model: "m".into(), drop_params: false, max_output_tokens: None };
    let sent = provider.request(&call, &target).expect("valid");
    assert_eq!(serde_json::from_slice::<Value>(&sent.bytes).expect("JSON"), expect);
    assert!(!sent.usage_added);
}

#[test]
fn operations_besides_text_only_get_their_model() {
    for operation in [Operation::ImageGeneration, Operation::Speech, Operation::Moderations] {
        check_operation(
            "openai",
            operation,
            Dialect::OpenAi,
            json!({"model": "alias", "input": "x", "prompt": "x", "stream": true, "max_tokens": 1, "temperature": 0.5}),
            json!({"model": "m", "input": "x", "prompt": "x", "stream": true, "max_tokens": 1, "temperature": 0.5}),
        );
    }
    check_operation(
        "together_ai",
        Operation::Rerank,
        Dialect::OpenAi,
        json!({"model": "alias", "query": "q", "documents": ["a"], "top_n": 1, "metadata": {}}),
        json!({"model": "m", "query": "q", "documents": ["a"], "top_n": 1}),
    );
}

#[test]
fn responses_are_not_chats() {
    check_operation(
        "openai",
        Operation::ChatCompletions,
        Dialect::Responses,
        json!({"model": "alias", "input": "x", "stream": true, "metadata": {"a": "b"}, "tags": ["t"], "temperature": 0.5}),
        json!({"model": "m", "input": "x", "stream": true, "metadata": {"a": "b"}, "temperature": 0.5}),
    );
    check_operation(
        "xai",
        Operation::ChatCompletions,
        Dialect::Responses,
        json!({"model": "m", "input": "x", "store": false, "metadata": {"a": "b"}}),
        json!({"model": "m", "input": "x", "store": false}),
    );
    // What keeps nothing is answered through chat, so that the gateway can keep it.
    for name in ["groq", "openrouter", "deepseek", "ollama", "mistral"] {
        let dialect = provider(name).expect("a provider").dialect(
            Operation::ChatCompletions,
            Dialect::Responses,
            "m",
        );
        assert_eq!(dialect, Some(Dialect::OpenAi), "{name}");
    }
}

#[test]
fn operations_are_where_they_are() {
    let has = |name, operation| {
        let provider = provider(name).expect("a provider");
        provider.dialect(operation, Dialect::OpenAi, "m").is_some()
    };
    for (name, operation, expect) in [
        ("openai", Operation::ImageEdit, true),
        ("openai", Operation::Rerank, false),
        ("openai", Operation::CountTokens, false),
        ("azure", Operation::Transcription, true),
        ("azure", Operation::Moderations, false),
        ("azure_ai", Operation::Rerank, true),
        ("azure_text", Operation::ChatCompletions, false),
        ("groq", Operation::Transcription, true),
        ("groq", Operation::Embeddings, false),
        ("groq", Operation::Completions, false),
        ("hosted_vllm", Operation::Rerank, true),
        ("jina_ai", Operation::Rerank, true),
        ("jina_ai", Operation::ChatCompletions, false),
        ("mistral", Operation::Moderations, true),
    ] {
        assert_eq!(has(name, operation), expect, "{name} {operation:?}");
    }
}

#[test]
fn a_form_keeps_its_bytes_and_its_type() {
    let bytes = Bytes::from_static(b"{\"model\":\"alias\"}");
    let object = scan(&bytes, &Limits::default()).expect("a valid object");
    let content_type = "multipart/form-data; boundary=b";
    let sent = Bytes::from_static(
        b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nalias\r\n--b--\r\n",
    );
    let view = tollway_wire::form::scan(content_type, &sent, &Default::default()).expect("a form");
    let form = crate::Form {
        content_type: HeaderValue::from_static(content_type),
        bytes: sent,
        model: view.model.expect("there is one"),
    };
    let call = Call::new(Operation::Transcription, Dialect::OpenAi, &bytes, &object);
    let call = Call { form: Some(&form), ..call };
    let target = Target { model: "whisper-1".into(), drop_params: false, max_output_tokens: None };
    let sent = preset("openai").expect("a preset").request(&call, &target).expect("valid");
    assert_eq!(sent.content_type.as_ref(), Some(&form.content_type));
    let expect = b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--b--\r\n";
    assert_eq!(&sent.bytes[..], expect);
}
