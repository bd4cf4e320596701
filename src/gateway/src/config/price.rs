//! What a deployment costs: as the config states it, as its `base_model` does, or as the table has
//! it.

use tollway_providers::prices::ModelInfo;
use tollway_providers::{Provider, prices};
use tollway_wire::price::{PicoDollars, Price, Rate};

/// What is known of a deployment's model.
pub(super) struct Known {
    pub(super) price: Price,
    /// What the table has on it.
    pub(super) info: Option<ModelInfo>,
}

/// Why a model has no price. The fields to set are named in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PriceError {
    #[error(
        "`{model}` is not in the price table: set `input_cost_per_token` and \
         `output_cost_per_token` in litellm_params (dollars; 0 declares it free), or \
         `base_model` in model_info"
    )]
    Unknown { model: String },
    #[error(
        "`{model}` is in the price table without a price per token: set `input_cost_per_token` and \
         `output_cost_per_token` in litellm_params (dollars; 0 declares it free)"
    )]
    OtherUnits { model: String },
    #[error(
        "only some of the prices are stated and `{model}` is not in the price table: set both \
         `input_cost_per_token` and `output_cost_per_token` (dollars; 0 declares it free)"
    )]
    Partial { model: String },
}

/// Finds the price. `stated` are the config's own, under LiteLLM's keys: together they are the
/// whole price list once they state input and output; before that they replace what the table has.
pub(super) fn find(
    provider: &dyn Provider,
    model: &str,
    base_model: Option<&str>,
    mode: Option<&str>,
    stated: &[(String, PicoDollars)],
) -> Result<Known, PriceError> {
    let info = match base_model {
        Some(base_model) => find_base(provider, base_model),
        None => prices::find(provider.name(), model),
    };
    let table = info.as_ref().and_then(|info| info.price.clone());
    let priced = || base_model.unwrap_or(model).to_owned();
    if !stated.is_empty() {
        let states = |rate: Rate| stated.iter().any(|(key, _)| key == rate.key());
        let per_request = stated.iter().any(|(key, _)| {
            matches!(key.as_str(), "input_cost_per_request" | "input_cost_per_query")
        });
        let mode = mode.or(info.as_ref().map(|info| info.mode));
        // These have no output to pay for.
        let input_only = matches!(mode, Some("embedding" | "rerank" | "moderation"));
        let whole = states(Rate::Input) && (states(Rate::Output) || input_only) || per_request;
        let mut price = match table {
            _ if whole => Price::default(),
            Some(table) => table,
            None => return Err(PriceError::Partial { model: priced() }),
        };
        for (key, amount) in stated {
            let known = price.set(key, *amount);
            debug_assert!(known, "the reader takes prices under known keys only");
        }
        return Ok(Known { price, info });
    }
    let price = match (table, provider.is_free()) {
        (Some(price), _) => price,
        (None, true) => Price::default(),
        (None, false) if info.is_some() => return Err(PriceError::OtherUnits { model: priced() }),
        (None, false) => return Err(PriceError::Unknown { model: priced() }),
    };
    Ok(Known { price, info })
}

/// `base_model` is a name of LiteLLM's table, with its provider or without.
fn find_base(provider: &dyn Provider, base_model: &str) -> Option<ModelInfo> {
    let named = || {
        let (provider, model) = base_model.split_once('/')?;
        prices::find(provider, model)
    };
    let inferred = || prices::find(prices::infer_provider(base_model)?, base_model);
    prices::find(provider.name(), base_model).or_else(named).or_else(inferred)
}
