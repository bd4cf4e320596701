//! However a stream is cut into reads, it has the same events, and they are those of the
//! specification.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, Event, events, steer, uncut};
use tollway_wire::sse::{Parser, Splitter, TooLong, read_block};

fuzz_target!(|data: &[u8]| {
    let Some((cuts, stream)) = steer::<Cuts>(data, 4) else { return };
    let pieces = cuts.of(stream);
    let whole = [bytes::Bytes::copy_from_slice(stream)];
    let expect = by_the_specification(stream);

    assert_eq!(uncut(&cuts, stream, |pieces| events(pieces)), expect);

    for pieces in [&whole[..], &pieces] {
        let (mut put_together, mut events, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        let mut splitter = Splitter::default();
        for piece in pieces {
            let split = splitter.push(piece, |block| {
                if let Some(event) = read_block(&block, &mut joined) {
                    events.push((event.name.to_vec(), event.data.to_vec()));
                }
                put_together.extend_from_slice(&block);
                Ok::<_, TooLong>(())
            });
            split.expect("no input of a fuzzer is too long");
        }
        put_together.extend_from_slice(&splitter.take_held());
        assert_eq!(put_together, stream);
        // Only the parser takes a byte order mark for what it is.
        if !stream.starts_with(b"\xEF\xBB\xBF") {
            assert_eq!(events, expect);
        }
    }

    // Within a small limit nothing is held beyond it, and nothing larger comes out.
    let mut parser = Parser::new(16);
    let mut splitter = Splitter::new(16);
    for piece in &pieces {
        let fits = splitter.push(piece, |block| {
            assert!(block.len() <= 16);
            Ok::<_, TooLong>(())
        });
        let parsed = parser.push(piece, |event| {
            assert!(event.data.len() + event.name.len() <= 16);
            Ok::<_, TooLong>(())
        });
        assert!(parser.held().len() <= 16 && splitter.held().len() <= 16);
        assert_eq!(fits.is_ok(), parsed.is_ok());
        if fits.is_err() {
            break;
        }
    }
});

/// Line by line, as the specification tells it; slow and plain.
fn by_the_specification(stream: &[u8]) -> Vec<Event> {
    let mut rest = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = &rest[..end];
        let crlf = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(crlf)..];
        if line.is_empty() {
            let name = std::mem::take(&mut name);
            if let Some(data) = data.take() {
                events.push((name, data));
            }
            continue;
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            _ => {}
        }
    }
    events
}
