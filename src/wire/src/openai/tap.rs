//! The hot path of a stream whose dialect is the client's own: bytes pass through, and on the way
//! the few things that matter are seen. No event is parsed unless it carries usage or an error.

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr_iter, memmem};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::model::{is_top_level, string_at, value_at};
use super::usage::{nested_end, service_tier, skip_space, usage_of_object};
use crate::sse::{self, Splitter};
pub use crate::tap::TapError;
use crate::tap::{Tap, Verdict, check_object, event_in, pass, place_in};
use crate::usage::{Served, Usage};

/// Watches one stream of chat or legacy completion chunks as it passes.
///
/// A quote inside a JSON string is escaped, so `"usage"` followed by a colon in the raw bytes is
/// always a key and never something the model wrote. All looks at events build on that.
#[derive(Debug)]
pub struct StreamTap {
    splitter: Splitter,
    usage_added: bool,
    alias: Option<Vec<u8>>,
    scratch: Vec<u8>,
    usage: Option<Usage>,
    finished: bool,
    done: bool,
    events: u64,
    /// The first event had nothing in it.
    was_opened: bool,
}

/// Whether an event only opens an answer, as OpenAI's first one does: it says who speaks, and nothing
/// of what is said. A stream that is cut is billed by its events, and this is none of the model's.
pub fn is_opening(event: &[u8]) -> bool {
    let has = |name: &[u8]| memmem::find(event, name).is_some();
    let is_empty =
        [&b"\"content\":\"\""[..], b"\"content\": \"\"", b"\"content\":null", b"\"content\": null"]
            .into_iter()
            .any(has)
            || !has(b"\"content\"");
    has(b"\"role\"") && is_empty && !has(b"\"tool_calls\"") && !has(b"\"reasoning")
}

impl StreamTap {
    /// Watches a stream. With `usage_added` the event that carries only usage is the gateway's and
    /// is kept from the client; with `alias` every event's `model` is replaced by that name.
    pub fn new(usage_added: bool, alias: Option<&str>) -> Self {
        StreamTap {
            splitter: Splitter::default(),
            usage_added,
            alias: alias.map(|name| serde_json::Value::from(name).to_string().into_bytes()),
            scratch: Vec::new(),
            usage: None,
            finished: false,
            done: false,
            events: 0,
            was_opened: false,
        }
    }

    /// Sets the largest event that is accepted.
    #[must_use]
    pub fn with_limit(mut self, event_bytes_max: usize) -> Self {
        self.splitter = Splitter::new(event_bytes_max);
        self
    }

    /// The last usage the provider reported.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether `[DONE]` has passed.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether an answer's `finish_reason` has passed.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// How many events have arrived, without comments and the one that opens the answer.
    pub fn events(&self) -> u64 {
        self.events - u64::from(self.was_opened)
    }

    /// Takes the next bytes, cut anywhere, and gives `send` what goes to the client: whole events,
    /// mostly the same bytes in one piece.
    ///
    /// # Errors
    /// When the bytes are malformed or the provider reports an error. What was given to `send`
    /// before is good.
    pub fn push(&mut self, bytes: &Bytes, mut send: impl FnMut(Bytes)) -> Result<(), TapError> {
        // Taken out, so that the closure may borrow the rest.
        let mut splitter = std::mem::replace(&mut self.splitter, Splitter::new(0));
        let alias = self.alias.take();
        let look = |block: &[u8]| self.look(block, alias.is_some());
        let result = pass(&mut splitter, bytes, alias.as_deref(), look, &mut send);
        self.splitter = splitter;
        self.alias = alias;
        result
    }

    /// The provider has closed the stream: gives `send` what is still owed to the client.
    ///
    /// # Errors
    /// [`TapError::Truncated`] when neither `[DONE]` nor a `finish_reason` had come.
    pub fn end(&mut self, mut send: impl FnMut(Bytes)) -> Result<(), TapError> {
        let held = self.splitter.take_held();
        let rest = held.trim_ascii();
        if self.done {
            return Ok(());
        }
        // Some servers close right after `[DONE]`, without the line ends that complete it.
        let done = rest.strip_prefix(b"data:").is_some_and(|d| d.trim_ascii() == b"[DONE]");
        if done || (rest.is_empty() && self.finished) {
            self.done = true;
            send(Bytes::from_static(sse::DONE));
            return Ok(());
        }
        // A server that fails early may answer bare JSON although a stream was asked for.
        if self.events == 0 && rest.starts_with(b"{") && reported(rest) {
            return Err(TapError::Reported(Bytes::copy_from_slice(rest)));
        }
        if self.events == 0 && !rest.is_empty() && !sse::is_event_block(rest) {
            return Err(TapError::Malformed("not an event stream"));
        }
        Err(TapError::Truncated)
    }

    fn look(&mut self, block: &[u8], renames: bool) -> Result<Verdict, TapError> {
        if self.done {
            return Ok(Verdict::Drop);
        }
        let Some(event) = event_in(block, &mut self.scratch, reported)? else {
            return Ok(Verdict::Pass);
        };
        let data = event.data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(Verdict::Pass);
        }
        self.was_opened |= self.events == 0 && is_opening(data);
        self.events += 1;
        check_object(data)?;
        let keys = Keys::find(data, renames);
        let maybe_error = keys.choices.is_none() || keys.error || event.name == b"error";
        if maybe_error && (reported(data) || event.name == b"error") {
            return Err(TapError::Reported(Bytes::copy_from_slice(data)));
        }
        self.finished |= keys.finished;
        if let Some(usage) = keys.usage {
            self.usage = Some(usage.served(Served::in_tier(service_tier(data))));
            if self.usage_added && keys.choices.is_some_and(|value| is_empty_array(data, value)) {
                return Ok(Verdict::Drop);
            }
        }
        let model = keys.model.and_then(|model| place_in(block, &data[model]));
        Ok(model.map_or(Verdict::Pass, Verdict::Rename))
    }
}

impl Tap for StreamTap {
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        StreamTap::push(self, bytes, send)
    }

    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        StreamTap::end(self, send)
    }

    fn is_done(&self) -> bool {
        StreamTap::is_done(self)
    }

    fn usage(&self) -> Option<Usage> {
        StreamTap::usage(self)
    }

    fn events(&self) -> u64 {
        StreamTap::events(self)
    }
}

/// What the keys of an event tell, found in one pass over its colons.
#[derive(Default)]
struct Keys {
    /// Where the value of `choices` begins.
    choices: Option<usize>,
    error: bool,
    /// A `finish_reason` that is not null.
    finished: bool,
    usage: Option<Usage>,
    /// The value of the event's own `model`, if it was asked for.
    model: Option<Range<usize>>,
}

impl Keys {
    fn find(data: &[u8], with_model: bool) -> Keys {
        let mut keys = Keys::default();
        for colon in memchr_iter(b':', data) {
            let before = data[..colon].trim_ascii_end();
            // Only keys stand before a colon, and text that ends in a quote does not: the quote is
            // escaped there, so that the name is never followed by the quote itself.
            let Some(name) = before.strip_suffix(b"\"") else { continue };
            match name.last() {
                Some(b's') if keys.choices.is_none() && name.ends_with(b"\"choices") => {
                    keys.choices = value_at(data, colon + 1);
                }
                Some(b'r') if name.ends_with(b"\"error") => keys.error = true,
                Some(b'n') if !keys.finished && name.ends_with(b"\"finish_reason") => {
                    keys.finished = value_at(data, colon + 1).is_some_and(|v| data[v] != b'n');
                }
                Some(b'e') if keys.usage.is_none() && name.ends_with(b"\"usage") => {
                    keys.usage = object_at(data, colon + 1).and_then(usage_of_object);
                }
                Some(b'l') if with_model && keys.model.is_none() && name.ends_with(b"\"model") => {
                    // Most providers put it before `choices`, where nothing nested has a member of
                    // that name.
                    let key = name.len() - b"\"model".len();
                    if keys.choices.is_none() || is_top_level(data, key) {
                        keys.model = string_at(data, colon + 1);
                    }
                }
                _ => {}
            }
        }
        keys
    }
}

/// The object that follows a colon right before `at`.
fn object_at(json: &[u8], at: usize) -> Option<&[u8]> {
    let object = &json[value_at(json, at)?..];
    (object[0] == b'{').then(|| nested_end(object)).flatten().map(|end| &object[..end])
}

/// Whether the value that begins at `open` is an array without anything in it.
fn is_empty_array(json: &[u8], open: usize) -> bool {
    json[open] == b'[' && json.get(skip_space(json, open + 1)) == Some(&b']')
}

/// Whether an event is an error. Only asked where something hints at it.
fn reported(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Suspect<'a> {
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
        #[serde(borrow, default)]
        choices: Option<&'a RawValue>,
        #[serde(borrow, default)]
        object: Option<&'a RawValue>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Suspect<'_>>(json).is_ok_and(|suspect| {
        // vLLM before 0.10 put `object: "error"` at the top level; FastAPI servers say `detail`.
        suspect.error.is_some()
            || (suspect.choices.is_none()
                && (suspect.detail.is_some()
                    || suspect.object.is_some_and(|object| object.get() == "\"error\"")))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: &str = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":"Hi \"usage\":{} \"finish_reason\":\"stop\""},"finish_reason":null}],"usage":null}"#;
    const FINISH: &str = r#"data: {"id":"c","model":"gpt-4o-2024","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"data: {"id":"c","model":"gpt-4o-2024","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
    const DONE: &str = "data: [DONE]";

    fn stream(events: &[&str]) -> String {
        events.iter().map(|event| format!("{event}\n\n")).collect()
    }

    fn run(tap: &mut StreamTap, pieces: &[&[u8]]) -> (String, Result<(), TapError>) {
        let mut out = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = tap.push(&Bytes::copy_from_slice(piece), |b| out.extend_from_slice(&b));
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = tap.end(|b| out.extend_from_slice(&b));
        }
        (String::from_utf8_lossy(&out).into_owned(), result)
    }

    fn check(events: &[&str], usage_added: bool, alias: Option<&str>, expect: &[&str]) {
        let mut tap = StreamTap::new(usage_added, alias);
        let got = run(&mut tap, &[stream(events).as_bytes()]);
        assert_eq!(got, (stream(expect), Ok(())));
    }

    fn check_error(bytes: &str, expect: TapError) {
        assert_eq!(run(&mut StreamTap::new(true, None), &[bytes.as_bytes()]).1, Err(expect));
    }

    #[test]
    fn a_stream_passes_as_it_is() {
        let all = [": hello", CHUNK, FINISH, USAGE, DONE];
        check(&all, false, None, &all);
    }

    #[test]
    fn an_event_is_renamed_whose_last_byte_comes_alone() {
        let event = format!(r#"data: {{"model":"{}","choices":[]}}"#, "m".repeat(99)) + "\n\n";
        let (begin, end) = event.as_bytes().split_at(event.len() - 1);
        let mut tap = StreamTap::new(false, Some("a"));
        let (sent, result) = run(&mut tap, &[begin, end, b"data: [DONE]\n\n"]);
        let expect = "data: {\"model\":\"a\",\"choices\":[]}\n\ndata: [DONE]\n\n";
        assert_eq!((sent.as_str(), result), (expect, Ok(())));
    }

    #[test]
    fn one_read_is_sent_as_the_same_bytes() {
        let read = Bytes::from(stream(&[CHUNK, FINISH]));
        let mut sent = Vec::new();
        let pushed = StreamTap::new(true, None).push(&read, |bytes| sent.push(bytes));
        assert_eq!(pushed, Ok(()));
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].as_ptr(), read.as_ptr());
    }

    #[test]
    fn usage_that_was_added_is_held_back() {
        check(&[CHUNK, FINISH, USAGE, DONE], true, None, &[CHUNK, FINISH, DONE]);
        let mut tap = StreamTap::new(true, None);
        let _ = run(&mut tap, &[stream(&[CHUNK, FINISH, USAGE, DONE]).as_bytes()]);
        assert_eq!(tap.usage().map(|usage| usage.total_tokens()), Some(7));
        assert_eq!((tap.events(), tap.is_done(), tap.is_finished()), (3, true, true));
    }

    /// Azure's first event tells what its filter found, and has neither choices nor usage; later ones
    /// have errors of the filter inside of them
    /// (learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, 2026-11).
    #[test]
    fn what_azures_filter_found_passes() {
        let first = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}"#;
        let null = r#"data: {"choices":[],"model":"","usage":null,"prompt_filter_results":[]}"#;
        let found = r#"data: {"choices":[{"content_filter_results":{"error":{"code":"content_filter_error","message":"The contents are not filtered"}},"delta":{"content":"a"},"finish_reason":null,"index":0}],"model":"m"}"#;
        let all = [first, null, found, FINISH, USAGE, DONE];
        check(&all, false, None, &all);
        check(&all, true, None, &[first, null, found, FINISH, DONE]);
    }

    #[test]
    fn what_the_model_writes_is_not_mistaken_for_members() {
        let mut tap = StreamTap::new(true, None);
        assert_eq!(run(&mut tap, &[stream(&[CHUNK]).as_bytes()]).1, Err(TapError::Truncated));
        assert_eq!((tap.usage(), tap.is_finished()), (None, false));
    }

    #[test]
    fn a_missing_done_is_added_and_a_missing_end_is_not() {
        check(&[CHUNK, FINISH], false, None, &[CHUNK, FINISH, DONE]);
        check_error(&stream(&[CHUNK]), TapError::Truncated);
        check_error(&format!("{}data: {{\"choi", stream(&[CHUNK, FINISH])), TapError::Truncated);
        check_error("", TapError::Truncated);
        let unfinished = format!("{}data: [DONE]", stream(&[CHUNK]));
        let got = run(&mut StreamTap::new(false, None), &[unfinished.as_bytes()]);
        assert_eq!(got, (stream(&[CHUNK, DONE]), Ok(())));
    }

    #[test]
    fn the_model_is_renamed_at_the_top_level_only() {
        let late = r#"data: {"choices":[{"delta":{"model":"inner"}}],"model" : "x\"y"}"#;
        let renamed = r#"data: {"choices":[{"delta":{"model":"inner"}}],"model" : "my \"alias\""}"#;
        check(&[late, DONE], false, Some("my \"alias\""), &[renamed, DONE]);
        let finish = FINISH.replace("gpt-4o-2024", "alias");
        check(&[FINISH, DONE], false, Some("alias"), &[&finish, DONE]);
    }

    #[test]
    fn an_error_inside_the_stream_is_reported() {
        for error in [
            r#"{"error":{"message":"overloaded","code":503}}"#,
            r#"{"id":"x","choices":[{"finish_reason":"error"}],"error":{"message":"m"}}"#,
            r#"{"object":"error","message":"too long","code":400}"#,
        ] {
            let reported = TapError::Reported(Bytes::copy_from_slice(error.as_bytes()));
            check_error(&format!("data: {error}\n\n"), reported.clone());
            if error.starts_with("{\"error") {
                check_error(error, reported);
            }
        }
        let null = r#"data: {"choices":[{"finish_reason":"stop"}],"error":null}"#;
        check(&[null, DONE], false, None, &[null, DONE]);
    }

    #[test]
    fn garbage_is_refused() {
        check_error("<html><body>502</body></html>", TapError::Malformed("not an event stream"));
        check_error("<html>\n\n<p>\n\n", TapError::Malformed("not an event stream"));
        check_error("data: hello\n\n", TapError::Malformed("an event is not a JSON object"));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_client_the_same_bytes(
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            crlf in any::<bool>(),
            alias in prop::option::of("[a-z]{1,9}"),
        ) {
            let mut bytes = stream(&[": ping", CHUNK, CHUNK, FINISH, USAGE, DONE]);
            if crlf {
                bytes = bytes.replace('\n', "\r\n");
            }
            let bytes = bytes.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            let whole = run(&mut StreamTap::new(true, alias.as_deref()), &[bytes]);
            let split = run(&mut StreamTap::new(true, alias.as_deref()), &pieces);
            // An LF that was cut from its CR goes with the next event, or with none.
            let read = |text: &str| {
                let mut events = Vec::new();
                let parsed = crate::sse::Parser::default().push(text.as_bytes(), |event| {
                    events.push(event.data.to_vec());
                    Ok::<_, sse::TooLong>(())
                });
                (events, parsed)
            };
            prop_assert_eq!(read(&whole.0), read(&split.0));
            prop_assert_eq!(whole.1, split.1);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "data: ", "{", "}", "\"choices\"", ":", "[", "]", "\"usage\"", "\"error\"", "\"model\"",
            "\\", "\"", "\"finish_reason\"", " ", "\n", "\r\n", "n", "\"x\"", "é",
        ]), 0..40)) {
            let bytes = pieces.concat();
            let _ = run(&mut StreamTap::new(true, Some("a")), &[bytes.as_bytes()]);
            let _ = run(&mut StreamTap::new(true, None), &[bytes.as_bytes()]);
        }
    }
}
