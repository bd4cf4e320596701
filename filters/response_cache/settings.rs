//! How durations are written in the settings.

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// Reads a number of seconds, as LiteLLM writes it, or a number with a unit, `90s` or `10m`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Seconds)
}

struct Seconds;

impl Visitor<'_> for Seconds {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds as a number, or a duration such as 30s, 10m, 12h, 7d")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Duration, E> {
        Ok(Duration::from_secs(seconds))
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Duration, E> {
        Duration::try_from_secs_f64(seconds).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text.trim()).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: serde_json::Value, expect: Result<u64, &str>) {
        match (duration(settings.clone()), expect) {
            (Ok(got), Ok(seconds)) => assert_eq!(got, Duration::from_secs(seconds), "{settings}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{settings}: {got:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        check(600.into(), Ok(600));
        check(1.0.into(), Ok(1));
        check("600".into(), Ok(600));
        check("90s".into(), Ok(90));
        check("10m".into(), Ok(600));
        check("2h".into(), Ok(7200));
        check("1d".into(), Ok(86_400));
        check("2w".into(), Ok(1_209_600));
    }

    #[test]
    fn other_durations_are_refused() {
        check((-1).into(), Err("seconds as a number"));
        check((-1.5).into(), Err("negative"));
        check("".into(), Err("such as 30s"));
        check("m".into(), Err("such as 30s"));
        check("10 minutes".into(), Err("such as 30s"));
        check("99999999999999999999s".into(), Err("such as 30s"));
        check(true.into(), Err("seconds as a number"));
    }
}
