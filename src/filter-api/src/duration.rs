//! How durations are written in configs: as LiteLLM writes them.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What to write, for messages.
pub const WANTED: &str =
    "a time with its unit (`500ms`, `30s`, `5m`, `1h`, `2d`, `1w`, `1mo`) or in seconds";
/// A century is more than anybody means, and far from any overflow.
const SECONDS_MAX: f64 = 3.2e9;

/// Reads a duration; a number alone is seconds. A month has 30 days.
pub fn parse(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e').unwrap_or(text.len());
    let (number, unit) = (text[..unit].trim(), &text[unit..]);
    let seconds = match unit.trim_end() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        "mo" => 2_592_000.0,
        _ => return None,
    };
    // What floats are besides, such as `inf`, is no number that anybody writes.
    let is_plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-');
    let number: f64 = number.chars().all(is_plain).then(|| number.parse().ok())??;
    let seconds = number * seconds;
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// The same for a setting, which may be a number as well.
///
/// # Errors
/// When it is nothing of that kind.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let read = match Value::deserialize(from)? {
        Value::Number(number) => parse(&number.to_string()),
        Value::String(text) => parse(&text),
        _ => None,
    };
    read.ok_or_else(|| D::Error::custom(format_args!("must be {WANTED}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_carry_units_or_are_seconds() {
        for (text, millis) in [
            ("30", Some(30_000)),
            ("0.5", Some(500)),
            ("500ms", Some(500)),
            (" 30s ", Some(30_000)),
            ("5m", Some(300_000)),
            ("1.5h", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("1w", Some(604_800_000)),
            ("1mo", Some(2_592_000_000)),
            ("0", Some(0)),
            ("5 m", Some(300_000)),
            ("-5", None),
            ("5y", None),
            ("m", None),
            ("", None),
            ("10 minutes", None),
            ("inf", None),
            ("1e300", None),
            ("99999999999999999999s", None),
            ("é", None),
        ] {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn settings_are_numbers_or_texts() {
        let read = |value: Value| deserialize(value).map(|time| time.as_millis()).ok();
        assert_eq!(read(json!(90)), Some(90_000));
        assert_eq!(read(json!(1.5)), Some(1500));
        assert_eq!(read(json!("10m")), Some(600_000));
        for wrong in [json!(-1), json!("soon"), json!(null), json!(true), json!(1e300)] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }
}
