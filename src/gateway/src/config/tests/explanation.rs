//! What `tollway check --model` says.

use super::*;

#[test]
fn a_model_is_explained_from_route_to_callers() {
    let config = config(include_str!("../../../../../conf/full.yaml"));
    let text = config.explain("gpt-4").unwrap();
    for part in [
        "gpt-4 means gpt-4o",
        "deployment openai/gpt-4o (model_list[0])",
        "at: https://llm.example.com/v1",
        "id: openai-main",
        "weight: 3 (75 % of the calls)",
        "price: $2.5 in, $10 out, $1.25 cached",
        "$2 in, $8 out, $1 cached",
        "above 200000 prompt tokens $4 in",
        "limits: 500 requests a minute, 200000 tokens a minute, 50 at once",
        "fallbacks: claude, then gpt-4.1",
        "the master key, ci (60 requests a minute, 100000 tokens a minute, 5 at once, 10 requests a minute",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let text = config.explain("anthropic/unheard-of").unwrap();
    assert!(text.contains("price: not known"), "{text}");
    assert!(config.explain("demo").unwrap().contains("price: free"));
    let error = config.explain("gpt-4p").unwrap_err();
    assert_eq!(error, "there is no model `gpt-4p`; did you mean `gpt-4`?");
}
