//! What a model costs.

use tollway_wire::price::{PicoDollars, Tier};

use super::*;

#[track_caller]
fn check(params: &str, input: &str, output: &str) {
    let config = config(&with_params(params));
    let rates = only(&config, "m").price.as_ref().unwrap().rates(Tier::Standard, 0);
    let expect: (PicoDollars, PicoDollars) = (input.parse().unwrap(), output.parse().unwrap());
    assert_eq!((rates.input, rates.output), expect);
}

#[test]
fn prices_are_the_tables_or_the_configs_exactly() {
    check("model: openai/gpt-4o", "0.0000025", "0.00001");
    check(
        "model: openai/mine, input_cost_per_token: 2.5e-06, output_cost_per_token: 0.00001",
        "0.0000025",
        "0.00001",
    );
    check("model: openai/gpt-4o, input_cost_per_token: 1e-6", "0.000001", "0.00001");
    check("model: openai/mine, input_cost_per_token: 0, output_cost_per_token: 0", "0", "0");
    check("model: ollama/anything", "0", "0");
    check("model: demo/anything", "0", "0");
}

#[test]
fn a_whole_price_of_zero_is_free_also_for_a_model_of_the_table() {
    let text =
        with_params("model: openai/gpt-4o, input_cost_per_token: 0, output_cost_per_token: 0");
    assert!(only(&config(&text), "m").price.as_ref().unwrap().is_free());
}

#[test]
fn a_base_model_lends_its_price_and_limits() {
    for base_model in ["gpt-4o", "openai/gpt-4o"] {
        let text = format!(
            "{}  model_info: {{base_model: {base_model}}}\n",
            with_params("model: openai/mine")
        );
        let deployment = only(&config(&text), "m");
        assert!(!deployment.price.as_ref().unwrap().is_free());
        assert_eq!(deployment.max_output_tokens, Some(16_384));
        assert_eq!(&*deployment.model, "mine");
    }
}

#[test]
fn a_model_without_a_price_is_a_mistake_that_names_the_fields() {
    mistakes(
        &with_params("model: openai/mine"),
        &["litellm_params.model: `mine` is not in the price table: set `input_cost_per_token` \
               and `output_cost_per_token` in litellm_params (dollars; 0 declares it free)"],
    );
    mistakes(
        &with_params("model: openai/mine, input_cost_per_token: 0"),
        &["only some of the prices are stated"],
    );
    let text =
        format!("{}  model_info: {{base_model: other}}\n", with_params("model: openai/mine"));
    mistakes(&text, &["`other` is not in the price table"]);
}

#[test]
fn an_embedding_needs_no_price_of_output() {
    let params = with_params("model: openai/mine, input_cost_per_token: 1e-7");
    let config = config(&format!("{params}  model_info: {{mode: embedding}}\n"));
    let group = config.directory.resolve("m").unwrap();
    assert_eq!(group.mode.as_deref(), Some("embedding"));
}

#[test]
fn a_price_that_is_no_number_is_a_mistake() {
    let text =
        with_params("model: openai/gpt-4o, input_cost_per_token: -1, output_cost_per_token: x");
    mistakes(
        &text,
        &[
            "input_cost_per_token: is a price cannot be negative",
            "output_cost_per_token: is not a decimal number",
        ],
    );
}
