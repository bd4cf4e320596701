//! A tool call as an item: of a function, or of a custom tool.

use serde_json::Value;

use super::answer::{Frame, Status};
use super::events::Events;
use super::thought;
use super::tools::CUSTOM_INPUT;

/// A piece of a tool call. Text is the inside of raw JSON strings.
pub(super) struct CallPiece<'a> {
    pub(super) index: Option<u64>,
    pub(super) id: Option<&'a [u8]>,
    pub(super) name: Option<&'a [u8]>,
    /// Arguments, or a custom tool's input.
    pub(super) text: Option<&'a [u8]>,
    pub(super) is_custom: bool,
    pub(super) signature: Option<String>,
}

impl CallPiece<'_> {
    pub(super) fn is_nothing(&self) -> bool {
        self.id.is_none() && self.name.is_none() && self.text.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    Custom,
    /// A custom tool that was offered as a function: its text is in the arguments, and known when
    /// they are whole.
    CustomByFunction,
}

/// A call that is being written.
pub(super) struct Call {
    /// Its item's place, once there is an item.
    pub(super) slot: Option<usize>,
    index: Option<u64>,
    kind: Kind,
    id: Vec<u8>,
    name: Vec<u8>,
    text: Vec<u8>,
    signature: Option<String>,
    item: String,
    /// The members that say where it is, in every event of it.
    place: Vec<u8>,
}

impl Call {
    pub(super) fn new(piece: &CallPiece<'_>) -> Call {
        Call {
            slot: None,
            index: piece.index,
            kind: Kind::Function,
            id: Vec::new(),
            name: Vec::new(),
            text: Vec::new(),
            signature: None,
            item: String::new(),
            place: Vec::new(),
        }
    }

    /// Whether a piece is more of this call. Some servers give every call the same index, but a new
    /// id and a name begin a new one.
    pub(super) fn continues(&self, piece: &CallPiece<'_>) -> bool {
        let is_another = piece.name.is_some()
            && !self.name.is_empty()
            && piece.id.is_some_and(|id| !self.id.is_empty() && id != self.id);
        self.index == piece.index && !is_another
    }

    /// Takes what a piece tells for the first time.
    pub(super) fn learn(&mut self, piece: &CallPiece<'_>) {
        for (own, told) in [(&mut self.id, piece.id), (&mut self.name, piece.name)] {
            if let Some(told) = told.filter(|_| own.is_empty()) {
                own.extend_from_slice(told);
            }
        }
        if self.slot.is_none() {
            if piece.is_custom {
                self.kind = Kind::Custom;
            }
            self.signature = self.signature.take().or_else(|| piece.signature.clone());
        }
    }

    /// Whether it has no name so far.
    pub(super) fn is_waiting(&self) -> bool {
        self.name.is_empty()
    }

    pub(super) fn keep(&mut self, piece: &CallPiece<'_>) {
        self.text.extend_from_slice(piece.text.unwrap_or_default());
    }

    /// Makes it an item.
    pub(super) fn open(
        &mut self,
        slot: usize,
        id: &str,
        frame: &Frame,
        events: &mut Events,
        out: &mut Vec<u8>,
    ) {
        self.slot = Some(slot);
        let quoted = [b"\"", self.name.as_slice(), b"\""].concat();
        if self.kind == Kind::Function && frame.is_custom(&quoted) {
            self.kind = Kind::CustomByFunction;
        }
        let prefix = if self.kind == Kind::Function { "fc" } else { "ctc" };
        self.item = format!("{prefix}_{id}_{slot}");
        if self.id.is_empty() {
            self.id = format!("call_{id}_{slot}").into_bytes();
        }
        if let Some(signature) = &self.signature {
            self.id = thought::join(&String::from_utf8_lossy(&self.id), signature).into_bytes();
        }
        self.place = format!(",\"item_id\":\"{}\",\"output_index\":{slot}", self.item).into_bytes();
        let early = std::mem::take(&mut self.text);
        events.item("added", slot, &self.json("in_progress", b""), out);
        self.append(&early, events, out);
    }

    pub(super) fn push(&mut self, piece: &CallPiece<'_>, events: &mut Events, out: &mut Vec<u8>) {
        self.append(piece.text.unwrap_or_default(), events, out);
    }

    fn append(&mut self, text: &[u8], events: &mut Events, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.text.extend_from_slice(text);
        match self.kind {
            Kind::Function => {
                self.delta("response.function_call_arguments.delta", text, events, out)
            }
            Kind::Custom => self.delta("response.custom_tool_call_input.delta", text, events, out),
            Kind::CustomByFunction => {}
        }
    }

    fn delta(&self, kind: &str, text: &[u8], events: &mut Events, out: &mut Vec<u8>) {
        events.write(out, kind, &[&self.place, b",\"delta\":\"", text, b"\""]);
    }

    /// Tells that the call is whole, and what it is.
    pub(super) fn close(
        &mut self,
        status: Status,
        events: &mut Events,
        out: &mut Vec<u8>,
    ) -> Vec<u8> {
        let slot = self.slot.unwrap_or_default();
        if self.kind == Kind::Function {
            // A function without parameters gets no arguments from some models, but clients parse
            // what they get.
            if self.text.is_empty() {
                self.append(b"{}", events, out);
            }
            let members: &[&[u8]] = &[
                &self.place,
                b",\"name\":\"",
                &self.name,
                b"\",\"arguments\":\"",
                &self.text,
                b"\"",
            ];
            events.write(out, "response.function_call_arguments.done", members);
        } else {
            if self.kind == Kind::CustomByFunction {
                self.text = input_of(&self.text);
                let text = self.text.as_slice();
                if !text.is_empty() {
                    self.delta("response.custom_tool_call_input.delta", text, events, out);
                }
            }
            let members: &[&[u8]] = &[&self.place, b",\"input\":\"", &self.text, b"\""];
            events.write(out, "response.custom_tool_call_input.done", members);
        }
        let item = self.json(status.of_item(true), &self.text);
        events.item("done", slot, &item, out);
        item
    }

    fn json(&self, status: &str, text: &[u8]) -> Vec<u8> {
        let (kind, member) = match self.kind {
            Kind::Function => ("function_call", "arguments"),
            _ => ("custom_tool_call", "input"),
        };
        let head = format!(
            "{{\"id\":\"{}\",\"type\":\"{kind}\",\"status\":\"{status}\",\"call_id\":\"",
            self.item
        );
        let member = format!("\",\"{member}\":\"");
        let name: &[u8] = b"\",\"name\":\"";
        [head.as_bytes(), &self.id, name, &self.name, member.as_bytes(), text, b"\"}"].concat()
    }
}

/// The text for a custom tool in the arguments of the function it was offered as. Both are the
/// insides of raw JSON strings. Arguments that are cut off, or something else, are the text.
fn input_of(arguments: &[u8]) -> Vec<u8> {
    let quoted = [b"\"", arguments, b"\""].concat();
    let read = |quoted: &[u8]| -> Option<String> {
        let arguments: String = serde_json::from_slice(quoted).ok()?;
        match serde_json::from_str(&arguments).ok()? {
            Value::Object(mut object) => match object.remove(CUSTOM_INPUT)? {
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            },
            _ => None,
        }
    };
    match read(&quoted) {
        Some(text) => {
            let text = crate::splice::json_string(&text);
            text[1..text.len() - 1].to_vec()
        }
        None => arguments.to_vec(),
    }
}
