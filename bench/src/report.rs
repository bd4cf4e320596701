//! Figures, their spread, and the table.

use std::fmt::{self, Display, Write};

/// The middle and the ends of repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; of none it is not a number.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Spread { median: (at(last / 2) + at(last.div_ceil(2))) / 2.0, min: at(0), max: at(last) }
    }
}

/// The value below which this share of the values lies.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// A unit, and how many decimals say enough.
#[derive(Clone, Copy, Debug)]
pub struct Unit(pub &'static str, pub usize);

/// Microseconds.
pub const MICROS: Unit = Unit("µs", 1);
/// Milliseconds.
pub const MILLIS: Unit = Unit("ms", 3);
/// 2^20 bytes.
pub const MEGABYTES: Unit = Unit("MB", 1);
/// 2^10 bytes.
pub const KILOBYTES: Unit = Unit("KB", 1);
/// Whole things.
pub const COUNT: Unit = Unit("", 0);

const RATIO: Unit = Unit("", 2);

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The gateway's at most this many times the bare proxy's.
    Ratio(f64),
    /// The gateway's at most this.
    AtMost(f64),
    /// Nothing: it is shown for information.
    None,
}

/// One figure, of both proxies.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    unit: Unit,
    bare: Spread,
    tollway: Spread,
    ratio: Spread,
    target: Target,
}

impl Row {
    /// From the values of each round, in the order of the rounds.
    pub fn new(
        name: impl Into<String>,
        unit: Unit,
        bare: &[f64],
        tollway: &[f64],
        target: Target,
    ) -> Row {
        let ratios: Vec<_> =
            bare.iter().zip(tollway).map(|(bare, tollway)| tollway / bare).collect();
        Row {
            name: name.into(),
            unit,
            bare: Spread::of(bare),
            tollway: Spread::of(tollway),
            ratio: Spread::of(&ratios),
            target,
        }
    }

    /// Whether the median is where it should be; `None` without a target.
    pub fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio(most) => Some(self.ratio.median <= most),
            Target::AtMost(most) => Some(self.tollway.median <= most),
            Target::None => None,
        }
    }
}

/// A line of a Markdown table.
impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bare, tollway) = (cell(self.bare, self.unit), cell(self.tollway, self.unit));
        let (ratio, target) = match self.target {
            Target::Ratio(most) => (cell(self.ratio, RATIO), format!("ratio ≤ {most}")),
            Target::AtMost(most) => ("–".into(), format!("≤ {most} {}", self.unit.0)),
            // Nothing to compare with where the bare proxy's figure is 0.
            Target::None if !self.ratio.max.is_finite() => ("–".into(), "–".into()),
            Target::None => (cell(self.ratio, RATIO), "–".into()),
        };
        let met = match self.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        let (name, target) = (&self.name, target.trim());
        write!(f, "| {name} | {bare} | {tollway} | {ratio} | {target} | {met} |")
    }
}

/// The whole table as Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| | Bare Pingora | Tollway | Ratio | Target | Met |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let _ = writeln!(table, "{row}");
    }
    table
}

/// `38.1 µs (37.5..39.0)`; the spread only where there is one.
fn cell(spread: Spread, Unit(unit, decimals): Unit) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|n| number(n, decimals));
    let figure = format!("{median} {unit}");
    let figure = figure.trim_end();
    if min == max { figure.to_owned() } else { format!("{figure} ({min}..{max})") }
}

/// With a comma between thousands.
fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let digits = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (at, digit) in text.char_indices() {
        let left = digits.saturating_sub(at);
        if at > 0
            && at < digits
            && left % 3 == 0
            && text[..at].ends_with(|c: char| c.is_ascii_digit())
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_in_it() {
        let check = |values: &[f64], median, min, max| {
            assert_eq!(Spread::of(values), Spread { median, min, max });
        };
        check(&[3.0], 3.0, 3.0, 3.0);
        check(&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0);
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 51.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn numbers_are_grouped() {
        let check = |value, decimals, expect: &str| assert_eq!(number(value, decimals), expect);
        check(0.0, 0, "0");
        check(999.0, 0, "999");
        check(1000.0, 0, "1,000");
        check(1_234_567.25, 1, "1,234,567.2");
        check(-1234.5, 1, "-1,234.5");
        check(-123.0, 0, "-123");
    }

    #[test]
    fn row_says_whether_the_target_is_met() {
        let check = |target, expect: &str| {
            let row = Row::new("x", MICROS, &[10.0, 20.0, 30.0], &[11.0, 24.0, 33.0], target);
            assert_eq!(
                row.to_string(),
                format!("| x | 20.0 µs (10.0..30.0) | 24.0 µs (11.0..33.0) {expect}")
            );
        };
        check(Target::Ratio(1.15), "| 1.10 (1.10..1.20) | ratio ≤ 1.15 | yes |");
        check(Target::Ratio(1.05), "| 1.10 (1.10..1.20) | ratio ≤ 1.05 | **no** |");
        check(Target::AtMost(24.0), "| – | ≤ 24 µs | yes |");
        check(Target::None, "| 1.10 (1.10..1.20) | – | – |");
        let row = Row::new("cut", COUNT, &[0.0], &[0.0], Target::AtMost(0.0));
        assert_eq!(row.to_string(), "| cut | 0 | 0 | – | ≤ 0 | yes |");
        let row = Row::new("ledger", COUNT, &[0.0], &[3.0], Target::None);
        assert_eq!(row.to_string(), "| ledger | 0 | 3 | – | – | – |");
    }
}
