//! Turns what a provider streams into what the client reads.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use memchr::memmem;
use tollway_providers::{Decoder, Provider};
use tollway_wire::client::Encoder;
use tollway_wire::openai::tap::is_opening;
use tollway_wire::tap::{Tap, TapError};
use tollway_wire::usage::Usage;

use super::fault::Fault;

/// How the provider's bytes become whole events.
pub(super) enum Codec {
    /// They are events already, of a dialect we know: bytes pass, and are looked at.
    Tap {
        /// Looks at them.
        tap: Box<dyn Tap>,
        /// Reads its errors.
        provider: &'static dyn Provider,
    },
    /// The provider speaks another dialect.
    Decode {
        /// Translates it.
        decoder: Box<dyn Decoder>,
        /// For messages.
        name: &'static str,
        /// The end has been announced and passed on.
        ended: bool,
        /// How many events have been made.
        events: u64,
    },
    /// No events at all but audio, or another file: the end of the body is the end.
    Raw,
}

/// What came of one piece.
pub(super) struct Step {
    /// Whole events for the client; good even if there is a fault.
    pub(super) events: Bytes,
    /// Why the stream cannot go on.
    pub(super) fault: Option<Fault>,
}

impl Step {
    /// Events, and nothing wrong.
    pub(super) fn of(events: Bytes) -> Step {
        Step { events, fault: None }
    }

    /// The same in the client's dialect.
    pub(super) fn encoded(self, encoder: &mut dyn Encoder, name: &'static str) -> Step {
        if self.events.is_empty() {
            return self;
        }
        let mut out = Vec::with_capacity(self.events.len() + 256);
        let failed = encoder.stream(&self.events, &mut out).err();
        let failed = failed.map(|error| Fault::broken(name, error.to_string()));
        Step { events: out.into(), fault: failed.or(self.fault) }
    }
}

impl Codec {
    /// Takes the next bytes, cut anywhere.
    pub(super) fn push(&mut self, bytes: Bytes) -> Step {
        match self {
            Codec::Tap { tap, provider } => {
                let mut joined = Joined::default();
                let result = tap.push(&bytes, &mut |events| joined.add(events));
                Step { events: joined.take(), fault: result.err().map(|e| tap_fault(*provider, e)) }
            }
            Codec::Decode { decoder, name, ended, events } => {
                let mut out = Vec::new();
                let result = decoder.stream(&bytes, &mut out);
                let before = *events;
                *events += memmem::find_iter(&out, b"\n\n").count() as u64;
                if let Some(first) = memmem::find(&out, b"\n\n").filter(|_| before == 0) {
                    *events -= u64::from(is_opening(&out[..first]));
                }
                *ended |= out.ends_with(b"data: [DONE]\n\n");
                let fault = result.err().map(|error| Fault::decode(name, error));
                Step { events: out.into(), fault }
            }
            Codec::Raw => Step::of(bytes),
        }
    }

    /// The provider has closed the stream.
    pub(super) fn finish(&mut self) -> Step {
        match self {
            Codec::Tap { tap, provider } => {
                let mut joined = Joined::default();
                let result = tap.end(&mut |events| joined.add(events));
                Step { events: joined.take(), fault: result.err().map(|e| tap_fault(*provider, e)) }
            }
            Codec::Decode { ended: true, .. } | Codec::Raw => Step::of(Bytes::new()),
            Codec::Decode { decoder, name, ended, .. } => {
                let mut out = Vec::new();
                let result = decoder.finish(&mut out);
                *ended = result.is_ok();
                let fault = result.err().map(|error| Fault::decode(name, error));
                Step { events: out.into(), fault }
            }
        }
    }

    /// Whether the provider has announced the end.
    pub(super) fn ended(&self) -> bool {
        match self {
            Codec::Tap { tap, .. } => tap.is_done(),
            Codec::Decode { ended, .. } => *ended,
            Codec::Raw => false,
        }
    }

    /// The answer in its whole form, where the stream has ended with it.
    pub(super) fn response(&self) -> Option<&[u8]> {
        match self {
            Codec::Tap { tap, .. } => tap.response(),
            Codec::Decode { .. } | Codec::Raw => None,
        }
    }

    /// How many events have come so far, which is about a token each.
    pub(super) fn events(&self) -> u64 {
        match self {
            Codec::Tap { tap, .. } => tap.events(),
            Codec::Decode { events, .. } => *events,
            Codec::Raw => 0,
        }
    }

    /// What the provider has counted so far.
    pub(super) fn usage(&self) -> Option<Usage> {
        match self {
            Codec::Tap { tap, .. } => tap.usage(),
            Codec::Decode { decoder, .. } => decoder.usage(),
            Codec::Raw => None,
        }
    }
}

fn tap_fault(provider: &'static dyn Provider, error: TapError) -> Fault {
    let name = super::attempt::exception_name(provider);
    match error {
        // The status line said 200: what the error is worth stands in its body, if anywhere.
        TapError::Reported(body) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
            Fault::status(name, provider.error(status, &body), None)
        }
        other => Fault::broken(name, other.to_string()),
    }
}

/// Pieces that go out together. Mostly there is just one, and it is not copied.
#[derive(Default)]
struct Joined {
    first: Bytes,
    rest: BytesMut,
}

impl Joined {
    fn add(&mut self, events: Bytes) {
        if self.first.is_empty() {
            self.first = events;
        } else {
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&self.first);
            }
            self.rest.extend_from_slice(&events);
        }
    }

    fn take(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
