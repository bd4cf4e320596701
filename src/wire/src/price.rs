//! What a call costs: exact money, a model's price list, and the one formula that joins them.
//!
//! Money is whole pico-dollars (1e-12 $), so that a price per token is an integer and nothing is
//! lost by adding up. A price list is filled under the keys LiteLLM's users know
//! (`input_cost_per_token`, `cache_read_input_token_cost_above_200k_tokens_priority` ...), be it
//! from the compiled-in table or from a config.
//!
//! Left out for now: prices by the character, second, image, pixel or page; image and video tokens
//! apart from text; OpenAI's twelve-hour cache writes; off-peak hours; regional surcharges;
//! citations. [`Usage`] counts none of them.

use std::cmp::Reverse;
use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use crate::usage::Usage;

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

/// The provider's service tier a call is billed under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The list price.
    #[default]
    Standard,
    /// The batch API.
    Batch,
    /// `service_tier: flex`: cheaper and slower.
    Flex,
    /// `service_tier: priority`: dearer and quicker.
    Priority,
    /// `service_tier: ultrafast`.
    Ultrafast,
    /// `service_tier: balanced`, between flex and standard.
    Balanced,
}

impl Tier {
    /// Every tier, in the order of the table's sections.
    pub const ALL: [Self; 6] =
        [Self::Standard, Self::Batch, Self::Flex, Self::Priority, Self::Ultrafast, Self::Balanced];

    /// Reads the `service_tier` of a request or an answer. What is not a tier with a price of its
    /// own (`auto`, `default`, `scale`, `standard_only` ...) is billed as standard.
    pub fn from_service_tier(name: &str) -> Self {
        match name {
            "batch" => Self::Batch,
            "flex" => Self::Flex,
            "priority" => Self::Priority,
            "ultrafast" => Self::Ultrafast,
            "balanced" => Self::Balanced,
            _ => Self::Standard,
        }
    }

    /// How a key of LiteLLM's table ends: `input_cost_per_token_flex`.
    fn suffix(self) -> &'static str {
        match self {
            Self::Standard => "",
            Self::Batch => "_batches",
            Self::Flex => "_flex",
            Self::Priority => "_priority",
            Self::Ultrafast => "_ultrafast",
            Self::Balanced => "_balanced",
        }
    }
}

/// A kind of token that can have a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rate {
    /// Input.
    Input,
    /// Output.
    Output,
    /// Input read from the provider's prompt cache.
    CacheRead,
    /// Input written to a prompt cache that lives five minutes.
    CacheWrite,
    /// Input written to a prompt cache that lives one hour.
    CacheWrite1h,
    /// Audio input.
    AudioInput,
    /// Audio output.
    AudioOutput,
    /// Audio input read from the cache. Kept for whoever counts it: [`Usage`] does not, and
    /// [`cost`] bills cached audio as any cached input.
    CachedAudioInput,
    /// Output spent on thinking.
    Reasoning,
}

impl Rate {
    /// Every rate.
    pub const ALL: [Self; 9] = [
        Self::Input,
        Self::Output,
        Self::CacheRead,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::AudioInput,
        Self::AudioOutput,
        Self::CachedAudioInput,
        Self::Reasoning,
    ];

    /// LiteLLM's key for the standard price.
    pub fn key(self) -> &'static str {
        match self {
            Self::Input => "input_cost_per_token",
            Self::Output => "output_cost_per_token",
            Self::CacheRead => "cache_read_input_token_cost",
            Self::CacheWrite => "cache_creation_input_token_cost",
            Self::CacheWrite1h => "cache_creation_input_token_cost_above_1hr",
            Self::AudioInput => "input_cost_per_audio_token",
            Self::AudioOutput => "output_cost_per_audio_token",
            Self::CachedAudioInput => "cache_read_input_audio_token_cost",
            Self::Reasoning => "output_cost_per_reasoning_token",
        }
    }
}

/// What each kind of token costs in one call, every fallback resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Input that is of no other kind.
    pub input: PicoDollars,
    /// Output that is of no other kind.
    pub output: PicoDollars,
    /// Cache reads; as `input` where not stated.
    pub cache_read: PicoDollars,
    /// Five-minute cache writes; as `input` where not stated.
    pub cache_write: PicoDollars,
    /// One-hour cache writes; as `cache_write` where not stated.
    pub cache_write_1h: PicoDollars,
    /// Audio input; as `input` where not stated.
    pub audio_input: PicoDollars,
    /// Audio output; as `output` where not stated.
    pub audio_output: PicoDollars,
    /// Thinking; as `output` where not stated.
    pub reasoning: PicoDollars,
}

/// A model's price list: what is stated, by tier and prompt size. Empty means free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Highest threshold first, and within one threshold the standard tier last: the first sheet
    /// that applies and states a rate is the one that counts.
    sheets: Vec<Sheet>,
    /// Charged once a call, whatever it holds (`input_cost_per_request`, `input_cost_per_query`).
    pub per_request: PicoDollars,
    /// Charged for each search the provider runs by itself.
    pub web_search: PicoDollars,
}

/// The rates stated for one tier above one prompt size.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sheet {
    tier: Tier,
    /// Zero: whatever the prompt's size.
    above: u64,
    stated: [Option<PicoDollars>; Rate::ALL.len()],
}

impl Sheet {
    fn applies(&self, tier: Tier, prompt_tokens: u64) -> bool {
        (self.tier == tier || self.tier == Tier::Standard)
            && (self.above == 0 || prompt_tokens > self.above)
    }
}

impl Price {
    /// So much for an input token, so much for an output token.
    pub fn new(input: PicoDollars, output: PicoDollars) -> Self {
        let mut price = Self::default();
        price.state(Tier::Standard, 0, Rate::Input, input);
        price.state(Tier::Standard, 0, Rate::Output, output);
        price
    }

    /// States a rate for calls of `tier` whose prompt has more than `above` tokens (0: for all),
    /// in place of what was stated before.
    pub fn state(&mut self, tier: Tier, above: u64, rate: Rate, amount: PicoDollars) {
        let order = |tier: Tier, above: u64| (Reverse(above), Reverse(tier));
        let at = self
            .sheets
            .binary_search_by_key(&order(tier, above), |sheet| order(sheet.tier, sheet.above))
            .unwrap_or_else(|at| {
                self.sheets.insert(at, Sheet { tier, above, stated: Default::default() });
                at
            });
        self.sheets[at].stated[rate as usize] = Some(amount);
    }

    /// What is stated for exactly this, without any fallback.
    pub fn stated(&self, tier: Tier, above: u64, rate: Rate) -> Option<PicoDollars> {
        let sheet = self.sheets.iter().find(|sheet| sheet.tier == tier && sheet.above == above)?;
        sheet.stated[rate as usize]
    }

    /// States a rate under LiteLLM's key: a [`Rate::key`], then `_above_<N>k_tokens`, then
    /// `_batches`, `_flex`, `_priority` and so on; `input_cost_per_token_cache_hit`,
    /// `input_cost_per_request` and `input_cost_per_query` too. False if there is no such key.
    #[must_use = "an unknown key is somebody's mistake"]
    pub fn set(&mut self, key: &str, amount: PicoDollars) -> bool {
        if matches!(key, "input_cost_per_request" | "input_cost_per_query") {
            self.per_request = amount;
            return true;
        }
        match parse_key(key) {
            Some((tier, above, rate)) => {
                self.state(tier, above, rate, amount);
                true
            }
            None => false,
        }
    }

    /// Whether [`Price::set`] knows the key.
    pub fn is_key(key: &str) -> bool {
        Self::default().set(key, PicoDollars::ZERO)
    }

    /// Whether no call can cost anything.
    pub fn is_free(&self) -> bool {
        let zero = |amount: &PicoDollars| *amount == PicoDollars::ZERO;
        zero(&self.per_request)
            && zero(&self.web_search)
            && self.sheets.iter().flat_map(|sheet| sheet.stated.iter().flatten()).all(zero)
    }

    /// The prompt sizes above which other rates hold, in whatever tier; highest first.
    pub fn thresholds(&self) -> impl Iterator<Item = u64> {
        let mut last = 0;
        self.sheets.iter().map(|sheet| sheet.above).filter(move |&above| {
            let new = above != 0 && above != last;
            last = above;
            new
        })
    }

    /// What each kind of token costs in a call of this tier with so many prompt tokens.
    ///
    /// As LiteLLM does it: the highest threshold the prompt has passed decides for all tokens of
    /// the call; a rate not stated there is what it was below. Within that, the tier's own rate
    /// counts before the standard one, so that a tier without long-context rates is billed at the
    /// standard long-context rates. A kind that is stated nowhere costs what the general kind does.
    pub fn rates(&self, tier: Tier, prompt_tokens: u64) -> Rates {
        let find = |rate: Rate| {
            self.sheets
                .iter()
                .filter(|sheet| sheet.applies(tier, prompt_tokens))
                .find_map(|sheet| sheet.stated[rate as usize])
        };
        let input = find(Rate::Input).unwrap_or_default();
        let output = find(Rate::Output).unwrap_or_default();
        let cache_write = find(Rate::CacheWrite).unwrap_or(input);
        Rates {
            input,
            output,
            cache_read: find(Rate::CacheRead).unwrap_or(input),
            cache_write,
            cache_write_1h: find(Rate::CacheWrite1h).unwrap_or(cache_write),
            audio_input: find(Rate::AudioInput).unwrap_or(input),
            audio_output: find(Rate::AudioOutput).unwrap_or(output),
            reasoning: find(Rate::Reasoning).unwrap_or(output),
        }
    }
}

/// Reads a key of LiteLLM's: `<rate>[_above_<N>k_tokens][_<tier>]`.
fn parse_key(key: &str) -> Option<(Tier, u64, Rate)> {
    let tier = Tier::ALL.into_iter().skip(1).find(|tier| key.ends_with(tier.suffix()));
    let tier = tier.unwrap_or_default();
    let mut key = key.strip_suffix(tier.suffix())?;
    let mut above = 0;
    if let Some(sized) = key.strip_suffix("k_tokens") {
        let (rate, thousands) = sized.rsplit_once("_above_")?;
        if !thousands.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        above = thousands.parse::<u64>().ok()?.checked_mul(1000)?;
        key = rate;
    }
    if key == "input_cost_per_token_cache_hit" {
        return Some((tier, above, Rate::CacheRead));
    }
    Some((tier, above, Rate::ALL.into_iter().find(|rate| rate.key() == key)?))
}

/// What one call cost, by item. The items add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Input that is of no other kind.
    pub input: PicoDollars,
    /// Input read from the prompt cache.
    pub cache_read: PicoDollars,
    /// Input written to the prompt cache for five minutes.
    pub cache_write: PicoDollars,
    /// Input written to the prompt cache for an hour.
    pub cache_write_1h: PicoDollars,
    /// Audio input.
    pub audio_input: PicoDollars,
    /// Output that is of no other kind.
    pub output: PicoDollars,
    /// Output spent on thinking.
    pub reasoning: PicoDollars,
    /// Audio output.
    pub audio_output: PicoDollars,
    /// Searches the provider ran.
    pub web_search: PicoDollars,
    /// The charge for the call as such.
    pub request: PicoDollars,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> PicoDollars {
        [self.prompt(), self.completion(), self.web_search, self.request].into_iter().sum()
    }

    /// What the prompt cost: every kind of input token.
    pub fn prompt(&self) -> PicoDollars {
        [self.input, self.cache_read, self.cache_write, self.cache_write_1h, self.audio_input]
            .into_iter()
            .sum()
    }

    /// What the answer cost: every kind of output token.
    pub fn completion(&self) -> PicoDollars {
        [self.output, self.reasoning, self.audio_output].into_iter().sum()
    }
}

/// What a call cost.
///
/// Each input token is billed once. The kinds are taken out of `prompt_tokens` in this order, each
/// at most what is left: cache reads, one-hour writes, five-minute writes, audio; the rest is plain
/// input. Out of `completion_tokens`: thinking, then audio, then plain output. So a provider that
/// reports more cached tokens than tokens neither underflows nor makes the call dearer than its
/// totals; and where kinds overlap (cached audio) the overlap is billed as cached.
pub fn cost(usage: &Usage, price: &Price, tier: Tier) -> Cost {
    let rates = price.rates(tier, usage.prompt_tokens);

    let mut prompt = usage.prompt_tokens;
    let cache_read = take(&mut prompt, usage.cache_read_tokens);
    let cache_write_1h = take(&mut prompt, usage.cache_write_1h_tokens);
    let cache_write = take(&mut prompt, usage.cache_write_tokens);
    let audio_input = take(&mut prompt, usage.audio_prompt_tokens);

    let mut completion = usage.completion_tokens;
    let reasoning = take(&mut completion, usage.reasoning_tokens);
    let audio_output = take(&mut completion, usage.audio_completion_tokens);

    Cost {
        input: rates.input.times(prompt),
        cache_read: rates.cache_read.times(cache_read),
        cache_write: rates.cache_write.times(cache_write),
        cache_write_1h: rates.cache_write_1h.times(cache_write_1h),
        audio_input: rates.audio_input.times(audio_input),
        output: rates.output.times(completion),
        reasoning: rates.reasoning.times(reasoning),
        audio_output: rates.audio_output.times(audio_output),
        web_search: price.web_search.times(usage.web_searches),
        request: price.per_request,
    }
}

/// Takes `wanted` out of what is left, or all that is left.
fn take(left: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

/// The most a call can cost that has up to so many prompt tokens and answers with up to so many:
/// every token of the dearest kind there is, at every threshold within reach, in `tier` or in the
/// standard tier, for a provider may serve a call there although another was asked for.
///
/// Web searches are not in it, for nothing here bounds their number: add [`Price::web_search`]
/// times the number allowed.
pub fn worst_case(
    prompt_tokens: u64,
    max_output_tokens: u64,
    price: &Price,
    tier: Tier,
) -> PicoDollars {
    let mut worst = PicoDollars::ZERO;
    for tier in [tier, Tier::Standard] {
        let mut consider = |prompt: u64| {
            let rates = price.rates(tier, prompt);
            let input = rates
                .input
                .max(rates.cache_read)
                .max(rates.cache_write)
                .max(rates.cache_write_1h)
                .max(rates.audio_input);
            let output = rates.output.max(rates.reasoning).max(rates.audio_output);
            let call = input.times(prompt).saturating_add(output.times(max_output_tokens));
            worst = worst.max(call);
        };
        consider(prompt_tokens);
        // Above a threshold may be cheaper than just below it.
        price.thresholds().filter(|&above| above < prompt_tokens).for_each(&mut consider);
    }
    worst.saturating_add(price.per_request)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A price list, written as LiteLLM's keys and dollars.
    fn price(stated: &[(&str, &str)]) -> Price {
        let mut price = Price::default();
        for (key, dollars) in stated {
            assert!(price.set(key, dollars.parse().expect(dollars)), "{key}");
        }
        price
    }

    fn sonnet() -> Price {
        price(&[
            ("input_cost_per_token", "3e-06"),
            ("output_cost_per_token", "1.5e-05"),
            ("cache_read_input_token_cost", "3e-07"),
            ("cache_creation_input_token_cost", "3.75e-06"),
            ("cache_creation_input_token_cost_above_1hr", "6e-06"),
            ("input_cost_per_token_batches", "1.5e-06"),
            ("output_cost_per_token_batches", "7.5e-06"),
            ("input_cost_per_token_above_200k_tokens", "6e-06"),
            ("output_cost_per_token_above_200k_tokens", "2.25e-05"),
        ])
    }

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens, ..Usage::default() }
    }

    /// The call's total must be these dollars.
    #[track_caller]
    fn check(usage: Usage, price: &Price, tier: Tier, dollars: &str) {
        assert_eq!(cost(&usage, price, tier).total().to_string(), dollars);
    }

    #[test]
    fn input_and_output_are_billed_by_the_token() {
        check(usage(1000, 500), &sonnet(), Tier::Standard, "0.0105");
        check(usage(0, 0), &sonnet(), Tier::Standard, "0");
        check(usage(1, 0), &sonnet(), Tier::Standard, "0.000003");
    }

    #[test]
    fn cached_input_is_billed_at_its_own_rates_and_not_as_input_too() {
        let usage = Usage {
            cache_read_tokens: 700,
            cache_write_tokens: 100,
            cache_write_1h_tokens: 50,
            ..usage(1000, 10)
        };
        let cost = cost(&usage, &sonnet(), Tier::Standard);
        assert_eq!(cost.input.to_string(), "0.00045");
        assert_eq!(cost.cache_read.to_string(), "0.00021");
        assert_eq!(cost.cache_write.to_string(), "0.000375");
        assert_eq!(cost.cache_write_1h.to_string(), "0.0003");
        assert_eq!(cost.prompt().to_string(), "0.001335");
        assert_eq!(cost.completion().to_string(), "0.00015");
        assert_eq!(cost.total().to_string(), "0.001485");
    }

    #[test]
    fn kinds_without_a_rate_cost_what_the_general_kind_does() {
        let price = price(&[("input_cost_per_token", "2e-06"), ("output_cost_per_token", "8e-06")]);
        let usage = Usage {
            cache_read_tokens: 1,
            cache_write_tokens: 1,
            cache_write_1h_tokens: 1,
            audio_prompt_tokens: 1,
            reasoning_tokens: 1,
            audio_completion_tokens: 1,
            ..usage(10, 10)
        };
        check(usage, &price, Tier::Standard, "0.0001");
    }

    #[test]
    fn an_hours_cache_write_falls_back_to_the_five_minute_rate() {
        let price = price(&[
            ("input_cost_per_token", "1e-06"),
            ("cache_creation_input_token_cost", "1.25e-06"),
        ]);
        let usage = Usage { cache_write_1h_tokens: 4, ..usage(4, 0) };
        check(usage, &price, Tier::Standard, "0.000005");
    }

    #[test]
    fn the_long_context_rates_hold_for_all_tokens_once_the_threshold_is_passed() {
        check(usage(200_000, 1000), &sonnet(), Tier::Standard, "0.615");
        check(usage(200_001, 1000), &sonnet(), Tier::Standard, "1.222506");
    }

    #[test]
    fn a_rate_not_given_above_the_threshold_stays_at_its_base() {
        let usage = Usage { cache_read_tokens: 200_001, ..usage(200_001, 0) };
        check(usage, &sonnet(), Tier::Standard, "0.0600003");
    }

    #[test]
    fn the_highest_threshold_passed_counts() {
        let bands = price(&[
            ("input_cost_per_token", "1e-06"),
            ("input_cost_per_token_above_32k_tokens", "2e-06"),
            ("input_cost_per_token_above_128k_tokens", "4e-06"),
        ]);
        check(usage(32_000, 0), &bands, Tier::Standard, "0.032");
        check(usage(32_001, 0), &bands, Tier::Standard, "0.064002");
        check(usage(128_000, 0), &bands, Tier::Standard, "0.256");
        check(usage(128_001, 0), &bands, Tier::Standard, "0.512004");
        assert_eq!(bands.thresholds().collect::<Vec<_>>(), [128_000, 32_000]);
    }

    #[test]
    fn batch_is_billed_at_batch_rates_and_what_has_none_at_the_standard_rate() {
        check(usage(1000, 500), &sonnet(), Tier::Batch, "0.00525");
        let cached = Usage { cache_read_tokens: 1000, ..usage(1000, 0) };
        check(cached, &sonnet(), Tier::Batch, "0.0003");
        check(usage(1000, 500), &sonnet(), Tier::Priority, "0.0105");
    }

    #[test]
    fn a_tier_without_long_context_rates_is_billed_at_the_standard_ones() {
        check(usage(300_000, 0), &sonnet(), Tier::Batch, "1.8");
        let mut price = sonnet();
        assert!(
            price.set("input_cost_per_token_above_200k_tokens_batches", PicoDollars(3_000_000))
        );
        check(usage(300_000, 0), &price, Tier::Batch, "0.9");
        check(usage(300_000, 0), &price, Tier::Standard, "1.8");
    }

    #[test]
    fn thinking_is_part_of_the_output_and_may_have_its_own_rate() {
        let price = price(&[
            ("output_cost_per_token", "1.2e-06"),
            ("output_cost_per_reasoning_token", "4e-06"),
        ]);
        let usage = Usage { reasoning_tokens: 60, ..usage(0, 100) };
        let cost = cost(&usage, &price, Tier::Standard);
        assert_eq!((cost.output.0, cost.reasoning.0), (48_000_000, 240_000_000));
    }

    #[test]
    fn audio_has_its_own_rates_both_ways() {
        let price = price(&[
            ("input_cost_per_token", "2.5e-06"),
            ("output_cost_per_token", "1e-05"),
            ("input_cost_per_audio_token", "4e-05"),
            ("output_cost_per_audio_token", "8e-05"),
        ]);
        let usage =
            Usage { audio_prompt_tokens: 80, audio_completion_tokens: 30, ..usage(100, 50) };
        check(usage, &price, Tier::Standard, "0.00585");
    }

    #[test]
    fn requests_and_searches_are_charged_apiece() {
        let mut price = price(&[("input_cost_per_query", "0.002")]);
        price.web_search = "0.01".parse().expect("a price");
        check(Usage { web_searches: 3, ..usage(10, 10) }, &price, Tier::Standard, "0.032");
    }

    #[test]
    fn sub_counts_beyond_the_total_are_clamped_in_the_documented_order() {
        let usage = Usage {
            cache_read_tokens: 80,
            cache_write_1h_tokens: 15,
            cache_write_tokens: 99,
            audio_prompt_tokens: 99,
            reasoning_tokens: u64::MAX,
            audio_completion_tokens: 7,
            ..usage(100, 10)
        };
        let cost = cost(&usage, &sonnet(), Tier::Standard);
        let sonnet = sonnet().rates(Tier::Standard, 100);
        assert_eq!(cost.cache_read, sonnet.cache_read.times(80));
        assert_eq!(cost.cache_write_1h, sonnet.cache_write_1h.times(15));
        assert_eq!(cost.cache_write, sonnet.cache_write.times(5));
        assert_eq!((cost.audio_input, cost.input), (PicoDollars::ZERO, PicoDollars::ZERO));
        assert_eq!(cost.reasoning, sonnet.output.times(10));
        assert_eq!((cost.audio_output, cost.output), (PicoDollars::ZERO, PicoDollars::ZERO));
    }

    #[test]
    fn absurd_counts_saturate() {
        let usage = Usage { web_searches: u64::MAX, ..usage(u64::MAX, u64::MAX) };
        assert_eq!(cost(&usage, &sonnet(), Tier::Standard).total(), PicoDollars::MAX);
        assert_eq!(worst_case(u64::MAX, u64::MAX, &sonnet(), Tier::Standard), PicoDollars::MAX);
    }

    #[test]
    fn an_empty_price_is_free_and_a_fee_is_not() {
        assert!(Price::default().is_free());
        assert!(Price::new(PicoDollars::ZERO, PicoDollars::ZERO).is_free());
        assert!(!price(&[("input_cost_per_request", "0.005")]).is_free());
        assert!(!price(&[("input_cost_per_token_priority", "1e-12")]).is_free());
    }

    #[test]
    fn litellm_keys_are_read_with_threshold_and_tier() {
        #[track_caller]
        fn check(key: &str, expect: Option<(Tier, u64, Rate)>) {
            assert_eq!(parse_key(key), expect, "{key}");
        }
        check("input_cost_per_token", Some((Tier::Standard, 0, Rate::Input)));
        check("output_cost_per_token_batches", Some((Tier::Batch, 0, Rate::Output)));
        check(
            "cache_read_input_token_cost_above_272k_tokens_flex",
            Some((Tier::Flex, 272_000, Rate::CacheRead)),
        );
        check(
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
            Some((Tier::Standard, 200_000, Rate::CacheWrite1h)),
        );
        check(
            "cache_creation_input_token_cost_above_1hr",
            Some((Tier::Standard, 0, Rate::CacheWrite1h)),
        );
        check("input_cost_per_audio_token_priority", Some((Tier::Priority, 0, Rate::AudioInput)));
        check("input_cost_per_token_cache_hit", Some((Tier::Standard, 0, Rate::CacheRead)));
        check("input_cost_per_image", None);
        check("input_cost_per_token_above_k_tokens", None);
        check("input_cost_per_token_above_+1k_tokens", None);
        check("input_cost_per_token_above_99999999999999999999k_tokens", None);
        check("input_cost_per_token_priority_flex", None);
        check("", None);
    }

    #[test]
    fn decimal_text_is_read_exactly() {
        #[track_caller]
        fn check(text: &str, expect: Result<u64, AmountError>) {
            assert_eq!(text.parse().map(|PicoDollars(amount)| amount), expect, "{text}");
        }
        check("2.5e-06", Ok(2_500_000));
        check("0.0000025", Ok(2_500_000));
        check("1E-7", Ok(100_000));
        check("+.5", Ok(500_000_000_000));
        check("3.", Ok(3_000_000_000_000));
        check("0", Ok(0));
        check("-0.0", Ok(0));
        check("0e999999999999999999999", Ok(0));
        check("1e-12", Ok(1));
        check("1000e-15", Ok(1));
        check("18446744.073709551615", Ok(u64::MAX));
        check("18446744.073709551616", Err(AmountError::TooMuch));
        check("1e8", Err(AmountError::TooMuch));
        check("1e999999999999999999999", Err(AmountError::TooMuch));
        check("1e-13", Err(AmountError::TooFine));
        check("1e-999999999999999999999", Err(AmountError::TooFine));
        check("1.41953125E-7", Err(AmountError::TooFine));
        check("-1", Err(AmountError::Negative));
        for text in ["", ".", "e5", "1e", "1e+", "1 ", " 1", "0x1", "1_000", "1,5", "--1", "nan"] {
            check(text, Err(AmountError::NotANumber));
        }
    }

    #[test]
    fn rounding_up_ignores_a_floats_noise_and_nothing_else() {
        #[track_caller]
        fn check(text: &str, expect: u64) {
            assert_eq!(PicoDollars::parse_rounding_up(text), Ok(PicoDollars(expect)), "{text}");
        }
        check("1.0000000000000001E-7", 100_000);
        check("9.499999999999999E-7", 950_000);
        check("0.0000029999900000000002", 2_999_990);
        check("9.9999999999999999e-7", 1_000_000);
        check("1.41953125E-7", 141_954);
        check("0.0000011428571428571428", 1_142_858);
        check("1e-15", 1);
        check("2.5e-06", 2_500_000);
        assert_eq!(PicoDollars::parse_rounding_up("18446744.0737096"), Err(AmountError::TooMuch));
    }

    #[test]
    fn dollars_are_printed_exactly() {
        assert_eq!(PicoDollars(72_500_000).to_string(), "0.0000725");
        assert_eq!(PicoDollars(1).to_string(), "0.000000000001");
        assert_eq!(PicoDollars(3_000_000_000_000).to_string(), "3");
        assert_eq!(PicoDollars::ZERO.to_string(), "0");
        assert_eq!(PicoDollars::MAX.to_string(), "18446744.073709551615");
        // A precision never cuts digits of money off.
        assert_eq!(format!("{:.2}", PicoDollars(72_500_000)), "0.0000725");
        assert!((PicoDollars(72_500_000).as_dollars() - 0.000_072_5).abs() < 1e-18);
    }

    #[test]
    fn service_tiers_without_a_price_of_their_own_are_standard() {
        assert_eq!(Tier::from_service_tier("flex"), Tier::Flex);
        assert_eq!(Tier::from_service_tier("default"), Tier::Standard);
        assert_eq!(Tier::from_service_tier(""), Tier::Standard);
    }

    /// Any tier of a list; any usage is made of counts up to a million.
    fn any_tier() -> impl Strategy<Value = Tier> {
        prop::sample::select(Tier::ALL.to_vec())
    }

    fn any_price() -> impl Strategy<Value = Price> {
        let amount = prop_oneof![Just(0), 0..200_000_000_u64];
        let stated = (
            any_tier(),
            prop::sample::select(vec![0, 0, 1000, 128_000]),
            prop::sample::select(Rate::ALL.to_vec()),
            amount,
        );
        (prop::collection::vec(stated, 0..20), 0..1_000_000_u64, 0..1_000_000_u64).prop_map(
            |(stated, per_request, web_search)| {
                let mut price = Price {
                    per_request: PicoDollars(per_request),
                    web_search: PicoDollars(web_search),
                    ..Price::default()
                };
                for (tier, above, rate, amount) in stated {
                    price.state(tier, above, rate, PicoDollars(amount));
                }
                price
            },
        )
    }

    fn any_usage() -> impl Strategy<Value = Usage> {
        let count = || prop_oneof![Just(0), 0..1200_u64, 0..1_000_000_u64];
        prop::array::uniform9(count()).prop_map(|counts| Usage {
            prompt_tokens: counts[0],
            completion_tokens: counts[1],
            cache_read_tokens: counts[2],
            cache_write_tokens: counts[3],
            cache_write_1h_tokens: counts[4],
            audio_prompt_tokens: counts[5],
            audio_completion_tokens: counts[6],
            reasoning_tokens: counts[7],
            web_searches: counts[8],
            ..Usage::default()
        })
    }

    /// The formula once more, token by token and without cleverness.
    fn naive(usage: &Usage, price: &Price, tier: Tier) -> u128 {
        let stated = |rate| {
            let mut found = None;
            for above in [0, 1000, 128_000] {
                if above == 0 || usage.prompt_tokens > above {
                    for tier in [Tier::Standard, tier] {
                        found = price.stated(tier, above, rate).or(found);
                    }
                }
            }
            found.map(|amount| u128::from(amount.0))
        };
        let input = stated(Rate::Input).unwrap_or(0);
        let output = stated(Rate::Output).unwrap_or(0);
        let write = stated(Rate::CacheWrite).unwrap_or(input);
        let kinds = [
            (usage.cache_read_tokens, stated(Rate::CacheRead).unwrap_or(input)),
            (usage.cache_write_1h_tokens, stated(Rate::CacheWrite1h).unwrap_or(write)),
            (usage.cache_write_tokens, write),
            (usage.audio_prompt_tokens, stated(Rate::AudioInput).unwrap_or(input)),
            (u64::MAX, input),
        ];
        let mut total = 0;
        let mut left = usage.prompt_tokens;
        for (count, rate) in kinds {
            let count = count.min(left);
            left -= count;
            total += u128::from(count) * rate;
        }
        let kinds = [
            (usage.reasoning_tokens, stated(Rate::Reasoning).unwrap_or(output)),
            (usage.audio_completion_tokens, stated(Rate::AudioOutput).unwrap_or(output)),
            (u64::MAX, output),
        ];
        let mut left = usage.completion_tokens;
        for (count, rate) in kinds {
            let count = count.min(left);
            left -= count;
            total += u128::from(count) * rate;
        }
        total
            + u128::from(price.per_request.0)
            + u128::from(price.web_search.0) * u128::from(usage.web_searches)
    }

    proptest! {
        #[test]
        fn printing_and_reading_an_amount_is_a_round_trip(amount: u64) {
            let amount = PicoDollars(amount);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn an_exponent_means_the_same_as_moving_the_point(
            digits in 0..10_000_u64, shift in 0..=12_usize
        ) {
            let plain = PicoDollars(digits * 10_u64.pow(u32::try_from(12 - shift).expect("small")));
            let written = format!("{digits}e-{shift:02}");
            prop_assert_eq!(written.parse(), Ok(plain));
            prop_assert_eq!(PicoDollars::parse_rounding_up(&written), Ok(plain));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[-+]?[0-9.]{0,30}[eE]?[-+]?[0-9]{0,20}") {
            let exact = text.parse::<PicoDollars>();
            let rounded = PicoDollars::parse_rounding_up(&text);
            if exact == Err(AmountError::NotANumber) {
                prop_assert_eq!(rounded, exact);
            }
        }

        #[test]
        fn the_items_add_up_to_the_total_and_to_the_naive_formula(
            usage in any_usage(), price in any_price(), tier in any_tier()
        ) {
            let cost = cost(&usage, &price, tier);
            let items = [
                cost.input, cost.cache_read, cost.cache_write, cost.cache_write_1h,
                cost.audio_input, cost.output, cost.reasoning, cost.audio_output,
                cost.web_search, cost.request,
            ];
            let sum: u128 = items.iter().map(|item| u128::from(item.0)).sum();
            prop_assert_eq!(sum, u128::from(cost.total().0));
            prop_assert_eq!(sum, naive(&usage, &price, tier));
        }

        #[test]
        fn more_tokens_never_cost_less_where_long_prompts_are_not_cheaper(
            usage in any_usage(), more in 0..300_000_u64, price in any_price(), tier in any_tier()
        ) {
            // Without thresholds, and with the same rates doubled above one.
            let mut flat = Price { sheets: Vec::new(), ..price.clone() };
            for sheet in price.sheets.iter().filter(|sheet| sheet.above == 0) {
                for rate in Rate::ALL {
                    if let Some(amount) = sheet.stated[rate as usize] {
                        flat.state(sheet.tier, 0, rate, amount);
                    }
                }
            }
            let mut doubled = flat.clone();
            for sheet in &flat.sheets {
                for rate in Rate::ALL {
                    if let Some(amount) = sheet.stated[rate as usize] {
                        doubled.state(sheet.tier, 128_000, rate, amount.times(2));
                    }
                }
            }
            for price in [flat, doubled] {
                let before = cost(&usage, &price, tier).total();
                for usage in [
                    Usage { prompt_tokens: usage.prompt_tokens + more, ..usage },
                    Usage { completion_tokens: usage.completion_tokens + more, ..usage },
                    Usage { web_searches: usage.web_searches + more, ..usage },
                ] {
                    prop_assert!(cost(&usage, &price, tier).total() >= before);
                }
            }
        }

        #[test]
        fn no_call_within_the_bounds_costs_more_than_the_worst_case(
            usage in any_usage(), price in any_price(), tier in any_tier(),
            room in 0..1000_u64, standard: bool
        ) {
            let usage = Usage { web_searches: 0, ..usage };
            let bound = worst_case(
                usage.prompt_tokens + room, usage.completion_tokens + room, &price, tier
            );
            let served = if standard { Tier::Standard } else { tier };
            prop_assert!(cost(&usage, &price, served).total() <= bound);
        }
    }
}
