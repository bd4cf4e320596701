//! The filter as a whole, over a store of its own.

use std::collections::HashMap;
use std::sync::Mutex;

use secrecy::SecretBox;
use serde_json::{Value, json};
use tollway_filter_api::{AnswerBody, KeyHash, ModelGroup, Plan, RequestView, VirtualKey};
use tollway_wire::event_log::Packed;
use tollway_wire::scan::{self, Limits};
use tollway_wire::usage::{Served, Usage};

use super::*;

const JSON: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}"#;

const EVENTS: [&str; 4] = [
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" there\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

const USAGE_EVENT: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":5,\"total_tokens\":16}}\n\n";

const USAGE: Usage = Usage {
    prompt_tokens: 11,
    completion_tokens: 5,
    cache_read_tokens: 0,
    cache_write_tokens: 0,
    cache_write_1h_tokens: 0,
    audio_prompt_tokens: 0,
    audio_completion_tokens: 0,
    reasoning_tokens: 0,
    web_searches: 0,
    image_prompt_tokens: 0,
    image_completion_tokens: 0,
    search_units: 0,
    images: 0,
    input_images: 0,
    pixels: 0,
    audio_ms: 0,
    characters: 0,
    served: Served { tier: None, is_fast: false, is_us: false },
};

/// A store that shares the clock of the test.
struct TestStore {
    clock: Clock,
    is_remote: bool,
    entries: Mutex<HashMap<CacheKey, (CachedAnswer, Duration)>>,
}

impl CacheStore for TestStore {
    fn get(&self, key: CacheKey) -> Lookup<'_> {
        let entries = self.entries.lock().unwrap();
        let found = entries.get(&key).filter(|(_, until)| *until > self.clock.unix());
        let found = found.map(|(answer, _)| Arc::new(answer.clone()));
        if self.is_remote {
            Lookup::Wait(Box::pin(std::future::ready(found)))
        } else {
            Lookup::Ready(found)
        }
    }

    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration) {
        self.entries.lock().unwrap().insert(key, (answer, self.clock.unix() + ttl));
    }
}

struct Gateway {
    filter: ResponseCache,
    deps: Deps,
    store: Arc<TestStore>,
}

/// What a caller sends.
#[derive(Clone)]
struct Call {
    body: String,
    operation: Operation,
    key: Option<VirtualKey>,
    end_user: Option<&'static str>,
    group: &'static str,
    headers: &'static [&'static str],
}

/// What a provider does.
#[derive(Clone)]
struct Upstream {
    status: u16,
    pieces: Vec<Bytes>,
    outcome: Outcome,
    attempts: u32,
    fallbacks: u32,
}

/// What became of a call.
enum Got {
    Hit(Answer, Box<RequestCtx>),
    Passed,
    Refused(Rejection),
}

fn gateway(settings: Value) -> Gateway {
    gateway_with(settings, false)
}

fn gateway_with(settings: Value, is_remote: bool) -> Gateway {
    let mut deps = Deps::for_test();
    let clock = deps.clock.clone();
    let store = Arc::new(TestStore { clock, is_remote, entries: Mutex::default() });
    deps.cache = Some(store.clone());
    let config = serde_json::from_value(settings).unwrap();
    let filter = ResponseCache::build(config, &deps, Slot(3)).unwrap();
    Gateway { filter, deps, store }
}

fn key(number: u8) -> VirtualKey {
    VirtualKey::new(KeyHash([number; 32]))
}

fn chat(more: Value) -> Call {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    raw(body.to_string())
}

fn raw(body: impl Into<String>) -> Call {
    Call {
        body: body.into(),
        operation: Operation::ChatCompletions,
        key: Some(key(1)),
        end_user: None,
        group: "gpt-4o",
        headers: &[],
    }
}

fn pieces(pieces: &[&str]) -> Upstream {
    Upstream {
        status: 200,
        pieces: pieces.iter().map(|piece| Bytes::from(piece.to_string())).collect(),
        outcome: Outcome::Done,
        attempts: 1,
        fallbacks: 0,
    }
}

fn whole() -> Upstream {
    pieces(&[JSON])
}

fn events() -> Upstream {
    pieces(&EVENTS)
}

fn events_with_usage() -> Upstream {
    pieces(&[EVENTS[0], EVENTS[1], EVENTS[2], USAGE_EVENT, EVENTS[3]])
}

impl Gateway {
    fn call(&self, call: &Call, upstream: &Upstream) -> Got {
        let body = Bytes::from(call.body.clone());
        let object = scan::scan(&body, &Limits::default()).unwrap();
        let stream = object.bool(&body, "stream") == Some(true);
        let options = object
            .get(&body, "stream_options")
            .and_then(|member| scan::members(&body, member.value, &Limits::default()).ok());
        let include_usage =
            options.is_some_and(|options| options.bool(&body, "include_usage") == Some(true));
        let mut ctx = Box::new(RequestCtx::new("id".into(), self.deps.clock.now(), "/v1"));
        ctx.operation = Some(call.operation);
        ctx.identity = call.key.clone().map(Arc::new);
        ctx.end_user = call.end_user.map(Arc::from);
        let requested = object.str(&body, "model").unwrap().into_owned().into();
        ctx.plan = Some(Plan { requested, group: Arc::new(group(call.group)) });
        ctx.view = Some(Arc::new(RequestView {
            operation: call.operation,
            dialect: Dialect::OpenAi,
            form: None,
            body,
            object,
            stream,
            include_usage,
        }));
        let mut request = http::Request::new(());
        for value in call.headers {
            request.headers_mut().append("cache-control", HeaderValue::from_static(value));
        }
        let (head, ()) = request.into_parts();
        let flow = match self.filter.body(&mut ctx, &head) {
            Step::Ready(flow) => flow,
            Step::Wait(flow) => futures_block_on(flow),
        };
        let (answer, streaming, outcome) = match flow {
            Flow::Next => (None, stream, upstream.outcome),
            Flow::Answer(answer) => (Some(answer), stream, Outcome::Done),
            Flow::Reject(why) => return Got::Refused(why),
        };
        let hit = answer.is_some();
        let mut response = ResponseHead {
            status: answer.as_ref().map_or(upstream.status, |answer| answer.status),
            headers: Vec::new(),
            streaming,
        };
        self.filter.response(&mut ctx, &head, &mut response);
        if !hit {
            ctx.report.attempts = upstream.attempts;
            ctx.report.fallbacks = upstream.fallbacks;
            ctx.report.usage = Some(USAGE);
        }
        let pieces = match &answer {
            Some(Answer { body: AnswerBody::Events(events), .. }) => events.clone(),
            Some(Answer { body: AnswerBody::Full { bytes, .. }, .. }) => vec![bytes.clone()],
            _ => upstream.pieces.clone(),
        };
        for mut piece in pieces {
            let before = piece.clone();
            self.filter.chunk(&mut ctx, &mut piece).unwrap();
            assert_eq!(piece, before, "the cache changes nothing");
        }
        self.filter.end(&mut ctx, outcome);
        match answer {
            Some(answer) => Got::Hit(answer, ctx),
            None => Got::Passed,
        }
    }

    #[track_caller]
    fn hits(&self, call: &Call) -> Answer {
        match self.call(call, &pieces(&[])) {
            Got::Hit(answer, _) => answer,
            _ => panic!("no hit: {}", call.body),
        }
    }

    #[track_caller]
    fn misses(&self, call: &Call, upstream: &Upstream) {
        assert!(matches!(self.call(call, upstream), Got::Passed), "no miss: {}", call.body);
    }

    /// Whether `second` hits after `first` was answered.
    fn shares(&self, first: &Call, second: &Call) -> bool {
        self.store.entries.lock().unwrap().clear();
        self.misses(first, &whole());
        matches!(self.call(second, &pieces(&[])), Got::Hit(..))
    }

    /// Whether the answer to a call is kept.
    fn keeps(&self, call: &Call, upstream: &Upstream) -> bool {
        self.store.entries.lock().unwrap().clear();
        self.misses(call, upstream);
        !self.store.entries.lock().unwrap().is_empty()
    }

    fn metric(&self, name: &str) -> Vec<(String, u64)> {
        let families = self.deps.metrics.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter().map(|metric| {
            let labels: Vec<_> =
                metric.get_label().iter().map(|l| format!("{}={}", l.name(), l.value())).collect();
            (labels.join(","), metric.get_counter().get_value() as u64)
        });
        metrics.collect()
    }
}

fn group(name: &str) -> ModelGroup {
    ModelGroup { name: name.into(), ..ModelGroup::default() }
}

fn futures_block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn json_of(answer: Answer) -> Value {
    match answer.body {
        AnswerBody::Full { content_type: "application/json", bytes } => {
            serde_json::from_slice(&bytes).unwrap()
        }
        other => panic!("not JSON: {other:?}"),
    }
}

fn text_of(answer: Answer) -> String {
    match answer.body {
        AnswerBody::Events(events) => String::from_utf8(events.concat()).unwrap(),
        other => panic!("not events: {other:?}"),
    }
}

/// The JSON of each event but `[DONE]`, which has to be the last.
fn events_of(answer: Answer) -> Vec<Value> {
    let text = text_of(answer);
    let mut data: Vec<_> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter().map(|json| serde_json::from_str(json).unwrap()).collect()
}

fn streamed() -> Value {
    json!({"stream": true})
}

fn streamed_with_usage() -> Value {
    json!({"stream": true, "stream_options": {"include_usage": true}})
}

#[test]
fn the_second_of_two_equal_requests_is_a_hit() {
    let gateway = gateway(json!({}));
    gateway.misses(&chat(json!({})), &whole());
    let Got::Hit(answer, ctx) = gateway.call(&chat(json!({})), &whole()) else { panic!("no hit") };
    assert_eq!(answer.status, 200);
    let (name, value) = &answer.headers[0];
    assert_eq!(name, "x-litellm-cache-key");
    assert_eq!(value.len(), 64);
    assert!(matches!(&answer.body, AnswerBody::Full { bytes, .. } if *bytes == JSON));
    assert!(ctx.report.cache_hit);
    assert_eq!(ctx.report.usage, Some(USAGE));
}

#[test]
fn a_hit_is_not_kept_again() {
    let gateway = gateway(json!({"ttl": 60}));
    gateway.misses(&chat(json!({})), &whole());
    gateway.deps.clock.advance(Duration::from_secs(59));
    gateway.hits(&chat(json!({})));
    gateway.deps.clock.advance(Duration::from_secs(2));
    gateway.misses(&chat(json!({})), &whole());
}

#[test]
fn a_store_that_has_to_be_asked_is_waited_for() {
    let gateway = gateway_with(json!({}), true);
    gateway.misses(&chat(json!({})), &whole());
    gateway.hits(&chat(json!({})));
}

#[test]
fn what_changes_the_answer_is_part_of_the_key() {
    let gateway = gateway(json!({}));
    for more in [
        json!({"messages": [{"role": "user", "content": "hi"}]}),
        json!({"temperature": 0}),
        json!({"seed": 7}),
        json!({"n": 1}),
        json!({"tools": []}),
        json!({"max_tokens": 5}),
        json!({"guardrails": ["pii"]}),
        json!({"mock_response": "x"}),
        json!({"drop_params": true}),
        json!({"something_new": null}),
    ] {
        assert!(!gateway.shares(&chat(json!({})), &chat(more.clone())), "{more}");
        assert!(gateway.shares(&chat(more.clone()), &chat(more.clone())), "{more}");
    }
}

#[test]
fn what_does_not_change_the_answer_is_not_part_of_the_key() {
    let gateway = gateway(json!({}));
    for more in [
        json!({"stream": false}),
        json!({"stream_options": null}),
        json!({"metadata": {"trace": "1"}}),
        json!({"tags": ["a"]}),
        json!({"fallbacks": ["claude"]}),
        json!({"num_retries": 3}),
        json!({"timeout": 5}),
        json!({"cache": {"ttl": 5}}),
        json!({"caching": true}),
    ] {
        assert!(gateway.shares(&chat(json!({})), &chat(more.clone())), "{more}");
    }
}

#[test]
fn order_and_layout_of_the_body_do_not_matter() {
    let gateway = gateway(json!({}));
    let plain = raw(r#"{"model":"m","messages":[{"role":"user","content":"a  b"}],"n":1}"#);
    let moved = raw(
        "{ \"n\" : 1,\r\n\t\"messages\": [ {\"role\": \"user\", \"content\": \"a  b\"} ],\"model\":\"m\" }",
    );
    let other = raw(r#"{"model":"m","messages":[{"role":"user","content":"a b"}],"n":1}"#);
    assert!(gateway.shares(&plain, &moved));
    assert!(!gateway.shares(&plain, &other));
}

#[test]
fn one_member_is_not_mistaken_for_two() {
    let gateway = gateway(json!({}));
    let one = raw(r#"{"model":"m","a":"1","b":"2"}"#);
    let other = raw(r#"{"model":"m","a":"1\",\"b\":\"2"}"#);
    assert!(!gateway.shares(&one, &other));
}

#[test]
fn answers_are_not_shared_between_keys() {
    let gateway = gateway(json!({}));
    let mine = chat(json!({}));
    let theirs = Call { key: Some(key(2)), ..mine.clone() };
    let nobodys = Call { key: None, ..mine.clone() };
    assert!(!gateway.shares(&mine, &theirs));
    assert!(!gateway.shares(&mine, &nobodys));
    assert!(!gateway.shares(&nobodys, &mine));
    assert!(gateway.shares(&nobodys, &nobodys));
}

#[test]
fn scopes_say_who_shares() {
    let call = |number, user: Option<&str>, team: Option<&str>| {
        let key =
            VirtualKey { user: user.map(Arc::from), team: team.map(Arc::from), ..key(number) };
        Call { key: Some(key), ..chat(json!({})) }
    };
    let nobody = Call { key: None, ..chat(json!({})) };
    let pairs = [
        ("same user", call(1, Some("ann"), None), call(2, Some("ann"), None)),
        ("same team", call(1, Some("ann"), Some("red")), call(2, Some("bob"), Some("red"))),
        ("team named as user", call(1, Some("red"), None), call(2, Some("bob"), Some("red"))),
        ("neither", call(1, None, None), call(2, None, None)),
        ("key and nobody", call(1, None, None), nobody),
    ];
    for (scope, expect) in [
        ("key", [false, false, false, false, false]),
        ("user", [true, false, false, false, false]),
        ("team", [true, true, false, false, false]),
        ("global", [true, true, true, true, true]),
    ] {
        let gateway = gateway(json!({"scope": scope}));
        for ((what, first, second), expect) in pairs.iter().zip(expect) {
            assert_eq!(gateway.shares(first, second), expect, "{what} under {scope}");
        }
    }
}

#[test]
fn gateways_of_one_store_share_what_they_have_a_master_key_in_common_for() {
    let first = gateway(json!({}));
    let other = |secret| {
        let secret = Arc::new(SecretBox::new(Box::new([secret; 32])));
        let deps = Deps { secret, ..first.deps.clone() };
        let filter = ResponseCache::build(Default::default(), &deps, Slot(3)).unwrap();
        Gateway { filter, deps, store: Arc::clone(&first.store) }
    };
    first.misses(&chat(json!({})), &whole());
    other(0).hits(&chat(json!({})));
    other(1).misses(&chat(json!({})), &whole());
    other(1).hits(&chat(json!({})));
    assert_eq!(first.store.entries.lock().unwrap().len(), 2);
}

#[test]
fn end_users_are_kept_apart_unless_configured() {
    let ann = Call { end_user: Some("ann"), ..chat(json!({"user": "ann"})) };
    let bob = Call { end_user: Some("bob"), ..chat(json!({"user": "bob"})) };
    let apart = gateway(json!({}));
    assert!(!apart.shares(&ann, &bob));
    assert!(apart.shares(&ann, &ann));
    assert!(gateway(json!({"per_end_user": false})).shares(&ann, &bob));
}

#[test]
fn groups_and_operations_do_not_share() {
    let gateway = gateway(json!({}));
    let call = chat(json!({}));
    assert!(!gateway.shares(&call, &Call { group: "gpt-4o-mini", ..call.clone() }));
    assert!(!gateway.shares(&call, &Call { operation: Operation::Completions, ..call.clone() }));
}

#[test]
fn another_name_of_the_group_hits_and_gets_its_own_name_back() {
    let gateway = gateway(json!({}));
    let alias = |mut more: Value| {
        more["model"] = "my \"best\"".into();
        chat(more)
    };
    gateway.misses(&chat(json!({})), &whole());
    assert_eq!(json_of(gateway.hits(&alias(json!({}))))["model"], "my \"best\"");
    for event in events_of(gateway.hits(&alias(streamed()))) {
        assert_eq!(event["model"], "my \"best\"");
    }
    gateway.misses(&chat(json!({"cache": {"no-cache": true}, "stream": true})), &events());
    assert_eq!(json_of(gateway.hits(&alias(json!({}))))["model"], "my \"best\"");
    for event in events_of(gateway.hits(&alias(streamed()))) {
        assert_eq!(event["model"], "my \"best\"");
    }
}

#[test]
fn a_stream_is_replayed_as_it_was() {
    let gateway = gateway(json!({}));
    gateway.misses(&chat(streamed()), &events());
    assert_eq!(text_of(gateway.hits(&chat(streamed()))), EVENTS.concat());
}

#[test]
fn a_stream_serves_a_request_for_json() {
    let gateway = gateway(json!({}));
    for (stream, upstream) in [(streamed(), events()), (streamed_with_usage(), events_with_usage())]
    {
        gateway.store.entries.lock().unwrap().clear();
        gateway.misses(&chat(stream), &upstream);
        let json = json_of(gateway.hits(&chat(json!({}))));
        assert_eq!(json["object"], "chat.completion");
        assert_eq!(json["model"], "gpt-4o");
        assert_eq!(json["choices"][0]["message"]["content"], "Hello there");
        assert_eq!(json["choices"][0]["finish_reason"], "stop");
        assert_eq!(json["usage"]["total_tokens"], 16);
    }
}

#[test]
fn json_serves_a_request_for_a_stream() {
    let gateway = gateway(json!({}));
    gateway.misses(&chat(json!({})), &whole());
    let events = events_of(gateway.hits(&chat(streamed())));
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello there");
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    let events = events_of(gateway.hits(&chat(streamed_with_usage())));
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 16);
}

#[test]
fn the_usage_event_comes_to_those_who_asked_for_it() {
    let gateway = gateway(json!({}));
    let count = |text: String| text.matches("total_tokens").count();
    for (stream, upstream) in [(streamed(), events()), (streamed_with_usage(), events_with_usage())]
    {
        gateway.store.entries.lock().unwrap().clear();
        gateway.misses(&chat(stream), &upstream);
        assert_eq!(count(text_of(gateway.hits(&chat(streamed())))), 0);
        assert_eq!(count(text_of(gateway.hits(&chat(streamed_with_usage())))), 1);
    }
}

#[test]
fn embeddings_are_kept() {
    let gateway = gateway(json!({}));
    let call = Call {
        operation: Operation::Embeddings,
        ..raw(r#"{"model":"e","input":"x","stream":false}"#)
    };
    let answer = r#"{"object":"list","model":"e","data":[{"index":0,"embedding":[0.5]}]}"#;
    assert!(gateway.keeps(&call, &pieces(&[answer])));
    gateway.hits(&call);
    let error = r#"{"error":{"message":"overloaded"}}"#;
    assert!(!gateway.keeps(&call, &pieces(&[error])));
}

#[test]
fn only_complete_answers_are_kept() {
    let gateway = gateway(json!({}));
    let call = chat(json!({}));
    let stream = chat(streamed());
    assert!(gateway.keeps(&call, &whole()));
    assert!(gateway.keeps(&stream, &events()));
    for outcome in [Outcome::Broken, Outcome::ClientGone] {
        assert!(!gateway.keeps(&stream, &Upstream { outcome, ..events() }));
        // It was there before anybody could leave.
        assert!(gateway.keeps(&call, &Upstream { outcome, ..whole() }));
    }
    // Ends that nobody noticed.
    assert!(!gateway.keeps(&stream, &pieces(&EVENTS[..3])));
    assert!(!gateway.keeps(&stream, &pieces(&[EVENTS[0], EVENTS[1], EVENTS[3]])));
    let unfinished = JSON.replace("\"stop\"", "null");
    assert!(!gateway.keeps(&call, &pieces(&[&unfinished])));
    let failed = JSON.replace("\"stop\"", "\"error\"");
    assert!(!gateway.keeps(&call, &pieces(&[&failed])));
    assert!(!gateway.keeps(&call, &pieces(&[r#"{"error":{"message":"overloaded"}}"#])));
    assert!(!gateway.keeps(&chat(json!({"n": 2})), &whole()));
}

#[test]
fn a_finish_reason_the_model_wrote_about_is_not_taken_for_one() {
    let gateway = gateway(json!({}));
    let chatty = JSON.replace("Hello there", r#"\"finish_reason\":null, \"finish_reason"#);
    assert!(gateway.keeps(&chat(json!({})), &pieces(&[&chatty])));
    let lie = chatty.replace(r#""stop""#, "null").replace("null, ", r#"\"stop\", "#);
    assert!(!gateway.keeps(&chat(json!({})), &pieces(&[&lie])));
}

#[test]
fn errors_are_not_kept() {
    let gateway = gateway(json!({}));
    for status in [201, 400, 429, 500] {
        assert!(!gateway.keeps(&chat(json!({})), &Upstream { status, ..whole() }));
    }
}

#[test]
fn answers_of_filters_and_of_other_groups_are_not_kept() {
    let gateway = gateway(json!({}));
    assert!(!gateway.keeps(&chat(json!({})), &Upstream { attempts: 0, ..whole() }));
    assert!(!gateway.keeps(&chat(json!({})), &Upstream { fallbacks: 1, ..whole() }));
    assert!(gateway.keeps(&chat(json!({})), &Upstream { attempts: 3, ..whole() }));
}

#[test]
fn answers_that_are_too_large_are_not_kept() {
    let gateway = |bytes: usize| gateway(json!({"entry_bytes_max": bytes}));
    let call = chat(json!({}));
    assert!(gateway(JSON.len()).keeps(&call, &whole()));
    assert!(!gateway(JSON.len() - 1).keeps(&call, &whole()));
    let stream = chat(streamed());
    let length = EVENTS.concat().len();
    assert!(gateway(length).keeps(&stream, &events()));
    assert!(!gateway(length - 1).keeps(&stream, &events()));
    assert!(!gateway(EVENTS[0].len()).keeps(&stream, &events()));
}

#[test]
fn what_is_kept_takes_no_more_memory_than_it_has_bytes() {
    let gateway = gateway(json!({}));
    // A body that is a small part of a large buffer must not keep all of it.
    let buffer = Bytes::from([vec![b' '; 100_000], JSON.into()].concat());
    let upstream = Upstream { pieces: vec![buffer.slice(100_000..)], ..whole() };
    drop(buffer);
    gateway.misses(&chat(json!({})), &upstream);
    drop(upstream);
    let mut entries = gateway.store.entries.lock().unwrap();
    let (answer, _) = entries.drain().next().unwrap().1;
    let CachedBody::Whole(json) = answer.body else { panic!("it was no stream") };
    assert_eq!(Vec::from(json).capacity(), JSON.len());
}

#[test]
fn kept_stream_takes_a_fraction_of_its_bytes() {
    let gateway = gateway(json!({}));
    let words = (0..200).map(|number| EVENTS[1].replace(" there", &format!("word {number} ")));
    let ends = EVENTS[EVENTS.len() - 2..].iter().map(|event| (*event).to_owned());
    let said: Vec<String> = words.chain(ends).collect();
    let pieces: Vec<Bytes> = said.iter().map(|event| Bytes::from(event.clone())).collect();
    gateway.misses(&chat(streamed()), &Upstream { pieces, ..events() });
    assert_eq!(text_of(gateway.hits(&chat(streamed()))), said.concat());
    let entries = gateway.store.entries.lock().unwrap();
    let (answer, _) = entries.values().next().unwrap();
    let held = answer.body.held();
    assert!(held * 8 < said.concat().len(), "{held} of {}", said.concat().len());
}

#[test]
fn answers_end_after_the_time_that_was_set() {
    let gateway = gateway(json!({"ttl": "1m", "ttl_max": "1h"}));
    for (more, seconds) in [
        (json!({}), 60),
        (json!({"cache": {}}), 60),
        (json!({"cache": null}), 60),
        (json!({"cache": {"ttl": 5}}), 5),
        (json!({"cache": {"ttl": 1.0}}), 1),
        (json!({"cache": {"ttl": null}}), 60),
        (json!({"cache": {"ttl": 1e300}}), 3600),
        (json!({"cache": {"ttl": 7200}}), 3600),
    ] {
        gateway.store.entries.lock().unwrap().clear();
        gateway.misses(&chat(more.clone()), &whole());
        gateway.deps.clock.advance(Duration::from_secs(seconds - 1));
        gateway.hits(&chat(json!({})));
        gateway.deps.clock.advance(Duration::from_secs(1));
        assert!(gateway.keeps(&chat(json!({})), &whole()), "{more}");
    }
    assert!(!gateway.keeps(&chat(json!({"cache": {"ttl": 0}})), &whole()));
}

#[test]
fn an_answer_older_than_s_maxage_is_fetched_anew() {
    let gateway = gateway(json!({}));
    gateway.misses(&chat(json!({})), &whole());
    gateway.deps.clock.advance(Duration::from_secs(30));
    gateway.hits(&chat(json!({"cache": {"s-maxage": 31}})));
    gateway.hits(&chat(json!({"cache": {"s-max-age": 31}})));
    gateway.misses(&chat(json!({"cache": {"s-maxage": 30}})), &whole());
    // The fresh one is kept in place of the old one.
    gateway.hits(&chat(json!({"cache": {"s-maxage": 1}})));
    gateway.misses(&chat(json!({"cache": {"s-maxage": 0}})), &whole());
}

#[test]
fn no_cache_fetches_anew_and_keeps_what_it_gets() {
    let gateway = gateway(json!({}));
    let fresh = JSON.replace("Hello", "Goodbye");
    for call in [
        chat(json!({"cache": {"no-cache": true}})),
        Call { headers: &["max-age=0, No-Cache"], ..chat(json!({})) },
    ] {
        gateway.store.entries.lock().unwrap().clear();
        gateway.misses(&chat(json!({})), &whole());
        gateway.misses(&call, &pieces(&[&fresh]));
        let json = json_of(gateway.hits(&chat(json!({}))));
        assert_eq!(json["choices"][0]["message"]["content"], "Goodbye there");
    }
}

#[test]
fn no_store_may_be_answered_but_is_not_kept() {
    let gateway = gateway(json!({}));
    for call in [
        chat(json!({"cache": {"no-store": true}})),
        Call { headers: &["private", "no-store"], ..chat(json!({})) },
    ] {
        assert!(!gateway.keeps(&call, &whole()));
        gateway.misses(&chat(json!({})), &whole());
        gateway.hits(&call);
    }
}

#[test]
fn caching_false_is_neither_answered_nor_kept() {
    let gateway = gateway(json!({}));
    let call = chat(json!({"caching": false}));
    assert!(!gateway.keeps(&call, &whole()));
    gateway.misses(&chat(json!({})), &whole());
    gateway.misses(&call, &whole());
}

#[test]
fn namespaces_are_apart() {
    let gateway = gateway(json!({"namespace": "main"}));
    let call = |name: &str| chat(json!({"cache": {"namespace": name}}));
    assert!(!gateway.shares(&call("a"), &call("b")));
    assert!(gateway.shares(&call("a"), &call("a")));
    assert!(gateway.shares(&chat(json!({})), &call("main")));
    assert!(!gateway.shares(&chat(json!({})), &call("")));
}

#[test]
fn default_off_needs_use_cache() {
    let gateway = gateway(json!({"mode": "default_off"}));
    assert!(!gateway.keeps(&chat(json!({})), &whole()));
    assert!(!gateway.keeps(&chat(json!({"cache": {"ttl": 60}})), &whole()));
    assert!(!gateway.keeps(&chat(json!({"cache": {"use-cache": false}})), &whole()));
    let call = chat(json!({"cache": {"use-cache": true}}));
    assert!(gateway.keeps(&call, &whole()));
    gateway.hits(&call);
    gateway.misses(&chat(json!({})), &whole());
}

#[test]
fn malformed_cache_control_is_refused() {
    let gateway = gateway(json!({}));
    for (cache, expect) in [
        (json!(true), "must be an object"),
        (json!("no-cache"), "must be an object"),
        (json!([]), "must be an object"),
        (json!({"no-cache": "yes"}), "'cache.no-cache' must be true or false"),
        (json!({"no-store": 1}), "'cache.no-store' must be true or false"),
        (json!({"use-cache": "true"}), "'cache.use-cache' must be true or false"),
        (json!({"ttl": "60"}), "'cache.ttl' must be a number of seconds"),
        (json!({"ttl": -1}), "'cache.ttl' must be a number of seconds"),
        (json!({"s-maxage": {}}), "'cache.s-maxage' must be a number of seconds"),
        (json!({"namespace": 5}), "'cache.namespace' must be a string"),
        (json!({"namespace": "x".repeat(257)}), "'cache.namespace' must be a string"),
    ] {
        let Got::Refused(why) = gateway.call(&chat(json!({"cache": cache})), &whole()) else {
            panic!("{cache} was not refused");
        };
        assert_eq!((why.status, why.param.as_deref()), (400, Some("cache")));
        assert!(why.message.contains(expect), "{}", why.message);
    }
    let twice = r#"{"model":"m","messages":[],"cache":{"ttl":1,"ttl":2}}"#;
    assert!(matches!(gateway.call(&raw(twice), &whole()), Got::Refused(_)));
}

#[test]
fn unknown_members_of_cache_are_ignored_as_litellm_does() {
    let gateway = gateway(json!({}));
    assert!(gateway.keeps(&chat(json!({"cache": {"no_store": true, "type": "x"}})), &whole()));
}

#[test]
fn only_supported_call_types_are_cached() {
    let gateway = gateway(json!({"supported_call_types": ["aembedding", "atranscription"]}));
    assert!(!gateway.keeps(&chat(json!({})), &whole()));
    let embedding = Call { operation: Operation::Embeddings, ..raw(r#"{"model":"e","input":""}"#) };
    assert!(gateway.keeps(&embedding, &pieces(&[r#"{"data":[{"embedding":[]}]}"#])));
}

#[test]
fn an_entry_that_cannot_be_replayed_is_a_miss() {
    let gateway = gateway(json!({}));
    gateway.misses(&chat(json!({})), &whole());
    for (answer, _) in gateway.store.entries.lock().unwrap().values_mut() {
        let CachedBody::Whole(json) = &answer.body else { panic!("it was no stream") };
        answer.body = CachedBody::Events(Packed::new(json.clone(), json.len()));
    }
    gateway.misses(&chat(json!({})), &whole());
    gateway.hits(&chat(json!({})));
}

#[test]
fn hits_misses_and_tokens_are_counted_by_group_and_key() {
    let gateway = gateway(json!({}));
    let named = VirtualKey { alias: Some("ci".into()), ..key(1) };
    let call = Call { key: Some(named), ..chat(json!({})) };
    gateway.misses(&call, &whole());
    gateway.hits(&call);
    gateway.hits(&call);
    gateway.misses(&Call { headers: &["no-cache"], ..call.clone() }, &whole());
    gateway.misses(&Call { key: None, ..call }, &whole());
    let ci = format!("api_key_alias=ci,hashed_api_key={},model=gpt-4o", "01".repeat(32));
    let nobody = "api_key_alias=None,hashed_api_key=None,model=gpt-4o".to_owned();
    let expect =
        |ci_count, nobody_count| vec![(nobody.clone(), nobody_count), (ci.clone(), ci_count)];
    let sorted = |name| {
        let mut metrics = gateway.metric(name);
        metrics.sort_by_key(|(labels, _)| *labels == ci);
        metrics
    };
    assert_eq!(sorted("litellm_cache_hits_metric_total"), expect(2, 0));
    assert_eq!(sorted("litellm_cache_misses_metric_total"), expect(1, 1));
    assert_eq!(sorted("litellm_cached_tokens_metric_total"), expect(32, 0));
}

#[test]
fn a_reload_goes_on_with_the_same_counters() {
    let gateway = gateway(json!({}));
    let again = ResponseCache::build(ResponseCacheConfig::default(), &gateway.deps, Slot(3));
    assert!(again.is_ok());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |settings: Value, with_store: bool, path: &str, expect: &str| {
        let mut deps = Deps::for_test();
        let store = gateway(json!({})).store;
        deps.cache = with_store.then_some(store as Arc<dyn CacheStore>);
        let built = (tollway_filter_api::Builtin::of::<ResponseCache>().build)(
            settings.clone(),
            &deps,
            Slot(0),
        );
        let error = built.err().unwrap_or_else(|| panic!("{settings} was accepted"));
        assert_eq!(error.path, path);
        assert!(error.message.contains(expect), "{}", error.message);
    };
    check(json!({}), false, "", "there is no cache to use");
    check(json!({"ttl": 0}), true, "ttl", "more than 0");
    check(json!({"ttl": "2h", "ttl_max": "1h"}), true, "ttl", "at most ttl_max");
    check(json!({"ttl": "soon"}), true, "ttl", "a time with its unit");
    check(json!({"scope": "planet"}), true, "scope", "unknown variant");
    check(json!({"mode": "on"}), true, "mode", "unknown variant");
    check(json!({"tll": 5}), true, "tll", "unknown field");
    check(
        json!({"supported_call_types": ["singing"]}),
        true,
        "supported_call_types[0]",
        "unknown variant",
    );
}
