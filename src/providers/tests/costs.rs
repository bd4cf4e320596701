//! What calls cost, against figures that were reckoned apart from Tollway: `costs/cases.tsv`, a row a
//! case. `tests/tools/cost_cases.py` writes it from LiteLLM's own table by LiteLLM's rules.

use tollway_providers::prices;
use tollway_wire::price::{PicoDollars, Price, Tier, cost};
use tollway_wire::usage::Usage;

const CASES: &str = include_str!("costs/cases.tsv");

/// The price list of a model, or the one that is written in its place: `=key:dollars,...`.
fn price_of(provider: &str, model: &str) -> Result<Price, String> {
    let Some(stated) = model.strip_prefix('=') else {
        let info = prices::find(provider, model).ok_or("not in the table")?;
        return info.price.ok_or_else(|| "without a price".to_owned());
    };
    let mut price = Price::default();
    for pair in stated.split(',') {
        let (key, dollars) = pair.split_once(':').ok_or("no price")?;
        let amount = PicoDollars::parse_rounding_up(dollars).map_err(|error| error.to_string())?;
        if !price.set(key, amount) {
            return Err(format!("{key} is no price"));
        }
    }
    Ok(price)
}

fn usage_of(counts: &str) -> Result<Usage, String> {
    let mut usage = Usage::default();
    for pair in counts.split(' ') {
        let (name, count) = pair.split_once('=').ok_or("no count")?;
        match name {
            "tier" => usage.served.tier = Some(Tier::from_service_tier(count)),
            "speed" => usage.served.is_fast = count == "fast",
            "geo" => usage.served.is_us = count == "us",
            _ => {}
        }
        if matches!(name, "tier" | "speed" | "geo") {
            continue;
        }
        let field = match name {
            "prompt" => &mut usage.prompt_tokens,
            "completion" => &mut usage.completion_tokens,
            "read" => &mut usage.cache_read_tokens,
            "write" => &mut usage.cache_write_tokens,
            "write1h" => &mut usage.cache_write_1h_tokens,
            "reasoning" => &mut usage.reasoning_tokens,
            "audio_in" => &mut usage.audio_prompt_tokens,
            "audio_out" => &mut usage.audio_completion_tokens,
            "image_in" => &mut usage.image_prompt_tokens,
            "image_out" => &mut usage.image_completion_tokens,
            "searches" => &mut usage.web_searches,
            "queries" => &mut usage.search_units,
            "images" => &mut usage.images,
            "pixels" => &mut usage.pixels,
            "audio_ms" => &mut usage.audio_ms,
            "characters" => &mut usage.characters,
            _ => return Err(format!("{name} is not counted")),
        };
        *field = count.parse().map_err(|_| "not a number")?;
    }
    Ok(usage)
}

/// What a row's call costs, and what it should.
fn both(row: &str) -> Result<(u64, u64), String> {
    let columns: Vec<&str> = row.split('\t').collect();
    let [provider, model, tier, counts, expect] = columns[..] else {
        return Err("not five columns".to_owned());
    };
    let price = price_of(provider, model)?;
    let billed = cost(&usage_of(counts)?, &price, Tier::from_service_tier(tier)).total();
    Ok((billed.0, expect.parse().map_err(|_| "no amount")?))
}

#[test]
fn every_case_costs_what_was_reckoned_apart() {
    let rows = || CASES.lines().filter(|line| !line.starts_with('#'));
    let wrong: Vec<String> = rows()
        .filter_map(|row| match both(row) {
            Ok((billed, expect)) if billed == expect => None,
            Ok((billed, _)) => Some(format!("{row}: {billed}")),
            Err(error) => Some(format!("{row}: {error}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{} of them are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows().count() >= 300, "{}", rows().count());
}
