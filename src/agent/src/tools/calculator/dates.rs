//! Dates: days added to one, days between two, its day of the week.
//!
//! `2024-01-31 + 1 month - 3 days`, `2026-12-25 - today`, `today`. The calendar is the Gregorian one.

use std::time::Duration;

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Date(i64);

const YEARS: std::ops::RangeInclusive<i64> = 1..=9999;

const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

impl Date {
    /// The day it is.
    pub(super) fn today(since_epoch: Duration) -> Date {
        Date(i64::try_from(since_epoch.as_secs() / 86_400).unwrap_or(i64::MAX))
    }

    fn of(year: i64, month: i64, day: i64) -> Option<Date> {
        if !YEARS.contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        if !(1..=days_in(year, month)).contains(&day) {
            return None;
        }
        // Years that begin in March have their odd day at the end.
        let shifted = if month <= 2 { year - 1 } else { year };
        let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        Some(Date(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468))
    }

    /// Year, month and day.
    fn parts(self) -> (i64, i64, i64) {
        let days = self.0 + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = (shifted + 2) % 12 + 1;
        let year = year + era * 400 + i64::from(month <= 2);
        (year, month, of_year - (153 * shifted + 2) / 5 + 1)
    }

    fn parse(text: &str) -> Option<Date> {
        let mut parts = text.splitn(3, '-').map(|part| {
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
        });
        Date::of(parts.next()??, parts.next()??, parts.next()??)
    }

    fn plus(self, count: i64, unit: Unit) -> Option<Date> {
        let date = match unit {
            Unit::Days(days) => Date(self.0.checked_add(count.checked_mul(days)?)?),
            Unit::Months(months) => {
                let (year, month, day) = self.parts();
                let months = (year * 12 + month - 1).checked_add(count.checked_mul(months)?)?;
                let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
                // A month later than January 31 is the end of February.
                Date::of(year, month, day.min(days_in(year, month)))?
            }
        };
        let first = Date::of(*YEARS.start(), 1, 1)?;
        let last = Date::of(*YEARS.end(), 12, 31)?;
        (first..=last).contains(&date).then_some(date)
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = self.parts();
        let weekday = WEEKDAYS[self.0.rem_euclid(7) as usize];
        write!(f, "{year:04}-{month:02}-{day:02} ({weekday})")
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 31,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Days(i64),
    Months(i64),
}

impl Unit {
    fn parse(word: &str) -> Option<Unit> {
        Some(match word.strip_suffix('s').unwrap_or(word) {
            "day" => Unit::Days(1),
            "week" => Unit::Days(7),
            "month" => Unit::Months(1),
            "year" => Unit::Months(12),
            _ => return None,
        })
    }
}

/// What can be written.
const FORM: &str = "dates are written 2026-01-31 or `today`; what can be done with them is \
                    `DATE + 2 weeks - 3 days` and `DATE - DATE`";

/// Works out an expression with dates. Nothing if there is none in it.
pub(super) fn evaluate(expression: &str, today: Date) -> Option<Result<String, String>> {
    let spaced = spaced(expression);
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let is_date = |word: &&str| date(word, today).is_some();
    words.iter().any(is_date).then(|| work_out(&words, today))
}

/// The date a word stands for; an error if it looks like one and is none.
fn date(word: &str, today: Date) -> Option<Result<Date, String>> {
    match word {
        "today" => return Some(Ok(today)),
        "tomorrow" => return Some(Ok(Date(today.0 + 1))),
        "yesterday" => return Some(Ok(Date(today.0 - 1))),
        _ => {}
    }
    let shape = word.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    shape
        .eq(*b"0000-00-00")
        .then(|| Date::parse(word).ok_or_else(|| format!("there is no date {word}")))
}

/// Operators and numbers apart from what they touch, dates in one piece.
fn spaced(expression: &str) -> String {
    let bytes = expression.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let is_in_date = |at: usize| {
        // A hyphen of `2026-01-31`: digits around it, four before the first, two after each.
        let first = (0..4).all(|n| at >= 4 && is_digit(at - 4 + n))
            && is_digit(at + 1)
            && is_digit(at + 2)
            && bytes.get(at + 3) == Some(&b'-');
        let second = at >= 3 && bytes[at - 3] == b'-' && is_digit(at - 1) && is_digit(at - 2);
        first || second && is_digit(at + 1) && is_digit(at + 2) && !is_digit(at + 3)
    };
    let mut spaced = String::with_capacity(expression.len() * 2);
    for (at, c) in expression.char_indices() {
        match c {
            '@' => spaced.push(' '),
            '+' | '-' if !is_in_date(at) => spaced.extend([' ', c, ' ']),
            _ => {
                let after_digit = at > 0 && is_digit(at - 1);
                if c.is_ascii_alphabetic() && after_digit {
                    spaced.push(' ');
                }
                spaced.push(c);
            }
        }
    }
    spaced
}

fn work_out(words: &[&str], today: Date) -> Result<String, String> {
    let form = || FORM.to_owned();
    let (first, mut rest) = words.split_first().ok_or_else(form)?;
    let mut result = date(first, today).ok_or_else(form)??;
    loop {
        rest = match rest {
            [] => return Ok(result.to_string()),
            ["-", other] if date(other, today).is_some() => {
                let other = date(other, today).ok_or_else(form)??;
                return Ok(format!("{} days", result.0 - other.0));
            }
            [sign @ ("+" | "-"), count, unit, rest @ ..] => {
                let count: i64 = count.parse().map_err(|_| form())?;
                let count = if *sign == "-" { -count } else { count };
                let unit = Unit::parse(unit).ok_or_else(form)?;
                let moved = result.plus(count, unit);
                result = moved.ok_or_else(|| "years go from 1 to 9999".to_owned())?;
                rest
            }
            _ => return Err(form()),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn today() -> Date {
        Date::parse("2026-11-23").unwrap()
    }

    fn check(expression: &str, expect: &str) {
        match evaluate(expression, today()) {
            Some(Ok(got)) => assert_eq!(got, expect, "{expression}"),
            got => panic!("{expression}: {got:?}"),
        }
    }

    #[test]
    fn time_is_added_and_taken_away() {
        check("2024-02-28 + 2 days", "2024-03-01 (Friday)");
        check("2023-02-28+1 day", "2023-03-01 (Wednesday)");
        check("2024-01-31 + 1 month", "2024-02-29 (Thursday)");
        check("2024-02-29 + 1 year", "2025-02-28 (Friday)");
        check("2000-03-01 - 1day", "2000-02-29 (Tuesday)");
        check("1900-03-01 - 1 day", "1900-02-28 (Wednesday)");
        check("@2026-12-31 + 2 weeks - 3 days", "2027-01-11 (Monday)");
        check("2026-01-15 - 13 months", "2024-12-15 (Sunday)");
        check("1970-01-01", "1970-01-01 (Thursday)");
        check("today", "2026-11-23 (Monday)");
        check("tomorrow + 1 week", "2026-12-01 (Tuesday)");
    }

    #[test]
    fn days_between_dates_are_counted() {
        check("2024-03-01 - 2024-02-28", "2 days");
        check("2024-03-01-2024-02-28", "2 days");
        check("2026-12-25 - today", "32 days");
        check("2000-01-01 - 2026-11-23", "-9823 days");
        check("2000-01-01 + 1 month - 2000-01-01", "31 days");
    }

    #[test]
    fn other_expressions_are_not_about_dates() {
        for expression in
            ["2024 - 2 - 28", "2024-2-28", "1+1", "12024-01-01", "5 days to hours", ""]
        {
            assert_eq!(evaluate(expression, today()), None, "{expression}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = |expression: &str| evaluate(expression, today()).unwrap().unwrap_err();
        assert_eq!(wrong("2023-02-29"), "there is no date 2023-02-29");
        assert_eq!(wrong("2023-13-01 + 1 day"), "there is no date 2023-13-01");
        assert_eq!(wrong("9999-12-31 + 1 day"), "years go from 1 to 9999");
        assert_eq!(wrong("2023-01-01 + 9223372036854775807 years"), "years go from 1 to 9999");
        for expression in ["2023-01-01 * 2", "2023-01-01 +", "5 + 2023-01-01", "today + 1 hour"] {
            assert_eq!(wrong(expression), FORM, "{expression}");
        }
    }

    proptest! {
        #[test]
        fn days_and_parts_are_the_same(days in -719_162_i64..=2_932_896) {
            let (year, month, day) = Date(days).parts();
            prop_assert_eq!(Date::of(year, month, day), Some(Date(days)));
            prop_assert!(day <= days_in(year, month));
            let written = Date(days).to_string();
            prop_assert_eq!(Date::parse(&written[..10]), Some(Date(days)));
        }

        #[test]
        fn what_is_added_is_the_difference(from in 0..800_000_i64, days in 0..800_000_i64) {
            let (from, to) = (Date(from), Date(from + days));
            let (a, b) = (from.to_string(), to.to_string());
            let sum = evaluate(&format!("{} + {days} days", &a[..10]), today());
            prop_assert_eq!(sum, Some(Ok(b.clone())));
            let difference = evaluate(&format!("{}-{}", &b[..10], &a[..10]), today());
            prop_assert_eq!(difference, Some(Ok(format!("{days} days"))));
        }

        #[test]
        fn no_text_breaks_it(text in "[-+@0-9a-z ü]{0,40}") {
            let _ = evaluate(&text, today());
        }
    }
}
