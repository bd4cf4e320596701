//! How the processes talk: a head as JSON with its length before it, and, from the supervisor to
//! the gateway, frames of a kind, a length and a payload.

use std::io::{Error, ErrorKind, Read, Result, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::Stream;

/// A head is never longer: names of files, mostly.
const HEAD_BYTES_MAX: u32 = 1 << 20;

/// Writes a head.
pub(crate) fn write_head(to: &mut impl Write, head: &impl Serialize) -> Result<()> {
    to.write_all(&head_bytes(head)?)
}

/// A head as bytes.
pub(crate) fn head_bytes(head: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(head)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= HEAD_BYTES_MAX);
    let length = length.ok_or_else(|| invalid("the names of the files are too long"))?;
    Ok([&length.to_le_bytes()[..], &json].concat())
}

/// Reads what [`write_head`] wrote.
pub(crate) fn read_head<T: DeserializeOwned>(from: &mut impl Read) -> Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > HEAD_BYTES_MAX {
        return Err(invalid("too long a head"));
    }
    Ok(serde_json::from_slice(&read_bytes(from, length.into())?)?)
}

/// Reads so many bytes.
pub(crate) fn read_bytes(from: &mut impl Read, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// What a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A piece of output.
    Output(Stream),
    /// A file: the length of its name in two bytes, its name, its content.
    File,
    /// The process group of the guest, in four bytes. The first frame.
    Group,
    /// A `Report`. The last frame.
    Report,
}

/// The head of a frame.
pub(crate) const FRAME_HEAD: usize = 5;

/// Makes the head of a frame.
pub(crate) fn frame_head(kind: Kind, length: usize) -> Result<[u8; FRAME_HEAD]> {
    let kind = match kind {
        Kind::Output(Stream::Stdout) => 1,
        Kind::Output(Stream::Stderr) => 2,
        Kind::File => 3,
        Kind::Report => 4,
        Kind::Group => 5,
    };
    let length = u32::try_from(length).map_err(|_| invalid("too long a frame"))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind, a, b, c, d])
}

/// Reads the head of a frame: its kind and its length.
pub(crate) fn parse_frame_head(head: [u8; FRAME_HEAD]) -> Result<(Kind, usize)> {
    let [kind, length @ ..] = head;
    let kind = match kind {
        1 => Kind::Output(Stream::Stdout),
        2 => Kind::Output(Stream::Stderr),
        3 => Kind::File,
        4 => Kind::Report,
        5 => Kind::Group,
        _ => return Err(invalid("an unknown kind of frame")),
    };
    Ok((kind, u32::from_le_bytes(length) as usize))
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 5] = [
        Kind::Output(Stream::Stdout),
        Kind::Output(Stream::Stderr),
        Kind::File,
        Kind::Group,
        Kind::Report,
    ];

    proptest! {
        #[test]
        fn what_is_written_is_read_and_other_bytes_are_refused(
            head in any::<[u8; FRAME_HEAD]>(),
            length in any::<u32>(),
            text in ".{0,50}",
            noise in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            for kind in KINDS {
                let written = frame_head(kind, length as usize).unwrap();
                prop_assert_eq!(parse_frame_head(written).unwrap(), (kind, length as usize));
            }
            prop_assert_eq!(parse_frame_head(head).is_ok(), (1..=5).contains(&head[0]));
            let written = head_bytes(&text).unwrap();
            prop_assert_eq!(read_head::<String>(&mut &written[..]).unwrap(), text);
            prop_assert!(read_head::<String>(&mut &written[..written.len() - 1]).is_err());
            let _ = read_head::<String>(&mut &noise[..]);
        }
    }
}
