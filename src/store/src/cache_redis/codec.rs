//! How an answer is written into Redis.
//!
//! ```text
//! "TWA" version:u8(3) flags:u8 stored_ms:varint [17 counts:varint] [events_len:varint]
//!     len:varint model len:varint body
//! ```
//! The body of a stream is what is packed of its events, which are `events_len` bytes.
//! A new count changes the version. What does not match to the last byte, be it cut off, of another version or
//! somebody else's, is no answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tollway_filter_api::cache::{CachedAnswer, CachedBody};
use tollway_filter_api::clock::millis;
use tollway_wire::event_log::Packed;
use tollway_wire::usage::Usage;
use tollway_wire::varint;

/// What every value starts with: who wrote it, and the version of the form.
const MAGIC: &[u8; 4] = b"TWA\x03";

/// No stream is longer: what is said of its length is somebody else's word.
const EVENTS_BYTES_MAX: usize = 64 << 20;

const STREAMED: u8 = 1;
const USAGE_EVENT: u8 = 2;
const HAS_USAGE: u8 = 4;

/// Writes an answer.
pub(super) fn encode(answer: &CachedAnswer) -> Vec<u8> {
    let (body, events_len) = match &answer.body {
        CachedBody::Whole(json) => (json, None),
        CachedBody::Events(events) => (events.pieces(), Some(events.length())),
    };
    let mut out = Vec::with_capacity(body.len() + answer.model.len() + 64);
    out.extend_from_slice(MAGIC);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    out.push(
        flag(events_len.is_some(), STREAMED)
            | flag(answer.usage_event, USAGE_EVENT)
            | flag(answer.usage.is_some(), HAS_USAGE),
    );
    varint::put(&mut out, millis(answer.stored));
    for count in answer.usage.map(Usage::counts).into_iter().flatten() {
        varint::put(&mut out, count);
    }
    if let Some(len) = events_len {
        varint::put(&mut out, len as u64);
    }
    for bytes in [answer.model.as_bytes(), body] {
        varint::put(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    out
}

/// Reads an answer. Its body is a part of `value`, not a copy.
pub(super) fn decode(value: Bytes) -> Option<CachedAnswer> {
    let mut rest = value.strip_prefix(MAGIC)?;
    let (&flags, after) = rest.split_first()?;
    rest = after;
    if flags & !(STREAMED | USAGE_EVENT | HAS_USAGE) != 0 {
        return None;
    }
    let stored = Duration::from_millis(varint::take(&mut rest)?);
    let usage = if flags & HAS_USAGE != 0 { Some(take_usage(&mut rest)?) } else { None };
    let events_len = match flags & STREAMED {
        0 => None,
        _ => Some(
            usize::try_from(varint::take(&mut rest)?)
                .ok()
                .filter(|len| *len <= EVENTS_BYTES_MAX)?,
        ),
    };
    let model = Arc::from(std::str::from_utf8(take_bytes(&mut rest)?).ok()?);
    let body = value.slice_ref(take_bytes(&mut rest)?);
    rest.is_empty().then_some(CachedAnswer {
        usage_event: flags & USAGE_EVENT != 0,
        model,
        body: match events_len {
            None => CachedBody::Whole(body),
            Some(len) => CachedBody::Events(Packed::new(body, len)),
        },
        usage,
        stored,
    })
}

fn take_usage(rest: &mut &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    for count in usage.counts_mut() {
        *count = varint::take(rest)?;
    }
    Some(usage)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn answers() -> impl Strategy<Value = CachedAnswer> {
        let counts = proptest::option::of(proptest::array::uniform17(any::<u64>()));
        let events_len = proptest::option::of(0..=EVENTS_BYTES_MAX);
        let form = (events_len, any::<bool>(), ".{0,20}", vec(any::<u8>(), 0..300));
        (form, counts, any::<u64>()).prop_map(|((events_len, usage_event, model, body), n, ms)| {
            let usage = n.map(|n| Usage {
                prompt_tokens: n[0],
                completion_tokens: n[1],
                cache_read_tokens: n[2],
                cache_write_tokens: n[3],
                cache_write_1h_tokens: n[4],
                audio_prompt_tokens: n[5],
                audio_completion_tokens: n[6],
                reasoning_tokens: n[7],
                web_searches: n[8],
                image_prompt_tokens: n[9],
                image_completion_tokens: n[10],
                search_units: n[11],
                images: n[12],
                input_images: n[13],
                pixels: n[14],
                audio_ms: n[15],
                characters: n[16],
                ..Usage::default()
            });
            CachedAnswer {
                usage_event,
                model: model.into(),
                body: match events_len {
                    None => CachedBody::Whole(body.into()),
                    Some(len) => CachedBody::Events(Packed::new(body.into(), len)),
                },
                usage,
                stored: Duration::from_millis(ms),
            }
        })
    }

    proptest! {
        #[test]
        fn an_answer_comes_back_as_it_was(answer in answers()) {
            prop_assert_eq!(decode(encode(&answer).into()), Some(answer));
        }

        #[test]
        fn an_answer_that_is_cut_off_or_goes_on_is_no_answer(
            answer in answers(),
            cut in any::<prop::sample::Index>(),
            more in vec(any::<u8>(), 1..20),
        ) {
            let whole = encode(&answer);
            let cut = cut.index(whole.len());
            prop_assert_eq!(decode(Bytes::copy_from_slice(&whole[..cut])), None);
            prop_assert_eq!(decode([whole, more].concat().into()), None);
        }

        #[test]
        fn whatever_is_in_redis_does_no_harm(value in vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(value.into()), None);
        }

        #[test]
        fn whatever_follows_the_magic_does_no_harm(value in vec(any::<u8>(), 0..200)) {
            let _ = decode([MAGIC.as_slice(), &value].concat().into());
        }
    }

    #[test]
    fn stream_that_claims_to_be_endless_is_no_answer() {
        let answer = |len| CachedAnswer {
            usage_event: false,
            model: Arc::from("m"),
            body: CachedBody::Events(Packed::new(Bytes::from_static(b"\0\0\x01x"), len)),
            usage: None,
            stored: Duration::ZERO,
        };
        assert!(decode(encode(&answer(EVENTS_BYTES_MAX)).into()).is_some());
        assert_eq!(decode(encode(&answer(EVENTS_BYTES_MAX + 1)).into()), None);
    }

    #[test]
    fn the_form_stays_as_it_is() {
        let answer = CachedAnswer {
            usage_event: true,
            model: Arc::from("gpt"),
            body: CachedBody::Events(Packed::new(Bytes::from_static(b"\0\0\x09data: x\n\n"), 9)),
            usage: Some(Usage { prompt_tokens: 300, completion_tokens: 5, ..Usage::default() }),
            stored: Duration::from_millis(128),
        };
        let expect =
            b"TWA\x03\x07\x80\x01\xAC\x02\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\x03gpt\x0c\0\0\x09data: x\n\n";
        assert_eq!(encode(&answer), expect);
    }

    #[test]
    fn what_an_entry_of_another_version_says_is_not_guessed() {
        let answer = CachedAnswer {
            usage_event: false,
            model: Arc::from("m"),
            body: CachedBody::Whole(Bytes::from_static(b"{}")),
            usage: None,
            stored: Duration::ZERO,
        };
        let mut value = encode(&answer);
        value[3] = 2;
        assert_eq!(decode(value.into()), None);
        let mut value = encode(&answer);
        value[4] |= 8;
        assert_eq!(decode(value.into()), None);
    }
}
