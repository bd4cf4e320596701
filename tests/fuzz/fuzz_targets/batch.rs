//! The lines of a batch's output are the same wherever it is cut into reads, within any bound, and
//! what one says was taken is never more than it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, steer, uncut};
use tollway_wire::batch::{Batch, Lines, answered};

fuzz_target!(|data: &[u8]| {
    let Some(((cuts, bound), output)) = steer::<(Cuts, u8)>(data, 5) else { return };
    for bytes_max in [usize::from(bound), 1 << 20] {
        let found = uncut(&cuts, output, |pieces| {
            let (mut lines, mut found) = (Lines::new(bytes_max), Vec::new());
            let mut on = |line: Option<&[u8]>| found.push(line.map(<[u8]>::to_vec));
            pieces.iter().for_each(|piece| lines.take(piece, &mut on));
            lines.end(&mut on);
            found
        });
        let expect: Vec<_> = output
            .split(|byte| *byte == b'\n')
            .filter(|line| line.len() > bytes_max || !line.trim_ascii().is_empty())
            .map(|line| (line.len() <= bytes_max).then(|| line.to_vec()))
            .collect();
        assert_eq!(found, expect);
        for line in found.iter().flatten() {
            if let Ok(Some(answered)) = answered(line) {
                let usage = answered.usage;
                assert!(usage.cache_read_tokens <= usage.prompt_tokens);
                assert!(usage.reasoning_tokens <= usage.completion_tokens);
                assert_eq!(usage.served.tier, None);
            }
        }
    }
    if let Some(batch) = Batch::read(output) {
        assert!(batch.usage.is_none_or(|usage| usage.cache_read_tokens <= usage.prompt_tokens));
    }
});
