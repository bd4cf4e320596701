//! What Google counts.

use serde::Deserialize;

use crate::price::Tier;
use crate::usage::{Served, Usage};

/// `usageMetadata`. In a stream each event has the counts so far.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UsageMetadata {
    /// The prompt, without what tools brought in.
    pub prompt_token_count: Option<u64>,
    /// The answer; with some models its thoughts as well.
    pub candidates_token_count: Option<u64>,
    /// Thoughts.
    pub thoughts_token_count: Option<u64>,
    /// What tools brought in.
    pub tool_use_prompt_token_count: Option<u64>,
    /// What of the prompt came from the cache.
    pub cached_content_token_count: Option<u64>,
    /// All of it.
    pub total_token_count: Option<u64>,
    /// The prompt by kind.
    pub prompt_tokens_details: Option<Vec<ModalityCount>>,
    /// The answer by kind.
    pub candidates_tokens_details: Option<Vec<ModalityCount>>,
    /// The tier that served it, as Vertex AI says it: `ON_DEMAND`, `ON_DEMAND_PRIORITY`.
    pub traffic_type: Option<String>,
    /// The same, as AI Studio says it.
    pub service_tier: Option<String>,
}

/// The tokens of one kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ModalityCount {
    /// `TEXT`, `IMAGE`, `VIDEO`, `AUDIO`, `DOCUMENT`.
    pub modality: Option<String>,
    /// How many.
    pub token_count: Option<u64>,
}

impl UsageMetadata {
    /// The counts of an event over those before: what an event leaves out stays.
    pub fn update(&mut self, later: UsageMetadata) {
        fn over<T>(earlier: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *earlier = later;
            }
        }
        over(&mut self.prompt_token_count, later.prompt_token_count);
        over(&mut self.candidates_token_count, later.candidates_token_count);
        over(&mut self.thoughts_token_count, later.thoughts_token_count);
        over(&mut self.tool_use_prompt_token_count, later.tool_use_prompt_token_count);
        over(&mut self.cached_content_token_count, later.cached_content_token_count);
        over(&mut self.total_token_count, later.total_token_count);
        over(&mut self.prompt_tokens_details, later.prompt_tokens_details);
        over(&mut self.candidates_tokens_details, later.candidates_tokens_details);
        over(&mut self.traffic_type, later.traffic_type);
        over(&mut self.service_tier, later.service_tier);
    }

    /// In OpenAI's inclusive convention. What tools brought in is input; thinking is output, but for
    /// the few models whose candidates' count holds it already, which the total tells.
    pub fn usage(&self, web_searches: u64) -> Usage {
        let count = |value: Option<u64>| value.unwrap_or(0);
        let tools = count(self.tool_use_prompt_token_count);
        let prompt = count(self.prompt_token_count).saturating_add(tools);
        let candidates = count(self.candidates_token_count);
        let thoughts = count(self.thoughts_token_count);
        let is_inside = self.total_token_count == Some(prompt.saturating_add(candidates))
            && candidates >= thoughts;
        let completion = if is_inside { candidates } else { candidates.saturating_add(thoughts) };
        let (sent, made) = (&self.prompt_tokens_details, &self.candidates_tokens_details);
        let usage = Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            cache_read_tokens: count(self.cached_content_token_count).min(prompt),
            audio_prompt_tokens: of_modality(sent, "AUDIO").min(prompt),
            audio_completion_tokens: of_modality(made, "AUDIO").min(completion),
            image_prompt_tokens: of_modality(sent, "IMAGE").min(prompt),
            image_completion_tokens: of_modality(made, "IMAGE").min(completion),
            reasoning_tokens: thoughts.min(completion),
            web_searches,
            ..Usage::default()
        };
        let tier = match self.traffic_type.as_deref() {
            Some("ON_DEMAND_PRIORITY") => Some(Tier::Priority),
            Some("ON_DEMAND_FLEX" | "FLEX") => Some(Tier::Flex),
            Some("ON_DEMAND") => Some(Tier::Standard),
            _ => self
                .service_tier
                .as_deref()
                .map(|name| Tier::from_service_tier(&name.to_ascii_lowercase())),
        };
        usage.served(Served { tier, ..Served::default() })
    }
}

/// How many of the tokens are of this kind: `TEXT`, `AUDIO`.
pub fn of_modality(details: &Option<Vec<ModalityCount>>, modality: &str) -> u64 {
    let all = details.iter().flatten();
    let of_kind = all.filter(|detail| detail.modality.as_deref() == Some(modality));
    of_kind.fold(0, |sum, detail| sum.saturating_add(detail.token_count.unwrap_or(0)))
}
