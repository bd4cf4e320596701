//! Money, exactly.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

/// An amount of money in pico-dollars (1e-12 $).
///
/// `u64` holds up to 18.4 million dollars, four orders above the dearest call there can be, and
/// fits an atomic counter and a database column. The arithmetic saturates: an absurd token count
/// makes an absurd bill, never a wrapped one. Whoever adds up a company's years does so in `u128`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoDollars(pub u64);

impl PicoDollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The most there is; what overflow saturates to.
    pub const MAX: Self = Self(u64::MAX);
    /// Pico-dollars in a dollar.
    pub const PER_DOLLAR: u64 = 1_000_000_000_000;

    /// The sum, or [`PicoDollars::MAX`].
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This much apiece, `count` times; or [`PicoDollars::MAX`].
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// Dollars for metrics and headers. Not for reckoning: a float has 15 digits.
    pub fn as_dollars(self) -> f64 {
        self.0 as f64 / Self::PER_DOLLAR as f64
    }

    /// Reads dollars, such as `0.0000025`, `2.5e-06` or `1E-7`, and rounds up what is finer than a
    /// pico-dollar.
    ///
    /// Before that, the text is rounded to 15 significant digits: more than a float holds for
    /// certain, the rest is noise, and `1.0000000000000001e-07` means `1e-07`. LiteLLM's table and
    /// configs copied from it have such literals.
    ///
    /// # Errors
    /// When the text is no number, negative, or too much.
    pub fn parse_rounding_up(text: &str) -> Result<Self, AmountError> {
        let decimal = Decimal::parse(text)?.rounded_to(15);
        let (amount, exact) = decimal.pico()?;
        if exact {
            Ok(amount)
        } else {
            amount.0.checked_add(1).map(Self).ok_or(AmountError::TooMuch)
        }
    }
}

impl fmt::Display for PicoDollars {
    /// Writes dollars exactly, without an exponent: `0.0000025`, `3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, rest) = (self.0 / Self::PER_DOLLAR, self.0 % Self::PER_DOLLAR);
        if rest == 0 {
            return write!(f, "{dollars}");
        }
        f.write_str(format!("{dollars}.{rest:012}").trim_end_matches('0'))
    }
}

impl FromStr for PicoDollars {
    type Err = AmountError;

    /// Reads dollars exactly; what is finer than a pico-dollar is an error.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        match Decimal::parse(text)?.pico()? {
            (amount, true) => Ok(amount),
            (_, false) => Err(AmountError::TooFine),
        }
    }
}

impl Sum for PicoDollars {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number.
    #[error("not a decimal number, such as 0.0000025 or 2.5e-06")]
    NotANumber,
    /// Less than nothing.
    #[error("a price cannot be negative")]
    Negative,
    /// More than `u64` pico-dollars.
    #[error("more than 18 million dollars")]
    TooMuch,
    /// Has digits below 1e-12 $.
    #[error("finer than 1e-12 dollars")]
    TooFine,
}

/// A decimal number as written: `digits` × 10^`exponent`.
struct Decimal {
    /// Without zeros at either end.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Result<Self, AmountError> {
        let (text, negative) = match text.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (text.strip_prefix('+').unwrap_or(text), false),
        };
        let (mantissa, mut exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
            return Err(AmountError::NotANumber);
        }

        let mut digits: Vec<u8> =
            whole.bytes().chain(fraction.bytes()).skip_while(|&byte| byte == b'0').collect();
        exponent -= i64::try_from(fraction.len()).unwrap_or(i64::MAX / 2);
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        for digit in &mut digits {
            *digit -= b'0';
        }
        if negative && !digits.is_empty() {
            return Err(AmountError::Negative);
        }
        Ok(Self { digits, exponent })
    }

    /// Rounded to `count` significant digits, a half to the even neighbour.
    fn rounded_to(mut self, count: usize) -> Self {
        if self.digits.len() <= count {
            return self;
        }
        let rest = self.digits.split_off(count);
        self.exponent += i64::try_from(rest.len()).unwrap_or(i64::MAX / 2);
        let odd = self.digits.last().is_some_and(|digit| digit % 2 == 1);
        let up = match rest.first() {
            Some(6..) => true,
            // Zeros at the end were cut off, so that anything after the 5 makes it more than half.
            Some(5) => rest.len() > 1 || odd,
            _ => false,
        };
        if up {
            let mut at = self.digits.len();
            loop {
                if at == 0 {
                    self.digits.insert(0, 1);
                    break;
                }
                at -= 1;
                if self.digits[at] == 9 {
                    self.digits[at] = 0;
                } else {
                    self.digits[at] += 1;
                    break;
                }
            }
        }
        self
    }

    /// Whole pico-dollars, rounded down, and whether that is all of it.
    fn pico(&self) -> Result<(PicoDollars, bool), AmountError> {
        // Where the last digit stands, in places left of one pico-dollar.
        let place = self.exponent.saturating_add(12);
        let cut = usize::try_from(place.saturating_neg()).unwrap_or(0).min(self.digits.len());
        let (kept, rest) = self.digits.split_at(self.digits.len() - cut);
        let exact = rest.iter().all(|&digit| digit == 0);
        let mut amount = 0_u64;
        for &digit in kept {
            amount = amount
                .checked_mul(10)
                .and_then(|amount| amount.checked_add(u64::from(digit)))
                .ok_or(AmountError::TooMuch)?;
        }
        if amount > 0 && place > 0 {
            let power = u32::try_from(place).ok().and_then(|place| 10_u64.checked_pow(place));
            amount =
                power.and_then(|power| amount.checked_mul(power)).ok_or(AmountError::TooMuch)?;
        }
        Ok((PicoDollars(amount), exact))
    }
}

/// The number after an `e`. Beyond what could matter it is clamped, so that it can be added to.
fn parse_exponent(text: &str) -> Result<i64, AmountError> {
    let (digits, sign) = match text.strip_prefix('-') {
        Some(rest) => (rest, -1),
        None => (text.strip_prefix('+').unwrap_or(text), 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AmountError::NotANumber);
    }
    Ok(sign * digits.parse::<i64>().unwrap_or(i64::MAX).min(1_000_000_000))
}
