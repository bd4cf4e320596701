//! Watching the stream of a provider that speaks the Responses API itself.
//!
//! Bytes pass. Only the few events that carry the whole response are read: the first for its id, the
//! last for usage. `response.completed`, `.incomplete` and `.failed` are the end: what a provider says
//! of its own failure in them is an answer and passes. An `error` event is none: it is reported.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::Counted;
use crate::splice::json_string;
use crate::sse::{self, Splitter};
use crate::tap::{self, Tap, TapError, Verdict};
use crate::usage::Usage;

/// Watches one stream.
#[derive(Debug)]
pub struct StreamTap {
    splitter: Splitter,
    /// JSON.
    alias: Option<Vec<u8>>,
    scratch: Vec<u8>,
    keeps: bool,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    id: Option<String>,
    response: Option<Vec<u8>>,
    usage: Option<Usage>,
    done: bool,
    any: bool,
    deltas: u64,
}

/// What is read of an event that carries the whole response.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    response: &'a RawValue,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
}

impl StreamTap {
    /// Watches a stream. With `alias` the response's `model` is replaced by that name.
    pub fn new(alias: Option<&str>) -> StreamTap {
        StreamTap {
            splitter: Splitter::default(),
            alias: alias.map(json_string),
            scratch: Vec::new(),
            keeps: false,
            seen: Seen::default(),
        }
    }

    /// Keeps the last response, for [`StreamTap::response`].
    #[must_use]
    pub fn keeping(mut self) -> StreamTap {
        self.keeps = true;
        self
    }

    /// Sets the largest event that is accepted.
    #[must_use]
    pub fn with_limit(mut self, event_bytes_max: usize) -> StreamTap {
        self.splitter = Splitter::new(event_bytes_max);
        self
    }

    /// The response's id, once the stream has told it.
    pub fn id(&self) -> Option<&str> {
        self.seen.id.as_deref()
    }

    /// The response in its whole form, once the stream has ended with it; as the client got it.
    pub fn response(&self) -> Option<&[u8]> {
        self.seen.response.as_deref()
    }
}

impl Seen {
    fn look(
        &mut self,
        block: &[u8],
        scratch: &mut Vec<u8>,
        keeps: bool,
        alias: Option<&[u8]>,
    ) -> Result<Verdict, TapError> {
        let Some(event) = tap::event_in(block, scratch, is_error)? else {
            return Ok(Verdict::Pass);
        };
        let data = event.data.trim_ascii();
        // Not OpenAI's, but some servers end every stream with it. It is no end by itself.
        if data == b"[DONE]" {
            return Ok(Verdict::Pass);
        }
        if self.done {
            return Ok(Verdict::Drop);
        }
        tap::check_object(data)?;
        self.any = true;
        let kind = kind(event.name, data);
        if kind.ends_with(b".delta") {
            self.deltas += 1;
            return Ok(Verdict::Pass);
        }
        let ends = match &*kind {
            b"response.completed" | b"response.incomplete" | b"response.failed" => true,
            b"response.created" | b"response.in_progress" | b"response.queued" => false,
            b"error" => return Err(TapError::Reported(Bytes::copy_from_slice(data))),
            b"" if is_error(data) => return Err(TapError::Reported(Bytes::copy_from_slice(data))),
            _ => return Ok(Verdict::Pass),
        };
        let offset = tap::place_in(block, data).map(|place| place.start);
        self.whole(data, ends, keeps, alias, offset)
    }

    /// Reads an event that carries the whole response.
    fn whole(
        &mut self,
        data: &[u8],
        ends: bool,
        keeps: bool,
        alias: Option<&[u8]>,
        offset: Option<usize>,
    ) -> Result<Verdict, TapError> {
        let malformed = |_| TapError::Malformed("an event does not hold the response");
        let response = serde_json::from_slice::<Whole<'_>>(data).map_err(malformed)?.response.get();
        let head: Head<'_> = serde_json::from_str(response).map_err(malformed)?;
        if self.id.is_none() && !head.id.is_empty() {
            self.id = Some(head.id.into_owned());
        }
        let model = head.model.map(RawValue::get).filter(|model| model.starts_with('"'));
        let model = model.filter(|_| alias.is_some()).map(|model| {
            let start = model.as_ptr() as usize - response.as_ptr() as usize;
            start..start + model.len()
        });
        if ends {
            self.done = true;
            let counted = serde_json::from_str::<Counted>(response).ok();
            self.usage = counted.and_then(Counted::usage).or(self.usage);
            if keeps {
                self.response = Some(match (&model, alias) {
                    (Some(model), Some(alias)) => {
                        let (before, after) = (&response[..model.start], &response[model.end..]);
                        [before.as_bytes(), alias, after.as_bytes()].concat()
                    }
                    _ => response.as_bytes().to_vec(),
                });
            }
        }
        let (Some(model), Some(offset)) = (model, offset) else { return Ok(Verdict::Pass) };
        let start = offset + (response.as_ptr() as usize - data.as_ptr() as usize);
        Ok(Verdict::Rename(model.start + start..model.end + start))
    }
}

impl Tap for StreamTap {
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let StreamTap { splitter, alias, scratch, keeps, seen } = self;
        let alias = alias.as_deref();
        let look = |block: &[u8]| seen.look(block, scratch, *keeps, alias);
        tap::pass(splitter, bytes, alias, look, send)
    }

    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let held = self.splitter.take_held();
        if self.seen.done {
            return Ok(());
        }
        let rest = held.trim_ascii();
        // Some servers close without the blank line that completes their last event.
        if sse::is_event_block(rest) && rest.ends_with(b"}") {
            let block = [rest, b"\n\n"].concat();
            let StreamTap { alias, scratch, keeps, seen, .. } = self;
            let verdict = seen.look(&block, scratch, *keeps, alias.as_deref())?;
            if seen.done {
                send(match (verdict, &self.alias) {
                    (Verdict::Rename(model), Some(alias)) => {
                        [&block[..model.start], alias, &block[model.end..]].concat().into()
                    }
                    _ => block.into(),
                });
                return Ok(());
            }
        }
        if !self.seen.any && is_error(rest) {
            return Err(TapError::Reported(Bytes::copy_from_slice(rest)));
        }
        if !self.seen.any && !rest.is_empty() && !sse::is_event_block(rest) {
            return Err(TapError::Malformed("not an event stream"));
        }
        Err(TapError::Truncated)
    }

    fn response(&self) -> Option<&[u8]> {
        StreamTap::response(self)
    }

    fn is_done(&self) -> bool {
        self.seen.done
    }

    fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    fn events(&self) -> u64 {
        self.seen.deltas
    }
}

/// An event's kind: its name, or where a server gives it none, the `type` in its data.
fn kind<'a>(name: &'a [u8], data: &'a [u8]) -> Cow<'a, [u8]> {
    if name == b"error" || name.starts_with(b"response.") {
        return Cow::Borrowed(name);
    }
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", borrow, default)]
        kind: Cow<'a, str>,
    }
    match serde_json::from_slice::<Kind<'_>>(data) {
        Ok(Kind { kind: Cow::Borrowed(kind) }) => Cow::Borrowed(kind.as_bytes()),
        Ok(Kind { kind: Cow::Owned(kind) }) => Cow::Owned(kind.into_bytes()),
        Err(_) => Cow::Borrowed(b""),
    }
}

/// Whether JSON without a kind is an error.
fn is_error(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Suspect<'a> {
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    json.starts_with(b"{")
        && serde_json::from_slice::<Suspect<'_>>(json)
            .is_ok_and(|suspect| suspect.error.is_some() || suspect.detail.is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"model\":\"gpt-5-2025\",\"output\":[]}}\n\n";
    const DELTA: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"\\\"type\\\":\\\"error\\\"\",\"model\":\"x\"}\n\n";
    const DONE: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"metadata\":{\"model\":\"no\"},\"model\":\"gpt-5-2025\",\"output\":[{\"type\":\"web_search_call\",\"action\":{\"type\":\"search\"}}],\"usage\":{\"input_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":4,\"output_tokens_details\":{\"reasoning_tokens\":2},\"total_tokens\":7}}}\n\n";
    const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"code\":\"c\",\"message\":\"m\",\"param\":null,\"sequence_number\":3}\n\n";

    fn run(tap: &mut StreamTap, pieces: &[&[u8]]) -> (String, Result<(), TapError>) {
        let mut out = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            let mut send = |bytes: Bytes| out.extend_from_slice(&bytes);
            result = result.and_then(|()| tap.push(&Bytes::copy_from_slice(piece), &mut send));
        }
        if result.is_ok() {
            result = tap.end(&mut |bytes| out.extend_from_slice(&bytes));
        }
        (String::from_utf8_lossy(&out).into_owned(), result)
    }

    #[test]
    fn a_stream_passes_as_it_is_and_is_read_on_the_way() {
        let stream = [CREATED, ": ping\n\n", DELTA, DELTA, DONE].concat();
        let mut tap = StreamTap::new(None).keeping();
        assert_eq!(run(&mut tap, &[stream.as_bytes()]), (stream, Ok(())));
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            cache_read_tokens: 1,
            reasoning_tokens: 2,
            web_searches: 1,
            ..Usage::default()
        };
        assert_eq!((tap.usage(), tap.events(), tap.id()), (Some(usage), 2, Some("resp_1")));
        let kept: serde_json::Value =
            serde_json::from_slice(tap.response().expect("it was kept")).expect("JSON");
        assert_eq!(kept["usage"]["total_tokens"], 7);
    }

    #[test]
    fn one_read_is_sent_as_the_same_bytes() {
        let read = Bytes::from([CREATED, DELTA].concat());
        let mut sent = Vec::new();
        let pushed = StreamTap::new(None).push(&read, &mut |bytes| sent.push(bytes));
        assert_eq!(pushed, Ok(()));
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].as_ptr(), read.as_ptr());
    }

    #[test]
    fn only_the_response_is_renamed() {
        let stream = [CREATED, DELTA, DONE].concat();
        let mut tap = StreamTap::new(Some("fast")).keeping();
        let expect = stream.replace("gpt-5-2025", "fast");
        assert_eq!(run(&mut tap, &[stream.as_bytes()]), (expect, Ok(())));
        let kept = String::from_utf8_lossy(tap.response().expect("it was kept")).into_owned();
        assert!(kept.contains("\"model\":\"fast\"") && kept.contains("\"model\":\"no\""));
    }

    #[test]
    fn the_kind_is_found_without_a_name() {
        let stream = [CREATED, DELTA, DONE].concat();
        let bare: String = stream
            .lines()
            .filter(|line| !line.starts_with("event"))
            .map(|l| format!("{l}\n"))
            .collect();
        let mut tap = StreamTap::new(None);
        assert_eq!(run(&mut tap, &[bare.as_bytes()]), (bare.clone(), Ok(())));
        assert_eq!((tap.is_done(), tap.events(), tap.id()), (true, 1, Some("resp_1")));
    }

    #[test]
    fn a_cut_stream_is_truncated() {
        for cut in [[CREATED, DELTA].concat(), CREATED.into(), format!("{CREATED}data: [DONE]\n\n")]
        {
            assert_eq!(
                run(&mut StreamTap::new(None), &[cut.as_bytes()]).1,
                Err(TapError::Truncated)
            );
        }
        let (sent, end) = run(&mut StreamTap::new(Some("a")), &[DONE.trim_end().as_bytes()]);
        assert_eq!((sent, end), (DONE.replace("gpt-5-2025", "a"), Ok(())));
    }

    #[test]
    fn a_response_that_failed_is_an_honest_end() {
        let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"id\":\"r\",\"error\":{\"code\":\"server_error\",\"message\":\"m\"},\"usage\":null}}\n\n";
        let mut tap = StreamTap::new(None);
        let stream = [CREATED, failed, DELTA, "data: [DONE]\n\n"].concat();
        let expect = [CREATED, failed, "data: [DONE]\n\n"].concat();
        assert_eq!(run(&mut tap, &[stream.as_bytes()]), (expect, Ok(())));
        assert!(tap.is_done() && tap.usage().is_none());
    }

    #[test]
    fn errors_are_reported() {
        let (sent, end) = run(&mut StreamTap::new(None), &[CREATED.as_bytes(), ERROR.as_bytes()]);
        assert_eq!(sent, CREATED);
        assert!(
            matches!(end, Err(TapError::Reported(json)) if json.ends_with(b"\"sequence_number\":3}"))
        );
        for bytes in [
            "data: {\"error\":{\"message\":\"m\"}}\n\n",
            "{\"error\":{\"message\":\"m\"}}",
            "{\"detail\":\"m\"}\n\n",
        ] {
            let end = run(&mut StreamTap::new(None), &[bytes.as_bytes()]).1;
            assert!(matches!(end, Err(TapError::Reported(_))), "{bytes}");
        }
        for bytes in [
            "<html>\n\n",
            "data: nothing\n\n",
            "<html>",
            "event: response.completed\ndata: {\"response\":1}\n\n",
        ] {
            let end = run(&mut StreamTap::new(None), &[bytes.as_bytes()]).1;
            assert!(matches!(end, Err(TapError::Malformed(_))), "{bytes}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_malformed() {
        let mut tap = StreamTap::new(None).with_limit(100);
        assert!(matches!(run(&mut tap, &[DONE.as_bytes()]).1, Err(TapError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn where_a_stream_is_cut_changes_nothing(
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            alias in prop::option::of("[a-z]{1,8}"),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut stream = [CREATED, DELTA, ": ping\n\n", DELTA, DONE].concat().into_bytes();
            if let Some((at, byte)) = damage {
                // Line ends alone may be cut in two and belong to either block.
                let at = at.index(stream.len());
                if !matches!(stream[at], b'\n') && !matches!(byte, b'\n' | b'\r') {
                    stream[at] = byte;
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            let whole = run(&mut StreamTap::new(alias.as_deref()), &[&stream]);
            let split = run(&mut StreamTap::new(alias.as_deref()), &pieces);
            prop_assert_eq!(whole, split);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "data: ", "event: response.completed\n", "{", "}", "\"response\"", ":", "\"model\"", "\"usage\"",
            "\"type\"", "\"error\"", "\"response.created\"", "\\", "\"", " ", "\n", "\r\n", "1", "é", ",", "null",
        ]), 0..40)) {
            let bytes = pieces.concat();
            let _ = run(&mut StreamTap::new(Some("a")).keeping(), &[bytes.as_bytes()]);
            let _ = run(&mut StreamTap::new(None), &[bytes.as_bytes()]);
        }
    }
}
