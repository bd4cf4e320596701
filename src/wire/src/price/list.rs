//! A model's price list.

use std::cmp::Reverse;

use super::PicoDollars;
use crate::usage::Served;

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
            // Anthropic's and OpenAI's word for it.
            "priority" | "fast" => Self::Priority,
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
    /// Audio input read from the cache. Kept for whoever counts it: [`Usage`](crate::usage::Usage) does not, and
    /// [`cost`](super::cost()) bills cached audio as any cached input.
    CachedAudioInput,
    /// Output spent on thinking.
    Reasoning,
    /// Image input.
    ImageInput,
    /// Image output.
    ImageOutput,
}

impl Rate {
    /// Every rate.
    pub const ALL: [Self; 11] = [
        Self::Input,
        Self::Output,
        Self::CacheRead,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::AudioInput,
        Self::AudioOutput,
        Self::CachedAudioInput,
        Self::Reasoning,
        Self::ImageInput,
        Self::ImageOutput,
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
            Self::ImageInput => "input_cost_per_image_token",
            Self::ImageOutput => "output_cost_per_image_token",
        }
    }
}

/// What is not tokens and can have a price apiece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// An image that is made.
    Image,
    /// An image that is sent.
    InputImage,
    /// A million pixels of images that are made. One pixel costs too little for whole pico-dollars.
    Megapixel,
    /// A second of audio that is listened to or spoken.
    AudioSecond,
    /// A character that is spoken.
    Character,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 5] =
        [Self::Image, Self::InputImage, Self::Megapixel, Self::AudioSecond, Self::Character];

    /// The unit of LiteLLM's key, and how many of what the key prices are one. LiteLLM bills audio by
    /// whichever of the two keys for seconds is there.
    fn of_key(key: &str) -> Option<(Self, u64)> {
        Some(match key {
            "output_cost_per_image" => (Self::Image, 1),
            "input_cost_per_image" => (Self::InputImage, 1),
            "input_cost_per_pixel" | "output_cost_per_pixel" => (Self::Megapixel, 1_000_000),
            "input_cost_per_second" | "output_cost_per_second" => (Self::AudioSecond, 1),
            "input_cost_per_character" => (Self::Character, 1),
            _ => return None,
        })
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
    /// Image input; as `input` where not stated.
    pub image_input: PicoDollars,
    /// Image output; as `output` where not stated.
    pub image_output: PicoDollars,
}

/// A model's price list: what is stated, by tier and prompt size. Empty means free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Highest threshold first, and within one threshold the standard tier last: the first sheet
    /// that applies and states a rate is the one that counts.
    pub(super) sheets: Vec<Sheet>,
    /// Charged once a call, whatever it holds (`input_cost_per_request`, `input_cost_per_query`); for
    /// a ranking once for each search unit.
    pub per_request: PicoDollars,
    /// Charged for each search the provider runs by itself.
    pub web_search: PicoDollars,
    /// What all tokens cost in Anthropic's fast mode, in thousandths of the list price. 0 where it has
    /// no price of its own.
    pub fast_permille: u64,
    /// The same of calls that are served in the United States alone.
    pub us_permille: u64,
    pub(super) units: [PicoDollars; Unit::ALL.len()],
}

/// The rates stated for one tier above one prompt size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sheet {
    pub(super) tier: Tier,
    /// Zero: whatever the prompt's size.
    pub(super) above: u64,
    pub(super) stated: [Option<PicoDollars>; Rate::ALL.len()],
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

    /// States the price of a unit, in place of what was stated before.
    pub fn state_unit(&mut self, unit: Unit, amount: PicoDollars) {
        self.units[unit as usize] = amount;
    }

    /// The price of a unit; zero where none is stated.
    pub fn unit(&self, unit: Unit) -> PicoDollars {
        self.units[unit as usize]
    }

    /// What is stated for exactly this, without any fallback.
    pub fn stated(&self, tier: Tier, above: u64, rate: Rate) -> Option<PicoDollars> {
        let sheet = self.sheets.iter().find(|sheet| sheet.tier == tier && sheet.above == above)?;
        sheet.stated[rate as usize]
    }

    /// States a rate under LiteLLM's key: a [`Rate::key`], then `_above_<N>k_tokens`, then
    /// `_batches`, `_flex`, `_priority` and so on; `input_cost_per_token_cache_hit`,
    /// `input_cost_per_request` and `input_cost_per_query` too, and those of a [`Unit`]. False if
    /// there is no such key.
    #[must_use = "an unknown key is somebody's mistake"]
    pub fn set(&mut self, key: &str, amount: PicoDollars) -> bool {
        if matches!(key, "input_cost_per_request" | "input_cost_per_query") {
            self.per_request = amount;
            return true;
        }
        if let Some((unit, count)) = Unit::of_key(key) {
            // Configs copied from LiteLLM's table state zero beside the key that counts.
            if amount != PicoDollars::ZERO {
                self.state_unit(unit, amount.times(count));
            }
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

    /// What tokens of this list price cost in a call that is served like this. Surcharges are
    /// multiplied (platform.claude.com, "Pricing", 2026-11), and rounded up.
    pub fn surcharged(&self, amount: PicoDollars, served: Served) -> PicoDollars {
        let permille = |applies: bool, permille: u64| match applies && permille > 0 {
            true => u128::from(permille),
            false => 1_000,
        };
        let factor = permille(served.is_fast, self.fast_permille)
            .saturating_mul(permille(served.is_us, self.us_permille));
        if factor == 1_000_000 {
            return amount;
        }
        let exact = u128::from(amount.0).saturating_mul(factor).div_ceil(1_000_000);
        PicoDollars(u64::try_from(exact).unwrap_or(u64::MAX))
    }

    /// Whether no call can cost anything.
    pub fn is_free(&self) -> bool {
        let zero = |amount: &PicoDollars| *amount == PicoDollars::ZERO;
        zero(&self.per_request)
            && zero(&self.web_search)
            && self.units.iter().all(zero)
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
        let mut stated = [None; Rate::ALL.len()];
        let mut reasoning = None;
        for sheet in self.sheets.iter().filter(|sheet| sheet.applies(tier, prompt_tokens)) {
            // Thinking costs what the sheet says that decides about output: a tier that states its
            // output alone means all of it, and no standard rate of thinking is in between.
            let [thinking, output] =
                [Rate::Reasoning, Rate::Output].map(|rate| sheet.stated[rate as usize]);
            reasoning = reasoning.or(thinking).or(output);
            for (have, rate) in stated.iter_mut().zip(sheet.stated) {
                *have = have.or(rate);
            }
        }
        let find = |rate: Rate| stated[rate as usize];
        let input = find(Rate::Input).unwrap_or_default();
        let output = find(Rate::Output).unwrap_or_default();
        let cache_write = find(Rate::CacheWrite).unwrap_or(input);
        let reasoning = reasoning.unwrap_or(output);
        Rates {
            input,
            output,
            cache_read: find(Rate::CacheRead).unwrap_or(input),
            cache_write,
            cache_write_1h: find(Rate::CacheWrite1h).unwrap_or(cache_write),
            audio_input: find(Rate::AudioInput).unwrap_or(input),
            audio_output: find(Rate::AudioOutput).unwrap_or(output),
            reasoning,
            image_input: find(Rate::ImageInput).unwrap_or(input),
            image_output: find(Rate::ImageOutput).unwrap_or(output),
        }
    }
}

/// Reads a key of LiteLLM's: `<rate>[_above_<N>k_tokens][_<tier>]`.
pub(super) fn parse_key(key: &str) -> Option<(Tier, u64, Rate)> {
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
