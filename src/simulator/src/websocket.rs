//! The server's side of websockets (RFC 6455): the greeting, and frames.

use bytes::{Buf, Bytes, BytesMut};

use crate::ask::Problem;
use crate::encoding::{base64, sha1};
use crate::journal::Received;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A message may be this long, in however many frames.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The head that accepts an upgrade.
pub(crate) fn accept(received: &Received) -> Result<String, Problem> {
    let upgrade = received.header("upgrade").unwrap_or_default();
    let key = received.header("sec-websocket-key").unwrap_or_default().trim();
    if !upgrade.eq_ignore_ascii_case("websocket") || key.is_empty() {
        return Err(Problem::new(426, "This endpoint is a websocket."));
    }
    let accepted = sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {}\r\nx-tollway-simulated: true\r\n",
        base64(&accepted),
    );
    let protocols = received.header("sec-websocket-protocol").unwrap_or_default();
    if protocols.split(',').any(|protocol| protocol.trim() == "realtime") {
        head.push_str("sec-websocket-protocol: realtime\r\n");
    }
    head.push_str("\r\n");
    Ok(head)
}

/// A whole message in one frame, which from a server is never masked.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// The head of a text frame whose payload is this long, with no payload yet.
pub(crate) fn long_frame_head(payload: u64) -> Vec<u8> {
    let mut head = vec![0x80 | TEXT, 127];
    head.extend_from_slice(&payload.to_be_bytes());
    head
}

/// Puts messages together from a client's frames.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// The frames of a message so far, and its kind.
    parts: Option<(u8, BytesMut)>,
}

/// Bytes that are no frame of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadFrame;

impl Messages {
    /// Takes the next message from the buffer, if it is complete: its opcode and its content.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, BadFrame> {
        while let [first, second, rest @ ..] = &buffer[..] {
            let (opcode, last) = (first & 15, first & 0x80 != 0);
            let size = match second & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            // Clients must mask, and know no extension that would use the other bits.
            if second & 0x80 == 0 || first & 0x70 != 0 {
                return Err(BadFrame);
            }
            let Some(long) = rest.get(..size) else { return Ok(None) };
            let length = match size {
                0 => u64::from(second & 0x7f),
                _ => long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            };
            let length = usize::try_from(length).map_err(|_| BadFrame)?;
            let gathered = self.parts.as_ref().map_or(0, |(_, parts)| parts.len());
            if length > MESSAGE_BYTES_MAX - gathered {
                return Err(BadFrame);
            }
            let Some(mask) = rest.get(size..size + 4) else { return Ok(None) };
            let mask = [mask[0], mask[1], mask[2], mask[3]];
            if rest.len() < size + 4 + length {
                return Ok(None);
            }
            buffer.advance(2 + size + 4);
            let mut payload = buffer.split_to(length);
            for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
            match (opcode, &mut self.parts) {
                (CLOSE..=PONG, _) if last => return Ok(Some((opcode, payload.freeze()))),
                (0, Some((_, parts))) => parts.extend_from_slice(&payload),
                (1 | 2, None) => self.parts = Some((opcode, payload)),
                _ => return Err(BadFrame),
            }
            if last && let Some((opcode, parts)) = self.parts.take() {
                return Ok(Some((opcode, parts.freeze())));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b));
        frame
    }

    #[test]
    fn messages_are_the_same_however_they_arrive() {
        let mut bytes = masked(0x81, b"one");
        bytes.extend(masked(0x01, b"tw"));
        bytes.extend(masked(0x89, b"ping"));
        bytes.extend(masked(0x80, b"o"));
        for step in 1..=bytes.len() {
            let (mut messages, mut buffer, mut got) =
                (Messages::default(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some((opcode, text)) = messages.take(&mut buffer).expect("frames") {
                    got.push((opcode, String::from_utf8_lossy(&text).into_owned()));
                }
            }
            let expected = [(1, "one"), (9, "ping"), (1, "two")];
            assert_eq!(got, expected.map(|(opcode, text)| (opcode, text.to_owned())));
        }
    }

    #[test]
    fn bad_frames_are_refused() {
        for bad in [
            &b"\x81\x01a"[..],
            b"\xc1\x80\0\0\0\0",
            b"\x80\x80\0\0\0\0",
            b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let mut buffer = BytesMut::from(bad);
            assert_eq!(Messages::default().take(&mut buffer), Err(BadFrame), "{bad:?}");
        }
    }
}
