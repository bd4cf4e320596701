//! Writing events, each with its number.

/// Numbers the events of one stream.
#[derive(Default)]
pub(super) struct Events {
    number: u64,
    /// The answer is wanted whole: nothing is written.
    pub(super) silent: bool,
}

impl Events {
    /// Goes on behind events that others have written.
    pub(super) fn from(number: u64) -> Events {
        Events { number, silent: false }
    }

    /// Uses up a number.
    pub(super) fn next(&mut self) -> u64 {
        let number = self.number;
        self.number += 1;
        number
    }

    /// Writes an event. `members` put together follow the number; they begin with a comma.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, kind: &str, members: &[&[u8]]) {
        if self.silent {
            return;
        }
        let length: usize = members.iter().map(|member| member.len()).sum();
        out.reserve(2 * kind.len() + length + 72);
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\ndata: {\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"sequence_number\":");
        push_number(out, self.next());
        for member in members {
            out.extend_from_slice(member);
        }
        out.extend_from_slice(b"}\n\n");
    }

    /// Tells that an item is there, or done.
    pub(super) fn item(&mut self, what: &str, slot: usize, item: &[u8], out: &mut Vec<u8>) {
        if self.silent {
            return;
        }
        let kind = format!("response.output_item.{what}");
        let index = slot.to_string();
        self.write(out, &kind, &[b",\"output_index\":", index.as_bytes(), b",\"item\":", item]);
    }
}

/// Writes a number without an allocation: every event has one.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
