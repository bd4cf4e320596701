//! A stream that is Anthropic's from end to end: bytes pass, and on the way usage, errors and the
//! end are seen. Events that carry what the model writes are not parsed.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::UsageCounts;
use crate::sse::{self, Splitter};
use crate::tap::{Tap, TapError, Verdict, check_object, event_in, has_error, pass, place_in};
use crate::usage::Usage;

/// Watches one stream of a Message's events.
#[derive(Debug)]
pub struct MessagesTap {
    splitter: Splitter,
    alias: Option<Vec<u8>>,
    watch: Watch,
}

#[derive(Debug, Default)]
struct Watch {
    renames: bool,
    scratch: Vec<u8>,
    usage: Option<UsageCounts>,
    started: bool,
    done: bool,
    events: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Start<'a> {
    #[serde(borrow)]
    message: Option<StartMessage<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StartMessage<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    usage: Option<UsageCounts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counted {
    usage: Option<UsageCounts>,
}

impl MessagesTap {
    /// Watches a stream. With `alias` the message's `model` is replaced by that name.
    pub fn new(alias: Option<&str>) -> Self {
        MessagesTap {
            splitter: Splitter::default(),
            alias: alias.map(|name| serde_json::Value::from(name).to_string().into_bytes()),
            watch: Watch { renames: alias.is_some(), ..Watch::default() },
        }
    }
}

impl Tap for MessagesTap {
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let watch = &mut self.watch;
        let look = |block: &[u8]| watch.look(block);
        pass(&mut self.splitter, bytes, self.alias.as_deref(), look, send)
    }

    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let held = self.splitter.take_held();
        if self.watch.done {
            return Ok(());
        }
        let rest = held.trim_ascii();
        if rest.starts_with(b"{") && has_error(rest) {
            return Err(TapError::Reported(Bytes::copy_from_slice(rest)));
        }
        if !self.watch.started && !rest.is_empty() && !sse::is_event_block(rest) {
            return Err(TapError::Malformed("not an event stream"));
        }
        // Some servers close right behind the last event, without the line ends that complete it.
        if rest.ends_with(b"}") && sse::is_event_block(rest) {
            let whole = [rest, b"\n\n"].concat();
            self.watch.look(&whole)?;
            if self.watch.done {
                send(Bytes::from(whole));
                return Ok(());
            }
        }
        Err(TapError::Truncated)
    }

    fn is_done(&self) -> bool {
        self.watch.done
    }

    fn usage(&self) -> Option<Usage> {
        let total = self.watch.usage.as_ref().map(UsageCounts::total);
        total.filter(|usage| *usage != Usage::default())
    }

    fn events(&self) -> u64 {
        self.watch.events
    }
}

impl Watch {
    fn look(&mut self, block: &[u8]) -> Result<Verdict, TapError> {
        if self.done {
            return Ok(Verdict::Drop);
        }
        let Some(event) = event_in(block, &mut self.scratch, has_error)? else {
            return Ok(Verdict::Pass);
        };
        let data = event.data.trim_ascii();
        check_object(data)?;
        self.started = true;
        match kind(event.name, data) {
            Kind::Content => self.events += 1,
            Kind::Other => {}
            Kind::Start => {
                let start: Start<'_> = read(data)?;
                let message = start.message.unwrap_or_default();
                if let Some(usage) = message.usage {
                    self.usage.get_or_insert_default().update(usage);
                }
                if let Some(model) = message.model.filter(|_| self.renames) {
                    let place = place_in(block, model.get().as_bytes());
                    return Ok(place.map_or(Verdict::Pass, Verdict::Rename));
                }
            }
            Kind::Delta => {
                let counted: Counted = read(data)?;
                if let Some(usage) = counted.usage {
                    self.usage.get_or_insert_default().update(usage);
                }
            }
            Kind::Stop => self.done = true,
            Kind::Error => return Err(TapError::Reported(Bytes::copy_from_slice(data))),
        }
        Ok(Verdict::Pass)
    }
}

/// What an event is to the tap.
enum Kind {
    Start,
    Content,
    Delta,
    Stop,
    Error,
    Other,
}

/// The kind of an event: by its name, or where a server gives none, by its `type`, which stands
/// first in it or is looked for.
fn kind(name: &[u8], data: &[u8]) -> Kind {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type", default)]
        kind: String,
    }
    let typed;
    let name = match name {
        b"" => match data.strip_prefix(b"{\"type\":\"content_block_delta\"") {
            Some(_) => b"content_block_delta".as_slice(),
            None => {
                typed = serde_json::from_slice::<Typed>(data).map(|typed| typed.kind);
                typed.as_deref().unwrap_or_default().as_bytes()
            }
        },
        name => name,
    };
    match name {
        b"content_block_delta" => Kind::Content,
        b"message_start" => Kind::Start,
        b"message_delta" => Kind::Delta,
        b"message_stop" => Kind::Stop,
        b"error" => Kind::Error,
        _ => Kind::Other,
    }
}

fn read<'a, T: Deserialize<'a>>(data: &'a [u8]) -> Result<T, TapError> {
    serde_json::from_slice(data).map_err(|_| TapError::Malformed("an event is not JSON"))
}

/// The usage of a whole Message.
pub fn usage_of_body(body: &[u8]) -> Option<Usage> {
    let counted: Counted = serde_json::from_slice(body).ok()?;
    let usage = counted.usage?.total();
    (usage != Usage::default()).then_some(usage)
}
