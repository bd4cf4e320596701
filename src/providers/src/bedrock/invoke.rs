//! Claude by InvokeModel: Anthropic's own Messages API in Bedrock's frames
//! (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html>,
//! read 2026-11).
//!
//! The body is the client's, but for the members Bedrock has elsewhere: the model and the stream
//! are in the path, betas in the body. A stream's frames hold `{"bytes": …}`, one of Anthropic's
//! events in base64 each, and come out as the server-sent events Anthropic itself would have sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tollway_wire::anthropic::{StreamEvent, UsageCounts};
use tollway_wire::operation::Dialect;
use tollway_wire::scan::{Limits, Object, scan};
use tollway_wire::splice::{Edits, json_string};
use tollway_wire::usage::Usage;

use crate::anthropic::Anthropic;
use crate::openai::is_gateway_only;
use crate::request::unwritable;
use crate::response::WholeDecoder;
use crate::{
    Asked, Call, DecodeError, Decoder, Place, Provider, RequestError, Target, UpstreamBody,
};

use super::NAME;
use super::error::{is_error, read_error};
use super::frames::Frames;
use super::model::Model;

/// The version of the API, which Bedrock wants in the body.
const VERSION: &[u8] = b"\"bedrock-2023-05-31\"";

/// Members of Anthropic's that Bedrock refuses and that change nothing about the answer: tiers are
/// a header there.
const REFUSED: &[&str] = &["extra_headers", "model", "service_tier", "stream"];

/// Writes the body for a client that speaks Anthropic's API.
pub(super) fn translate(call: &Call<'_>) -> UpstreamBody {
    let mut betas = Vec::new();
    for member in ["anthropic_beta", "betas"] {
        add_betas(&mut betas, call.object.raw(call.body, member));
    }
    if let Some(headers) = call.object.raw(call.body, "extra_headers")
        && let Ok(Value::Object(headers)) = serde_json::from_slice(headers)
    {
        let header = headers.get("anthropic-beta").map(Value::to_string);
        add_betas(&mut betas, header.as_deref().map(str::as_bytes));
    }
    UpstreamBody::plain(into_invoke(call.body, call.object, &betas))
}

/// Writes the body for a client that speaks OpenAI's chat: first Anthropic's, then Bedrock's.
pub(super) fn translate_chat(
    call: &Call<'_>,
    target: &Target,
    model: &Model<'_>,
) -> Result<UpstreamBody, RequestError> {
    let named = Target { model: model.id.to_owned(), ..target.clone() };
    let sent = Anthropic.request(call, &named).map_err(|error| match error {
        RequestError::Unsupported { params, .. } => {
            RequestError::Unsupported { provider: NAME, model: target.model.clone(), params }
        }
        error => error,
    })?;
    let mut betas = Vec::new();
    for (_, value) in &sent.headers {
        let names = value.to_str().unwrap_or_default();
        betas.extend(names.split(',').map(str::to_owned));
    }
    let limits = Limits { members: u16::MAX, ..Limits::default() };
    let object = scan(&sent.bytes, &limits).map_err(unwritable)?;
    Ok(UpstreamBody::plain(into_invoke(&sent.bytes, &object, &betas)))
}

/// Reads betas: a list, or names with commas between them.
fn add_betas(betas: &mut Vec<String>, raw: Option<&[u8]>) {
    let value = raw.and_then(|raw| serde_json::from_slice(raw).ok());
    let mut add = |name: &str| {
        let name = name.trim();
        if !name.is_empty() && !betas.iter().any(|known| known == name) {
            betas.push(name.to_owned());
        }
    };
    match value {
        Some(Value::String(names)) => names.split(',').for_each(add),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(&mut add),
        _ => {}
    }
}

/// Anthropic's body as Bedrock takes it.
fn into_invoke(body: &Bytes, object: &Object, betas: &[String]) -> Bytes {
    let names: Vec<_> = object.iter().map(|member| member.name(body)).collect();
    let mut edits = Edits::new();
    for name in &names {
        if is_gateway_only(name) || REFUSED.contains(&name.as_ref()) || name == "betas" {
            edits.remove(name);
        }
    }
    if object.get(body, "anthropic_version").is_none() {
        edits.set("anthropic_version", VERSION);
    }
    if betas.is_empty() {
        edits.remove("anthropic_beta");
    } else {
        edits.set("anthropic_beta", json!(betas).to_string().into_bytes());
    }
    edits.apply(body, object)
}

/// The body that asks how many tokens a request would take.
pub(super) fn count_tokens(call: &Call<'_>) -> UpstreamBody {
    let mut body = translate(call).bytes;
    // Counting is for a request that could be sent, and that has a limit.
    if call.object.get(call.body, "max_tokens").is_none()
        && let Ok(object) = scan(&body, &Limits { members: u16::MAX, ..Limits::default() })
    {
        let mut edits = Edits::new();
        edits.set("max_tokens", b"1".as_slice());
        body = edits.apply(&body, &object);
    }
    let asked = json!({"input": {"invokeModel": {"body": STANDARD.encode(&body)}}});
    UpstreamBody::plain(asked.to_string().into_bytes().into())
}

/// Decodes the answer to [`count_tokens`] into Anthropic's.
pub(super) struct CountDecoder;

impl WholeDecoder for CountDecoder {
    const NO_STREAM: &str = "a count does not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Count {
            input_tokens: u64,
        }
        let count: Count = serde_json::from_slice(body)
            .map_err(|error| DecodeError::Malformed(format!("not a count of tokens: {error}")))?;
        Ok(json!({"input_tokens": count.input_tokens}).to_string().into_bytes())
    }
}

/// Decodes one answer of a Claude's.
pub(super) struct InvokeDecoder {
    frames: Frames,
    asked: Asked,
    usage: Option<UsageCounts>,
    done: bool,
    /// Puts Anthropic's events into OpenAI's chunks, where the client speaks OpenAI's chat.
    inner: Option<Box<dyn Decoder>>,
    /// One event, as Anthropic frames it.
    event: Vec<u8>,
}

/// The payload of a frame. There is also `p`, padding that hides how long the text is.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a serde_json::value::RawValue>,
}

impl InvokeDecoder {
    pub(super) fn new(place: &Place<'_>, asked: Asked) -> Self {
        let inner = match place.dialect {
            Dialect::Anthropic => None,
            _ => Anthropic.decoder(place, asked.clone()),
        };
        InvokeDecoder {
            frames: Frames::default(),
            asked,
            usage: None,
            done: false,
            inner,
            event: Vec::new(),
        }
    }
}

impl Decoder for InvokeDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if is_error(body) {
            return Err(DecodeError::Reported(read_error(200, body)));
        }
        if let Some(inner) = &mut self.inner {
            return inner.whole(body);
        }
        #[derive(Deserialize)]
        struct Message {
            #[serde(rename = "content")]
            _content: Vec<serde::de::IgnoredAny>,
            usage: Option<UsageCounts>,
        }
        let message: Message = serde_json::from_slice(body)
            .map_err(|error| DecodeError::Malformed(format!("not a message: {error}")))?;
        self.usage = message.usage;
        let limits = Limits { members: u16::MAX, ..Limits::default() };
        let object =
            scan(body, &limits).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        let mut edits = Edits::new();
        edits.set("model", json_string(&self.asked.model));
        Ok(edits.apply(&Bytes::copy_from_slice(body), &object).to_vec())
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let InvokeDecoder { frames, asked, usage, done, inner, event } = self;
        frames.push(bytes, |kind, payload| {
            // Kinds of events may be added; nothing comes after the end.
            if *done || kind != b"chunk" {
                return Ok(());
            }
            let malformed = |what: &str| DecodeError::Malformed(what.to_owned());
            let chunk: Chunk<'_> =
                serde_json::from_slice(payload).map_err(|_| malformed("a frame holds no bytes"))?;
            let json = match chunk.bytes {
                Some(bytes) => STANDARD
                    .decode(bytes.as_ref())
                    .map_err(|_| malformed("a frame's bytes are not base64"))?,
                // Servers that resemble Bedrock put the event itself into the frame.
                None if chunk.kind.is_some() => payload.to_vec(),
                None => return Err(malformed("a frame holds no bytes")),
            };
            event.clear();
            *done = write_event(json, asked, usage, event)?;
            match inner {
                Some(inner) => inner.stream(event, out),
                None => {
                    out.extend_from_slice(event);
                    Ok(())
                }
            }
        })
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match &mut self.inner {
            _ if !self.done => Err(self.frames.truncated()),
            Some(inner) => inner.finish(out),
            None => Ok(()),
        }
    }

    fn usage(&self) -> Option<Usage> {
        if let Some(inner) = &self.inner {
            return inner.usage();
        }
        // Counts of nothing at all are no counts.
        let total = self.usage.as_ref().map(UsageCounts::total);
        total.filter(|usage| *usage != Usage::default())
    }
}

/// Writes one of Anthropic's events as it would have framed it. Returns whether it is the last.
fn write_event(
    mut json: Vec<u8>,
    asked: &Asked,
    usage: &mut Option<UsageCounts>,
    out: &mut Vec<u8>,
) -> Result<bool, DecodeError> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
    let kind: Kind<'_> = serde_json::from_slice(&json).map_err(malformed)?;
    let kind = kind.kind.into_owned();
    if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(DecodeError::Malformed("an event has no type".into()));
    }
    let counts = match kind.as_str() {
        "error" => return Err(DecodeError::Reported(Anthropic.error(200, &json))),
        "message_start" | "message_delta" => {
            let event: StreamEvent<'_> = serde_json::from_slice(&json).map_err(malformed)?;
            event.usage.or(event.message.and_then(|message| message.usage))
        }
        _ => None,
    };
    if let Some(counts) = counts {
        usage.get_or_insert_default().update(counts);
    }
    // Where a line feed would cut the event, and where there is something to change, the event is
    // written anew.
    let is_cut = memchr::memchr2(b'\n', b'\r', &json).is_some();
    if is_cut || matches!(kind.as_str(), "message_start" | "message_stop") {
        let mut event: Value = serde_json::from_slice(&json).map_err(malformed)?;
        if let Some(Value::Object(message)) = event.get_mut("message") {
            message.insert("model".into(), asked.model.as_str().into());
        }
        if let Value::Object(event) = &mut event {
            // Bedrock's own counts, which Anthropic's clients do not know.
            event.shift_remove("amazon-bedrock-invocationMetrics");
        }
        json = event.to_string().into_bytes();
    }
    for part in [b"event: ", kind.as_bytes(), b"\ndata: ", &json, b"\n\n"] {
        out.extend_from_slice(part);
    }
    Ok(kind == "message_stop")
}
