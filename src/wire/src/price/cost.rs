//! The one formula.

use crate::usage::Usage;

use super::{PicoDollars, Price, Tier, Unit};

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
    /// Image input.
    pub image_input: PicoDollars,
    /// Output that is of no other kind.
    pub output: PicoDollars,
    /// Output spent on thinking.
    pub reasoning: PicoDollars,
    /// Audio output.
    pub audio_output: PicoDollars,
    /// Image output.
    pub image_output: PicoDollars,
    /// Images, pixels, audio and characters that are billed as such and not as tokens.
    pub units: PicoDollars,
    /// Searches the provider ran.
    pub web_search: PicoDollars,
    /// The charge for the call as such.
    pub request: PicoDollars,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> PicoDollars {
        [self.prompt(), self.completion(), self.units, self.web_search, self.request]
            .into_iter()
            .sum()
    }

    /// What the prompt cost: every kind of input token.
    pub fn prompt(&self) -> PicoDollars {
        let cached = [self.cache_read, self.cache_write, self.cache_write_1h];
        cached.into_iter().chain([self.input, self.audio_input, self.image_input]).sum()
    }

    /// What the answer cost: every kind of output token.
    pub fn completion(&self) -> PicoDollars {
        [self.output, self.reasoning, self.audio_output, self.image_output].into_iter().sum()
    }
}

/// What a call cost.
///
/// Each input token is billed once. The kinds are taken out of `prompt_tokens` in this order, each
/// at most what is left: cache reads, one-hour writes, five-minute writes, audio, images; the rest is
/// plain input. Out of `completion_tokens`: thinking, then audio, images, then plain output. So a provider that
/// reports more cached tokens than tokens neither underflows nor makes the call dearer than its
/// totals; and where kinds overlap (cached audio) the overlap is billed as cached.
///
/// Where a list has prices for tokens and for what they stand for, the answer decides: an image that
/// was counted in tokens is not billed as an image, nor are seconds and characters of a call whose
/// tokens were counted.
///
/// `tier` is the one that was asked for. Where the answer names the tier it was served in, that one
/// is billed.
pub fn cost(usage: &Usage, price: &Price, tier: Tier) -> Cost {
    let rates = price.rates(usage.served.tier.unwrap_or(tier), usage.prompt_tokens);
    let tokens = |rate: PicoDollars, count: u64| price.surcharged(rate.times(count), usage.served);

    let mut prompt = usage.prompt_tokens;
    let cache_read = take(&mut prompt, usage.cache_read_tokens);
    let cache_write_1h = take(&mut prompt, usage.cache_write_1h_tokens);
    let cache_write = take(&mut prompt, usage.cache_write_tokens);
    let audio_input = take(&mut prompt, usage.audio_prompt_tokens);
    let image_input = take(&mut prompt, usage.image_prompt_tokens);

    let mut completion = usage.completion_tokens;
    let reasoning = take(&mut completion, usage.reasoning_tokens);
    let audio_output = take(&mut completion, usage.audio_completion_tokens);
    let image_output = take(&mut completion, usage.image_completion_tokens);

    Cost {
        input: tokens(rates.input, prompt),
        cache_read: tokens(rates.cache_read, cache_read),
        cache_write: tokens(rates.cache_write, cache_write),
        cache_write_1h: tokens(rates.cache_write_1h, cache_write_1h),
        audio_input: tokens(rates.audio_input, audio_input),
        image_input: tokens(rates.image_input, image_input),
        output: tokens(rates.output, completion),
        reasoning: tokens(rates.reasoning, reasoning),
        audio_output: tokens(rates.audio_output, audio_output),
        image_output: tokens(rates.image_output, image_output),
        units: units(usage, price),
        web_search: price.web_search.times(usage.web_searches),
        request: price.per_request.times(usage.search_units.max(1)),
    }
}

/// What a call cost besides its tokens.
fn units(usage: &Usage, price: &Price) -> PicoDollars {
    let (mut image, mut input_image) = (price.unit(Unit::Image), price.unit(Unit::InputImage));
    // LiteLLM's table has the price of many image models under the key of images that are sent.
    if image == PicoDollars::ZERO && usage.images > 0 {
        (image, input_image) = (input_image, PicoDollars::ZERO);
    }
    let made = match usage.image_completion_tokens {
        0 if image != PicoDollars::ZERO => image.times(usage.images),
        0 => part(price.unit(Unit::Megapixel), usage.pixels, 1_000_000),
        _ => PicoDollars::ZERO,
    };
    let sent = match usage.image_prompt_tokens {
        0 => input_image.times(usage.input_images),
        _ => PicoDollars::ZERO,
    };
    let rest = match usage.total_tokens() {
        0 => part(price.unit(Unit::AudioSecond), usage.audio_ms, 1000)
            .saturating_add(price.unit(Unit::Character).times(usage.characters)),
        _ => PicoDollars::ZERO,
    };
    made.saturating_add(sent).saturating_add(rest)
}

/// The price of `count` parts of something of which `whole` parts cost `price`, rounded up.
fn part(price: PicoDollars, count: u64, whole: u64) -> PicoDollars {
    let exact = u128::from(price.0) * u128::from(count);
    let rounded = exact.div_ceil(u128::from(whole));
    PicoDollars(u64::try_from(rounded).unwrap_or(u64::MAX))
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
/// Web searches are not in it, nor units and search units beyond the first, for nothing here bounds
/// their number: add [`Price::web_search`] times the number allowed, and [`cost`] of what the request
/// says of the others.
pub fn worst_case(
    prompt_tokens: u64,
    max_output_tokens: u64,
    price: &Price,
    tier: Tier,
) -> PicoDollars {
    let mut worst = PicoDollars::ZERO;
    let tiers: &[Tier] = match tier {
        Tier::Standard => &[Tier::Standard],
        tier => &[tier, Tier::Standard],
    };
    for &tier in tiers {
        let mut consider = |prompt: u64| {
            let rates = price.rates(tier, prompt);
            let input = rates
                .input
                .max(rates.cache_read)
                .max(rates.cache_write)
                .max(rates.cache_write_1h)
                .max(rates.audio_input)
                .max(rates.image_input);
            let output =
                rates.output.max(rates.reasoning).max(rates.audio_output).max(rates.image_output);
            let call = input.times(prompt).saturating_add(output.times(max_output_tokens));
            worst = worst.max(call);
        };
        consider(prompt_tokens);
        // Above a threshold may be cheaper than just below it.
        price.thresholds().filter(|&above| above < prompt_tokens).for_each(&mut consider);
    }
    worst.saturating_add(price.per_request)
}
