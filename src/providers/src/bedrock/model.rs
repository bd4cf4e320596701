//! A model's name: LiteLLM's prefixes, the id Bedrock knows, and what kind of model it is.
//!
//! Ids come from clients through wildcards, so an id never leaves its segment of the path.

use crate::RequestError;
use crate::anthropic::model::Abilities;

use super::sigv4;

/// The longest id Bedrock takes.
const ID_BYTES_MAX: usize = 2048;

/// LiteLLM's words in front of the ARN of an imported model: whose templates it has.
const TEMPLATES: &[&str] = &["deepseek_r1", "llama", "nova", "openai", "qwen2", "qwen3"];

/// Which of Bedrock's calls the operator wants a chat to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/converse`, which is the same for every model.
    Converse,
    /// `/invoke`, which takes each vendor's own form.
    Invoke,
}

/// A model's name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model<'a> {
    /// Told by `converse/` or `invoke/` in front.
    pub(super) route: Option<Route>,
    /// Told by a region in front, or by the ARN.
    pub(super) region: Option<&'a str>,
    /// What Bedrock calls it: an id, an inference profile, an ARN.
    pub(super) id: &'a str,
}

/// What kind of model it is, as far as requests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Anthropic's.
    Claude,
    /// Amazon's first Nova models.
    Nova,
    /// Amazon's Nova 2, which reasons.
    Nova2,
    /// OpenAI's open models, which reason.
    GptOss,
    /// OpenAI's other models.
    Gpt,
    /// Mistral's.
    Mistral,
    /// An ARN that does not tell. What a client asks for is sent, and Bedrock decides.
    Opaque,
    /// Any other.
    Other,
}

impl<'a> Model<'a> {
    /// Takes a name apart: `us-west-2/anthropic.claude-3-haiku-20240307-v1:0`,
    /// `converse/us.amazon.nova-pro-v1:0`, `arn:aws:bedrock:…`.
    pub(super) fn of(name: &'a str) -> Model<'a> {
        let mut model = Model { route: None, region: None, id: name };
        while let Some((first, rest)) = model.id.split_once('/') {
            match first {
                "bedrock" | "bedrock_converse" => {}
                "converse" => model.route = Some(Route::Converse),
                "invoke" => model.route = Some(Route::Invoke),
                region if is_region(region) => model.region = Some(region),
                // Throughput that was bought ahead: LiteLLM's names for prices.
                "1-month-commitment" | "6-month-commitment" => {}
                word if TEMPLATES.contains(&word) && rest.starts_with("arn:") => {}
                _ => break,
            }
            model.id = rest;
        }
        if let Some(arn) = model.id.strip_prefix("arn:") {
            let region = arn.split(':').nth(2).filter(|region| is_region(region));
            model.region = region.or(model.region);
        }
        model
    }

    pub(super) fn family(&self) -> Family {
        let has = |word: &str| self.id.contains(word);
        if has("anthropic.") || has("claude") {
            Family::Claude
        } else if has("amazon.nova-2") {
            Family::Nova2
        } else if has("amazon.nova") {
            Family::Nova
        } else if has("gpt-oss") {
            Family::GptOss
        } else if has("openai.gpt") {
            Family::Gpt
        } else if has("mistral.") {
            Family::Mistral
        } else if self.id.starts_with("arn:")
            && !has("foundation-model")
            && !has(":inference-profile")
        {
            Family::Opaque
        } else {
            Family::Other
        }
    }

    /// Whether it has structured output of its own:
    /// <https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html>, 2026-11.
    pub(super) fn is_structured(&self) -> bool {
        const OPEN_WEIGHT: &[&str] = &[
            "deepseek.v3",
            "google.gemma-3",
            "gpt-oss",
            "minimax.minimax-m2",
            "mistral.magistral",
            "mistral.ministral",
            "mistral.mistral-large-3",
            "mistral.voxtral",
            "moonshot.kimi-k2",
            "moonshotai.kimi-k2",
            "nvidia.nemotron",
            "qwen.qwen3",
        ];
        match self.family() {
            // Anthropic's own API has it for Opus 4.1 as well.
            Family::Claude => self.abilities().structured && !self.id.contains("opus-4-1"),
            _ => OPEN_WEIGHT.iter().any(|name| self.id.contains(name)),
        }
    }

    /// Whether it takes `cachePoint`: it is an error elsewhere
    /// (<https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html>, 2026-11).
    pub(super) fn caches(&self) -> bool {
        matches!(self.family(), Family::Claude | Family::Nova | Family::Nova2 | Family::Opaque)
    }

    /// What a Claude can do.
    pub(super) fn abilities(&self) -> Abilities {
        Abilities::of(self.id)
    }

    /// Refuses ids that are none, and those that a lenient server might read as a path.
    pub(super) fn check(&self) -> Result<(), RequestError> {
        let is_good = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'/')
        };
        let is_path = self.id.split('/').any(|part| matches!(part, "" | "." | ".."));
        if !is_path && self.id.len() <= ID_BYTES_MAX && self.id.bytes().all(is_good) {
            return Ok(());
        }
        Err(RequestError::Invalid {
            message: "this is not the id of a model on Bedrock".into(),
            param: Some("model".into()),
        })
    }

    /// The path of one of its calls: `/model/{id}/converse`.
    pub(super) fn path(&self, call: &str) -> String {
        let mut path = "/model/".to_owned();
        match self.check() {
            Ok(()) => sigv4::encode(&mut path, self.id, b'-'),
            // Never sent: the request is refused.
            Err(_) => path.push('_'),
        }
        path.push('/');
        path.push_str(call);
        path
    }
}

/// Whether a word is the name of a region: `us-east-1`, `us-gov-west-1`, `ap-southeast-12`.
pub(super) fn is_region(word: &str) -> bool {
    let mut parts = word.rsplit('-');
    let number = parts.next().unwrap_or_default();
    let is_number = matches!(number.len(), 1 | 2) && number.bytes().all(|b| b.is_ascii_digit());
    let mut words = 0;
    is_number
        && word.len() <= 32
        && parts.all(|part| {
            words += 1;
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase())
        })
        && words >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (name, route, region, id) in [
            ("amazon.nova-pro-v1:0", None, None, "amazon.nova-pro-v1:0"),
            ("converse/us.amazon.x", Some(Route::Converse), None, "us.amazon.x"),
            ("invoke/us-west-2/anthropic.x", Some(Route::Invoke), Some("us-west-2"), "anthropic.x"),
            ("us-gov-west-1/1-month-commitment/a.b", None, Some("us-gov-west-1"), "a.b"),
            (
                "llama/arn:aws:bedrock:eu-west-1:1:imported-model/x",
                None,
                Some("eu-west-1"),
                "arn:aws:bedrock:eu-west-1:1:imported-model/x",
            ),
            ("other/a.b", None, None, "other/a.b"),
            ("../a", None, None, "../a"),
        ] {
            assert_eq!(Model::of(name), Model { route, region, id }, "{name}");
        }
    }

    #[test]
    fn an_id_stays_in_its_segment() {
        let path = |name| Model::of(name).path("converse");
        assert_eq!(path("us.anthropic.claude-x:0"), "/model/us.anthropic.claude-x%3A0/converse");
        let arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.a.b-v1:0";
        assert_eq!(
            path(arn),
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.a.b-v1%3A0/converse"
        );
        for bad in ["", ".", "..", "a/../b", "a/", "/a", "a?b", "a#b", "a%2fb", "a b", "a\\b", "ä"]
        {
            assert!(Model::of(bad).check().is_err(), "{bad}");
            assert_eq!(path(bad), "/model/_/converse", "{bad}");
        }
        assert!(Model::of(&"a".repeat(ID_BYTES_MAX + 1)).check().is_err());
    }

    #[test]
    fn regions_are_told_from_other_words() {
        for region in ["us-east-1", "ap-southeast-2", "us-gov-west-1", "mx-central-1"] {
            assert!(is_region(region), "{region}");
        }
        for other in
            ["us", "us-1", "converse", "US-east-1", "us-east-", "us--1", "a.b-c-1", "x-y-123"]
        {
            assert!(!is_region(other), "{other}");
        }
    }

    #[test]
    fn families_are_told_from_ids() {
        for (name, expect) in [
            ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", Family::Claude),
            ("us.amazon.nova-2-lite-v1:0", Family::Nova2),
            ("amazon.nova-micro-v1:0", Family::Nova),
            ("openai.gpt-oss-120b-1:0", Family::GptOss),
            ("meta.llama3-3-70b-instruct-v1:0", Family::Other),
            ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", Family::Opaque),
            ("arn:aws:bedrock:us-east-1:1:inference-profile/us.meta.llama", Family::Other),
        ] {
            assert_eq!(Model::of(name).family(), expect, "{name}");
        }
    }
}
