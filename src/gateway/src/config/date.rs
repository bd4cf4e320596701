//! Dates as people write them.

use std::time::Duration;

use tollway_wire::calendar;

/// Reads `2027-01-31`, which is when that day begins, or `2027-01-31T12:00:00Z` with an optional
/// fraction of a second or offset (`+02:00`); RFC 3339. The time since the Unix epoch.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let seconds =
        calendar::days(year, month, day) * 86_400 + time.map_or(Some(0), seconds_of_day)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// `12:00:00`, perhaps with a fraction, and its offset, which is not optional: a moment without one
/// is another moment on every machine.
fn seconds_of_day(time: &str) -> Option<i64> {
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = time.split_at(at);
    let clock = match clock.split_once('.') {
        Some((clock, fraction)) => {
            let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
            digits.then_some(clock)?
        }
        None => clock,
    };
    let mut parts = clock.split(':');
    let (hour, minute, second) =
        (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset = match offset.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3_600 + minutes * 60) * if sign == "-" { -1 } else { 1 }
        }
    };
    Some(hour * 3_600 + minute * 60 + second - offset)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_moments_are_read() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2026-01-01", Some(1_767_225_600)),
            ("2000-02-29T12:34:56Z", Some(951_827_696)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696)),
            ("2026-01-01T02:00:00+02:00", Some(1_767_225_600)),
            ("2025-12-31 23:00:00-01:00", Some(1_767_225_600)),
            ("2026-01-01T00:00:00", None),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("2026-1-1", None),
            ("1969-12-31", None),
            ("30d", None),
            ("", None),
            ("2026-01-01T", None),
            ("2026-01-01Té", None),
        ] {
            assert_eq!(parse(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
