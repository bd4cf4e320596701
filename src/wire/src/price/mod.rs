//! What a call costs: exact money, a model's price list, and the one formula that joins them.
//!
//! Money is whole pico-dollars (1e-12 $), so that a price per token is an integer and nothing is
//! lost by adding up. A price list is filled under the keys LiteLLM's users know
//! (`input_cost_per_token`, `cache_read_input_token_cost_above_200k_tokens_priority` ...), be it
//! from the compiled-in table or from a config.
//!
//! Left out for now: prices of video and by the page; cached images apart from cached text; OpenAI's
//! twelve-hour cache writes; off-peak hours; regional surcharges but Anthropic's for the
//! United States; sizes of search contexts; citations. [`Usage`] counts none of them.
//!
//! [`Usage`]: crate::usage::Usage

mod amount;
mod cost;
mod list;

pub use amount::{AmountError, PicoDollars};
pub use cost::{Cost, cost, cost_of_calls, worst_case};
pub use list::{Price, Rate, Rates, Tier, Unit};

#[cfg(test)]
mod tests;
