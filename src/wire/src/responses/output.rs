//! The items of an answer as they grow: reasoning, messages and calls, and the events that tell of
//! them.
//!
//! At most one message and one item of reasoning are open at a time; a new one closes the other.
//! Calls stay open until the answer is finished, because the pieces of several may come mixed. What
//! the model wrote is kept as the inside of raw JSON strings, so that putting pieces together is
//! putting bytes together.

use super::answer::{Frame, Status};
use super::calls::Call;
pub(super) use super::calls::CallPiece;
use super::events::Events;
pub(super) use super::parts::logprobs;
use super::parts::{Part, annotation};
use super::reasoning::{Blocks, Reasoning, Thought};
use crate::client::EncodeError;
use serde_json::value::RawValue;

/// No answer is longer than this.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// No honest answer has more items.
const ITEMS_MAX: usize = 4096;

/// An item's place in the answer.
#[derive(Default)]
struct Slot {
    /// The item as JSON once it is done; empty before.
    json: Vec<u8>,
    /// The same with its signed reasoning, where the client does not get that.
    kept: Option<Vec<u8>>,
}

/// A message that is being written.
struct Message {
    slot: usize,
    id: String,
    /// Its parts that are done, as a JSON list without brackets.
    parts: Vec<u8>,
    count: usize,
    part: Option<Part>,
}

/// A piece of what the model says.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The inside of a raw JSON string.
    pub(super) text: &'a [u8],
    /// A JSON list without brackets.
    pub(super) logprobs: &'a [u8],
    pub(super) is_refusal: bool,
}

/// The items of one answer.
pub(super) struct Output {
    id: String,
    events: Events,
    slots: Vec<Slot>,
    message: Option<Message>,
    reasoning: Option<Reasoning>,
    calls: Vec<Call>,
    /// Signatures that came while a message was open.
    late: Blocks,
    held: usize,
}

impl Output {
    pub(super) fn new(id: &str) -> Output {
        Output {
            id: id.to_owned(),
            events: Events::default(),
            slots: Vec::new(),
            message: None,
            reasoning: None,
            calls: Vec::new(),
            late: Blocks::default(),
            held: 0,
        }
    }

    /// Gathers items and tells of none.
    pub(super) fn be_silent(&mut self) {
        self.events.silent = true;
    }

    /// Uses up a sequence number.
    pub(super) fn next_number(&mut self) -> u64 {
        self.events.next()
    }

    /// Tells of the whole response.
    pub(super) fn lifecycle(&mut self, kind: &str, response: &[u8], out: &mut Vec<u8>) {
        self.events.write(out, kind, &[b",\"response\":", response]);
    }

    /// The items that are done, as the client gets them.
    pub(super) fn items(&self) -> Vec<&[u8]> {
        let done = self.slots.iter().filter(|slot| !slot.json.is_empty());
        done.map(|slot| slot.json.as_slice()).collect()
    }

    /// The items that are done, as they are kept.
    pub(super) fn items_to_keep(&self) -> Vec<&[u8]> {
        let done = self.slots.iter().filter(|slot| !slot.json.is_empty());
        done.map(|slot| slot.kept.as_deref().unwrap_or(&slot.json)).collect()
    }

    /// More text, or more of a refusal.
    pub(super) fn text(
        &mut self,
        piece: Piece<'_>,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.hold(piece.text.len() + piece.logprobs.len())?;
        if self.reasoning.is_some() {
            self.close_reasoning(frame, out);
        }
        if self.message.is_none() {
            self.open_message(out)?;
        }
        let Some(message) = &mut self.message else { return Ok(()) };
        if message.part.as_ref().is_some_and(|part| part.is_refusal != piece.is_refusal) {
            message.close_part(&mut self.events, out);
        }
        let part = match &mut message.part {
            Some(part) => part,
            none => {
                let part = Part::new(&message.id, message.slot, message.count, piece.is_refusal);
                part.open(&mut self.events, out);
                none.insert(part)
            }
        };
        part.push(piece, &mut self.events, out);
        Ok(())
    }

    /// More reasoning.
    pub(super) fn reasoning(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.hold(text.len())?;
        self.open_reasoning(out)?;
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.push(text, &mut self.events, out);
        }
        Ok(())
    }

    /// More of signed reasoning. With `is_told` its text has come by itself.
    pub(super) fn thinking(
        &mut self,
        block: &RawValue,
        is_told: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let Some(thought) = Thought::read(block) else { return Ok(()) };
        self.hold(block.get().len())?;
        if let Some(text) = thought.text().filter(|_| !is_told) {
            self.reasoning(text, out)?;
        }
        // A signature of the text that is being written does not end it.
        if self.reasoning.is_none() && self.message.is_some() {
            self.late.add(&thought);
            return Ok(());
        }
        self.open_reasoning(out)?;
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.blocks.add(&thought);
        }
        Ok(())
    }

    /// A citation of the text that is being written.
    pub(super) fn annotation(
        &mut self,
        raw: &RawValue,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let part = self.message.as_mut().and_then(|message| message.part.as_mut());
        let Some(part) = part.filter(|part| !part.is_refusal) else { return Ok(()) };
        if let Some(json) = annotation(raw) {
            part.annotate(&json, &mut self.events, out);
            self.hold(json.len())?;
        }
        Ok(())
    }

    /// A tool call, or more of one.
    pub(super) fn call(
        &mut self,
        piece: CallPiece<'_>,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if piece.is_nothing() {
            return Ok(());
        }
        self.hold(piece.text.map_or(0, <[u8]>::len))?;
        self.close_reasoning(frame, out);
        self.close_message(Status::Completed, out);
        let known = match piece.index {
            Some(_) => self.calls.iter().rposition(|call| call.continues(&piece)),
            // A server that does not count calls sends each whole.
            None if piece.name.is_some() => None,
            None => self.calls.len().checked_sub(1),
        };
        let at = match known {
            Some(at) => at,
            None => {
                if self.calls.len() >= ITEMS_MAX {
                    return Err(EncodeError("it has too many tool calls".into()));
                }
                self.calls.push(Call::new(&piece));
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        call.learn(&piece);
        if call.is_waiting() {
            // No name, no item: its pieces are kept until there is one.
            call.keep(&piece);
            return Ok(());
        }
        if call.slot.is_none() {
            let slot = self.slots.len();
            if slot >= ITEMS_MAX {
                return Err(EncodeError("it has too many items".into()));
            }
            self.slots.push(Slot::default());
            call.open(slot, &self.id, frame, &mut self.events, out);
        }
        call.push(&piece, &mut self.events, out);
        Ok(())
    }

    /// The model has stopped: what is open is done.
    pub(super) fn finish(
        &mut self,
        status: Status,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.close_reasoning(frame, out);
        self.close_message(status, out);
        let last = self.slots.len().saturating_sub(1);
        for call in &mut self.calls {
            if let Some(slot) = call.slot.filter(|slot| self.slots[*slot].json.is_empty()) {
                let status = if slot == last { status } else { Status::Completed };
                self.slots[slot].json = call.close(status, &mut self.events, out);
            }
        }
        if !self.late.is_empty() {
            self.open_reasoning(out)?;
            self.close_reasoning(frame, out);
        }
        Ok(())
    }

    /// The answer is complete.
    pub(super) fn end(
        &mut self,
        status: Status,
        frame: &Frame,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.finish(status, frame, out)?;
        // A model that stops without a word has said nothing, which is an empty message.
        if self.slots.is_empty() && status == Status::Completed {
            self.text(Piece { text: b"", logprobs: b"", is_refusal: false }, frame, out)?;
            self.close_message(status, out);
        }
        Ok(())
    }

    fn hold(&mut self, more: usize) -> Result<(), EncodeError> {
        self.held = self.held.saturating_add(more);
        match self.held > ANSWER_BYTES_MAX {
            true => Err(EncodeError(format!("it is longer than {ANSWER_BYTES_MAX} bytes"))),
            false => Ok(()),
        }
    }

    /// Makes room for an item.
    fn slot(&mut self) -> Result<usize, EncodeError> {
        if self.slots.len() >= ITEMS_MAX {
            return Err(EncodeError("it has too many items".into()));
        }
        self.slots.push(Slot::default());
        Ok(self.slots.len() - 1)
    }

    fn open_message(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let slot = self.slot()?;
        let id = format!("msg_{}_{slot}", self.id);
        let item = message_json(&id, "in_progress", b"");
        self.events.item("added", slot, &item, out);
        self.message = Some(Message { slot, id, parts: Vec::new(), count: 0, part: None });
        Ok(())
    }

    fn close_message(&mut self, status: Status, out: &mut Vec<u8>) {
        let Some(mut message) = self.message.take() else { return };
        message.close_part(&mut self.events, out);
        let is_last = message.slot + 1 == self.slots.len();
        let item = message_json(&message.id, status.of_item(is_last), &message.parts);
        self.events.item("done", message.slot, &item, out);
        self.slots[message.slot].json = item;
    }

    fn open_reasoning(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.reasoning.is_some() {
            return Ok(());
        }
        self.close_message(Status::Completed, out);
        let slot = self.slot()?;
        let reasoning = Reasoning::new(slot, &self.id, std::mem::take(&mut self.late));
        self.events.item("added", slot, &reasoning.json(None), out);
        self.reasoning = Some(reasoning);
        Ok(())
    }

    fn close_reasoning(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        let Some(reasoning) = self.reasoning.take() else { return };
        reasoning.end_summary(&mut self.events, out);
        let sealed = reasoning.blocks.seal();
        let kept = reasoning.json(sealed.as_deref());
        let slot = &mut self.slots[reasoning.slot];
        if frame.sealed || sealed.is_none() {
            slot.json = kept;
        } else {
            slot.json = reasoning.json(None);
            slot.kept = Some(kept);
        }
        self.events.item("done", reasoning.slot, &slot.json, out);
    }
}

impl Message {
    fn close_part(&mut self, events: &mut Events, out: &mut Vec<u8>) {
        let Some(part) = self.part.take() else { return };
        let json = part.close(events, out);
        if self.count > 0 {
            self.parts.push(b',');
        }
        self.parts.extend(json);
        self.count += 1;
    }
}

fn message_json(id: &str, status: &str, parts: &[u8]) -> Vec<u8> {
    let head = format!(
        "{{\"id\":\"{id}\",\"type\":\"message\",\"status\":\"{status}\",\"role\":\"assistant\",\"content\":["
    );
    [head.as_bytes(), parts, b"]}"].concat()
}
