//! The table of providers: a provider whose API is OpenAI's is one line here.
//!
//! Names, addresses and variables are LiteLLM's, so that its config files keep working (LiteLLM
//! 1.109.1, `get_llm_provider_logic.py` and `llms/openai_like/providers.json`; read 2026-11).

use tollway_wire::operation::Operation;

use crate::Provider;
use crate::anthropic::Anthropic;
use crate::bedrock::Bedrock;

/// A provider whose API is OpenAI's.
#[derive(Debug)]
pub struct Preset {
    /// LiteLLM's name of it.
    pub name: &'static str,
    /// Where it lives; `None` where only the config can say.
    pub base: Option<&'static str>,
    /// The variables its key is looked for in, first one first.
    pub key_variables: &'static [&'static str],
    /// The variables another base is looked for in.
    pub base_variables: &'static [&'static str],
    /// Runs on the operator's own machines: costs nothing and needs no key unless told otherwise.
    pub free: bool,
    /// What it does differently from OpenAI.
    pub quirks: Quirks,
}

/// What a provider does differently from OpenAI.
#[derive(Debug)]
pub struct Quirks {
    /// What it can be asked for.
    pub operations: &'static [Operation],
    /// It knows `stream_options`. The others either always send usage or refuse the member.
    pub stream_options: bool,
    /// It has OpenAI's reasoning models, with their rules about sampling and `max_tokens`.
    pub reasoning_rules: bool,
    /// Its word for `tool_choice: "required"`.
    pub tool_choice_required: Option<&'static str>,
    /// Members it has under another name: OpenAI's, its own.
    pub renames: &'static [(&'static str, &'static str)],
    /// Members it refuses and that mean nothing to the answer.
    pub removes: &'static [&'static str],
    /// It has the Responses API.
    pub responses: bool,
    /// Its users write the base without `/v1`, because LiteLLM speaks its own dialect to it.
    pub base_lacks_v1: bool,
}

const CHAT: &[Operation] = &[Operation::ChatCompletions];
const CHAT_TEXT: &[Operation] = &[Operation::ChatCompletions, Operation::Completions];
const CHAT_EMBED: &[Operation] = &[Operation::ChatCompletions, Operation::Embeddings];
const ALL: &[Operation] =
    &[Operation::ChatCompletions, Operation::Completions, Operation::Embeddings];

const PLAIN: Quirks = Quirks {
    operations: ALL,
    stream_options: true,
    reasoning_rules: false,
    tool_choice_required: None,
    renames: &[],
    removes: &[],
    responses: false,
    base_lacks_v1: false,
};

const OLD_MAX_TOKENS: &[(&str, &str)] = &[("max_completion_tokens", "max_tokens")];

const OPENAI: Quirks = Quirks { reasoning_rules: true, ..PLAIN };
const CHAT_ONLY: Quirks = Quirks { operations: CHAT, ..PLAIN };
const NO_EMBEDDINGS: Quirks = Quirks { operations: CHAT_TEXT, ..PLAIN };
const NO_TEXT: Quirks = Quirks { operations: CHAT_EMBED, ..PLAIN };
const LOCAL: Quirks = Quirks { renames: OLD_MAX_TOKENS, ..PLAIN };
const OLD_NAMES: Quirks = Quirks { renames: OLD_MAX_TOKENS, operations: CHAT, ..PLAIN };

/// Mistral refuses members it does not know with a 422 (docs.mistral.ai/api, 2026-11).
const MISTRAL: Quirks = Quirks {
    operations: CHAT_EMBED,
    stream_options: false,
    tool_choice_required: Some("any"),
    renames: &[("max_completion_tokens", "max_tokens"), ("seed", "random_seed")],
    removes: &["user", "store", "service_tier", "logit_bias", "logprobs", "top_logprobs"],
    ..PLAIN
};

/// Perplexity sends usage with every chunk and has no `stream_options` (docs.perplexity.ai, 2026-11).
const PERPLEXITY: Quirks =
    Quirks { operations: CHAT, stream_options: false, renames: OLD_MAX_TOKENS, ..PLAIN };

const fn hosted(
    name: &'static str,
    base: &'static str,
    key_variables: &'static [&'static str],
    base_variables: &'static [&'static str],
    quirks: Quirks,
) -> Preset {
    Preset { name, base: Some(base), key_variables, base_variables, free: false, quirks }
}

const fn local(
    name: &'static str,
    base: Option<&'static str>,
    key_variables: &'static [&'static str],
    base_variables: &'static [&'static str],
    quirks: Quirks,
) -> Preset {
    Preset { name, base, key_variables, base_variables, free: true, quirks }
}

#[rustfmt::skip]
static PRESETS: &[Preset] = &[
    hosted("openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"], &["OPENAI_BASE_URL", "OPENAI_API_BASE"], OPENAI),
    hosted("text-completion-openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"], &["OPENAI_BASE_URL", "OPENAI_API_BASE"], OPENAI),
    Preset { name: "custom_openai", base: None, key_variables: &["OPENAI_API_KEY"], base_variables: &["OPENAI_API_BASE"], free: false, quirks: PLAIN },
    Preset { name: "openai_like", base: None, key_variables: &["OPENAI_LIKE_API_KEY"], base_variables: &["OPENAI_LIKE_API_BASE"], free: false, quirks: PLAIN },
    Preset { name: "litellm_proxy", base: None, key_variables: &["LITELLM_PROXY_API_KEY"], base_variables: &["LITELLM_PROXY_API_BASE"], free: false, quirks: PLAIN },
    hosted("groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"], &["GROQ_API_BASE"], CHAT_ONLY),
    hosted("deepseek", "https://api.deepseek.com/beta", &["DEEPSEEK_API_KEY"], &["DEEPSEEK_API_BASE"], Quirks { operations: CHAT_TEXT, renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("xai", "https://api.x.ai/v1", &["XAI_API_KEY"], &["XAI_API_BASE"], NO_EMBEDDINGS),
    hosted("together_ai", "https://api.together.ai/v1", &["TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"], &["TOGETHER_AI_API_BASE"], Quirks { renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("fireworks_ai", "https://api.fireworks.ai/inference/v1", &["FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"], &["FIREWORKS_API_BASE"], PLAIN),
    hosted("openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY", "OR_API_KEY"], &["OPENROUTER_API_BASE"], PLAIN),
    hosted("perplexity", "https://api.perplexity.ai", &["PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"], &["PERPLEXITY_API_BASE"], PERPLEXITY),
    hosted("cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"], &["CEREBRAS_API_BASE"], NO_EMBEDDINGS),
    hosted("sambanova", "https://api.sambanova.ai/v1", &["SAMBANOVA_API_KEY"], &["SAMBANOVA_API_BASE"], NO_TEXT),
    hosted("nvidia_nim", "https://integrate.api.nvidia.com/v1", &["NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"], &["NVIDIA_NIM_API_BASE"], PLAIN),
    hosted("nebius", "https://api.studio.nebius.ai/v1", &["NEBIUS_API_KEY"], &["NEBIUS_API_BASE"], PLAIN),
    hosted("novita", "https://api.novita.ai/v3/openai", &["NOVITA_API_KEY"], &["NOVITA_API_BASE"], PLAIN),
    hosted("ai21", "https://api.ai21.com/studio/v1", &["AI21_API_KEY"], &["AI21_API_BASE"], Quirks { stream_options: false, ..OLD_NAMES }),
    hosted("ai21_chat", "https://api.ai21.com/studio/v1", &["AI21_API_KEY"], &["AI21_API_BASE"], Quirks { stream_options: false, ..OLD_NAMES }),
    hosted("baseten", "https://inference.baseten.co/v1", &["BASETEN_API_KEY"], &["BASETEN_API_BASE"], PLAIN),
    hosted("meta_llama", "https://api.llama.com/compat/v1", &["LLAMA_API_KEY"], &["LLAMA_API_BASE"], CHAT_ONLY),
    hosted("volcengine", "https://ark.cn-beijing.volces.com/api/v3", &["VOLCENGINE_API_KEY", "ARK_API_KEY"], &["VOLCENGINE_API_BASE"], Quirks { operations: CHAT_EMBED, renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("deepinfra", "https://api.deepinfra.com/v1/openai", &["DEEPINFRA_API_KEY"], &["DEEPINFRA_API_BASE"], Quirks { renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"], &["MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE"], MISTRAL),
    hosted("codestral", "https://codestral.mistral.ai/v1", &["CODESTRAL_API_KEY"], &["CODESTRAL_API_BASE"], MISTRAL),
    hosted("moonshot", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"], &["MOONSHOT_API_BASE"], OLD_NAMES),
    hosted("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", &["DASHSCOPE_API_KEY"], &["DASHSCOPE_API_BASE"], Quirks { operations: CHAT_EMBED, renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("github", "https://models.inference.ai.azure.com", &["GITHUB_API_KEY"], &["GITHUB_API_BASE"], NO_TEXT),
    hosted("galadriel", "https://api.galadriel.com/v1", &["GALADRIEL_API_KEY"], &["GALADRIEL_API_BASE"], CHAT_ONLY),
    hosted("friendliai", "https://api.friendli.ai/serverless/v1", &["FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"], &["FRIENDLI_API_BASE"], NO_EMBEDDINGS),
    hosted("hyperbolic", "https://api.hyperbolic.xyz/v1", &["HYPERBOLIC_API_KEY"], &["HYPERBOLIC_API_BASE"], NO_EMBEDDINGS),
    hosted("lambda_ai", "https://api.lambda.ai/v1", &["LAMBDA_API_KEY"], &["LAMBDA_API_BASE"], NO_EMBEDDINGS),
    hosted("featherless_ai", "https://api.featherless.ai/v1", &["FEATHERLESS_AI_API_KEY", "FEATHERLESS_API_KEY"], &["FEATHERLESS_API_BASE"], Quirks { operations: CHAT_TEXT, renames: OLD_MAX_TOKENS, ..PLAIN }),
    hosted("nscale", "https://inference.api.nscale.com/v1", &["NSCALE_API_KEY"], &["NSCALE_API_BASE"], CHAT_ONLY),
    hosted("inception", "https://api.inceptionlabs.ai/v1", &["INCEPTION_API_KEY"], &["INCEPTION_API_BASE"], OLD_NAMES),
    hosted("morph", "https://api.morphllm.com/v1", &["MORPH_API_KEY"], &["MORPH_API_BASE"], NO_TEXT),
    hosted("empower", "https://app.empower.dev/api/v1", &["EMPOWER_API_KEY"], &["EMPOWER_API_BASE"], CHAT_ONLY),
    hosted("anyscale", "https://api.endpoints.anyscale.com/v1", &["ANYSCALE_API_KEY"], &["ANYSCALE_API_BASE"], OLD_NAMES),
    hosted("vercel_ai_gateway", "https://ai-gateway.vercel.sh/v1", &["VERCEL_AI_GATEWAY_API_KEY", "VERCEL_OIDC_TOKEN"], &["VERCEL_AI_GATEWAY_API_BASE"], NO_TEXT),
    hosted("cometapi", "https://api.cometapi.com/v1", &["COMETAPI_KEY", "COMETAPI_API_KEY"], &["COMETAPI_API_BASE"], PLAIN),
    hosted("aiml", "https://api.aimlapi.com/v1", &["AIML_API_KEY"], &["AIML_API_BASE"], PLAIN),
    hosted("gradient_ai", "https://inference.do-ai.run/v1", &["GRADIENT_AI_API_KEY"], &["GRADIENT_AI_AGENT_ENDPOINT"], CHAT_ONLY),
    hosted("v0", "https://api.v0.dev/v1", &["V0_API_KEY"], &["V0_API_BASE"], CHAT_ONLY),
    hosted("zai", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY"], &["ZAI_API_BASE"], OLD_NAMES),
    hosted("minimax", "https://api.minimax.io/v1", &["MINIMAX_API_KEY"], &["MINIMAX_API_BASE"], OLD_NAMES),
    hosted("huggingface", "https://router.huggingface.co/v1", &["HF_TOKEN", "HUGGINGFACE_API_KEY"], &["HF_API_BASE", "HUGGINGFACE_API_BASE"], Quirks { operations: CHAT, ..PLAIN }),
    hosted("heroku", "https://us.inference.heroku.com/v1", &["HEROKU_API_KEY"], &["HEROKU_API_BASE"], CHAT_ONLY),
    hosted("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", &["OVHCLOUD_API_KEY"], &["OVHCLOUD_API_BASE"], PLAIN),
    hosted("wandb", "https://api.inference.wandb.ai/v1", &["WANDB_API_KEY"], &["WANDB_API_BASE"], CHAT_ONLY),
    hosted("clarifai", "https://api.clarifai.com/v2/ext/openai/v1", &["CLARIFAI_API_KEY", "CLARIFAI_PAT"], &["CLARIFAI_API_BASE"], CHAT_ONLY),
    hosted("compactifai", "https://api.compactif.ai/v1", &["COMPACTIFAI_API_KEY"], &["COMPACTIFAI_API_BASE"], CHAT_ONLY),
    hosted("publicai", "https://api.publicai.co/v1", &["PUBLICAI_API_KEY"], &["PUBLICAI_API_BASE"], OLD_NAMES),
    hosted("helicone", "https://ai-gateway.helicone.ai", &["HELICONE_API_KEY"], &["HELICONE_API_BASE"], CHAT_ONLY),
    hosted("veniceai", "https://api.venice.ai/api/v1", &["VENICE_AI_API_KEY"], &["VENICE_AI_API_BASE"], NO_TEXT),
    hosted("xiaomi_mimo", "https://api.xiaomimimo.com/v1", &["XIAOMI_MIMO_API_KEY"], &[], OLD_NAMES),
    hosted("scaleway", "https://api.scaleway.ai/v1", &["SCW_SECRET_KEY"], &[], NO_TEXT),
    hosted("synthetic", "https://api.synthetic.new/openai/v1", &["SYNTHETIC_API_KEY"], &[], OLD_NAMES),
    hosted("nano-gpt", "https://nano-gpt.com/api/v1", &["NANOGPT_API_KEY"], &[], OLD_NAMES),
    hosted("poe", "https://api.poe.com/v1", &["POE_API_KEY"], &[], OLD_NAMES),
    hosted("chutes", "https://llm.chutes.ai/v1", &["CHUTES_API_KEY"], &[], OLD_NAMES),
    hosted("aihubmix", "https://aihubmix.com/v1", &["AIHUBMIX_API_KEY"], &["AIHUBMIX_API_BASE"], PLAIN),
    local("ollama", Some("http://localhost:11434/v1"), &["OLLAMA_API_KEY"], &["OLLAMA_API_BASE", "OLLAMA_BASE_URL"], Quirks { base_lacks_v1: true, renames: OLD_MAX_TOKENS, ..PLAIN }),
    local("ollama_chat", Some("http://localhost:11434/v1"), &["OLLAMA_API_KEY"], &["OLLAMA_API_BASE", "OLLAMA_BASE_URL"], Quirks { base_lacks_v1: true, renames: OLD_MAX_TOKENS, ..PLAIN }),
    local("hosted_vllm", None, &["HOSTED_VLLM_API_KEY"], &["HOSTED_VLLM_API_BASE"], LOCAL),
    local("vllm", Some("http://localhost:8000/v1"), &["VLLM_API_KEY"], &["VLLM_API_BASE"], LOCAL),
    local("lm_studio", Some("http://localhost:1234/v1"), &["LM_STUDIO_API_KEY"], &["LM_STUDIO_API_BASE"], LOCAL),
    local("llamafile", Some("http://127.0.0.1:8080/v1"), &["LLAMAFILE_API_KEY"], &["LLAMAFILE_API_BASE"], LOCAL),
    local("llamacpp", Some("http://127.0.0.1:8080/v1"), &["LLAMACPP_API_KEY"], &["LLAMACPP_API_BASE"], LOCAL),
    local("xinference", Some("http://127.0.0.1:9997/v1"), &["XINFERENCE_API_KEY"], &["XINFERENCE_API_BASE"], LOCAL),
    local("docker_model_runner", Some("http://localhost:12434/engines/v1"), &["DOCKER_MODEL_RUNNER_API_KEY"], &["DOCKER_MODEL_RUNNER_API_BASE"], LOCAL),
    local("lemonade", Some("http://localhost:8000/api/v1"), &["LEMONADE_API_KEY"], &["LEMONADE_API_BASE"], LOCAL),
    local("oobabooga", Some("http://localhost:5000/v1"), &["OOBABOOGA_API_KEY"], &["OOBABOOGA_API_BASE"], LOCAL),
];

static ANTHROPIC: Anthropic = Anthropic;
static BEDROCK: Bedrock = Bedrock;

/// The OpenAI-compatible provider of that name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The provider of that name.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    all().find(|provider| provider.name() == name)
}

/// Every provider there is.
pub fn all() -> impl Iterator<Item = &'static dyn Provider> {
    let anthropic: &'static dyn Provider = &ANTHROPIC;
    let bedrock: &'static dyn Provider = &BEDROCK;
    PRESETS.iter().map(|preset| preset as &'static dyn Provider).chain([anthropic]).chain([bedrock])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_bases_join_with_paths() {
        let mut names = HashSet::new();
        for provider in all() {
            assert!(names.insert(provider.name()), "{} is there twice", provider.name());
            if let Some(base) = provider.default_base(&crate::Access::default()) {
                assert!(base.starts_with("http") && !base.ends_with('/'), "{base}");
            }
        }
        assert!(names.len() > 60);
    }

    #[test]
    fn what_runs_at_home_is_free() {
        let is_free = |name| provider(name).map(|provider| provider.is_free());
        assert_eq!(is_free("ollama"), Some(true));
        assert_eq!(is_free("hosted_vllm"), Some(true));
        assert_eq!(is_free("openai"), Some(false));
        assert_eq!(is_free("anthropic"), Some(false));
        assert_eq!(is_free("azure"), None);
    }
}
