//! The filters that come with the gateway, one file each: `ls` is the feature list.
//!
//! A filter is its file, its `pub mod` line and its line in [`BUILTIN`]. It sees a request through
//! [`tollway_filter_api`] only: no socket, no store of its own making, no other filter.
//!
//! | Name | What it does |
//! |---|---|
//! | [`request_log`] | writes one structured line a request |
//! | [`usage`] | meters: cost, latency, Prometheus, response headers |
//! | [`cors`] | lets browsers call the gateway from other origins |
//! | [`auth`] | finds out who is calling |
//! | [`validate`] | refuses requests that cannot succeed |
//! | [`model_alias`] | finds out which model is meant, and whether the caller may use it |
//! | [`budget`] | lets nobody spend more than they may, and writes down what was spent |
//! | [`rate_limit`] | caps requests, tokens and parallel requests |
//! | [`response_cache`] | answers from what was answered before |
//!
//! This is also the order that makes sense. Filters run in it on the way in and in reverse on the
//! way out, so `request_log` is called last and sees what `usage` found out, and both of them see
//! requests that a later filter refuses.

use tollway_filter_api::Builtin;

pub mod auth;
pub mod budget;
pub mod cors;
pub mod model_alias;
pub mod rate_limit;
pub mod request_log;
pub mod response_cache;
pub mod usage;
pub mod validate;

/// The filters a config can name, in the order that makes sense.
pub const BUILTIN: &[Builtin] = &[
    Builtin::of::<request_log::RequestLog>(),
    Builtin::of::<usage::Metering>(),
    Builtin::of::<cors::Cors>(),
    Builtin::of::<auth::Auth>(),
    Builtin::of::<validate::Validate>(),
    Builtin::of::<model_alias::ModelAlias>(),
    Builtin::of::<budget::Budgets>(),
    Builtin::of::<rate_limit::RateLimit>(),
    Builtin::of::<response_cache::ResponseCache>(),
];

/// What a call cost: found out once, by the first filter that wants to know.
mod settle {
    use tollway_filter_api::RequestCtx;
    use tollway_wire::price::{Cost, Tier, cost};
    use tollway_wire::usage::{Served, Usage};

    /// Finds out the cost as soon as the tokens are known.
    pub(crate) fn settle(ctx: &mut RequestCtx) {
        let report = &ctx.report;
        if report.cost.is_some() {
            return;
        }
        if report.cache_hit {
            ctx.report.cost = Some(Cost::default());
        } else if let (Some(usage), Some(deployment)) = (&report.usage, &report.deployment)
            && let Some(price) = &deployment.price
        {
            let usage = Usage { served: usage.served.or(asked(ctx)), ..*usage };
            ctx.report.cost = Some(cost(&usage, price, tier(ctx)));
        }
    }

    /// How the call is to be served.
    pub(crate) fn asked(ctx: &RequestCtx) -> Served {
        let Some(view) = &ctx.view else { return Served::default() };
        let says = |name: &str, value: &str| {
            view.object.str(&view.body, name).is_some_and(|said| said == value)
        };
        Served {
            tier: service_tier(ctx).map(|(_, tier)| tier),
            is_fast: says("speed", "fast"),
            is_us: says("inference_geo", "us"),
        }
    }

    /// The service tier that was asked for, and is billed unless the answer names another.
    pub(crate) fn tier(ctx: &RequestCtx) -> Tier {
        service_tier(ctx).map_or(Tier::Standard, |(_, tier)| tier)
    }

    /// The service tier that was asked for, with its name as a label.
    pub(crate) fn service_tier(ctx: &RequestCtx) -> Option<(&'static str, Tier)> {
        let view = ctx.view.as_ref()?;
        let asked = view.object.str(&view.body, "service_tier")?;
        // A closed list: whatever else somebody writes is no label.
        let name = [
            "default",
            "flex",
            "priority",
            "fast",
            "auto",
            "scale",
            "ultrafast",
            "balanced",
            "standard_only",
        ]
        .into_iter()
        .find(|name| *name == asked)?;
        Some((name, Tier::from_service_tier(name)))
    }
}

/// Dates, times and money as texts, written to the end of a buffer. By hand, because logs and
/// headers have them for every request.
mod text {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use tollway_wire::calendar::civil;
    use tollway_wire::price::PicoDollars;

    /// A moment, counted from the Unix epoch: `2026-11-22T10:00:00.125Z`.
    pub(crate) fn push_date(text: &mut Vec<u8>, since_epoch: Duration) {
        let seconds = since_epoch.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        for (number, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (hour, 2, b':'),
            (minute, 2, b':'),
            (second, 2, b'.'),
            (since_epoch.subsec_millis().into(), 3, b'Z'),
        ] {
            push_padded(text, number, width);
            text.push(after);
        }
    }

    /// Milliseconds with three decimals: `12.345`.
    pub(crate) fn push_millis(text: &mut Vec<u8>, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        push_number(text, micros / 1_000);
        text.push(b'.');
        push_padded(text, micros % 1_000, 3);
    }

    /// Dollars with as many decimals as it takes: `0.0000725`.
    pub(crate) fn push_dollars(text: &mut Vec<u8>, amount: PicoDollars) {
        push_number(text, amount.0 / PicoDollars::PER_DOLLAR);
        let rest = amount.0 % PicoDollars::PER_DOLLAR;
        if rest == 0 {
            return;
        }
        // The dollar in front keeps the zeros after the point.
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(PicoDollars::PER_DOLLAR + rest);
        text.push(b'.');
        text.extend_from_slice(digits[1..].trim_end_matches('0').as_bytes());
    }

    /// An address as text.
    pub(crate) fn address(address: IpAddr) -> Arc<str> {
        let IpAddr::V4(address) = address else { return address.to_string().into() };
        // Without the standard library's formatting, which takes ten times as long.
        let mut text = Vec::with_capacity("255.255.255.255".len());
        for (at, byte) in address.octets().into_iter().enumerate() {
            if at > 0 {
                text.push(b'.');
            }
            push_number(&mut text, byte.into());
        }
        String::from_utf8(text).unwrap_or_default().into()
    }

    /// A number in decimal digits.
    pub(crate) fn push_number(text: &mut Vec<u8>, number: u64) {
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// A number below 10^`width`, filled up with zeros.
    fn push_padded(text: &mut Vec<u8>, mut number: u64, width: usize) {
        let mut digits = [b'0'; 12];
        for digit in digits[12 - width..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        text.extend_from_slice(&digits[12 - width..]);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
            let mut text = Vec::new();
            write(&mut text);
            String::from_utf8(text).expect("it is ASCII")
        }

        #[test]
        fn dates_are_in_utc() {
            let check = |millis, expect: &str| {
                let date = written(|text| push_date(text, Duration::from_millis(millis)));
                assert_eq!(date, expect);
            };
            check(0, "1970-01-01T00:00:00.000Z");
            check(951_827_696_789, "2000-02-29T12:34:56.789Z");
            check(1_767_225_599_999, "2025-12-31T23:59:59.999Z");
            check(1_767_225_600_000, "2026-01-01T00:00:00.000Z");
            check(1_772_323_200_000, "2026-03-01T00:00:00.000Z");
        }

        #[test]
        fn addresses_are_written_as_everywhere() {
            for text in ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::1", "2001:db8::7:0"] {
                assert_eq!(&*address(text.parse().expect("it is an address")), text);
            }
        }

        #[test]
        fn milliseconds_have_three_decimals() {
            let check = |nanos, expect: &str| {
                assert_eq!(written(|text| push_millis(text, Duration::from_nanos(nanos))), expect);
            };
            check(0, "0.000");
            check(1_999, "0.001");
            check(12_345_678, "12.345");
            check(60_000_000_000, "60000.000");
        }

        #[test]
        fn dollars_are_exact() {
            for pico in [0, 1, 10, 72_500_000, 123_456_789_012, 2_000_000_000_000, u64::MAX] {
                let amount = PicoDollars(pico);
                assert_eq!(written(|text| push_dollars(text, amount)), amount.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, Lookup};
    use tollway_filter_api::{Deps, Slot};

    use super::*;

    #[test]
    fn filters_have_names_of_their_own() {
        let mut names: Vec<_> = BUILTIN.iter().map(|filter| filter.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BUILTIN.len());
    }

    struct NoCache;

    impl CacheStore for NoCache {
        fn get(&self, _: CacheKey) -> Lookup<'_> {
            Lookup::Ready(None)
        }
        fn put(&self, _: CacheKey, _: CachedAnswer, _: Duration) {}
    }

    #[test]
    fn every_filter_can_do_without_settings() {
        let deps = Deps { cache: Some(Arc::new(NoCache)), ..Deps::for_test() };
        for filter in BUILTIN {
            let built = (filter.build)(serde_json::json!({}), &deps, Slot(0));
            assert!(built.is_ok(), "{}: {:?}", filter.name, built.err());
        }
    }
}
