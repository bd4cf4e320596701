//! What a stream has cost so far, without reading it.
//!
//! Only streams whose end nobody has bounded are watched for the budget's sake: no maximum in the
//! request and none known of the model. Their output is estimated from above, by the number of
//! events and by how much longer they are than the shortest one, which is what an event has around
//! its text.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::{self, Finder};
use tollway_wire::client;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::price::{PicoDollars, Price, cost};
use tollway_wire::scan::{self, Limits};
use tollway_wire::splice::Edits;
use tollway_wire::usage::{Served, Usage};

/// Bytes of text that are one token at least: few texts have shorter ones for long.
const BYTES_PER_TOKEN: u64 = 3;

/// The estimate of one stream's output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// The length of the shortest event.
    shortest: u64,
    events: u64,
    bytes: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { shortest: u64::MAX, events: 0, bytes: 0 }
    }
}

impl Watch {
    /// Takes whole events.
    pub(super) fn take(&mut self, events: &[u8]) {
        // Made once: to make one takes as long as to search a usual event.
        static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\n\n"));
        static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("data:"));
        let mut start = 0;
        for end in END.find_iter(events) {
            // Comments, and what is left of blank lines, are no events.
            let event = &events[start..end.max(start)];
            if DATA.find(event).is_some() {
                self.events += 1;
                self.bytes += event.len() as u64;
                self.shortest = self.shortest.min(event.len() as u64);
            }
            start = end + 2;
        }
    }

    /// Output tokens so far, rather too many than too few.
    pub(super) fn tokens(&self) -> u64 {
        let around = self.shortest.min(self.bytes).saturating_mul(self.events);
        self.events.saturating_add(self.bytes.saturating_sub(around) / BYTES_PER_TOKEN)
    }
}

/// Writes `usage.cost` into the event that carries the usage, where there is one among these.
pub(super) fn with_final_cost(
    events: &Bytes,
    dialect: Dialect,
    price: &Price,
    asked: Served,
) -> Option<Bytes> {
    if dialect != Dialect::OpenAi {
        return None;
    }
    let at = memmem::find(events, b"\"usage\":{")?;
    let start = memmem::rfind(&events[..at], b"data:")? + b"data:".len();
    let end = memchr::memchr(b'\n', &events[at..]).map_or(events.len(), |length| at + length);
    let data = events.slice(start..end);
    let usage = client::usage_of_body(dialect, Operation::ChatCompletions, &data)?;
    let object = scan::scan(&data, &Limits::default()).ok()?;
    let member = object.get(&data, "usage")?;
    let members = scan::members(&data, member.value, &Limits::default()).ok()?;
    let usage = Usage { served: usage.served.or(asked), ..usage };
    let amount = cost(&usage, price, asked.tier.unwrap_or_default()).total().to_string();
    let mut edits = Edits::new();
    edits.set("cost", amount.as_bytes());
    let data = edits.apply(&data, &members);
    let mut told = BytesMut::with_capacity(events.len() + 32);
    told.extend_from_slice(&events[..start]);
    told.extend_from_slice(&data);
    told.extend_from_slice(&events[end..]);
    Some(told.freeze())
}

/// Adds a comment that says what the stream has cost so far.
pub(super) fn with_running_cost(events: &Bytes, amount: PicoDollars) -> Bytes {
    let mut told = BytesMut::with_capacity(events.len() + 32);
    told.extend_from_slice(events);
    told.extend_from_slice(format!(": cost {amount}\n\n").as_bytes());
    told.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":{text:?}}}}}]}}\n\n")
    }

    #[test]
    fn events_are_a_token_each_and_long_ones_more() {
        let mut watch = Watch::default();
        watch.take(event("").as_bytes());
        watch.take((event("abc") + &event("")).as_bytes());
        assert_eq!(watch.tokens(), 3 + 1);
        watch.take(event(&"word ".repeat(60)).as_bytes());
        assert_eq!(watch.tokens(), 4 + 303 / 3);
        watch.take(b": ping\n\n");
        assert_eq!(watch.tokens(), 4 + 303 / 3);
    }

    #[test]
    fn usage_carries_the_cost() {
        let price = Price::new(PicoDollars(1_000_000), PicoDollars(2_000_000));
        let events = Bytes::from(format!(
            "{}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":10,\"completion_tokens\":5,\
             \"total_tokens\":15}}}}\n\ndata: [DONE]\n\n",
            event("x")
        ));
        let told = with_final_cost(&events, Dialect::OpenAi, &price, Served::default());
        let told = told.expect("there is usage");
        let told = std::str::from_utf8(&told).expect("it is text");
        assert!(told.contains("\"total_tokens\":15,\"cost\":0.00002}}\n\ndata: [DONE]"), "{told}");
        let none = Bytes::from(event("x"));
        assert!(with_final_cost(&none, Dialect::OpenAi, &price, Served::default()).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes: Vec<u8>, texts: Vec<String>) {
            let mut watch = Watch::default();
            watch.take(&bytes);
            for text in &texts {
                watch.take(event(text).as_bytes());
            }
            prop_assert!(watch.tokens() >= texts.len() as u64);
            let price = Price::default();
            with_final_cost(&bytes.into(), Dialect::OpenAi, &price, Served::default());
        }
    }
}
