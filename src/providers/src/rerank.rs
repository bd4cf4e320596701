//! Rankings: what every provider of them answers is Cohere's shape, more or less.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tollway_wire::openai::usage::usage_of_object;
use tollway_wire::usage::Usage;

use crate::DecodeError;
use crate::cohere::{Counts, counted, error_inside};
use crate::response::WholeDecoder;

/// Reads one answer to a rerank call. Cohere's, Jina's and Together's pass as they are; Voyage's
/// ranking is called `data` as in OpenAI's lists, and is written anew as LiteLLM writes it
/// (docs.voyageai.com/reference/reranker-api, jina.ai/reranker, 2026-11).
#[derive(Default)]
pub(crate) struct RerankDecoder {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    results: Option<Vec<IgnoredAny>>,
    #[serde(borrow)]
    data: Option<Vec<Ranked<'a>>>,
    id: Option<Value>,
    meta: Option<Counts>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Ranked<'a> {
    index: u64,
    #[serde(borrow)]
    relevance_score: &'a RawValue,
    document: Option<Value>,
}

impl WholeDecoder for RerankDecoder {
    const NO_STREAM: &str = "a ranking does not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let malformed = |fault: &str| match error_inside(body) {
            Some(error) => DecodeError::Reported(error),
            None => DecodeError::Malformed(format!("not a ranking: {fault}")),
        };
        let answer: Answer<'_> =
            serde_json::from_slice(body).map_err(|fault| malformed(&fault.to_string()))?;
        let usage = answer.usage.and_then(|usage| usage_of_object(usage.get().as_bytes()));
        self.usage = counted(answer.meta.map(|counts| counts.total())).or(usage);
        if answer.results.is_some() {
            return Ok(body.to_vec());
        }
        let ranked = answer.data.ok_or_else(|| malformed("it has no `results`"))?;
        let results: Vec<Value> = ranked
            .into_iter()
            .map(|one| {
                let mut result =
                    json!({"index": one.index, "relevance_score": one.relevance_score});
                match one.document {
                    Some(Value::String(text)) => result["document"] = json!({"text": text}),
                    Some(document @ Value::Object(_)) => result["document"] = document,
                    _ => {}
                }
                result
            })
            .collect();
        let tokens = self.usage.map_or(0, |usage| usage.prompt_tokens);
        let written = json!({"id": answer.id, "results": results, "meta": {
            "billed_units": {"total_tokens": tokens}, "tokens": {"input_tokens": tokens},
        }});
        Ok(written.to_string().into_bytes())
    }

    fn counted(&self) -> Option<Usage> {
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expect: Option<&str>, tokens: u64, units: u64) {
        let mut decoder = RerankDecoder::default();
        let got = decoder.translate(body.as_bytes()).ok();
        let got = got.as_deref().map(String::from_utf8_lossy);
        assert_eq!(got.as_deref(), expect, "{body}");
        let usage = decoder.counted().unwrap_or_default();
        assert_eq!((usage.prompt_tokens, usage.search_units), (tokens, units), "{body}");
    }

    #[test]
    fn rankings_pass_and_are_counted() {
        let jina = r#"{"model":"m","usage":{"total_tokens":15},"results":[{"index":0,"relevance_score":0.1}]}"#;
        check(jina, Some(jina), 15, 0);
        let together = r#"{"object":"rerank","results":[],"usage":{"prompt_tokens":3,"completion_tokens":0,"total_tokens":3}}"#;
        check(together, Some(together), 3, 0);
        let cohere = r#"{"id":"i","results":[],"meta":{"billed_units":{"search_units":2}}}"#;
        check(cohere, Some(cohere), 0, 2);
        check(r#"{"results":3}"#, None, 0, 0);
        check("{}", None, 0, 0);
    }

    #[test]
    fn a_list_becomes_a_ranking() {
        check(
            r#"{"object":"list","data":[{"relevance_score":0.4375,"index":1,"document":"d"}],"usage":{"total_tokens":26}}"#,
            Some(
                r#"{"id":null,"results":[{"index":1,"relevance_score":0.4375,"document":{"text":"d"}}],"meta":{"billed_units":{"total_tokens":26},"tokens":{"input_tokens":26}}}"#,
            ),
            26,
            0,
        );
    }
}
