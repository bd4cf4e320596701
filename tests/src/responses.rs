//! What tests of the Responses API start with.

use serde_json::Value;

/// `claude` is translated; `gpt` has the Responses API itself.
pub const CONFIG: &str = "
model_list:
  - model_name: claude
    litellm_params: { model: anthropic/claude-haiku-4-5, api_key: $KEY, api_base: $SIM }
  - model_name: gpt
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
keys:
  - { alias: one, key: sk-one-1234567890 }
  - { alias: two, key: sk-two-1234567890 }
";
/// The first of two callers.
pub const ONE: [(&str, &str); 1] = [("authorization", "Bearer sk-one-1234567890")];
/// The other one.
pub const TWO: [(&str, &str); 1] = [("authorization", "Bearer sk-two-1234567890")];

/// What a `Response` object says.
///
/// # Panics
/// When it has no message.
pub fn text_of(response: &Value) -> &str {
    let output = response["output"].as_array().expect("items");
    let message = output.iter().find(|item| item["type"] == "message").expect("a message");
    message["content"][0]["text"].as_str().expect("text")
}
