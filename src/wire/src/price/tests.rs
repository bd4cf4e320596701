//! Prices, costs and amounts.

use proptest::prelude::*;

use super::list::parse_key;
use super::*;
use crate::usage::{Served, Usage};

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
fn sum_of_many_calls_has_no_long_prompt() {
    let mut bands = price(&[
        ("input_cost_per_token", "1e-06"),
        ("input_cost_per_token_above_32k_tokens", "2e-06"),
        ("input_cost_per_token_above_128k_tokens", "4e-06"),
    ]);
    let total = |calls| cost_of_calls(&usage(300_000, 0), calls, &bands, Tier::Standard).total();
    assert_eq!(total(10).to_string(), "0.3");
    assert_eq!(total(3).to_string(), "0.6");
    assert_eq!(total(0), total(1));
    assert_eq!(total(1).to_string(), "1.2");
    bands.per_request = PicoDollars(7);
    let calls = cost_of_calls(&Usage::default(), 3, &bands, Tier::Standard);
    assert_eq!(calls.total(), PicoDollars(21));
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
    assert!(price.set("input_cost_per_token_above_200k_tokens_batches", PicoDollars(3_000_000)));
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
fn thinking_in_a_tier_costs_what_output_does_there() {
    let price = price(&[
        ("output_cost_per_token", "2.5e-06"),
        ("output_cost_per_reasoning_token", "2.5e-06"),
        ("output_cost_per_token_priority", "4.5e-06"),
        ("output_cost_per_token_flex", "1.25e-06"),
        ("output_cost_per_reasoning_token_flex", "1e-06"),
    ]);
    let usage = Usage { reasoning_tokens: 80, ..usage(0, 100) };
    check(usage, &price, Tier::Standard, "0.00025");
    check(usage, &price, Tier::Priority, "0.00045");
    check(usage, &price, Tier::Flex, "0.000105");
}

#[test]
fn fast_is_the_priority_tier() {
    assert_eq!(Tier::from_service_tier("fast"), Tier::Priority);
}

#[test]
fn tier_that_served_the_call_is_billed_and_not_the_one_that_was_asked_for() {
    let price = price(&[
        ("input_cost_per_token", "1e-6"),
        ("input_cost_per_token_priority", "2e-6"),
        ("input_cost_per_token_flex", "5e-7"),
    ]);
    let served = |name| usage(1_000_000, 0).served(Served::in_tier(name));
    check(served(Some("default")), &price, Tier::Priority, "1");
    check(served(Some("priority")), &price, Tier::Standard, "2");
    check(served(Some("flex")), &price, Tier::Priority, "0.5");
    check(served(None), &price, Tier::Priority, "2");
}

#[test]
fn surcharges_are_for_tokens_alone_and_multiply() {
    let mut price = price(&[("input_cost_per_token", "1e-6"), ("input_cost_per_request", "0.5")]);
    price.web_search = PicoDollars(1_000_000_000_000);
    let served = |is_fast, is_us| {
        let usage = Usage { web_searches: 1, ..usage(1_000_000, 0) };
        usage.served(Served { is_fast, is_us, tier: None })
    };
    check(served(true, true), &price, Tier::Standard, "2.5");
    (price.fast_permille, price.us_permille) = (2_000, 1_100);
    check(served(false, false), &price, Tier::Standard, "2.5");
    check(served(true, false), &price, Tier::Standard, "3.5");
    check(served(false, true), &price, Tier::Standard, "2.6");
    check(served(true, true), &price, Tier::Standard, "3.7");
    let odd = price.surcharged(PicoDollars(1), Served { is_us: true, ..Served::default() });
    assert_eq!(odd, PicoDollars(2), "rounded up");
}

#[test]
fn audio_has_its_own_rates_both_ways() {
    let price = price(&[
        ("input_cost_per_token", "2.5e-06"),
        ("output_cost_per_token", "1e-05"),
        ("input_cost_per_audio_token", "4e-05"),
        ("output_cost_per_audio_token", "8e-05"),
    ]);
    let usage = Usage { audio_prompt_tokens: 80, audio_completion_tokens: 30, ..usage(100, 50) };
    check(usage, &price, Tier::Standard, "0.00585");
}

#[test]
fn requests_and_searches_are_charged_apiece() {
    let mut price = price(&[("input_cost_per_query", "0.002")]);
    price.web_search = "0.01".parse().expect("a price");
    check(Usage { web_searches: 3, ..usage(10, 10) }, &price, Tier::Standard, "0.032");
}

#[test]
fn a_ranking_is_charged_by_search_units() {
    let price = price(&[("input_cost_per_query", "0.002")]);
    check(Usage { search_units: 3, ..Usage::default() }, &price, Tier::Standard, "0.006");
    check(Usage::default(), &price, Tier::Standard, "0.002");
}

#[test]
fn images_are_charged_apiece_or_by_their_pixels() {
    let made = Usage { images: 2, pixels: 2 * 1024 * 1024, ..Usage::default() };
    let apiece = price(&[("output_cost_per_image", "0.04"), ("input_cost_per_image", "0.001")]);
    check(made, &apiece, Tier::Standard, "0.08");
    check(Usage { input_images: 3, ..made }, &apiece, Tier::Standard, "0.083");
    let odd_key = price(&[("input_cost_per_image", "0.167"), ("input_cost_per_pixel", "1e-7")]);
    check(Usage { input_images: 1, ..made }, &odd_key, Tier::Standard, "0.334");
    check(Usage { input_images: 1, ..Usage::default() }, &odd_key, Tier::Standard, "0.167");
    let by_pixel = price(&[("input_cost_per_pixel", "2e-08"), ("output_cost_per_pixel", "0")]);
    check(made, &by_pixel, Tier::Standard, "0.04194304");
}

#[test]
fn images_that_were_counted_in_tokens_are_not_charged_apiece() {
    let price = price(&[
        ("input_cost_per_token", "5e-06"),
        ("input_cost_per_image_token", "1e-05"),
        ("output_cost_per_token", "1e-05"),
        ("output_cost_per_image_token", "4e-05"),
        ("output_cost_per_image", "0.1"),
    ]);
    let tokens = Usage {
        image_prompt_tokens: 300,
        image_completion_tokens: 1000,
        images: 1,
        input_images: 1,
        ..usage(310, 1004)
    };
    // 10 and 300 in, 4 and 1000 out.
    check(tokens, &price, Tier::Standard, "0.04309");
    check(Usage { images: 1, ..usage(10, 0) }, &price, Tier::Standard, "0.10005");
}

#[test]
fn audio_is_charged_by_the_millisecond_and_speech_by_the_character() {
    let whisper =
        price(&[("input_cost_per_second", "0.0001"), ("output_cost_per_second", "0.0001")]);
    check(Usage { audio_ms: 12_345, ..Usage::default() }, &whisper, Tier::Standard, "0.0012345");
    // One part in a thousand of a price that is not whole thousands is rounded up.
    let groq = price(&[("input_cost_per_second", "3.083e-05")]);
    check(Usage { audio_ms: 1, ..Usage::default() }, &groq, Tier::Standard, "0.00000003083");
    let tts = price(&[("input_cost_per_character", "1.5e-05")]);
    check(Usage { characters: 200, ..Usage::default() }, &tts, Tier::Standard, "0.003");
    let both = price(&[("input_cost_per_token", "2e-06"), ("input_cost_per_second", "0.0001")]);
    check(Usage { audio_ms: 9000, ..usage(100, 0) }, &both, Tier::Standard, "0.0002");
    assert!(!tts.is_free());
    let much = Usage { audio_ms: u64::MAX, ..Usage::default() };
    assert!(cost(&much, &whisper, Tier::Standard).total() > PicoDollars(u64::MAX / 1_000_000));
    assert!(Price::is_key("output_cost_per_image") && !Price::is_key("ocr_cost_per_page"));
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
    prop::array::uniform11(count()).prop_map(|counts| Usage {
        prompt_tokens: counts[0],
        completion_tokens: counts[1],
        cache_read_tokens: counts[2],
        cache_write_tokens: counts[3],
        cache_write_1h_tokens: counts[4],
        audio_prompt_tokens: counts[5],
        audio_completion_tokens: counts[6],
        reasoning_tokens: counts[7],
        web_searches: counts[8],
        image_prompt_tokens: counts[9],
        image_completion_tokens: counts[10],
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
        (usage.image_prompt_tokens, stated(Rate::ImageInput).unwrap_or(input)),
        (u64::MAX, input),
    ];
    let mut total = 0;
    let mut left = usage.prompt_tokens;
    for (count, rate) in kinds {
        let count = count.min(left);
        left -= count;
        total += u128::from(count) * rate;
    }
    // What decides about output decides about thinking.
    let mut reasoning = None;
    for above in [0, 1000, 128_000] {
        if above == 0 || usage.prompt_tokens > above {
            for tier in [Tier::Standard, tier] {
                let stated = |rate| price.stated(tier, above, rate);
                reasoning = stated(Rate::Reasoning).or(stated(Rate::Output)).or(reasoning);
            }
        }
    }
    let kinds = [
        (usage.reasoning_tokens, reasoning.map_or(output, |amount| u128::from(amount.0))),
        (usage.audio_completion_tokens, stated(Rate::AudioOutput).unwrap_or(output)),
        (usage.image_completion_tokens, stated(Rate::ImageOutput).unwrap_or(output)),
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
            cost.image_input, cost.image_output, cost.units,
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
