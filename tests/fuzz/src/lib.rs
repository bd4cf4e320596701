//! What the fuzz targets share.

use std::fmt::Debug;

use bytes::Bytes;
use tollway_wire::sse::{Parser, TooLong};

pub mod decoders;
pub mod dialects;

/// What is sent to a provider, if a `Value` can hold it: a number of the client's that is too large
/// for that (`5E5555555`) is passed on as it is, and is JSON all the same.
pub fn sent(bytes: &[u8]) -> Option<serde_json::Value> {
    match serde_json::from_slice(bytes) {
        Ok(sent) => Some(sent),
        Err(error) => {
            let is_json = serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok();
            assert!(is_json, "{error}: {}", String::from_utf8_lossy(bytes));
            None
        }
    }
}

/// Where a stream is cut into reads: the lengths of the pieces, over and over. Without any, every
/// byte comes alone.
#[derive(arbitrary::Arbitrary, Clone, Debug)]
pub struct Cuts([u8; 4]);

impl Cuts {
    /// The pieces of a stream. None is empty.
    pub fn of(&self, stream: &[u8]) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut rest = Bytes::copy_from_slice(stream);
        for length in self.0.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to(rest.len().min(1 + usize::from(*length))));
        }
        pieces
    }
}

/// What `run` makes of a stream, which is the same wherever the stream is cut.
pub fn uncut<T: PartialEq + Debug>(cuts: &Cuts, stream: &[u8], run: impl Fn(&[Bytes]) -> T) -> T {
    let whole = run(&[Bytes::copy_from_slice(stream)]);
    assert_eq!(whole, run(&cuts.of(stream)));
    whole
}

/// One of a list, by a byte that steers.
pub fn pick<T: Copy>(list: &[T], byte: u8) -> T {
    list[usize::from(byte) % list.len()]
}

/// The name and data of an event.
pub type Event = (Vec<u8>, Vec<u8>);

/// The events of a stream that comes in pieces.
pub fn events(pieces: &[impl AsRef<[u8]>]) -> Vec<Event> {
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    for piece in pieces {
        let read = parser.push(piece.as_ref(), |event| {
            events.push((event.name.to_vec(), event.data.to_vec()));
            Ok::<_, TooLong>(())
        });
        read.expect("no input of a fuzzer is too long");
    }
    events
}

/// Takes what steers a target off the front of its input; the rest is the text it is about. That
/// way a file of plain text makes a good seed.
pub fn steer<'a, T: arbitrary::Arbitrary<'a>>(
    data: &'a [u8],
    bytes: usize,
) -> Option<(T, &'a [u8])> {
    let (steering, text) = data.split_at_checked(bytes)?;
    let steering = T::arbitrary(&mut arbitrary::Unstructured::new(steering)).ok()?;
    Some((steering, text))
}

/// The members of a JSON object in their order, also those of the same name.
pub struct Members(pub Vec<(String, Box<serde_json::value::RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// How deep arrays and objects nest in a text that is JSON.
pub fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut now, mut in_string, mut escaped) = (0, 0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
