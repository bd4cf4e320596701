//! Dates, and moments that are a length of time away from others.

use std::time::Duration;

use tollway_filter_api::treasury::Period;
use tollway_wire::calendar::{self, civil};

const DAY: u64 = 86_400;

/// The moment that is one `period` after `from`. A month later is the same day of the next month,
/// or its last one.
pub(crate) fn after(from: Duration, period: Period) -> Duration {
    let count = u64::from(period.count);
    match period.unit.seconds() {
        Some(unit) => from.saturating_add(Duration::from_secs(count * unit)),
        None => in_month(from, month(from) + count),
    }
}

/// The moment that is one `period` before `to`; the epoch at the earliest.
pub(crate) fn before(to: Duration, period: Period) -> Duration {
    let count = u64::from(period.count);
    match period.unit.seconds() {
        Some(unit) => to.saturating_sub(Duration::from_secs(count * unit)),
        None => in_month(to, month(to).saturating_sub(count).max(1970 * 12)),
    }
}

/// The month a moment is in, counted from January of the year 0.
fn month(at: Duration) -> u64 {
    let (year, month, _) = civil(at.as_secs() / DAY);
    year * 12 + (month - 1)
}

/// The same day and time in another month, or on its last day.
fn in_month(at: Duration, months: u64) -> Duration {
    let (_, _, day) = civil(at.as_secs() / DAY);
    let (year, month) = (months / 12, months % 12 + 1);
    let day = day.min(days_of(year, month));
    Duration::new(days(year, month, day) * DAY + at.as_secs() % DAY, at.subsec_nanos())
}

/// `2026-01-31T12:00:00.000Z`
pub(crate) fn text(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// `2026-01-31`
pub(crate) fn day_text(since_epoch: Duration) -> String {
    let (year, month, day) = civil(since_epoch.as_secs() / DAY);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A date as days since the epoch; the epoch where it is before that.
fn days(year: u64, month: u64, day: u64) -> u64 {
    calendar::days(year as i64, month as i64, day as i64).max(0) as u64
}

fn days_of(year: u64, month: u64) -> u64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next_month, 1) - days(year, month, 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(now: &str, length: &str, later: &str) {
        let at = |text: &str| crate::config::moment(text).expect("a moment");
        let period = Period::length(length).expect("a length of time");
        assert_eq!(text(after(at(now), period)), format!("{later}.000Z"), "{length} after {now}");
    }

    #[test]
    fn a_month_later_is_the_same_day_or_the_last() {
        let now = "2026-01-31T12:30:15Z";
        check(now, "30s", "2026-01-31T12:30:45");
        check(now, "1h", "2026-01-31T13:30:15");
        check(now, "30d", "2026-03-02T12:30:15");
        check(now, "1w", "2026-02-07T12:30:15");
        check(now, "1mo", "2026-02-28T12:30:15");
        check(now, "3mo", "2026-04-30T12:30:15");
        check("2024-02-29T00:00:00Z", "12mo", "2025-02-28T00:00:00");
    }

    #[test]
    fn what_was_a_while_ago_is_found() {
        let at = |text: &str| crate::config::moment(text).expect("a moment");
        for (length, expect) in [
            ("90m", "2026-03-31T11:00:15"),
            ("7d", "2026-03-24T12:30:15"),
            ("1mo", "2026-02-28T12:30:15"),
            ("14mo", "2025-01-31T12:30:15"),
            ("1100mo", "1970-01-31T12:30:15"),
        ] {
            let period = Period::length(length).expect("a length of time");
            let found = before(at("2026-03-31T12:30:15Z"), period);
            assert_eq!(text(found), format!("{expect}.000Z"), "{length}");
        }
    }

    proptest! {
        #[test]
        fn dates_are_read_as_they_are_written(seconds in 0_u64..10_000_000_000) {
            let at = Duration::from_secs(seconds);
            prop_assert_eq!(crate::config::moment(&text(at)), Some(at));
        }
    }
}
