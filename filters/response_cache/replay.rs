//! Kept answers: when an answer is worth keeping, and how it is given to another caller, who may
//! want it in the other form or under another name.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::{self, Finder};
use tollway_filter_api::cache::{CachedAnswer, CachedBody};
use tollway_filter_api::{AnswerBody, RequestView};
use tollway_wire::openai::{
    StreamTap, add_usage_event, completion_from_events, events_from_completion,
};
use tollway_wire::operation::Operation;
use tollway_wire::scan::{self, Limits};
use tollway_wire::splice::{Edits, json_string};
use tollway_wire::sse;

use super::key;

/// How many bytes of a replayed stream are written at once. Flushing each event apart would cost
/// more than all the rest, and no client can tell.
const PIECE_BYTES_MAX: usize = 16 << 10;

// A quote inside a JSON string is escaped, so these, followed by a colon, are keys and never
// something the model wrote.
static FINISH_REASON: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new("\"finish_reason\""));
static EMBEDDING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"embedding\""));

/// Whether an answer of status 200 is a whole and good one: each of its choices has come to its end,
/// and a stream to its `[DONE]`. Some providers report errors under status 200 as well.
pub(super) fn is_complete(view: &RequestView, streamed: bool, body: &[u8]) -> bool {
    if key::is_kept_as_it_is(view) {
        // A stream that was not announced to be over does not end as done.
        return !body.is_empty();
    }
    if view.operation == Operation::Embeddings {
        return !streamed && EMBEDDING.find(body).is_some();
    }
    if streamed && !body.trim_ascii_end().ends_with(sse::DONE.trim_ascii_end()) {
        return false;
    }
    let mut ended = 0;
    for at in FINISH_REASON.find_iter(body) {
        let after = body[at + FINISH_REASON.needle().len()..].trim_ascii_start();
        let Some(reason) = after.strip_prefix(b":") else { continue };
        let reason = reason.trim_ascii_start();
        if reason.starts_with(b"null") {
            // In a stream, all events before the last one of a choice say null.
            if !streamed {
                return false;
            }
        } else if reason.starts_with(b"\"error\"") {
            return false;
        } else {
            ended += 1;
        }
    }
    let wanted = view.object.u64(&view.body, "n").unwrap_or(1);
    ended >= wanted.max(1)
}

/// What to send to a caller who asked for the model by the name `requested`. `None` where the kept
/// answer cannot be given in the form that is wanted.
pub(super) fn replay(
    answer: &CachedAnswer,
    view: &RequestView,
    requested: &str,
) -> Option<AnswerBody> {
    if key::is_kept_as_it_is(view) {
        return Some(match &answer.body {
            CachedBody::Whole(json) => whole(json.clone()),
            CachedBody::Events(events) => AnswerBody::Events(cut(events.unpack()?)),
        });
    }
    let wants_stream = view.stream && view.operation != Operation::Embeddings;
    let rename = (*answer.model != *requested).then_some(requested);
    let renamed = |json: &Bytes| match rename {
        Some(name) => rename_json(json, name),
        None => Some(json.clone()),
    };
    Some(match (&answer.body, wants_stream) {
        (CachedBody::Whole(json), false) => whole(renamed(json)?),
        (CachedBody::Events(events), false) => {
            let json = completion_from_events(&with_usage(events.unpack()?, answer)?)?;
            whole(renamed(&json.into())?)
        }
        (CachedBody::Whole(json), true) => {
            if view.include_usage {
                answer.usage?;
            }
            let events = events_from_completion(&renamed(json)?, view.include_usage)?;
            AnswerBody::Events(cut(events.into()))
        }
        (CachedBody::Events(events), true) => {
            let strip = answer.usage_event && !view.include_usage;
            let mut events = events.unpack()?;
            if view.include_usage {
                events = with_usage(events, answer)?;
            }
            if !strip && rename.is_none() {
                return Some(AnswerBody::Events(cut(events)));
            }
            let mut pieces = Vec::new();
            let mut tap = StreamTap::new(strip, rename);
            tap.push(&events, |run| pieces.extend(cut(run))).ok()?;
            AnswerBody::Events(pieces)
        }
    })
}

fn whole(json: Bytes) -> AnswerBody {
    AnswerBody::Full { content_type: "application/json", bytes: json }
}

/// A kept stream with its usage. A stream of which no usage is known cannot serve a caller who
/// wants it.
fn with_usage(events: Bytes, answer: &CachedAnswer) -> Option<Bytes> {
    if answer.usage_event {
        return Some(events);
    }
    Some(add_usage_event(&events, answer.usage.as_ref()?))
}

fn rename_json(json: &Bytes, name: &str) -> Option<Bytes> {
    let object = scan::scan(json, &Limits::default()).ok()?;
    let mut edits = Edits::new();
    edits.set("model", json_string(name));
    Some(edits.apply(json, &object))
}

/// Cuts whole events into pieces of at most [`PIECE_BYTES_MAX`] that hold whole events. Of events
/// that do not end in two line feeds, which is rare and allowed, there may be more in a piece.
fn cut(events: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut rest = events;
    while rest.len() > PIECE_BYTES_MAX {
        let end = match memmem::rfind(&rest[..PIECE_BYTES_MAX], b"\n\n") {
            Some(end) => end,
            // The first event alone is larger than a piece.
            None => match memmem::find(&rest[PIECE_BYTES_MAX - 1..], b"\n\n") {
                Some(end) => PIECE_BYTES_MAX - 1 + end,
                None => break,
            },
        };
        pieces.push(rest.split_to(end + 2));
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_streams_are_cut_between_events() {
        let event = |len: usize| format!("data: {}\n\n", "x".repeat(len - 8));
        let events = [event(40), event(20_000), event(9_000), event(9_000), event(30)].concat();
        let pieces = cut(Bytes::from(events.clone()));
        assert_eq!(pieces.concat(), events.as_bytes());
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [40, 20_000, 9_000, 9_030]);
    }

    #[test]
    fn events_that_end_otherwise_stay_in_one_piece() {
        let events = Bytes::from("data: x\r\n\r\n".repeat(4_000));
        assert_eq!(cut(events.clone()), [events]);
    }
}
