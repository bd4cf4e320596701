//! Dates, and the lengths of time that operators write: `30d`, `1mo`.

use std::time::Duration;

use tollway_filter_api::treasury::{Period, PeriodUnit};

/// The longest length of time that is taken: beyond it, somebody has slipped on a key.
const YEARS_MAX: u64 = 100;
const DAY: u64 = 86_400;

/// Reads `30s`, `30m`, `24h`, `30d`, `2w` or `1mo`.
pub(crate) fn period(text: &str) -> Option<Period> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (unit, seconds) = match unit {
        "s" => (PeriodUnit::Second, 1),
        "m" => (PeriodUnit::Minute, 60),
        "h" => (PeriodUnit::Hour, 3_600),
        "d" => (PeriodUnit::Day, DAY),
        "w" => (PeriodUnit::Week, 7 * DAY),
        "mo" => (PeriodUnit::Month, 31 * DAY),
        _ => return None,
    };
    let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
    let fits = u64::from(count) * seconds <= YEARS_MAX * 366 * DAY;
    fits.then_some(Period { count, unit })
}

/// The moment that is one `period` after `from`. A month later is the same day of the next month,
/// or its last one.
pub(crate) fn after(from: Duration, period: Period) -> Duration {
    let count = u64::from(period.count);
    let seconds = match period.unit {
        PeriodUnit::Second => count,
        PeriodUnit::Minute => count * 60,
        PeriodUnit::Hour => count * 3_600,
        PeriodUnit::Day => count * DAY,
        PeriodUnit::Week => count * 7 * DAY,
        PeriodUnit::Month => {
            let (year, month, day) = civil(from.as_secs() / DAY);
            let months = year * 12 + (month - 1) + count;
            let (year, month) = (months / 12, months % 12 + 1);
            let day = day.min(days_of(year, month));
            let rest = from.as_secs() % DAY;
            return Duration::from_secs(days(year, month, day) * DAY + rest);
        }
    };
    Duration::from_secs(from.as_secs() + seconds)
}

/// The moment that is one `period` before `to`; the epoch at the earliest.
pub(crate) fn before(to: Duration, period: Period) -> Duration {
    let count = u64::from(period.count);
    let length = match period.unit {
        PeriodUnit::Second => count,
        PeriodUnit::Minute => count * 60,
        PeriodUnit::Hour => count * 3_600,
        PeriodUnit::Day => count * DAY,
        PeriodUnit::Week => count * 7 * DAY,
        PeriodUnit::Month => {
            let (year, month, day) = civil(to.as_secs() / DAY);
            let months = (year * 12 + (month - 1)).saturating_sub(count).max(1970 * 12);
            let (year, month) = (months / 12, months % 12 + 1);
            let day = day.min(days_of(year, month));
            return Duration::from_secs(days(year, month, day) * DAY + to.as_secs() % DAY);
        }
    };
    to.saturating_sub(Duration::from_secs(length))
}

/// When the period that `now` is in ends. Periods begin on the calendar, in UTC.
pub(crate) fn end_of(period: Period, now: Duration) -> Duration {
    let count = u64::from(period.count);
    let now = now.as_secs();
    let next = |length: u64, offset: u64| (now + offset) / length * length + length - offset;
    let seconds = match period.unit {
        PeriodUnit::Second => next(count, 0),
        PeriodUnit::Minute => next(count * 60, 0),
        PeriodUnit::Hour => next(count * 3_600, 0),
        PeriodUnit::Day => next(count * DAY, 0),
        // The epoch was a Thursday: the Monday before it is three days earlier.
        PeriodUnit::Week => next(count * 7 * DAY, 3 * DAY),
        PeriodUnit::Month => {
            let (year, month, _) = civil(now / DAY);
            let months = (year * 12 + month - 1) / count * count + count;
            days(months / 12, months % 12 + 1, 1) * DAY
        }
    };
    Duration::from_secs(seconds)
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

/// Year, month and day of a day since the epoch. Years are counted from March, so that the leap day
/// is a year's last (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`], for dates after the epoch.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
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
    fn check(now: &str, length: &str, later: &str, ends: &str) {
        let at = |text: &str| crate::config::moment(text).expect("a moment");
        let period = period(length).expect("a period");
        assert_eq!(text(after(at(now), period)), format!("{later}.000Z"), "{length} after {now}");
        assert_eq!(text(end_of(period, at(now))), format!("{ends}.000Z"), "{length} around {now}");
    }

    #[test]
    fn periods_end_on_the_calendar() {
        let now = "2026-01-31T12:30:15Z";
        check(now, "30s", "2026-01-31T12:30:45", "2026-01-31T12:30:30");
        check(now, "1h", "2026-01-31T13:30:15", "2026-01-31T13:00:00");
        check(now, "1d", "2026-02-01T12:30:15", "2026-02-01T00:00:00");
        // A Saturday.
        check(now, "1w", "2026-02-07T12:30:15", "2026-02-02T00:00:00");
        check(now, "1mo", "2026-02-28T12:30:15", "2026-02-01T00:00:00");
        check(now, "3mo", "2026-04-30T12:30:15", "2026-04-01T00:00:00");
        check("2024-02-29T00:00:00Z", "12mo", "2025-02-28T00:00:00", "2025-01-01T00:00:00");
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
            let period = period(length).expect("a period");
            let found = before(at("2026-03-31T12:30:15Z"), period);
            assert_eq!(text(found), format!("{expect}.000Z"), "{length}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in
            ["", "d", "0d", "-1d", "1", "1y", "1.5d", "1 d", "99999999999999999999d", "40000d", "é"]
        {
            assert_eq!(period(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_period_or_none(text in "\\PC{0,12}") {
            if let Some(period) = period(&text) {
                prop_assert!(end_of(period, Duration::from_secs(1_800_000_000)).as_secs() > 1_800_000_000);
            }
        }

        #[test]
        fn dates_are_read_as_they_are_written(seconds in 0_u64..10_000_000_000) {
            let at = Duration::from_secs(seconds);
            prop_assert_eq!(crate::config::moment(&text(at)), Some(at));
        }
    }
}
