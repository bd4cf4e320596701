//! What models cost, how much they take, and what they can do: LiteLLM's community table.
//!
//! `models.tsv` is compiled in as text and searched as text: nothing is parsed before it is asked
//! for. `update.py` writes it from LiteLLM's JSON and documents its format; `retired.tsv`, looked
//! up second, keeps what that JSON no longer has and configs still name. The figures are
//! `BerriAI/litellm`'s `model_prices_and_context_window.json`, under the MIT licence, copyright (c)
//! 2023 Berri AI: see `NOTICE` beside this file.
//!
//! Prices are rates per token, fees per request and per web search, and prices of images, pixels,
//! seconds of audio and characters of speech. Those of video and by the page are left out for now
//! ([`ModelInfo::other_units`] says where the source has some), and so is what else
//! [`tollway_wire::price`] names. A model with such prices only has no [`ModelInfo::price`], which is
//! not the same as a price of zero.
//!
//! Literals that are finer than a pico-dollar a token (a float's noise apart, eight rates of
//! `morph` and `bigmodel`) are rounded up to the next: at most 1e-6 $ a million tokens too much.

use std::cmp::Ordering;

use tollway_wire::price::{PicoDollars, Price, Rate, Tier, Unit};

static MODELS: &str = include_str!("models.tsv");
static RETIRED: &str = include_str!("retired.tsv");

/// The day the table was taken from LiteLLM's repository.
pub const SNAPSHOT_DATE: &str = include_str!("models.tsv").split_at(12).0.split_at(2).1;

/// What is known of one model at one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name in LiteLLM's table: `gpt-4o`, `groq/openai/gpt-oss-20b`.
    pub name: &'static str,
    /// LiteLLM's provider, as in its table: `bedrock_converse`, `vertex_ai-language-models`. See
    /// [`family`] for the name a config uses.
    pub provider: &'static str,
    /// `chat`, `embedding`, `responses`, `image_generation` ... Empty when the table does not say.
    pub mode: &'static str,
    /// The most tokens a prompt can have.
    pub max_input_tokens: Option<u64>,
    /// The most tokens an answer can have.
    pub max_output_tokens: Option<u64>,
    /// What it costs; `None` when no price of a kind this table has is known. A free model has a price
    /// of zero.
    pub price: Option<Price>,
    /// The source has prices in units this table leaves out (video, pages ...), so that
    /// `price`, if there is one, may not be all of it.
    pub other_units: bool,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The model is in the list of retired ones: its provider may refuse it.
    pub retired: bool,
}

impl ModelInfo {
    /// The name without its provider, as a request to the provider has it: `openai/gpt-oss-20b`.
    pub fn model(&self) -> &'static str {
        match self.name.split_once('/') {
            Some((first, rest)) if family(first) == family(self.provider) => rest,
            _ => self.name,
        }
    }
}

/// Something a model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Takes the beginning of its answer from the request.
    AssistantPrefill,
    /// Hears.
    AudioInput,
    /// Speaks.
    AudioOutput,
    /// Operates a computer by screenshots.
    ComputerUse,
    /// Calls tools.
    FunctionCalling,
    /// Calls several tools in one turn.
    ParallelFunctionCalling,
    /// Reads PDF documents.
    PdfInput,
    /// Its provider caches prompts.
    PromptCaching,
    /// Thinks before it answers.
    Reasoning,
    /// Answers by a JSON schema.
    ResponseSchema,
    /// Takes system messages.
    SystemMessages,
    /// Can be told which tool to call.
    ToolChoice,
    /// Watches videos.
    VideoInput,
    /// Sees images.
    Vision,
    /// Searches the web by itself.
    WebSearch,
}

impl Capability {
    /// All there are.
    pub const ALL: [Self; 15] = [
        Self::AssistantPrefill,
        Self::AudioInput,
        Self::AudioOutput,
        Self::ComputerUse,
        Self::FunctionCalling,
        Self::ParallelFunctionCalling,
        Self::PdfInput,
        Self::PromptCaching,
        Self::Reasoning,
        Self::ResponseSchema,
        Self::SystemMessages,
        Self::ToolChoice,
        Self::VideoInput,
        Self::Vision,
        Self::WebSearch,
    ];

    /// LiteLLM's name: `supports_vision`.
    pub fn key(self) -> &'static str {
        match self {
            Self::AssistantPrefill => "supports_assistant_prefill",
            Self::AudioInput => "supports_audio_input",
            Self::AudioOutput => "supports_audio_output",
            Self::ComputerUse => "supports_computer_use",
            Self::FunctionCalling => "supports_function_calling",
            Self::ParallelFunctionCalling => "supports_parallel_function_calling",
            Self::PdfInput => "supports_pdf_input",
            Self::PromptCaching => "supports_prompt_caching",
            Self::Reasoning => "supports_reasoning",
            Self::ResponseSchema => "supports_response_schema",
            Self::SystemMessages => "supports_system_messages",
            Self::ToolChoice => "supports_tool_choice",
            Self::VideoInput => "supports_video_input",
            Self::Vision => "supports_vision",
            Self::WebSearch => "supports_web_search",
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'P' => Self::AssistantPrefill,
            b'a' => Self::AudioInput,
            b'A' => Self::AudioOutput,
            b'u' => Self::ComputerUse,
            b'f' => Self::FunctionCalling,
            b'F' => Self::ParallelFunctionCalling,
            b'd' => Self::PdfInput,
            b'c' => Self::PromptCaching,
            b'r' => Self::Reasoning,
            b's' => Self::ResponseSchema,
            b'm' => Self::SystemMessages,
            b't' => Self::ToolChoice,
            b'V' => Self::VideoInput,
            b'v' => Self::Vision,
            b'w' => Self::WebSearch,
            _ => return None,
        })
    }
}

/// A set of [`Capability`]. What is absent may be unknown rather than impossible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

impl Capabilities {
    /// Whether the table says that the model can do this.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u16) != 0
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |&capability| self.has(capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |set, capability| set | 1 << capability as u16))
    }
}

/// Finds a model at a provider (`find("groq", "openai/gpt-oss-20b")`, `find("openai", "gpt-4o")`).
///
/// Looked up as `provider/model`, then as `model`, in LiteLLM's order; an entry of another
/// provider's never matches, so that `find("groq", "gpt-4o")` is `None`. Providers that are one to
/// their users are one here: see [`family`]. A fine-tuned `ft:gpt-4o-2024-08-06:org::id` is found
/// as `ft:gpt-4o-2024-08-06`.
pub fn find(provider: &str, model: &str) -> Option<ModelInfo> {
    let family_name = family(provider);
    let prefixed = (provider != family_name).then(|| format!("{provider}/{model}"));
    let names = [Some(format!("{family_name}/{model}")), prefixed, Some(model.to_owned())];
    names
        .iter()
        .flatten()
        .filter_map(|name| look_up(name))
        .find(|info| family(info.provider) == family_name)
        .or_else(|| find(provider, fine_tuned(model).or_else(|| routed(family_name, model))?))
}

/// The entry of an image model for one size and quality: `find_image("azure", "dall-e-3", Some("hd"),
/// Some("1024x1024"))` is `azure/hd/1024-x-1024/dall-e-3`. What is not told apart is found as by
/// [`find`].
///
/// It is for answers that do not count tokens. Those that do are billed by the model's own entry.
pub fn find_image(
    provider: &str,
    model: &str,
    quality: Option<&str>,
    size: Option<&str>,
) -> Option<ModelInfo> {
    // As OpenAI documents its defaults; both are `auto` on newer models, which the entry is for.
    let size = size.filter(|size| *size != "auto").unwrap_or("1024x1024").replacen('x', "-x-", 1);
    let named = quality.filter(|quality| *quality != "auto");
    let qualities = [named, Some("standard"), Some("medium")];
    qualities
        .into_iter()
        .flatten()
        .find_map(|quality| find(provider, &format!("{quality}/{size}/{model}")))
        .or_else(|| find(provider, &format!("{size}/{model}")))
        .or_else(|| find(provider, model))
}

/// The name in the table of a fine-tuned model: `ft:<base>` of `ft:<base>:<organization>:...`.
fn fine_tuned(model: &str) -> Option<&str> {
    let base = model.strip_prefix("ft:")?.split(':').next()?;
    let name = &model[..3 + base.len()];
    (name != model).then_some(name)
}

/// The model of `converse/<model>`: how Bedrock is to be called costs nothing extra.
fn routed<'a>(family: &str, model: &'a str) -> Option<&'a str> {
    let routes = ["converse/", "invoke/"];
    routes.into_iter().find_map(|route| model.strip_prefix(route)).filter(|_| family == "bedrock")
}

/// The provider of a model named without one: what the table says of exactly this name, and for a
/// name it does not have what the name looks like (`claude-...` is Anthropic's; `gpt-...`,
/// `chatgpt-...`, `o1` and the like OpenAI's; `gemini-...` Gemini's; see `PATTERNS`).
///
/// The answer is a [`family`]. Mind that a bare `gemini-2.5-pro` is Vertex AI's in LiteLLM's table;
/// AI Studio's is `gemini/gemini-2.5-pro`.
pub fn infer_provider(model: &str) -> Option<&'static str> {
    if let Some(line) = find_line(MODELS, model).or_else(|| find_line(RETIRED, model)) {
        return Some(family(provider_of(line)));
    }
    if model.starts_with("ft:") {
        return Some("openai");
    }
    if model.contains('/') {
        return None;
    }
    // Bedrock's ids begin with the maker, perhaps behind a region: `eu.anthropic.claude-...`.
    let (head, tail) = model.split_once('.').unwrap_or((model, ""));
    if BEDROCK_MAKERS.contains(&head)
        || BEDROCK_REGIONS.contains(&head)
            && tail.split('.').next().is_some_and(|maker| BEDROCK_MAKERS.contains(&maker))
    {
        return Some("bedrock");
    }
    PATTERNS.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|&(_, provider)| provider)
}

/// How names begin that belong to one provider, for models newer than the table.
static PATTERNS: &[(&str, &str)] = &[
    ("claude-", "anthropic"),
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("codex-", "openai"),
    ("dall-e-", "openai"),
    ("sora-", "openai"),
    ("tts-1", "openai"),
    ("whisper-1", "openai"),
    ("omni-moderation-", "openai"),
    ("text-moderation-", "openai"),
    ("text-embedding-3-", "openai"),
    ("text-embedding-ada-", "openai"),
    ("gemini-", "gemini"),
    ("mistral-", "mistral"),
    ("ministral-", "mistral"),
    ("magistral-", "mistral"),
    ("codestral-", "mistral"),
    ("devstral-", "mistral"),
    ("pixtral-", "mistral"),
    ("open-mistral-", "mistral"),
    ("open-mixtral-", "mistral"),
    ("command-", "cohere"),
    ("deepseek-", "deepseek"),
    ("grok-", "xai"),
    ("sonar", "perplexity"),
    ("jamba-", "ai21"),
    ("voyage-", "voyage"),
];

static BEDROCK_MAKERS: &[&str] = &[
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "meta",
    "mistral",
    "stability",
    "writer",
];
static BEDROCK_REGIONS: &[&str] =
    &["us", "eu", "apac", "ap", "au", "jp", "ca", "sa", "global", "us-gov"];

/// The provider a config names, for the finer divisions LiteLLM's table makes: `vertex_ai` for
/// every `vertex_ai-...`, `bedrock` for `bedrock_converse`, `openai` for `text-completion-openai`,
/// `cohere` for `cohere_chat`, `azure` for `azure_text` and so on. Any other name is its own
/// family.
pub fn family(provider: &str) -> &str {
    match provider {
        "text-completion-openai" => "openai",
        "text-completion-codestral" => "codestral",
        "text-completion-inception" => "inception",
        "azure_text" => "azure",
        "bedrock_converse" => "bedrock",
        "cohere_chat" => "cohere",
        "anthropic_text" => "anthropic",
        "amazon-nova" => "amazon_nova",
        "ollama_chat" => "ollama",
        "sagemaker_chat" => "sagemaker",
        "watsonx_text" => "watsonx",
        "vertex_ai_beta" => "vertex_ai",
        "fireworks_ai-embedding-models" => "fireworks_ai",
        _ if provider.starts_with("vertex_ai-") => "vertex_ai",
        _ => provider,
    }
}

/// Every model of a provider's [`family`] in the table, by name, for expanding `provider/*`.
///
/// Retired models are not among them, nor are the lines that price an image model by size
/// (`high/1024-x-1024/gpt-image-1`). A model the table has with and without its provider in the
/// name comes twice: go by [`ModelInfo::model`].
pub fn models_of(provider: &str) -> impl Iterator<Item = ModelInfo> {
    let wanted = family(provider);
    lines(MODELS)
        .filter(move |line| family(provider_of(line)) == wanted)
        .filter_map(|line| parse(line, false))
        .filter(|info| !info.name.contains("-x-"))
}

fn look_up(name: &str) -> Option<ModelInfo> {
    match find_line(MODELS, name) {
        Some(line) => parse(line, false),
        None => parse(find_line(RETIRED, name)?, true),
    }
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.starts_with('#'))
}

/// Searches the sorted text for the line that begins with `name` and a tab.
fn find_line(table: &'static str, name: &str) -> Option<&'static str> {
    // `low` and `high` are always where a line begins, or the end.
    let (mut low, mut high) = (0, table.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // A byte offset may be inside a character: search for the line's ends in bytes.
        let bytes = table.as_bytes();
        let start = bytes[..middle].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end =
            bytes[middle..].iter().position(|&byte| byte == b'\n').map_or(high, |at| middle + at);
        let line = table.get(start..end)?;
        match line.split('\t').next().unwrap_or(line).cmp(name) {
            // Comments sort before every name, and are no models.
            Ordering::Equal => return (!line.starts_with('#')).then_some(line),
            Ordering::Less => low = end + 1,
            Ordering::Greater => high = start,
        }
    }
    None
}

/// The provider column, or the name's first segment where it is empty.
fn provider_of(line: &'static str) -> &'static str {
    let mut columns = line.split('\t');
    let name = columns.next().unwrap_or_default();
    match columns.next() {
        None | Some("") => name.split('/').next().unwrap_or_default(),
        Some(provider) => provider,
    }
}

/// Reads a line. The tables are ours and every line of them is tested; still, a price that could
/// not be read is no price rather than a wrong one.
fn parse(line: &'static str, retired: bool) -> Option<ModelInfo> {
    let mut columns = line.split('\t');
    let name = columns.next()?;
    columns.next()?;
    let mode = match columns.next()? {
        "" => "chat",
        "-" => "",
        mode => mode,
    };
    let max_input_tokens = parse_number(columns.next()?);
    let max_output_tokens = parse_number(columns.next()?);
    let capabilities = columns.next()?.bytes().filter_map(Capability::from_letter).collect();
    let prices = columns.next()?;
    let (prices, other_units) = match prices.strip_suffix('+') {
        Some(rest) => (rest.trim_end(), true),
        None => (prices, false),
    };
    Some(ModelInfo {
        name,
        provider: provider_of(line),
        mode,
        max_input_tokens,
        max_output_tokens,
        price: parse_price(prices),
        other_units,
        capabilities,
        retired,
    })
}

/// Reads the prices column: `i3M o15M r300k s10G @>200k i6M @b i1500k`. See `update.py`.
fn parse_price(text: &str) -> Option<Price> {
    if text.is_empty() {
        return None;
    }
    let mut price = Price::default();
    let (mut tier, mut above) = (Tier::Standard, 0);
    for word in text.split(' ') {
        if let Some(section) = word.strip_prefix('@') {
            let (letter, threshold) = section.split_once('>').unwrap_or((section, "0"));
            tier = match letter {
                "" => Tier::Standard,
                "b" => Tier::Batch,
                "f" => Tier::Flex,
                "p" => Tier::Priority,
                "u" => Tier::Ultrafast,
                "l" => Tier::Balanced,
                _ => return None,
            };
            above = parse_number(threshold)?;
            continue;
        }
        let (letter, amount) = word.split_at_checked(1)?;
        let amount = PicoDollars(parse_number(amount)?);
        let rate = match letter {
            "i" => Rate::Input,
            "o" => Rate::Output,
            "r" => Rate::CacheRead,
            "w" => Rate::CacheWrite,
            "h" => Rate::CacheWrite1h,
            "a" => Rate::AudioInput,
            "A" => Rate::AudioOutput,
            "c" => Rate::CachedAudioInput,
            "t" => Rate::Reasoning,
            "g" => Rate::ImageInput,
            "G" => Rate::ImageOutput,
            "q" => {
                price.per_request = amount;
                continue;
            }
            "s" => {
                price.web_search = amount;
                continue;
            }
            "F" => {
                price.fast_permille = amount.0;
                continue;
            }
            "U" => {
                price.us_permille = amount.0;
                continue;
            }
            letter => {
                let unit = match letter {
                    "I" => Unit::Image,
                    "J" => Unit::InputImage,
                    "p" => Unit::Megapixel,
                    "S" => Unit::AudioSecond,
                    "C" => Unit::Character,
                    _ => return None,
                };
                price.state_unit(unit, amount);
                continue;
            }
        };
        price.state(tier, above, rate, amount);
    }
    Some(price)
}

/// Reads a whole number that may end in k, M or G.
fn parse_number(text: &str) -> Option<u64> {
    let (digits, size) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'M' => (&text[..text.len() - 1], 1_000_000),
        b'G' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1_u64),
    };
    digits.parse::<u64>().ok()?.checked_mul(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tollway_wire::price::{cost, worst_case};
    use tollway_wire::usage::Usage;

    use super::*;

    /// Every stated rate must be these dollars a token, as the JSON has them.
    #[track_caller]
    fn check(provider: &str, model: &str, stated: &[(&str, &str)]) {
        let info = find(provider, model).expect(model);
        let price = info.price.expect(model);
        let mut expect = Price::default();
        expect.web_search = price.web_search;
        (expect.fast_permille, expect.us_permille) = (price.fast_permille, price.us_permille);
        for (key, dollars) in stated {
            assert!(expect.set(key, dollars.parse().expect(dollars)), "{key}");
        }
        assert_eq!(price, expect, "{model}");
    }

    #[test]
    fn every_line_can_be_read() {
        for (table, columns) in [(MODELS, 7), (RETIRED, 8)] {
            for line in lines(table) {
                assert_eq!(line.split('\t').count(), columns, "{line}");
                let column = |at| line.split('\t').nth(at).expect("counted");
                let info = parse(line, false).expect(line);
                assert!(!info.name.is_empty() && !info.provider.is_empty(), "{line}");
                assert_eq!(info.max_input_tokens.is_none(), column(3).is_empty(), "{line}");
                assert_eq!(info.max_output_tokens.is_none(), column(4).is_empty(), "{line}");
                assert_eq!(info.capabilities.iter().count(), column(5).len(), "{line}");
                assert_eq!(info.price.is_none(), matches!(column(6), "" | "+"), "{line}");
            }
        }
    }

    #[test]
    fn the_tables_are_sorted_without_duplicates_and_share_no_name() {
        for table in [MODELS, RETIRED] {
            let names: Vec<&str> =
                table.lines().map(|line| line.split('\t').next().expect("a name")).collect();
            let comments = names.iter().take_while(|name| name.starts_with('#')).count();
            let models = &names[comments..];
            assert!(models.iter().all(|name| *name > "$"), "comments would not sort first");
            for pair in models.windows(2) {
                assert!(pair[0] < pair[1], "{pair:?}");
            }
        }
        for line in lines(RETIRED) {
            let name = line.split('\t').next().expect("a name");
            assert_eq!(find_line(MODELS, name), None, "{name} is not retired");
            assert!(!line.ends_with('\t'), "{name} lacks its source");
        }
    }

    #[test]
    fn every_model_is_found_by_its_name_and_nothing_else_is() {
        for table in [MODELS, RETIRED] {
            for line in lines(table) {
                let name = line.split('\t').next().expect("a name");
                assert_eq!(find_line(table, name), Some(line));
            }
        }
        for name in ["", "#", "gpt-4o\tx", "zzzz", "gpt-4o\n", "é", "GPT-4o", "\u{10ffff}"] {
            assert_eq!(find_line(MODELS, name), None, "{name:?}");
        }
        for comment in RETIRED.lines().filter(|line| line.starts_with('#')) {
            assert_eq!(find_line(RETIRED, comment), None);
        }
        assert_eq!(find_line("", "gpt-4o"), None);
    }

    #[test]
    fn prices_are_those_of_the_json() {
        check(
            "openai",
            "gpt-4o",
            &[
                ("cache_read_input_token_cost", "1.25e-06"),
                ("cache_read_input_token_cost_priority", "2.125e-06"),
                ("input_cost_per_token", "2.5e-06"),
                ("input_cost_per_token_batches", "1.25e-06"),
                ("input_cost_per_token_priority", "4.25e-06"),
                ("output_cost_per_token", "1e-05"),
                ("output_cost_per_token_batches", "5e-06"),
                ("output_cost_per_token_priority", "1.7e-05"),
            ],
        );
        check(
            "anthropic",
            "claude-sonnet-4-5-20250929",
            &[
                ("cache_creation_input_token_cost", "3.75e-06"),
                ("cache_creation_input_token_cost_above_1hr", "6e-06"),
                ("cache_read_input_token_cost", "3e-07"),
                ("input_cost_per_token", "3e-06"),
                ("cache_creation_input_token_cost_batches", "1.875e-06"),
                ("cache_read_input_token_cost_batches", "1.5e-07"),
                ("input_cost_per_token_batches", "1.5e-06"),
                ("output_cost_per_token", "1.5e-05"),
                ("output_cost_per_token_batches", "7.5e-06"),
            ],
        );
        check(
            "bedrock",
            "anthropic.claude-sonnet-4-20250514-v1:0",
            &[
                ("cache_creation_input_token_cost", "3.75e-06"),
                ("cache_read_input_token_cost", "3e-07"),
                ("input_cost_per_token", "3e-06"),
                ("output_cost_per_token", "1.5e-05"),
                ("input_cost_per_token_above_200k_tokens", "6e-06"),
                ("output_cost_per_token_above_200k_tokens", "2.25e-05"),
                ("cache_creation_input_token_cost_above_200k_tokens", "7.5e-06"),
                ("cache_read_input_token_cost_above_200k_tokens", "6e-07"),
            ],
        );
        check(
            "openai",
            "gpt-4o-audio-preview-2024-12-17",
            &[
                ("input_cost_per_audio_token", "4e-05"),
                ("input_cost_per_token", "2.5e-06"),
                ("output_cost_per_audio_token", "8e-05"),
                ("output_cost_per_token", "1e-05"),
            ],
        );
        check(
            "perplexity",
            "sonar-deep-research",
            &[
                ("input_cost_per_token", "2e-06"),
                ("output_cost_per_reasoning_token", "3e-06"),
                ("output_cost_per_token", "8e-06"),
            ],
        );
        check(
            "cohere",
            "rerank-v3.5",
            &[
                ("input_cost_per_query", "0.002"),
                ("input_cost_per_token", "0.0"),
                ("output_cost_per_token", "0.0"),
            ],
        );
        check(
            "dashscope",
            "qwen-plus-2025-09-11",
            &[
                ("input_cost_per_token", "4e-07"),
                ("output_cost_per_reasoning_token", "4e-06"),
                ("output_cost_per_token", "1.2e-06"),
                ("input_cost_per_token_above_256k_tokens", "1.2e-06"),
                ("output_cost_per_reasoning_token_above_256k_tokens", "1.2e-05"),
                ("output_cost_per_token_above_256k_tokens", "3.6e-06"),
            ],
        );
        check(
            "azure",
            "gpt-4.5-preview",
            &[
                ("cache_read_input_token_cost", "3.75e-05"),
                ("input_cost_per_token", "7.5e-05"),
                ("input_cost_per_token_batches", "3.75e-05"),
                ("output_cost_per_token", "0.00015"),
                ("output_cost_per_token_batches", "7.5e-05"),
            ],
        );
        check(
            "openai",
            "ft:gpt-4o-2024-08-06:acme::abc",
            &[
                ("cache_read_input_token_cost", "1.875e-06"),
                ("cache_read_input_token_cost_batches", "9e-07"),
                ("input_cost_per_token", "3.75e-06"),
                ("input_cost_per_token_batches", "2.225e-06"),
                ("output_cost_per_token", "1.5e-05"),
                ("output_cost_per_token_batches", "1.25e-05"),
            ],
        );
        check(
            "vertex_ai",
            "gemini-2.0-flash-lite",
            &[
                ("input_cost_per_audio_token", "7.5e-08"),
                ("input_cost_per_audio_token_batches", "3.75e-08"),
                ("input_cost_per_token", "7.5e-08"),
                ("input_cost_per_token_batches", "3.75e-08"),
                ("output_cost_per_token", "3e-07"),
                ("output_cost_per_token_batches", "1.5e-07"),
            ],
        );
        // Finer than a pico-dollar in the JSON: 1.41953125e-07 and 3.59375e-08.
        let morph = find("morph", "morph-dsv4flash").and_then(|info| info.price).expect("a price");
        let rates = morph.rates(Tier::Standard, 1);
        assert_eq!((rates.input.0, rates.cache_read.0), (141_954, 35_938));
        let sonnet = find("anthropic", "claude-sonnet-4-6").and_then(|info| info.price);
        assert_eq!(sonnet.expect("a price").web_search.to_string(), "0.01");
    }

    #[test]
    fn retired_models_keep_their_price() {
        check(
            "anthropic",
            "claude-3-5-sonnet-20241022",
            &[
                ("input_cost_per_token", "3e-06"),
                ("output_cost_per_token", "1.5e-05"),
                ("cache_read_input_token_cost", "3e-07"),
                ("cache_creation_input_token_cost", "3.75e-06"),
                ("cache_creation_input_token_cost_above_1hr", "6e-06"),
                ("input_cost_per_token_batches", "1.5e-06"),
                ("output_cost_per_token_batches", "7.5e-06"),
                ("cache_read_input_token_cost_batches", "1.5e-07"),
                ("cache_creation_input_token_cost_batches", "1.875e-06"),
                ("cache_creation_input_token_cost_above_1hr_batches", "3e-06"),
            ],
        );
        check(
            "gemini",
            "gemini-1.5-pro",
            &[
                ("input_cost_per_token", "1.25e-06"),
                ("output_cost_per_token", "5e-06"),
                ("cache_read_input_token_cost", "3.125e-07"),
                ("input_cost_per_token_above_128k_tokens", "2.5e-06"),
                ("output_cost_per_token_above_128k_tokens", "1e-05"),
                ("cache_read_input_token_cost_above_128k_tokens", "6.25e-07"),
            ],
        );
        let sonnet = find("anthropic", "claude-3-5-sonnet-20241022").expect("retired");
        assert!(sonnet.retired);
        assert_eq!(
            (sonnet.max_input_tokens, sonnet.max_output_tokens),
            (Some(200_000), Some(8192))
        );
        assert!(sonnet.capabilities.has(Capability::Vision));
        assert!(!sonnet.capabilities.has(Capability::Reasoning));
        assert!(!find("openai", "gpt-4o").expect("gpt-4o").retired);
    }

    /// Totals that Python's `Decimal` made of the JSON.
    #[test]
    fn calls_cost_what_a_decimal_recomputation_says() {
        #[track_caller]
        fn check(provider: &str, model: &str, tier: Tier, counts: [u64; 9], dollars: &str) {
            let usage = Usage {
                prompt_tokens: counts[0],
                completion_tokens: counts[1],
                cache_read_tokens: counts[2],
                cache_write_tokens: counts[3],
                cache_write_1h_tokens: counts[4],
                audio_prompt_tokens: counts[5],
                audio_completion_tokens: counts[6],
                reasoning_tokens: counts[7],
                web_searches: counts[8],
                ..Usage::default()
            };
            let price = find(provider, model).and_then(|info| info.price).expect(model);
            assert_eq!(cost(&usage, &price, tier).total().to_string(), dollars, "{model}");
        }
        check(
            "openai",
            "gpt-4o",
            Tier::Standard,
            [12_345, 678, 1024, 0, 0, 0, 0, 0, 0],
            "0.0363625",
        );
        check("openai", "gpt-4o", Tier::Batch, [12_345, 678, 1024, 0, 0, 0, 0, 0, 0], "0.01882125");
        check(
            "openai",
            "gpt-4o",
            Tier::Priority,
            [12_345, 678, 1024, 0, 0, 0, 0, 0, 0],
            "0.06181625",
        );
        check(
            "anthropic",
            "claude-sonnet-4-6",
            Tier::Standard,
            [98_765, 4321, 50_000, 7000, 11_000, 0, 0, 900, 2],
            "0.28436",
        );
        check(
            "anthropic",
            "claude-sonnet-4-6",
            Tier::Batch,
            [98_765, 4321, 50_000, 7000, 11_000, 0, 0, 900, 0],
            "0.16518",
        );
        check(
            "gemini",
            "gemini-2.5-pro",
            Tier::Standard,
            [200_000, 777, 333, 0, 0, 0, 0, 500, 1],
            "0.292395375",
        );
        check(
            "gemini",
            "gemini-2.5-pro",
            Tier::Standard,
            [200_001, 777, 333, 0, 0, 0, 0, 500, 1],
            "0.54590825",
        );
        check(
            "gemini",
            "gemini-2.5-pro",
            Tier::Priority,
            [200_001, 777, 333, 0, 0, 0, 0, 500, 1],
            "0.95463485",
        );
        check(
            "openai",
            "gpt-6-luna",
            Tier::Flex,
            [300_001, 777, 333, 4444, 0, 0, 0, 500, 0],
            "0.030372605",
        );
        check(
            "openai",
            "gpt-6-luna",
            Tier::Priority,
            [272_000, 777, 333, 4444, 0, 0, 0, 500, 0],
            "0.05533926",
        );
        check(
            "openai",
            "gpt-4o-audio-preview-2024-12-17",
            Tier::Standard,
            [1000, 900, 0, 0, 0, 750, 801, 0, 0],
            "0.095695",
        );
        check(
            "perplexity",
            "sonar-deep-research",
            Tier::Standard,
            [17, 9000, 0, 0, 0, 0, 0, 8001, 13],
            "0.097029",
        );
        check(
            "openai",
            "text-embedding-3-small",
            Tier::Standard,
            [1_048_577, 0, 0, 0, 0, 0, 0, 0, 0],
            "0.02097154",
        );
        check(
            "bedrock",
            "anthropic.claude-sonnet-4-20250514-v1:0",
            Tier::Standard,
            [200_001, 100, 100_000, 1, 0, 0, 0, 0, 0],
            "0.6622575",
        );
    }

    #[test]
    fn a_provider_never_gets_anothers_price() {
        assert_eq!(find("groq", "gpt-4o"), None);
        assert_eq!(find("anthropic", "gpt-4o"), None);
        assert_eq!(find("openai", "groq/openai/gpt-oss-20b"), None);
        assert_eq!(find("gemini", "gemini-2.5-pro").expect("AI Studio's").provider, "gemini");
        assert_eq!(
            find("vertex_ai", "gemini-2.5-pro").expect("Vertex AI's").provider,
            "vertex_ai-language-models"
        );
        assert_eq!(find("openai", "no-such-model"), None);
        assert_eq!(find("", ""), None);
        assert_eq!(find("openai", "ft:"), None);
    }

    #[test]
    fn the_more_specific_name_wins() {
        let sonar = |model| find("perplexity", model).and_then(|info| info.price).expect(model);
        assert_ne!(sonar("sonar"), sonar("perplexity/sonar"));
    }

    #[test]
    fn divisions_of_a_provider_are_one_family() {
        for (provider, model) in [
            ("openai", "gpt-3.5-turbo-instruct"),
            ("text-completion-openai", "gpt-4o"),
            ("bedrock", "anthropic.claude-3-7-sonnet-20250219-v1:0"),
            ("bedrock_converse", "anthropic.claude-3-opus-20240229-v1:0"),
            ("bedrock", "converse/anthropic.claude-3-7-sonnet-20250219-v1:0"),
            ("bedrock", "invoke/anthropic.claude-3-7-sonnet-20250219-v1:0"),
            ("cohere", "command-r-08-2024"),
            ("cohere_chat", "command-nightly"),
            ("azure", "gpt-35-turbo-instruct"),
            ("vertex_ai", "text-embedding-004"),
            ("vertex_ai", "claude-3-haiku@20240307"),
        ] {
            assert!(find(provider, model).is_some(), "{provider} {model}");
        }
    }

    #[test]
    fn bare_names_tell_their_provider() {
        for (model, provider) in [
            ("claude-3-5-sonnet-20241022", Some("anthropic")),
            ("claude-next-9", Some("anthropic")),
            ("gpt-4o", Some("openai")),
            ("gpt-9", Some("openai")),
            ("o3-mini", Some("openai")),
            ("o1", Some("openai")),
            ("chatgpt-9-latest", Some("openai")),
            ("text-embedding-3-small", Some("openai")),
            ("gpt-3.5-turbo-instruct", Some("openai")),
            ("ft:gpt-9:acme::id", Some("openai")),
            ("gemini-99-pro", Some("gemini")),
            ("gemini-2.5-pro", Some("vertex_ai")),
            ("command-r-plus", Some("cohere")),
            ("groq/openai/gpt-oss-20b", Some("groq")),
            ("eu.anthropic.claude-next-v1:0", Some("bedrock")),
            ("amazon.nova-next-v1:0", Some("bedrock")),
            ("bedrockz.anthropic.claude-next", None),
            ("elsewhere/gpt-9", None),
            ("my-model", None),
            ("", None),
        ] {
            assert_eq!(infer_provider(model), provider, "{model}");
        }
    }

    #[test]
    fn free_is_not_the_same_as_without_a_price() {
        let llama = find("ollama", "llama2").expect("a model");
        assert!(llama.price.expect("a price").is_free());
        // An image for so much, though the token columns say zero.
        let image = find("gemini", "lyria-3-pro-preview").expect("a model");
        assert_eq!((image.price, image.other_units), (None, true));
        let unknown = find("github_copilot", "gpt-4o").map(|info| (info.price, info.other_units));
        assert_eq!(unknown, Some((None, false)));
    }

    #[test]
    fn an_image_models_output_is_not_free() {
        let price = find("openai", "gpt-image-1").and_then(|info| info.price).expect("a price");
        assert_eq!(price.rates(Tier::Standard, 1).output.to_string(), "0.00004");
    }

    #[test]
    fn what_is_not_tokens_has_its_price() {
        #[track_caller]
        fn check(info: Option<ModelInfo>, usage: Usage, dollars: &str) {
            let price = info.and_then(|info| info.price).expect("a price");
            assert_eq!(cost(&usage, &price, Tier::Standard).total().to_string(), dollars);
        }
        let none = Usage::default();
        check(find("openai", "whisper-1"), Usage { audio_ms: 90_500, ..none }, "0.00905");
        check(find("openai", "tts-1"), Usage { characters: 1000, ..none }, "0.015");
        check(find("cohere", "rerank-v3.5"), Usage { search_units: 2, ..none }, "0.004");
        check(find("cohere", "rerank-v5.0-pro"), Usage { prompt_tokens: 1000, ..none }, "0.00005");
        check(
            find("cohere", "embed-v4.0"),
            Usage { prompt_tokens: 110, image_prompt_tokens: 100, ..none },
            "0.0000482",
        );
        check(
            find("bedrock", "amazon.titan-embed-image-v1"),
            Usage { input_images: 2, ..none },
            "0.00012",
        );
        let one = Usage { images: 1, pixels: 1024 * 1024, ..none };
        check(find_image("openai", "gpt-image-1", Some("high"), Some("1024x1024")), one, "0.167");
        check(find_image("openai", "gpt-image-1", Some("low"), None), one, "0.011");
        check(
            find_image("azure", "dall-e-3", Some("hd"), Some("1024x1024")),
            one,
            "0.087999958221",
        );
        check(find_image("azure", "dall-e-3", None, Some("auto")), one, "0.04400003154");
        check(find_image("aiml", "dall-e-3", Some("hd"), None), one, "0.052");
        let tokens = Usage {
            prompt_tokens: 20,
            completion_tokens: 1056,
            image_completion_tokens: 1056,
            ..one
        };
        check(find("openai", "gpt-image-1"), tokens, "0.04234");
        assert_eq!(find_image("openai", "nobodys-model", Some("hd"), Some("é")), None);
    }

    #[test]
    fn all_models_of_a_provider_can_be_listed() {
        let openai: Vec<ModelInfo> = models_of("openai").collect();
        assert!(openai.iter().any(|info| info.name == "gpt-4o"));
        assert!(openai.iter().any(|info| info.name == "gpt-3.5-turbo-instruct"));
        assert!(openai.iter().all(|info| family(info.provider) == "openai" && !info.retired));
        assert!(openai.iter().all(|info| !info.model().contains('/')), "no sizes");
        let groq: Vec<&str> = models_of("groq").map(|info| info.model()).collect();
        assert!(groq.contains(&"openai/gpt-oss-20b"));
        assert_eq!(models_of("nobody").count(), 0);
        assert!(models_of("vertex_ai").count() > 100);
    }

    #[test]
    fn no_tier_of_any_model_exceeds_its_worst_case() {
        for info in lines(MODELS).chain(lines(RETIRED)).filter_map(|line| parse(line, false)) {
            let Some(price) = info.price else { continue };
            for prompt_tokens in [1, 128_000, 128_001, 200_001, 900_000] {
                for cached in [0, prompt_tokens] {
                    let usage = Usage {
                        prompt_tokens,
                        completion_tokens: 1000,
                        cache_write_1h_tokens: cached,
                        reasoning_tokens: 500,
                        ..Usage::default()
                    };
                    for tier in Tier::ALL {
                        let bound = worst_case(prompt_tokens, 1000, &price, tier);
                        assert!(cost(&usage, &price, tier).total() <= bound, "{}", info.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_snapshot_date_is_a_date() {
        let bytes = SNAPSHOT_DATE.as_bytes();
        assert_eq!((bytes.len(), bytes[4], bytes[7]), (10, b'-', b'-'));
        assert!(bytes.iter().filter(|byte| byte.is_ascii_digit()).count() == 8);
    }

    proptest! {
        #[test]
        fn no_name_makes_a_look_up_panic(
            provider in ".{0,8}", model in "(ft:|us\\.|gpt-)?.{0,12}"
        ) {
            let _ = find(&provider, &model);
            let _ = infer_provider(&model);
        }
    }
}
