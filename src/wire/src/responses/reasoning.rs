//! An item of reasoning: what is shown of it, and what must come back unchanged.
//!
//! Shown reasoning goes into the summary, because that is what clients of this API show. What the
//! middle form calls `thinking_blocks` goes into `encrypted_content`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::inside;
use super::envelope;
use super::events::Events;

/// A piece of signed reasoning.
#[derive(Deserialize)]
pub(super) struct Thought<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    signature: Option<&'a RawValue>,
    #[serde(skip)]
    raw: &'a str,
}

impl<'a> Thought<'a> {
    /// Reads one; `None` where there is nothing in it.
    pub(super) fn read(raw: &'a RawValue) -> Option<Thought<'a>> {
        let thought: Thought<'a> = serde_json::from_str(raw.get()).ok()?;
        let is_empty = thought.kind == "thinking"
            && inside(thought.thinking).is_none()
            && inside(thought.signature).is_none();
        (!is_empty).then_some(Thought { raw: raw.get(), ..thought })
    }

    /// What may be shown.
    pub(super) fn text(&self) -> Option<&'a [u8]> {
        inside(self.thinking).filter(|_| self.kind == "thinking")
    }
}

enum Block {
    /// Text and signature, as the insides of raw JSON strings.
    Thinking(Vec<u8>, Vec<u8>),
    Other(Vec<u8>),
}

/// Signed reasoning as it comes together.
#[derive(Default)]
pub(super) struct Blocks(Vec<Block>);

impl Blocks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Text is appended to the block that is open, and a signature closes it.
    pub(super) fn add(&mut self, thought: &Thought<'_>) {
        if thought.kind != "thinking" {
            self.0.push(Block::Other(thought.raw.as_bytes().to_vec()));
            return;
        }
        let text = inside(thought.thinking).unwrap_or_default();
        let signed = inside(thought.signature).unwrap_or_default();
        match self.0.last_mut() {
            Some(Block::Thinking(all, signature)) if signature.is_empty() => {
                all.extend_from_slice(text);
                signature.extend_from_slice(signed);
            }
            _ => self.0.push(Block::Thinking(text.to_vec(), signed.to_vec())),
        }
    }

    /// The envelope. What was never signed is of no use to the provider and is not in it.
    pub(super) fn seal(&self) -> Option<String> {
        let blocks = self.0.iter().filter_map(|block| match block {
            Block::Thinking(_, signature) if signature.is_empty() => None,
            Block::Thinking(text, signature) => {
                let (open, middle): (&[u8], &[u8]) =
                    (b"{\"type\":\"thinking\",\"thinking\":\"", b"\",\"signature\":\"");
                Some(Cow::Owned([open, text, middle, signature, b"\"}"].concat()))
            }
            Block::Other(raw) => Some(Cow::Borrowed(raw.as_slice())),
        });
        let blocks: Vec<Cow<'_, [u8]>> = blocks.collect();
        envelope::seal(blocks.iter().map(Cow::as_ref))
    }
}

/// An item of reasoning that is being written.
pub(super) struct Reasoning {
    pub(super) slot: usize,
    pub(super) blocks: Blocks,
    id: String,
    text: Vec<u8>,
    /// The members that say where it is, in every event of it.
    place: Vec<u8>,
}

impl Reasoning {
    pub(super) fn new(slot: usize, id: &str, blocks: Blocks) -> Reasoning {
        let id = format!("rs_{id}_{slot}");
        let place = format!(",\"item_id\":\"{id}\",\"output_index\":{slot},\"summary_index\":0");
        Reasoning { slot, blocks, id, text: Vec::new(), place: place.into_bytes() }
    }

    pub(super) fn push(&mut self, text: &[u8], events: &mut Events, out: &mut Vec<u8>) {
        if self.text.is_empty() {
            let part: &[u8] = b",\"part\":{\"type\":\"summary_text\",\"text\":\"\"}";
            events.write(out, "response.reasoning_summary_part.added", &[&self.place, part]);
        }
        self.text.extend_from_slice(text);
        events.write(
            out,
            "response.reasoning_summary_text.delta",
            &[&self.place, b",\"delta\":\"", text, b"\""],
        );
    }

    pub(super) fn end_summary(&self, events: &mut Events, out: &mut Vec<u8>) {
        if self.text.is_empty() {
            return;
        }
        let text: &[&[u8]] = &[&self.place, b",\"text\":\"", &self.text, b"\""];
        events.write(out, "response.reasoning_summary_text.done", text);
        let part: &[&[u8]] =
            &[&self.place, b",\"part\":{\"type\":\"summary_text\",\"text\":\"", &self.text, b"\"}"];
        events.write(out, "response.reasoning_summary_part.done", part);
    }

    pub(super) fn json(&self, sealed: Option<&str>) -> Vec<u8> {
        let mut json = format!("{{\"id\":\"{}\",\"type\":\"reasoning\",\"summary\":[", self.id);
        let mut json = std::mem::take(&mut json).into_bytes();
        if !self.text.is_empty() {
            json.extend_from_slice(b"{\"type\":\"summary_text\",\"text\":\"");
            json.extend_from_slice(&self.text);
            json.extend_from_slice(b"\"}");
        }
        json.push(b']');
        if let Some(sealed) = sealed {
            json.extend_from_slice(b",\"encrypted_content\":\"");
            json.extend_from_slice(sealed.as_bytes());
            json.push(b'"');
        }
        json.push(b'}');
        json
    }
}
