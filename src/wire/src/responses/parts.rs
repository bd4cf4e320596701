//! One part of a message: text with its citations and log probabilities, or a refusal.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};

use super::events::Events;
use super::output::Piece;

/// A part that is being written.
pub(super) struct Part {
    pub(super) is_refusal: bool,
    text: Vec<u8>,
    /// JSON lists without brackets.
    logprobs: Vec<u8>,
    annotations: Vec<u8>,
    annotated: usize,
    /// The members that say where it is, in every event of it.
    place: Vec<u8>,
}

impl Part {
    pub(super) fn new(item: &str, slot: usize, index: usize, is_refusal: bool) -> Part {
        let place =
            format!(",\"item_id\":\"{item}\",\"output_index\":{slot},\"content_index\":{index}");
        Part {
            is_refusal,
            text: Vec::new(),
            logprobs: Vec::new(),
            annotations: Vec::new(),
            annotated: 0,
            place: place.into_bytes(),
        }
    }

    pub(super) fn open(&self, events: &mut Events, out: &mut Vec<u8>) {
        let json = self.json();
        events.write(out, "response.content_part.added", &[&self.place, b",\"part\":", &json]);
    }

    pub(super) fn push(&mut self, piece: Piece<'_>, events: &mut Events, out: &mut Vec<u8>) {
        if piece.text.is_empty() {
            return;
        }
        self.text.extend_from_slice(piece.text);
        if self.is_refusal {
            let members: &[&[u8]] = &[&self.place, b",\"delta\":\"", piece.text, b"\""];
            events.write(out, "response.refusal.delta", members);
            return;
        }
        list(&mut self.logprobs, piece.logprobs);
        let members: &[&[u8]] = &[
            &self.place,
            b",\"delta\":\"",
            piece.text,
            b"\",\"logprobs\":[",
            piece.logprobs,
            b"]",
        ];
        events.write(out, "response.output_text.delta", members);
    }

    pub(super) fn annotate(&mut self, json: &[u8], events: &mut Events, out: &mut Vec<u8>) {
        let index = self.annotated.to_string();
        events.write(
            out,
            "response.output_text.annotation.added",
            &[&self.place, b",\"annotation_index\":", index.as_bytes(), b",\"annotation\":", json],
        );
        list(&mut self.annotations, json);
        self.annotated += 1;
    }

    /// Tells that the part is done, and what it is.
    pub(super) fn close(&self, events: &mut Events, out: &mut Vec<u8>) -> Vec<u8> {
        if self.is_refusal {
            let members: &[&[u8]] = &[&self.place, b",\"refusal\":\"", &self.text, b"\""];
            events.write(out, "response.refusal.done", members);
        } else {
            let members: &[&[u8]] = &[
                &self.place,
                b",\"text\":\"",
                &self.text,
                b"\",\"logprobs\":[",
                &self.logprobs,
                b"]",
            ];
            events.write(out, "response.output_text.done", members);
        }
        let json = self.json();
        events.write(out, "response.content_part.done", &[&self.place, b",\"part\":", &json]);
        json
    }

    fn json(&self) -> Vec<u8> {
        if self.is_refusal {
            return [b"{\"type\":\"refusal\",\"refusal\":\"".as_slice(), &self.text, b"\"}"]
                .concat();
        }
        [
            b"{\"type\":\"output_text\",\"text\":\"".as_slice(),
            &self.text,
            b"\",\"annotations\":[",
            &self.annotations,
            b"],\"logprobs\":[",
            &self.logprobs,
            b"]}",
        ]
        .concat()
    }
}

/// Appends to a JSON list without brackets.
fn list(list: &mut Vec<u8>, more: &[u8]) {
    if !list.is_empty() && !more.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(more);
}

/// Chat's log probabilities as a JSON list without brackets. The reference demands members here that
/// chat's servers leave out or null.
pub(super) fn logprobs(raw: &RawValue) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Logprobs {
        #[serde(default)]
        content: Option<Vec<Token>>,
    }
    #[derive(Deserialize)]
    struct Token {
        token: String,
        logprob: Number,
        #[serde(default)]
        bytes: Option<Vec<u8>>,
        #[serde(default)]
        top_logprobs: Option<Vec<Token>>,
    }
    fn value_of(token: Token, nested: bool) -> Value {
        let mut value = json!({
            "token": token.token,
            "logprob": token.logprob,
            "bytes": token.bytes.unwrap_or_default(),
        });
        if nested {
            let top = token.top_logprobs.unwrap_or_default().into_iter();
            value["top_logprobs"] = top.map(|token| value_of(token, false)).collect();
        }
        value
    }
    let Ok(Logprobs { content: Some(tokens) }) = serde_json::from_str(raw.get()) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for token in tokens {
        list(&mut all, value_of(token, true).to_string().as_bytes());
    }
    all
}

/// An annotation of chat's, which nests it, as the Responses API has it.
pub(super) fn annotation(raw: &RawValue) -> Option<Vec<u8>> {
    let mut annotation: Value = serde_json::from_str(raw.get()).ok()?;
    let kind = annotation["type"].as_str()?.to_owned();
    let known = ["file_citation", "container_file_citation", "file_path"];
    if kind != "url_citation" {
        return known.contains(&kind.as_str()).then(|| annotation.to_string().into_bytes());
    }
    let cited = match annotation.get_mut("url_citation") {
        Some(nested) => nested.take(),
        None => annotation,
    };
    let index = |name: &str| cited[name].as_u64().unwrap_or(0);
    let flat = json!({
        "type": kind,
        "url": cited["url"].as_str()?,
        "title": cited["title"].as_str().unwrap_or_default(),
        "start_index": index("start_index"),
        "end_index": index("end_index"),
    });
    Some(flat.to_string().into_bytes())
}
