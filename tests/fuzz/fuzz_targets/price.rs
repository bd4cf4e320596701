//! Amounts are read exactly, and what a call costs always adds up.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tollway_wire::price::{AmountError, PicoDollars, Price, Rate, Tier, cost, worst_case};
use tollway_wire::usage::Usage;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    text: &'a str,
    stated: Vec<(u8, u8, u8, u32)>,
    tier: u8,
    counts: [u32; 11],
    huge: bool,
}

fuzz_target!(|input: Input<'_>| {
    amount(input.text);
    let _ = Price::is_key(input.text);
    assert_eq!(Price::is_key(input.text), Price::default().set(input.text, PicoDollars(1)));

    let mut price = Price::default();
    for (tier, above, rate, amount) in input.stated {
        let tier = Tier::ALL[usize::from(tier) % Tier::ALL.len()];
        let rate = Rate::ALL[usize::from(rate) % Rate::ALL.len()];
        price.state(tier, u64::from(above) * 1_000, rate, PicoDollars(amount.into()));
        assert_eq!(
            price.stated(tier, u64::from(above) * 1_000, rate),
            Some(PicoDollars(amount.into()))
        );
    }
    let scale = if input.huge { u64::from(u32::MAX) } else { 1 };
    let [p, c, r, w, w1, ap, ac, t, s, ip, ic] = input.counts.map(|count| u64::from(count) * scale);
    let usage = Usage {
        prompt_tokens: p,
        completion_tokens: c,
        cache_read_tokens: r,
        cache_write_tokens: w,
        cache_write_1h_tokens: w1,
        audio_prompt_tokens: ap,
        audio_completion_tokens: ac,
        reasoning_tokens: t,
        web_searches: s,
        image_prompt_tokens: ip,
        image_completion_tokens: ic,
        ..Usage::default()
    };
    let tier = Tier::ALL[usize::from(input.tier) % Tier::ALL.len()];
    let cost = cost(&usage, &price, tier);
    let parts = [
        cost.input,
        cost.cache_read,
        cost.cache_write,
        cost.cache_write_1h,
        cost.audio_input,
        cost.output,
        cost.reasoning,
        cost.audio_output,
        cost.web_search,
        cost.request,
        cost.image_input,
        cost.image_output,
        cost.units,
    ];
    assert_eq!(cost.total(), parts.into_iter().sum());
    assert_eq!(price.is_free() && cost.total() != PicoDollars::ZERO, false);
    // What was reserved covers what it came to: of an honest count, searches apart.
    let sum = |counts: &[u64]| counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let honest = sum(&[r, w, w1, ap, ip]) <= p && sum(&[t, ac, ic]) <= c;
    if honest {
        let worst = worst_case(p, c, &price, tier);
        assert!(cost.total().saturating_sub(cost.web_search) <= worst, "{cost:?} over {worst}");
    }
});

fn amount(text: &str) {
    let exact = text.parse::<PicoDollars>();
    let rounded = PicoDollars::parse_rounding_up(text);
    match exact {
        Ok(amount) => {
            assert_eq!(amount.to_string().parse(), Ok(amount), "what is written can be read");
            assert_eq!(Some(Ok(amount)), by_hand(text).map(Ok::<_, ()>));
            if text.bytes().filter(u8::is_ascii_digit).count() <= 15 {
                assert_eq!(rounded, Ok(amount));
            }
        }
        Err(AmountError::TooFine) => {
            assert!(matches!(rounded, Ok(_) | Err(AmountError::TooMuch)), "{rounded:?}");
            assert_eq!(by_hand(text), None);
        }
        Err(error) => assert_eq!(rounded.err(), Some(error)),
    }
    // It is a number to Rust as well.
    if exact.is_ok() || exact == Err(AmountError::TooFine) {
        let number: f64 = text.parse().expect("a number");
        if let Ok(rounded) = rounded
            && number > 1e-9
        {
            let off = (rounded.as_dollars() - number).abs() / number;
            assert!(off < 2e-3, "{text} is not {rounded}");
        }
    }
}

/// Pico-dollars, by moving the point in the text; nothing if digits are left behind it.
fn by_hand(text: &str) -> Option<PicoDollars> {
    let text = text.trim_start_matches(['+', '-']);
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(PicoDollars::ZERO);
    }
    // An exponent beyond this moves every digit out of reach.
    let exponent: i64 = exponent.parse().ok().filter(|e: &i64| e.abs() < 100_000)?;
    let places = exponent + 12 - fraction.len() as i64;
    let moved = if places >= 0 {
        if places > 40 {
            return None;
        }
        format!("{digits}{}", "0".repeat(places as usize))
    } else {
        let cut = digits.len().saturating_sub(places.unsigned_abs() as usize);
        if digits[cut..].bytes().any(|digit| digit != b'0') {
            return None;
        }
        digits[..cut].to_owned()
    };
    moved.parse().ok().map(PicoDollars)
}
