//! Cohere's counts, in an answer's `usage` and in its `meta`.

use serde::Deserialize;
use tollway_wire::usage::Usage;

/// What an answer says it took. Every count is written with a fraction and may be absent.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// What went through the model.
    tokens: Option<Units>,
    /// What is on the bill: without the tokens of prompts that Cohere adds by itself.
    billed_units: Option<Units>,
    /// Of the input tokens: read from a cache.
    cached_tokens: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Units {
    input_tokens: Option<f64>,
    output_tokens: Option<f64>,
    image_tokens: Option<f64>,
    text_tokens: Option<f64>,
    images: Option<f64>,
    search_units: Option<f64>,
}

/// A count; what is no count is none. A float to integer cast saturates.
fn whole(count: Option<f64>) -> u64 {
    count.unwrap_or(0.0).ceil() as u64
}

impl Counts {
    /// The counts in OpenAI's convention; `None` if there are none.
    pub(crate) fn total(&self) -> Option<Usage> {
        let tokens = self.tokens.unwrap_or_default();
        let billed = self.billed_units.unwrap_or_default();
        let image_tokens = whole(billed.image_tokens.or(tokens.image_tokens));
        // Embeddings of images and texts together are counted apart, and perhaps not summed up.
        let apart = image_tokens.saturating_add(whole(billed.text_tokens));
        let prompt_tokens = whole(tokens.input_tokens.or(billed.input_tokens)).max(apart);
        let usage = Usage {
            prompt_tokens,
            completion_tokens: whole(tokens.output_tokens.or(billed.output_tokens)),
            cache_read_tokens: whole(self.cached_tokens).min(prompt_tokens),
            image_prompt_tokens: image_tokens,
            input_images: whole(billed.images),
            search_units: whole(billed.search_units),
            ..Usage::default()
        };
        (usage != Usage::default()).then_some(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: Option<Usage>) {
        let counts: Counts = serde_json::from_str(json).expect(json);
        assert_eq!(counts.total(), expect, "{json}");
    }

    #[test]
    fn tokens_are_metered_and_billed_units_stand_in() {
        check(
            r#"{"billed_units":{"input_tokens":5.0,"output_tokens":7},
                "tokens":{"input_tokens":71,"output_tokens":9},"cached_tokens":64}"#,
            Some(Usage {
                prompt_tokens: 71,
                completion_tokens: 9,
                cache_read_tokens: 64,
                ..Usage::default()
            }),
        );
        check(
            r#"{"billed_units":{"input_tokens":5}}"#,
            Some(Usage { prompt_tokens: 5, ..Usage::default() }),
        );
        check(
            r#"{"billed_units":{"search_units":2}}"#,
            Some(Usage { search_units: 2, ..Usage::default() }),
        );
        check(
            r#"{"billed_units":{"image_tokens":1000,"text_tokens":4,"images":1}}"#,
            Some(Usage {
                prompt_tokens: 1004,
                image_prompt_tokens: 1000,
                input_images: 1,
                ..Usage::default()
            }),
        );
    }

    #[test]
    fn nothing_counted_is_no_usage() {
        check("{}", None);
        check(r#"{"billed_units":{"input_tokens":0},"tokens":null}"#, None);
        check(r#"{"tokens":{"input_tokens":-3,"output_tokens":null}}"#, None);
    }
}
