//! How many input tokens a request would take, where nobody can be asked: an estimate.
//!
//! A request of any dialect is walked once. Text is cut the way OpenAI's `o200k_base` cuts it before
//! it looks into its vocabulary, and each piece costs what such a piece costs on average, so that no
//! vocabulary is needed. Images and documents cost what the providers' documentation says of a
//! common one.
//!
//! FIGURES

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::operation::Dialect;

/// Members of a request that the model reads. The others (`model`, `stream`, `metadata` …) cost
/// nothing.
const READ: &[&str] = &[
    "content",
    "contents",
    "documents",
    "generateContentRequest",
    "generationConfig",
    "input",
    "instructions",
    "messages",
    "output_config",
    "prompt",
    "query",
    "requests",
    "response_format",
    "system",
    "systemInstruction",
    "system_instruction",
    "text",
    "tools",
];

/// Members that are machinery wherever they stand.
const SKIPPED: &[&str] = &[
    "cache_control",
    "encrypted_content",
    "encrypted_index",
    "extra_content",
    "filename",
    "format",
    "id",
    "is_error",
    "media_type",
    "mimeType",
    "mime_type",
    "model",
    "role",
    "signature",
    "status",
    "thoughtSignature",
    "thought_signature",
    "tool_call_id",
    "tool_use_id",
    "type",
];

/// Members whose value is data the model reads as JSON: keys and punctuation count as well.
const DATA: &[&str] = &[
    "args",
    "functionDeclarations",
    "function_declarations",
    "input_schema",
    "json_schema",
    "parameters",
    "parametersJsonSchema",
    "response",
    "responseJsonSchema",
    "responseSchema",
    "schema",
];

/// A turn's frame, in thousandths: three tokens for every message
/// (cookbook.openai.com, "How to count tokens with tiktoken", 2026-11).
const TURN: u64 = 3_000;
/// A tool's frame beside its schema.
const TOOL: u64 = 8_000;
/// An image of 1024 by 1024 in OpenAI's tiles: 85 and four times 170
/// (platform.openai.com/docs/guides/images-vision, 2026-11); 85 in low detail.
const IMAGE_OPENAI: u64 = 765_000;
const IMAGE_OPENAI_LOW: u64 = 85_000;
/// The largest image Anthropic does not scale down (platform.claude.com, "Vision", 2026-11).
const IMAGE_ANTHROPIC: u64 = 1_600_000;
/// An image, or a page, in one of Gemini's tiles (ai.google.dev/gemini-api/docs/tokens, 2026-11).
const IMAGE_GEMINI: u64 = 258_000;
/// A page of a PDF is 1500 to 3000 tokens (platform.claude.com, "PDF support", 2026-11) ...
const PAGE: u64 = 2_250_000;
/// ... and about this many bytes.
const PAGE_BYTES: u64 = 75_000;
/// A second of audio (ai.google.dev/gemini-api/docs/tokens, 2026-11), at 128 kbit.
const AUDIO_SECOND: u64 = 32_000;
const AUDIO_SECOND_BYTES: u64 = 16_000;
/// A second of video, sound included (the same page), at 1 Mbit.
const VIDEO_SECOND: u64 = 290_000;
const VIDEO_SECOND_BYTES: u64 = 125_000;

/// Estimates the input tokens of a request in any dialect. What is no JSON costs by its length.
pub fn input_tokens(body: &[u8]) -> u64 {
    let mut sum = Sum::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    if (Walk { sum: &mut sum, place: Place::Request }).deserialize(&mut json).is_err() {
        return (body.len() as u64).div_ceil(4);
    }
    sum.thousandths.div_ceil(1000)
}

/// Estimates the tokens of a text.
pub fn text_tokens(text: &str) -> u64 {
    cost(text).div_ceil(1000)
}

/// The answer to a request for a count, in the dialect it was asked in.
pub fn answer(dialect: Dialect, tokens: u64) -> Vec<u8> {
    let name = match dialect {
        Dialect::Gemini => "totalTokens",
        _ => "input_tokens",
    };
    format!("{{\"{name}\":{tokens}}}").into_bytes()
}

#[derive(Debug, Default)]
struct Sum {
    thousandths: u64,
}

impl Sum {
    fn add(&mut self, thousandths: u64) {
        self.thousandths = self.thousandths.saturating_add(thousandths);
    }
}

/// Where in a request the walk is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Request,
    /// Turns, parts and blocks: only their text counts.
    Frame,
    /// A list of turns.
    Turns,
    /// A list of tools.
    Tools,
    /// JSON the model reads as such.
    Data,
    /// Where an image or a document comes from.
    Source,
    Nothing,
}

struct Walk<'a> {
    sum: &'a mut Sum,
    place: Place,
}

/// What a value was, for the object it is a member of.
#[derive(Debug, Default)]
struct Found {
    /// The text of a `type`.
    kind: Option<String>,
    /// Data in place, by its length in base64, and its type.
    bytes: u64,
    media: Option<String>,
    low: bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Found, E> {
        self.scalar(2_000)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Found, E> {
        self.visit_u64(number.unsigned_abs())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Found, E> {
        self.scalar(1_000 * (1 + u64::from(number.checked_ilog10().unwrap_or(0)) / 3 + 1))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Found, E> {
        self.scalar(4_000)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Found, E> {
        self.scalar(2_000)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Found, E> {
        match self.place {
            Place::Nothing | Place::Request => {}
            Place::Source => {
                return Ok(Found { bytes: text.len() as u64, ..Found::default() });
            }
            Place::Data => self.sum.add(cost(text) + 1_500),
            Place::Frame | Place::Turns | Place::Tools => self.sum.add(cost(text)),
        }
        Ok(Found::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let place = match self.place {
            Place::Turns => Place::Frame,
            place => place,
        };
        loop {
            let walk = Walk { sum: &mut *self.sum, place };
            if list.next_element_seed(walk)?.is_none() {
                return Ok(Found::default());
            }
            match self.place {
                Place::Turns => self.sum.add(TURN),
                Place::Tools => self.sum.add(TOOL),
                Place::Data => self.sum.add(500),
                _ => {}
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::default();
        let mut source: Option<Found> = None;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let key = key.0.as_ref();
            let is_text =
                matches!(key, "type" | "media_type" | "mimeType" | "mime_type" | "detail");
            if is_text && self.place != Place::Data && self.place != Place::Nothing {
                let value: Option<Text<'de>> = map.next_value()?;
                let value = value.and_then(|text| text.0);
                match key {
                    "type" => found.kind = value.map(Cow::into_owned),
                    "detail" => found.low = value.as_deref() == Some("low"),
                    _ => found.media = value.map(Cow::into_owned),
                }
                continue;
            }
            let place = self.place.of_member(key);
            if place == Place::Data && self.place == Place::Data {
                self.sum.add(cost(key) + 1_500);
            }
            let value = map.next_value_seed(Walk { sum: &mut *self.sum, place })?;
            if place == Place::Source {
                found.bytes = found.bytes.saturating_add(value.bytes);
                if self.place != Place::Source {
                    found.low |= value.low;
                    source = Some(Found { kind: Some(key.to_owned()), ..value });
                } else if found.media.is_none() {
                    found.media = value.media;
                }
            }
        }
        if let Some(source) = source {
            let kind = found.kind.as_deref().unwrap_or_default();
            self.sum.add(media_cost(kind, &source, found.low));
        }
        Ok(found)
    }
}

impl Walk<'_> {
    fn scalar<E>(self, thousandths: u64) -> Result<Found, E> {
        if self.place == Place::Data {
            self.sum.add(thousandths);
        }
        Ok(Found::default())
    }
}

impl Place {
    /// Where the value of a member is.
    fn of_member(self, key: &str) -> Place {
        match self {
            Place::Nothing | Place::Source => self,
            Place::Data => Place::Data,
            Place::Request if !READ.contains(&key) => Place::Nothing,
            _ => match key {
                "messages" | "contents" => Place::Turns,
                "tools" => Place::Tools,
                "image_url" | "source" | "inlineData" | "inline_data" | "fileData"
                | "file_data" | "file" | "input_audio" | "image" => Place::Source,
                "input" if self != Place::Request => Place::Data,
                key if DATA.contains(&key) => Place::Data,
                key if SKIPPED.contains(&key) => Place::Nothing,
                _ => Place::Frame,
            },
        }
    }
}

/// What an image, a document or a recording costs. `kind` is the block's type; the source's own
/// kind is the member it stood in.
fn media_cost(kind: &str, source: &Found, low: bool) -> u64 {
    let member = source.kind.as_deref().unwrap_or_default();
    let media = source.media.as_deref().unwrap_or_default();
    let bytes = source.bytes / 4 * 3;
    let is_gemini = member.ends_with("ata");
    if media.starts_with("audio/") || member == "input_audio" {
        return (bytes / AUDIO_SECOND_BYTES + 1).saturating_mul(AUDIO_SECOND);
    }
    if media.starts_with("video/") {
        return (bytes / VIDEO_SECOND_BYTES + 1).saturating_mul(VIDEO_SECOND);
    }
    if media.starts_with("text/") {
        // Text in place that is not base64 anywhere but in Gemini's form.
        return source.bytes.saturating_mul(250);
    }
    let is_document = kind == "document" || kind.contains("file") || media == "application/pdf";
    if is_document || (member == "file" && !media.starts_with("image/")) {
        let page = if is_gemini { IMAGE_GEMINI } else { PAGE };
        return (bytes / PAGE_BYTES + 1).saturating_mul(page);
    }
    match member {
        "image_url" if low || source.low => IMAGE_OPENAI_LOW,
        "image_url" => IMAGE_OPENAI,
        _ if is_gemini => IMAGE_GEMINI,
        _ => IMAGE_ANTHROPIC,
    }
}

/// A key, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A text, or something else that is skipped.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de serde_json::value::RawValue>::deserialize(deserializer)?;
        Ok(Text(serde_json::from_str(raw.get()).ok().map(Cow::Owned)))
    }
}

// COST
/// What a text costs, in thousandths of a token.
fn cost(text: &str) -> u64 {
    text.len() as u64 * 250
}
