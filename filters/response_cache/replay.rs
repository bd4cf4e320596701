//! Kept answers: when an answer is worth keeping, and how it is given to another caller, who may
//! want it in the other form or under another name.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::{self, Finder};
use tollway_filter_api::cache::CachedAnswer;
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
        return Some(match answer.streamed {
            false => {
                AnswerBody::Full { content_type: "application/json", bytes: answer.body.clone() }
            }
            true => {
                let mut pieces = Vec::new();
                cut(answer.body.clone(), &mut pieces);
                AnswerBody::Events(pieces)
            }
        });
    }
    let wants_stream = view.stream && view.operation != Operation::Embeddings;
    let rename = (*answer.model != *requested).then_some(requested);
    if !wants_stream {
        let json = if answer.streamed {
            completion_from_events(&with_usage(answer)?)?.into()
        } else {
            answer.body.clone()
        };
        let bytes = match rename {
            Some(name) => rename_json(&json, name)?,
            None => json,
        };
        return Some(AnswerBody::Full { content_type: "application/json", bytes });
    }
    let mut pieces = Vec::new();
    if answer.streamed {
        let strip = answer.usage_event && !view.include_usage;
        let stream = if view.include_usage { with_usage(answer)? } else { answer.body.clone() };
        if strip || rename.is_some() {
            StreamTap::new(strip, rename).push(&stream, |run| cut(run, &mut pieces)).ok()?;
        } else {
            cut(stream, &mut pieces);
        }
    } else {
        let renamed = match rename {
            Some(name) => rename_json(&answer.body, name)?,
            None => answer.body.clone(),
        };
        if view.include_usage {
            answer.usage?;
        }
        cut(events_from_completion(&renamed, view.include_usage)?.into(), &mut pieces);
    }
    Some(AnswerBody::Events(pieces))
}

/// A kept stream with its usage. A stream of which no usage is known cannot serve a caller who
/// wants it.
fn with_usage(answer: &CachedAnswer) -> Option<Bytes> {
    if answer.usage_event {
        return Some(answer.body.clone());
    }
    Some(add_usage_event(&answer.body, answer.usage.as_ref()?))
}

fn rename_json(json: &Bytes, name: &str) -> Option<Bytes> {
    let object = scan::scan(json, &Limits::default()).ok()?;
    let mut edits = Edits::new();
    edits.set("model", json_string(name));
    Some(edits.apply(json, &object))
}

/// Cuts whole events into pieces of at most [`PIECE_BYTES_MAX`] that hold whole events. Of events
/// that do not end in two line feeds, which is rare and allowed, there may be more in a piece.
fn cut(events: Bytes, pieces: &mut Vec<Bytes>) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_streams_are_cut_between_events() {
        let event = |len: usize| format!("data: {}\n\n", "x".repeat(len - 8));
        let events = [event(40), event(20_000), event(9_000), event(9_000), event(30)].concat();
        let mut pieces = Vec::new();
        cut(Bytes::from(events.clone()), &mut pieces);
        assert_eq!(pieces.concat(), events.as_bytes());
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [40, 20_000, 9_000, 9_030]);
    }

    #[test]
    fn events_that_end_otherwise_stay_in_one_piece() {
        let events = Bytes::from("data: x\r\n\r\n".repeat(4_000));
        let mut pieces = Vec::new();
        cut(events.clone(), &mut pieces);
        assert_eq!(pieces, [events]);
    }
}
