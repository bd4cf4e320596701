//! What a realtime session used, read from the frames its server sends (RFC 6455; the events are
//! those of <https://platform.openai.com/docs/api-reference/realtime-server-events>, read 2026-11).
//!
//! Frames pass as they are; only `response.done` is looked at, because it says what a response took.
//! No more than one message is held, and no longer one than that event can sensibly be.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::responses;
use crate::usage::Usage;

/// How long a message may be to be looked at.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How many bytes of a message have to be there to tell sound and pieces of text from the rest.
const HEAD_BYTES: usize = 512;

/// Counts what the responses of a session took.
#[derive(Debug, Default)]
pub struct Meter {
    /// The head of a frame, as far as it is there.
    head: Vec<u8>,
    /// How much of the frame's payload is still to come.
    left: u64,
    /// Whether the payload belongs to a text message, and is the last of it.
    is_text: bool,
    is_last: bool,
    /// The message so far; `None` where it need not be looked at.
    message: Option<Vec<u8>>,
    usage: Option<Usage>,
    /// Answers that were seen.
    responses: u64,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
}

/// OpenAI's names of the counts of this API.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    usage: Option<Counts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: u64,
    output_tokens: u64,
    input_token_details: Option<Details>,
    output_token_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

impl Meter {
    /// Looks at the next bytes of the server, cut anywhere.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.frame_head(bytes);
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(here);
            self.left -= here as u64;
            if self.is_text {
                self.payload(payload);
            }
            bytes = rest;
            if self.left == 0 {
                self.frame_ends();
            }
        }
    }

    /// What the session has used so far, as far as its server said.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// How many responses the server has finished.
    pub fn responses(&self) -> u64 {
        self.responses
    }

    /// Takes what belongs to a frame's head; what follows it.
    fn frame_head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        let wanted = |head: &[u8]| match head {
            [_, second, ..] => {
                let mask = if second & 0x80 != 0 { 4 } else { 0 };
                let long = match second & 0x7f {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                2 + long + mask
            }
            _ => 2,
        };
        while self.head.len() < wanted(&self.head) {
            let Some((first, more)) = rest.split_first() else { return rest };
            self.head.push(*first);
            rest = more;
        }
        let (opcode, is_last) = (self.head[0] & 15, self.head[0] & 0x80 != 0);
        let length = match self.head[1] & 0x7f {
            126 => self.head[2..4].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            127 => self.head[2..10].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        // A server masks nothing and, without an extension, sets no other bit: what it says then is
        // not text we could read.
        let is_plain = self.head[0] & 0x70 == 0 && self.head[1] & 0x80 == 0;
        self.head.clear();
        self.left = length;
        match opcode {
            // The rest of a message is of the kind of its beginning.
            0 => self.is_text = self.message.is_some(),
            1 => {
                self.is_text = true;
                self.message = is_plain.then(Vec::new);
            }
            2 => {
                self.is_text = false;
                self.message = None;
            }
            // Pings and the like may stand between the frames of a message.
            _ => self.is_text = false,
        }
        self.is_last = is_last && opcode <= 2;
        if length == 0 {
            self.frame_ends();
        }
        rest
    }

    fn payload(&mut self, payload: &[u8]) {
        let Some(message) = &mut self.message else { return };
        let was = message.len();
        if was + payload.len() > MESSAGE_BYTES_MAX {
            self.message = None;
            return;
        }
        message.extend_from_slice(payload);
        if was < HEAD_BYTES && message.len() >= HEAD_BYTES {
            let head = &message[..HEAD_BYTES];
            let has = |what: &[u8]| memchr::memmem::find(head, what).is_some();
            if has(b".delta\"") && !has(b"response.done") {
                self.message = None;
            }
        }
    }

    fn frame_ends(&mut self) {
        if !self.is_last {
            return;
        }
        self.is_last = false;
        let Some(message) = self.message.take() else { return };
        if !self.is_text || memchr::memmem::find(&message, b"response.done").is_none() {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(&message) else { return };
        let Some(response) = event.response.filter(|_| event.kind == "response.done") else {
            return;
        };
        self.responses = self.responses.saturating_add(1);
        let counted = serde_json::from_str::<Response>(response.get()).ok();
        let counts = counted.and_then(|response| response.usage);
        // Azure and others write the counts as the Responses API does.
        let usage = match counts {
            Some(counts) => Some(counts.usage()),
            None => responses::usage_of_body(response.get().as_bytes()),
        };
        if let Some(usage) = usage {
            add(self.usage.get_or_insert_default(), &usage);
        }
    }
}

impl Counts {
    fn usage(self) -> Usage {
        let (prompt, completion) = (self.input_tokens, self.output_tokens);
        let input = self.input_token_details.unwrap_or_default();
        let output = self.output_token_details.unwrap_or_default();
        let part = |count: Option<u64>, whole: u64| count.unwrap_or(0).min(whole);
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            cache_read_tokens: part(input.cached_tokens, prompt),
            audio_prompt_tokens: part(input.audio_tokens, prompt),
            audio_completion_tokens: part(output.audio_tokens, completion),
            image_prompt_tokens: part(input.image_tokens, prompt),
            ..Usage::default()
        }
    }
}

fn add(sum: &mut Usage, usage: &Usage) {
    let fields: [(&mut u64, u64); 6] = [
        (&mut sum.prompt_tokens, usage.prompt_tokens),
        (&mut sum.completion_tokens, usage.completion_tokens),
        (&mut sum.cache_read_tokens, usage.cache_read_tokens),
        (&mut sum.audio_prompt_tokens, usage.audio_prompt_tokens),
        (&mut sum.audio_completion_tokens, usage.audio_completion_tokens),
        (&mut sum.image_prompt_tokens, usage.image_prompt_tokens),
    ];
    for (sum, more) in fields {
        *sum = sum.saturating_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Azure's and OpenAI's references.
    const DONE: &str = r#"{"event_id":"e","type":"response.done","response":{"id":"r","status":"completed","usage":{"total_tokens":253,"input_tokens":132,"output_tokens":121,"input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,"cached_tokens_details":{"text_tokens":64,"audio_tokens":0}},"output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length @ 126..=0xffff => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn counted(bytes: &[u8]) -> Option<(u64, u64)> {
        let mut meter = Meter::default();
        meter.take(bytes);
        meter.usage().map(|usage| (usage.prompt_tokens, usage.completion_tokens))
    }

    #[test]
    fn what_a_response_took_is_counted_however_its_bytes_are_cut() {
        let sound =
            format!(r#"{{"type":"response.audio.delta","delta":"{}"}}"#, "A".repeat(70_000));
        let (first, rest) = DONE.as_bytes().split_at(100);
        let bytes = [
            frame(0x81, br#"{"type":"session.created"}"#),
            frame(0x81, sound.as_bytes()),
            frame(0x81, DONE.as_bytes()),
            frame(0x01, first),
            frame(0x89, b"ping"),
            frame(0x80, rest),
            frame(0x82, DONE.as_bytes()),
            frame(0x88, b""),
        ]
        .concat();
        for size in [1, 2, 3, 7, 64, 511, 512, 513, 4096, bytes.len()] {
            let mut meter = Meter::default();
            bytes.chunks(size).for_each(|piece| meter.take(piece));
            let usage = meter.usage().expect("two responses");
            assert_eq!(meter.responses(), 2, "{size}");
            assert_eq!((usage.prompt_tokens, usage.completion_tokens), (264, 242), "{size}");
            assert_eq!((usage.audio_prompt_tokens, usage.audio_completion_tokens), (26, 182));
            assert_eq!(usage.cache_read_tokens, 128);
        }
    }

    #[test]
    fn what_is_no_such_event_is_not_counted() {
        assert_eq!(counted(&frame(0x81, b"response.done {")), None);
        let quoted =
            br#"{"type":"x","text":"response.done","response":{"usage":{"input_tokens":1}}}"#;
        assert_eq!(counted(&frame(0x81, quoted)), None);
        assert_eq!(counted(&frame(0xc1, DONE.as_bytes())), None);
        let long = format!(r#"{}{}"#, " ".repeat(MESSAGE_BYTES_MAX), DONE);
        assert_eq!(counted(&frame(0x81, long.as_bytes())), None);
        let after = [frame(0x81, long.as_bytes()), frame(0x81, DONE.as_bytes())].concat();
        assert_eq!(counted(&after), Some((132, 121)));
    }

    #[test]
    fn text_that_names_a_piece_does_not_hide_the_event() {
        let tricky = DONE.replace(r#""id":"r""#, r#""metadata":{"a":"x.delta"},"id":"r""#);
        let padded = format!("{}{tricky}", " ".repeat(100));
        assert_eq!(counted(&frame(0x81, padded.as_bytes())), Some((132, 121)));
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            counted(&bytes);
        }
    }
}
