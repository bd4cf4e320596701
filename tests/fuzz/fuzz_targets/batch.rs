//! The lines of a batch's output are the same wherever it is cut into reads, and what one says was
//! taken is never of more tokens than it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, steer, uncut};
use tollway_wire::batch::{Batch, Line, Lines, answered};

fuzz_target!(|data: &[u8]| {
    let Some((cuts, output)) = steer::<Cuts>(data, 4) else { return };
    let found = uncut(&cuts, output, |pieces| {
        let (mut lines, mut found) = (Lines::new(0), Vec::new());
        let mut on = |line: Line<'_>| match line {
            Line::Whole(line) => found.push((line.to_vec(), None)),
            Line::Cut { head, tail } => found.push((head.to_vec(), Some(tail.to_vec()))),
        };
        pieces.iter().for_each(|piece| lines.take(piece, &mut on));
        lines.end(&mut on);
        found
    });
    for (line, tail) in &found {
        let cut = Line::Cut { head: line, tail: tail.as_ref().unwrap_or(line) };
        for line in [Line::Whole(line), cut] {
            let Ok(Some(answered)) = answered(line) else { continue };
            let usage = answered.usage;
            assert!(usage.cache_read_tokens <= usage.prompt_tokens);
            assert!(usage.reasoning_tokens <= usage.completion_tokens);
            assert_eq!(usage.served.tier, None);
        }
    }
    if let Some(batch) = Batch::read(output) {
        assert!(batch.usage.is_none_or(|usage| usage.cache_read_tokens <= usage.prompt_tokens));
    }
});
