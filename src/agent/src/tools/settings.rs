//! How amounts are written in settings.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tollway_wire::price::PicoDollars;

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
    fn amounts_are_dollars() {
        assert_eq!(dollars(json!(0.008)).unwrap(), PicoDollars(8_000_000_000));
        assert_eq!(dollars(json!("5e-3")).unwrap(), PicoDollars(5_000_000_000));
        assert!(dollars(json!(-1)).is_err());
        assert!(dollars(json!([])).is_err());
    }
}
