//! The table of providers: a provider whose API is OpenAI's is one line here.
//!
//! Names, addresses and variables are LiteLLM's, so that its config files keep working (LiteLLM
//! 1.109.1, `get_llm_provider_logic.py` and `llms/openai_like/providers.json`; read 2026-11).

use tollway_wire::operation::Operation;

use crate::Provider;
use crate::anthropic::Anthropic;
use crate::azure::Azure;
use crate::bedrock::Bedrock;
use crate::cohere::Cohere;
use crate::gemini::Gemini;
use crate::vertex::Vertex;

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
    /// It has the Responses API, and keeps responses, so that `previous_response_id` means something.
    pub responses: bool,
    /// Its users write the base without `/v1`, because LiteLLM speaks its own dialect to it.
    pub base_lacks_v1: bool,

    // The rest is about requests translated from other dialects: what it keeps of the middle form.
    /// It is a gateway that knows the whole middle form.
    pub middle_form: bool,
    /// It refuses members it does not know.
    pub strict: bool,
    /// How it takes `thinking`.
    pub thinking: Thinking,
    /// It takes `reasoning_effort` for any model; the others only for models known to take it.
    pub effort: bool,
    /// It takes `reasoning_content` back in the conversation.
    pub replays_reasoning: bool,
    /// It takes Anthropic's `cache_control`.
    pub cache_control: bool,
    /// It takes `top_k`.
    pub top_k: bool,
    /// It tells `developer` and `system` apart, or takes them for the same.
    pub developer_role: bool,
    /// It takes documents by URL.
    pub file_urls: bool,
    /// Parts of the names of models that take `web_search_options`; the empty one is in every name.
    pub web_search: &'static [&'static str],
    /// The types of tools it has besides functions.
    pub server_tools: &'static [&'static str],
    /// It is Mistral, with its own forms of conversations and answers.
    pub mistral: bool,
}

/// How a provider takes `thinking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Not at all.
    Unknown,
    /// As `{"type": "enabled"}` or `{"type": "disabled"}` without a budget, for models with one of
    /// these parts in their names; the empty one is in every name.
    Switch(&'static [&'static str]),
    /// A budget as `reasoning: {"max_tokens": …}`.
    Budget,
}

impl Quirks {
    /// None: a copy of OpenAI's chat, legacy completions and embeddings.
    pub const NONE: Quirks = Quirks {
        operations: ALL,
        stream_options: true,
        reasoning_rules: false,
        tool_choice_required: None,
        renames: &[],
        removes: &[],
        responses: false,
        base_lacks_v1: false,
        middle_form: false,
        strict: false,
        thinking: Thinking::Unknown,
        effort: false,
        replays_reasoning: false,
        cache_control: false,
        top_k: false,
        developer_role: false,
        file_urls: false,
        web_search: &[],
        server_tools: &[],
        mistral: false,
    };
}

use Operation::{
    ChatCompletions, Completions, Embeddings, ImageEdit, ImageGeneration, ImageVariation,
    Moderations, Rerank, Speech, Transcription, Translation,
};

const CHAT: &[Operation] = &[ChatCompletions];
const CHAT_TEXT: &[Operation] = &[ChatCompletions, Completions];
const CHAT_EMBED: &[Operation] = &[ChatCompletions, Embeddings];
const ALL: &[Operation] = &[ChatCompletions, Completions, Embeddings];
/// What OpenAI has (<https://platform.openai.com/docs/api-reference>, 2026-11), and what a server
/// that calls itself compatible may have.
const EVERYTHING: &[Operation] = &[
    ChatCompletions,
    Completions,
    Embeddings,
    Moderations,
    ImageGeneration,
    ImageEdit,
    ImageVariation,
    Speech,
    Transcription,
    Translation,
];
/// LiteLLM's proxy has rerank as well (docs.litellm.ai/docs/rerank, 2026-11).
const EVERYTHING_AND_RERANK: &[Operation] = &[
    ChatCompletions,
    Completions,
    Embeddings,
    Moderations,
    Rerank,
    ImageGeneration,
    ImageEdit,
    ImageVariation,
    Speech,
    Transcription,
    Translation,
];
/// What Azure OpenAI has below a deployment
/// (learn.microsoft.com/azure/ai-foundry/openai/reference, 2026-11).
const AZURE_OPERATIONS: &[Operation] = &[
    ChatCompletions,
    Completions,
    Embeddings,
    ImageGeneration,
    ImageEdit,
    Speech,
    Transcription,
    Translation,
];

const PLAIN: Quirks = Quirks::NONE;

const OLD_MAX_TOKENS: &[(&str, &str)] = &[("max_completion_tokens", "max_tokens")];

const OPENAI: Quirks = Quirks {
    operations: EVERYTHING,
    reasoning_rules: true,
    responses: true,
    strict: true,
    developer_role: true,
    web_search: &["search"],
    server_tools: &["custom"],
    ..PLAIN
};
const OPENAI_TEXT: Quirks = Quirks { operations: CHAT_TEXT, responses: false, ..OPENAI };
pub(crate) const AZURE: Quirks = Quirks { operations: AZURE_OPERATIONS, web_search: &[], ..OPENAI };
pub(crate) const AZURE_TEXT: Quirks =
    Quirks { operations: &[Completions], responses: false, ..AZURE };
/// Models of many makers behind one address; those it does not know parameters of it refuses with a
/// 400 unless a header says otherwise (learn.microsoft.com/azure/ai-foundry/model-inference, 2026-11).
pub(crate) const AZURE_AI: Quirks = Quirks {
    operations: &[ChatCompletions, Embeddings, Rerank],
    strict: true,
    renames: OLD_MAX_TOKENS,
    ..PLAIN
};
const CHAT_ONLY: Quirks = Quirks { operations: CHAT, ..PLAIN };
const NO_EMBEDDINGS: Quirks = Quirks { operations: CHAT_TEXT, ..PLAIN };
const NO_TEXT: Quirks = Quirks { operations: CHAT_EMBED, ..PLAIN };
const OLD_NAMES: Quirks = Quirks { renames: OLD_MAX_TOKENS, operations: CHAT, ..PLAIN };
/// As [`OLD_NAMES`], with the Responses API besides.
const OLD_NAMES_RESPONSES: Quirks = Quirks { responses: true, ..OLD_NAMES };
/// As [`CHAT_ONLY`], with the Responses API besides.
const CHAT_RESPONSES: Quirks = Quirks { responses: true, ..CHAT_ONLY };

/// Servers people run themselves. They ignore what they do not know, take vLLM's extras (`top_k`)
/// and hand `reasoning_content` to the model's template (docs.vllm.ai, `OpenAI-Compatible Server`;
/// llama.cpp `tools/server/README.md`; 2026-11). Their Responses API came late and keeps nothing by
/// default, so it is not used.
const LOCAL: Quirks =
    Quirks { renames: OLD_MAX_TOKENS, effort: true, replays_reasoning: true, top_k: true, ..PLAIN };
/// docs.vllm.ai, 2026-11: rerank at `/v1/rerank`, transcriptions and translations with Whisper.
const VLLM: Quirks = Quirks {
    operations: &[ChatCompletions, Completions, Embeddings, Rerank, Transcription, Translation],
    ..LOCAL
};
/// llama.cpp `tools/server/README.md`, 2026-11: `/v1/rerank` with `--reranking`.
const LLAMA_CPP: Quirks =
    Quirks { operations: &[ChatCompletions, Completions, Embeddings, Rerank], ..LOCAL };
/// docs.ollama.com/api/openai-compatibility, 2026-11: it knows `stream_options`, `reasoning_effort`
/// (`none` turns thinking off) and ignores what it does not know, `tool_choice` and `top_k` among it.
const OLLAMA: Quirks = Quirks { base_lacks_v1: true, ..LOCAL };
/// inference.readthedocs.io, 2026-11.
const XINFERENCE: Quirks = Quirks {
    operations: &[
        ChatCompletions,
        Completions,
        Embeddings,
        Rerank,
        ImageGeneration,
        ImageVariation,
        Speech,
        Transcription,
        Translation,
    ],
    ..LOCAL
};

/// Mistral refuses members it does not know with a 422 (docs.mistral.ai/api, 2026-11).
const MISTRAL: Quirks = Quirks {
    operations: &[ChatCompletions, Embeddings, Moderations, Transcription],
    stream_options: false,
    tool_choice_required: Some("any"),
    renames: &[("max_completion_tokens", "max_tokens"), ("seed", "random_seed")],
    removes: &[
        "user",
        "store",
        "service_tier",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "modalities",
        "prompt_cache_retention",
        "safety_identifier",
        "verbosity",
    ],
    strict: true,
    effort: true,
    replays_reasoning: true,
    file_urls: true,
    mistral: true,
    ..PLAIN
};
const CODESTRAL: Quirks = Quirks { operations: CHAT, ..MISTRAL };

/// Perplexity sends usage with every chunk and has no `stream_options` (docs.perplexity.ai, 2026-11).
const PERPLEXITY: Quirks = Quirks {
    operations: CHAT,
    stream_options: false,
    renames: OLD_MAX_TOKENS,
    top_k: true,
    web_search: &[""],
    ..PLAIN
};

/// console.groq.com/docs/api-reference, `…/speech-to-text` and `…/openai`, 2026-11: unknown members
/// are a 400. Its Responses API keeps nothing (`…/responses-api`: no `previous_response_id`, no
/// `store`), so the gateway's own, which does, is used instead.
const GROQ: Quirks = Quirks {
    operations: &[ChatCompletions, Speech, Transcription, Translation],
    strict: true,
    removes: &["logprobs", "top_logprobs", "logit_bias"],
    server_tools: &["browser_search", "code_interpreter", "mcp"],
    ..PLAIN
};

/// api-docs.deepseek.com/guides/thinking_mode, 2026-11: a switch without a budget, and within a
/// turn of tool calls the thinking must be handed back.
const DEEPSEEK: Quirks = Quirks {
    operations: CHAT_TEXT,
    renames: OLD_MAX_TOKENS,
    thinking: Thinking::Switch(&[""]),
    effort: true,
    replays_reasoning: true,
    ..PLAIN
};

/// docs.x.ai/docs/api-reference, 2026-11: legacy completions, images from text, responses kept for
/// thirty days. Edits of images are JSON there and not a form.
const XAI: Quirks = Quirks {
    operations: &[ChatCompletions, Completions, ImageGeneration],
    responses: true,
    server_tools: &["live_search"],
    ..PLAIN
};

/// docs.together.ai/reference, 2026-11.
const TOGETHER: Quirks = Quirks {
    operations: &[
        ChatCompletions,
        Completions,
        Embeddings,
        Rerank,
        ImageGeneration,
        Speech,
        Transcription,
        Translation,
    ],
    renames: OLD_MAX_TOKENS,
    effort: true,
    replays_reasoning: true,
    top_k: true,
    ..PLAIN
};

/// docs.fireworks.ai/api-reference, 2026-11: responses are stored unless told otherwise. Its audio
/// lives at other addresses.
const FIREWORKS: Quirks = Quirks {
    operations: &[ChatCompletions, Completions, Embeddings, Rerank],
    responses: true,
    effort: true,
    replays_reasoning: true,
    top_k: true,
    ..PLAIN
};

/// openrouter.ai/docs, 2026-11: `features/prompt-caching`, `use-cases/reasoning-tokens`,
/// `features/multimodal/pdfs`, `features/web-search`. Its Responses API keeps nothing
/// (`api-reference/responses/overview`: "stateless"), so the gateway's own is used instead.
const OPENROUTER: Quirks = Quirks {
    thinking: Thinking::Budget,
    effort: true,
    replays_reasoning: true,
    cache_control: true,
    top_k: true,
    file_urls: true,
    web_search: &[""],
    ..PLAIN
};

/// Models of open weights on vLLM and the like, which take `top_k`.
const TOP_K: Quirks = Quirks { top_k: true, ..PLAIN };

/// deepinfra.com/docs/openai_api, 2026-11.
const DEEPINFRA: Quirks = Quirks {
    operations: &[
        ChatCompletions,
        Completions,
        Embeddings,
        ImageGeneration,
        ImageEdit,
        ImageVariation,
        Speech,
        Transcription,
        Translation,
    ],
    renames: OLD_MAX_TOKENS,
    effort: true,
    top_k: true,
    ..PLAIN
};

/// docs.sambanova.ai, `api-reference`, 2026-11.
const SAMBANOVA: Quirks = Quirks {
    operations: &[ChatCompletions, Embeddings, Transcription, Translation],
    top_k: true,
    ..PLAIN
};

/// platform.moonshot.ai/docs, 2026-11: `thinking` from K2.5 on; a turn of tool calls must hand its
/// thinking back.
const MOONSHOT: Quirks = Quirks {
    thinking: Thinking::Switch(&["kimi-k2.", "kimi-k3"]),
    replays_reasoning: true,
    server_tools: &["builtin_function"],
    ..OLD_NAMES
};

/// docs.z.ai/api-reference, 2026-11, and LiteLLM's `llms/zai` for `cache_control`.
const ZAI: Quirks = Quirks {
    thinking: Thinking::Switch(&[""]),
    replays_reasoning: true,
    cache_control: true,
    server_tools: &["web_search", "retrieval"],
    ..OLD_NAMES
};

/// volcengine.com/docs/82379/1494384, 2026-11.
const VOLCENGINE: Quirks = Quirks {
    operations: CHAT_EMBED,
    renames: OLD_MAX_TOKENS,
    thinking: Thinking::Switch(&[""]),
    replays_reasoning: true,
    ..PLAIN
};

/// LiteLLM's `llms/dashscope` keeps `cache_control` (1.109.1, 2026-11).
const DASHSCOPE: Quirks = Quirks {
    operations: CHAT_EMBED,
    renames: OLD_MAX_TOKENS,
    cache_control: true,
    top_k: true,
    ..PLAIN
};

/// LiteLLM's `llms/minimax` keeps `cache_control` (1.109.1, 2026-11).
const MINIMAX: Quirks = Quirks { cache_control: true, ..OLD_NAMES };

/// docs.github.com/en/rest/models/inference, 2026-11: the models are OpenAI's and others' on Azure.
const GITHUB: Quirks = Quirks { developer_role: true, ..NO_TEXT };

/// A server that says it is compatible, whatever else that may mean.
const COMPATIBLE: Quirks = Quirks { operations: EVERYTHING, effort: true, ..PLAIN };

/// LiteLLM's proxy, whose conventions the middle form follows.
const LITELLM: Quirks =
    Quirks { operations: EVERYTHING_AND_RERANK, responses: true, middle_form: true, ..PLAIN };

/// jina.ai/embeddings and jina.ai/reranker, 2026-11.
const JINA: Quirks = Quirks { operations: &[Embeddings, Rerank], ..PLAIN };

/// docs.voyageai.com/reference, 2026-11.
const VOYAGE: Quirks =
    Quirks { operations: &[Embeddings, Rerank], renames: &[("top_n", "top_k")], ..PLAIN };

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
    hosted("text-completion-openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"], &["OPENAI_BASE_URL", "OPENAI_API_BASE"], OPENAI_TEXT),
    Preset { name: "custom_openai", base: None, key_variables: &["OPENAI_API_KEY"], base_variables: &["OPENAI_API_BASE"], free: false, quirks: COMPATIBLE },
    Preset { name: "openai_like", base: None, key_variables: &["OPENAI_LIKE_API_KEY"], base_variables: &["OPENAI_LIKE_API_BASE"], free: false, quirks: COMPATIBLE },
    Preset { name: "litellm_proxy", base: None, key_variables: &["LITELLM_PROXY_API_KEY"], base_variables: &["LITELLM_PROXY_API_BASE"], free: false, quirks: LITELLM },
    hosted("groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"], &["GROQ_API_BASE"], GROQ),
    hosted("deepseek", "https://api.deepseek.com/beta", &["DEEPSEEK_API_KEY"], &["DEEPSEEK_API_BASE"], DEEPSEEK),
    hosted("xai", "https://api.x.ai/v1", &["XAI_API_KEY"], &["XAI_API_BASE"], XAI),
    hosted("together_ai", "https://api.together.ai/v1", &["TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"], &["TOGETHER_AI_API_BASE"], TOGETHER),
    hosted("fireworks_ai", "https://api.fireworks.ai/inference/v1", &["FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"], &["FIREWORKS_API_BASE"], FIREWORKS),
    hosted("openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY", "OR_API_KEY"], &["OPENROUTER_API_BASE"], OPENROUTER),
    hosted("perplexity", "https://api.perplexity.ai", &["PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"], &["PERPLEXITY_API_BASE"], PERPLEXITY),
    hosted("cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"], &["CEREBRAS_API_BASE"], NO_EMBEDDINGS),
    hosted("sambanova", "https://api.sambanova.ai/v1", &["SAMBANOVA_API_KEY"], &["SAMBANOVA_API_BASE"], SAMBANOVA),
    hosted("nvidia_nim", "https://integrate.api.nvidia.com/v1", &["NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"], &["NVIDIA_NIM_API_BASE"], Quirks { effort: true, ..PLAIN }),
    hosted("nebius", "https://api.studio.nebius.ai/v1", &["NEBIUS_API_KEY"], &["NEBIUS_API_BASE"], Quirks { operations: &[ChatCompletions, Completions, Embeddings, ImageGeneration], ..TOP_K }),
    hosted("novita", "https://api.novita.ai/v3/openai", &["NOVITA_API_KEY"], &["NOVITA_API_BASE"], TOP_K),
    hosted("ai21", "https://api.ai21.com/studio/v1", &["AI21_API_KEY"], &["AI21_API_BASE"], Quirks { stream_options: false, ..OLD_NAMES }),
    hosted("ai21_chat", "https://api.ai21.com/studio/v1", &["AI21_API_KEY"], &["AI21_API_BASE"], Quirks { stream_options: false, ..OLD_NAMES }),
    hosted("baseten", "https://inference.baseten.co/v1", &["BASETEN_API_KEY"], &["BASETEN_API_BASE"], TOP_K),
    hosted("meta_llama", "https://api.llama.com/compat/v1", &["LLAMA_API_KEY"], &["LLAMA_API_BASE"], CHAT_ONLY),
    hosted("volcengine", "https://ark.cn-beijing.volces.com/api/v3", &["VOLCENGINE_API_KEY", "ARK_API_KEY"], &["VOLCENGINE_API_BASE"], VOLCENGINE),
    hosted("deepinfra", "https://api.deepinfra.com/v1/openai", &["DEEPINFRA_API_KEY"], &["DEEPINFRA_API_BASE"], DEEPINFRA),
    hosted("mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"], &["MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE"], MISTRAL),
    hosted("codestral", "https://codestral.mistral.ai/v1", &["CODESTRAL_API_KEY"], &["CODESTRAL_API_BASE"], CODESTRAL),
    hosted("moonshot", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"], &["MOONSHOT_API_BASE"], MOONSHOT),
    hosted("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", &["DASHSCOPE_API_KEY"], &["DASHSCOPE_API_BASE"], DASHSCOPE),
    hosted("github", "https://models.inference.ai.azure.com", &["GITHUB_API_KEY"], &["GITHUB_API_BASE"], GITHUB),
    hosted("galadriel", "https://api.galadriel.com/v1", &["GALADRIEL_API_KEY"], &["GALADRIEL_API_BASE"], CHAT_ONLY),
    hosted("friendliai", "https://api.friendli.ai/serverless/v1", &["FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"], &["FRIENDLI_API_BASE"], Quirks { operations: CHAT_TEXT, ..TOP_K }),
    hosted("hyperbolic", "https://api.hyperbolic.xyz/v1", &["HYPERBOLIC_API_KEY"], &["HYPERBOLIC_API_BASE"], Quirks { operations: CHAT_TEXT, ..TOP_K }),
    hosted("lambda_ai", "https://api.lambda.ai/v1", &["LAMBDA_API_KEY"], &["LAMBDA_API_BASE"], NO_EMBEDDINGS),
    hosted("featherless_ai", "https://api.featherless.ai/v1", &["FEATHERLESS_AI_API_KEY", "FEATHERLESS_API_KEY"], &["FEATHERLESS_API_BASE"], Quirks { operations: CHAT_TEXT, renames: OLD_MAX_TOKENS, ..TOP_K }),
    hosted("nscale", "https://inference.api.nscale.com/v1", &["NSCALE_API_KEY"], &["NSCALE_API_BASE"], CHAT_ONLY),
    hosted("inception", "https://api.inceptionlabs.ai/v1", &["INCEPTION_API_KEY"], &["INCEPTION_API_BASE"], OLD_NAMES),
    hosted("morph", "https://api.morphllm.com/v1", &["MORPH_API_KEY"], &["MORPH_API_BASE"], NO_TEXT),
    hosted("empower", "https://app.empower.dev/api/v1", &["EMPOWER_API_KEY"], &["EMPOWER_API_BASE"], CHAT_ONLY),
    hosted("anyscale", "https://api.endpoints.anyscale.com/v1", &["ANYSCALE_API_KEY"], &["ANYSCALE_API_BASE"], OLD_NAMES),
    hosted("vercel_ai_gateway", "https://ai-gateway.vercel.sh/v1", &["VERCEL_AI_GATEWAY_API_KEY", "VERCEL_OIDC_TOKEN"], &["VERCEL_AI_GATEWAY_API_BASE"], Quirks { cache_control: true, ..NO_TEXT }),
    hosted("cometapi", "https://api.cometapi.com/v1", &["COMETAPI_KEY", "COMETAPI_API_KEY"], &["COMETAPI_API_BASE"], Quirks { cache_control: true, ..PLAIN }),
    hosted("aiml", "https://api.aimlapi.com/v1", &["AIML_API_KEY"], &["AIML_API_BASE"], PLAIN),
    hosted("gradient_ai", "https://inference.do-ai.run/v1", &["GRADIENT_AI_API_KEY"], &["GRADIENT_AI_AGENT_ENDPOINT"], CHAT_ONLY),
    hosted("v0", "https://api.v0.dev/v1", &["V0_API_KEY"], &["V0_API_BASE"], CHAT_ONLY),
    hosted("zai", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY"], &["ZAI_API_BASE"], ZAI),
    hosted("minimax", "https://api.minimax.io/v1", &["MINIMAX_API_KEY"], &["MINIMAX_API_BASE"], MINIMAX),
    hosted("huggingface", "https://router.huggingface.co/v1", &["HF_TOKEN", "HUGGINGFACE_API_KEY"], &["HF_API_BASE", "HUGGINGFACE_API_BASE"], Quirks { operations: CHAT, ..PLAIN }),
    hosted("heroku", "https://us.inference.heroku.com/v1", &["HEROKU_API_KEY"], &["HEROKU_API_BASE"], CHAT_ONLY),
    hosted("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", &["OVHCLOUD_API_KEY"], &["OVHCLOUD_API_BASE"], PLAIN),
    hosted("wandb", "https://api.inference.wandb.ai/v1", &["WANDB_API_KEY"], &["WANDB_API_BASE"], CHAT_ONLY),
    hosted("clarifai", "https://api.clarifai.com/v2/ext/openai/v1", &["CLARIFAI_API_KEY", "CLARIFAI_PAT"], &["CLARIFAI_API_BASE"], CHAT_ONLY),
    hosted("compactifai", "https://api.compactif.ai/v1", &["COMPACTIFAI_API_KEY"], &["COMPACTIFAI_API_BASE"], CHAT_ONLY),
    hosted("publicai", "https://api.publicai.co/v1", &["PUBLICAI_API_KEY"], &["PUBLICAI_API_BASE"], OLD_NAMES),
    hosted("helicone", "https://ai-gateway.helicone.ai", &["HELICONE_API_KEY"], &["HELICONE_API_BASE"], CHAT_ONLY),
    hosted("veniceai", "https://api.venice.ai/api/v1", &["VENICE_AI_API_KEY"], &["VENICE_AI_API_BASE"], NO_TEXT),
    hosted("xiaomi_mimo", "https://api.xiaomimimo.com/v1", &["XIAOMI_MIMO_API_KEY"], &[], Quirks { thinking: Thinking::Switch(&[""]), replays_reasoning: true, ..OLD_NAMES }),
    hosted("scaleway", "https://api.scaleway.ai/v1", &["SCW_SECRET_KEY"], &[], NO_TEXT),
    hosted("synthetic", "https://api.synthetic.new/openai/v1", &["SYNTHETIC_API_KEY"], &[], OLD_NAMES),
    hosted("nano-gpt", "https://nano-gpt.com/api/v1", &["NANOGPT_API_KEY"], &[], OLD_NAMES),
    hosted("poe", "https://api.poe.com/v1", &["POE_API_KEY"], &[], OLD_NAMES),
    hosted("chutes", "https://llm.chutes.ai/v1", &["CHUTES_API_KEY"], &[], Quirks { top_k: true, ..OLD_NAMES }),
    hosted("aihubmix", "https://aihubmix.com/v1", &["AIHUBMIX_API_KEY"], &["AIHUBMIX_API_BASE"], PLAIN),
    hosted("bigmodel", "https://open.bigmodel.cn/api/paas/v4", &["BIGMODEL_API_KEY"], &["BIGMODEL_API_BASE"], ZAI),
    hosted("tencent", "https://tokenhub-intl.tencentcloudmaas.com/v1", &["TENCENT_API_KEY"], &["TENCENT_API_BASE"], OLD_NAMES),
    hosted("modelscope", "https://api-inference.modelscope.cn/v1", &["MODELSCOPE_API_KEY"], &["MODELSCOPE_API_BASE"], OLD_NAMES),
    hosted("edenai", "https://api.edenai.run/v3", &["EDENAI_API_KEY"], &["EDENAI_API_BASE"], CHAT_ONLY),
    hosted("jina_ai", "https://api.jina.ai/v1", &["JINA_API_KEY", "JINA_AI_API_KEY", "JINA_AI_TOKEN"], &["JINA_AI_API_BASE"], JINA),
    hosted("voyage", "https://api.voyageai.com/v1", &["VOYAGE_API_KEY", "VOYAGE_AI_API_KEY", "VOYAGE_AI_TOKEN"], &["VOYAGE_API_BASE"], VOYAGE),
    hosted("apertis", "https://api.stima.tech/v1", &["STIMA_API_KEY"], &[], OLD_NAMES),
    hosted("zerogpu", "https://api.zerogpu.ai/v1", &["ZEROGPU_API_KEY"], &["ZEROGPU_API_BASE"], CHAT_RESPONSES),
    hosted("abliteration", "https://api.abliteration.ai/v1", &["ABLITERATION_API_KEY"], &[], CHAT_ONLY),
    hosted("llamagate", "https://api.llamagate.dev/v1", &["LLAMAGATE_API_KEY"], &[], OLD_NAMES),
    hosted("gmi", "https://api.gmi-serving.com/v1", &["GMI_API_KEY"], &[], CHAT_ONLY),
    hosted("assemblyai", "https://llm-gateway.assemblyai.com/v1", &["ASSEMBLYAI_API_KEY"], &[], CHAT_ONLY),
    hosted("charity_engine", "https://api.charityengine.services/remotejobs/v2/inference", &["CHARITY_ENGINE_API_KEY"], &[], OLD_NAMES),
    hosted("aiand", "https://api.aiand.com/v1", &["AIAND_API_KEY"], &["AIAND_API_BASE"], CHAT_RESPONSES),
    hosted("crusoe", "https://api.inference.crusoecloud.com/v1", &["CRUSOE_API_KEY"], &["CRUSOE_API_BASE"], OLD_NAMES),
    hosted("neosantara", "https://api.neosantara.xyz/v1", &["NEOSANTARA_API_KEY"], &["NEOSANTARA_API_BASE"], OLD_NAMES_RESPONSES),
    hosted("tensormesh", "https://serverless.tensormesh.ai/v1", &["TENSORMESH_INFERENCE_API_KEY"], &["TENSORMESH_SERVERLESS_BASE_URL"], OLD_NAMES_RESPONSES),
    hosted("parasail", "https://api.parasail.io/v1", &["PARASAIL_API_KEY"], &["PARASAIL_API_BASE"], CHAT_ONLY),
    hosted("libertai", "https://api.libertai.io/v1", &["LIBERTAI_API_KEY"], &["LIBERTAI_API_BASE"], OLD_NAMES),
    hosted("meta", "https://api.meta.ai/v1", &["META_API_KEY"], &["META_API_BASE"], CHAT_RESPONSES),
    hosted("cognition", "https://api.cognition.ai/v1", &["COGNITION_API_KEY"], &["COGNITION_API_BASE"], CHAT_ONLY),
    hosted("cortecs", "https://api.cortecs.ai/v1", &["CORTECS_API_KEY"], &["CORTECS_API_BASE"], CHAT_RESPONSES),
    hosted("scx-ai", "https://api.scx.ai/v1", &["SCX_API_KEY"], &["SCX_API_BASE"], OLD_NAMES),
    hosted("reka", "https://api.reka.ai/v1", &["REKA_API_KEY"], &["REKA_API_BASE"], CHAT_ONLY),
    hosted("streamlake", "https://vanchin.streamlake.ai/api/gateway/v1/endpoints", &["STREAMLAKE_API_KEY"], &["STREAMLAKE_API_BASE"], Quirks { renames: &[("max_tokens", "max_completion_tokens")], cache_control: true, ..CHAT_ONLY }),
    local("ollama", Some("http://localhost:11434/v1"), &["OLLAMA_API_KEY"], &["OLLAMA_API_BASE", "OLLAMA_BASE_URL"], OLLAMA),
    local("ollama_chat", Some("http://localhost:11434/v1"), &["OLLAMA_API_KEY"], &["OLLAMA_API_BASE", "OLLAMA_BASE_URL"], OLLAMA),
    local("hosted_vllm", None, &["HOSTED_VLLM_API_KEY"], &["HOSTED_VLLM_API_BASE"], VLLM),
    local("vllm", Some("http://localhost:8000/v1"), &["VLLM_API_KEY"], &["VLLM_API_BASE"], VLLM),
    local("lm_studio", Some("http://localhost:1234/v1"), &["LM_STUDIO_API_KEY"], &["LM_STUDIO_API_BASE"], LOCAL),
    local("llamafile", Some("http://127.0.0.1:8080/v1"), &["LLAMAFILE_API_KEY"], &["LLAMAFILE_API_BASE"], LLAMA_CPP),
    local("llamacpp", Some("http://127.0.0.1:8080/v1"), &["LLAMACPP_API_KEY"], &["LLAMACPP_API_BASE"], LLAMA_CPP),
    local("xinference", Some("http://127.0.0.1:9997/v1"), &["XINFERENCE_API_KEY"], &["XINFERENCE_API_BASE"], XINFERENCE),
    local("docker_model_runner", Some("http://localhost:12434/engines/v1"), &["DOCKER_MODEL_RUNNER_API_KEY"], &["DOCKER_MODEL_RUNNER_API_BASE"], LOCAL),
    local("infinity", None, &["INFINITY_API_KEY"], &["INFINITY_API_BASE"], JINA),
    local("lemonade", Some("http://localhost:8000/api/v1"), &["LEMONADE_API_KEY"], &["LEMONADE_API_BASE"], LOCAL),
    local("oobabooga", Some("http://localhost:5000/v1"), &["OOBABOOGA_API_KEY"], &["OOBABOOGA_API_BASE"], LOCAL),
];

static ANTHROPIC: Anthropic = Anthropic;
static COHERE: [Cohere; 2] = [Cohere::named("cohere"), Cohere::named("cohere_chat")];
static AZURES: [Azure; 3] = [Azure::OPENAI, Azure::TEXT, Azure::FOUNDRY];
static GEMINI: Gemini = Gemini;
static VERTEX: [Vertex; 2] = [Vertex::new("vertex_ai"), Vertex::new("vertex_ai_beta")];
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
    let azures = AZURES.iter().map(|azure| azure as &'static dyn Provider);
    let cohere = COHERE.iter().map(|cohere| cohere as &'static dyn Provider);
    let presets = PRESETS.iter().map(|preset| preset as &'static dyn Provider);
    let own: [&'static dyn Provider; 5] = [&ANTHROPIC, &BEDROCK, &GEMINI, &VERTEX[0], &VERTEX[1]];
    presets.chain(own).chain(azures).chain(cohere)
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
        assert_eq!(is_free("azure"), Some(false));
        assert_eq!(is_free("nobody"), None);
    }
}
