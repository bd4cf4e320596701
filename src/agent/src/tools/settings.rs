//! How durations and amounts are written in settings.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tollway_wire::price::PicoDollars;

/// A number of seconds, or a number with a unit: `90s`, `10m`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let read = match Value::deserialize(from)? {
        Value::Number(number) => {
            number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        Value::String(text) => parse(text.trim()),
        _ => None,
    };
    read.ok_or_else(|| D::Error::custom("must be seconds, or a duration such as 30s, 10m, 12h, 7d"))
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_secs)
}

/// An amount of dollars: `0.008`.
pub(crate) fn dollars<'de, D: Deserializer<'de>>(from: D) -> Result<PicoDollars, D::Error> {
    let text = match Value::deserialize(from)? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text,
        _ => return Err(D::Error::custom("must be an amount of dollars, such as 0.008")),
    };
    PicoDollars::parse_rounding_up(text.trim()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        let read = |value: Value| duration(value).map(|duration| duration.as_millis()).ok();
        assert_eq!(read(json!(90)), Some(90_000));
        assert_eq!(read(json!(1.5)), Some(1500));
        assert_eq!(read(json!("90")), Some(90_000));
        assert_eq!(read(json!("10m")), Some(600_000));
        for wrong in [json!(-1), json!("soon"), json!("m"), json!(null), json!("9999999999999999d")]
        {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn amounts_are_dollars() {
        assert_eq!(dollars(json!(0.008)).unwrap(), PicoDollars(8_000_000_000));
        assert_eq!(dollars(json!("5e-3")).unwrap(), PicoDollars(5_000_000_000));
        assert!(dollars(json!(-1)).is_err());
        assert!(dollars(json!([])).is_err());
    }
}
