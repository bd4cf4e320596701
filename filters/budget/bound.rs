//! The most a call can cost, before it is made.
//!
//! Input without images and files has no more tokens than bytes. That is bound enough where it fits,
//! and costs next to nothing; where it does not fit, and for other input, tokens are counted, with a
//! margin for what the count may be off by. What the gateway does not see (a stored conversation, a
//! file by its id) is taken for all the model can read. Output is what the
//! request allows, for each answer, else what the model can write, else the config's default. What
//! is not billed by tokens is bounded by what is asked for: images, characters, the length of a
//! recording at a low bit rate. Of all deployments that may come to serve the call, fallbacks
//! included, the dearest counts.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::memmem;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use tollway_filter_api::treasury::{BudgetId, BudgetScope};
use tollway_filter_api::{Deployment, ModelGroup, RequestView};
use tollway_wire::count;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::price::{PicoDollars, Price, Tier, cost, worst_case};
use tollway_wire::scan::{self, Limits};
use tollway_wire::usage::{Served, Usage};

/// Added to the counted input: one in so many tokens, and a few for what a provider puts around a
/// short one.
const MARGIN: u64 = 4;
const MARGIN_LEAST: u64 = 32;
/// What a model reads whose window is not known.
const WINDOW: u64 = 200_000;
/// Searches a provider may run by itself for one answer where the request does not say.
const SEARCHES: u64 = 10;
/// Tokens of an image that a model makes or is given: `gpt-image-1` takes up to 6240 for a large one
/// in high quality (platform.openai.com/docs/guides/image-generation, 2026-11).
const IMAGE_TOKENS: u64 = 8_192;
/// Pixels of an image where the request does not say: 2048 by 2048.
const PIXELS: u64 = 4_194_304;
/// Bytes of a second of recorded speech, at 16 kbit a second: few are smaller.
const AUDIO_BYTES: u64 = 2_000;
/// Tokens and milliseconds of audio that a character becomes when it is spoken, at most.
const SPOKEN_TOKENS: u64 = 2;
const SPOKEN_MS: u64 = 200;
/// A document longer than this is several to a ranking (docs.cohere.com, "Rerank", 2026-11: 500, the
/// query among them).
const DOCUMENT_TOKENS: u64 = 400;
/// How many documents are one search unit.
const DOCUMENTS: u64 = 100;

/// How the input of a call is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing depends on it: by its length.
    Guessed,
    /// By its length, if that is a bound; else as `Counted`.
    Bounded,
    /// By its tokens.
    Counted,
}

/// What bounds a call.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// What is known of the input: never `Bounded` where tokens had to be counted.
    pub(super) input: Input,
    /// Input tokens, as counted or guessed.
    counted: u64,
    /// The most there can be.
    prompt: u64,
    /// There is input that is not in the request.
    pub(super) has_unseen: bool,
    /// How many answers are asked for.
    pub(super) answers: u64,
    /// Output tokens of each.
    pub(super) output: Output,
    /// What is not tokens.
    pub(super) units: Usage,
    /// Searches of the provider's.
    searches: u64,
    /// Output tokens that each answer needs before its first word: those it thinks with.
    pub(super) thinking: u64,
    pub(super) tier: Tier,
    /// How it is to be served.
    pub(super) served: Served,
}

/// Output tokens of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Text, of so many at most where the request says. `is_ours`: a maximum can be written into
    /// the request, and holds.
    Text { asked: Option<u64>, is_ours: bool },
    /// So many at most, whatever the request says.
    Fixed(u64),
}

impl Bound {
    /// Reads a request.
    pub(super) fn of(
        operation: Operation,
        view: &RequestView,
        served: Served,
        input: Input,
    ) -> Bound {
        let has_files = input != Input::Guessed && view.object.names_files();
        let input = match input {
            Input::Bounded if has_files => Input::Counted,
            input => input,
        };
        let length = view.body.len() as u64;
        let counted = match input {
            Input::Counted => count::input_tokens(&view.body),
            _ => length.div_ceil(4),
        };
        let prompt = match input {
            Input::Bounded => length,
            _ => counted.saturating_add(counted / MARGIN),
        };
        let mut bound = Bound {
            input,
            counted,
            prompt: prompt.saturating_add(MARGIN_LEAST),
            has_unseen: input != Input::Guessed && has_unseen(view, has_files),
            answers: 1,
            output: Output::Fixed(0),
            units: Usage::default(),
            searches: 0,
            thinking: 0,
            tier: served.tier.unwrap_or_default(),
            served,
        };
        let number = |name| view.object.u64(&view.body, name);
        let n = number("n").unwrap_or(1).max(1);
        match operation {
            Operation::Realtime => {
                bound.has_unseen = true;
                bound.output = Output::Text { asked: None, is_ours: false };
            }
            Operation::ChatCompletions | Operation::Completions => bound.text(operation, view),
            Operation::Embeddings | Operation::Moderations => {}
            // Nobody bills a count.
            Operation::CountTokens => (bound.counted, bound.prompt) = (0, 0),
            Operation::Rerank => {
                let documents = view.object.raw(&view.body, "documents").map_or(0, items);
                let parts = documents.saturating_add(bound.prompt / DOCUMENT_TOKENS);
                bound.units.search_units = parts.div_ceil(DOCUMENTS).max(1);
            }
            Operation::ImageGeneration | Operation::ImageEdit | Operation::ImageVariation => {
                let files = view.form.as_ref().map_or(0, |form| files(&form.bytes));
                bound.prompt = bound.prompt.saturating_add(IMAGE_TOKENS.saturating_mul(files));
                bound.units.input_images = files;
                bound.units.images = n;
                bound.units.pixels = n.saturating_mul(pixels(view));
                bound.output = Output::Fixed(IMAGE_TOKENS.saturating_mul(n));
            }
            Operation::Speech => {
                let said = view.object.str(&view.body, "input");
                let characters = said.map_or(0, |said| said.chars().count() as u64);
                bound.units.characters = characters;
                bound.units.audio_ms = characters.saturating_mul(SPOKEN_MS).saturating_add(1_000);
                bound.output = Output::Fixed(characters.saturating_mul(SPOKEN_TOKENS) + 1_000);
            }
            Operation::Transcription | Operation::Translation => {
                let bytes = view.form.as_ref().map_or(0, |form| form.bytes.len() as u64);
                bound.units.audio_ms = (bytes.saturating_mul(1_000) / AUDIO_BYTES).max(1_000);
                // What is heard is at most twenty tokens a second, and read as fast.
                let tokens = bound.units.audio_ms / 50;
                bound.prompt = bound.prompt.saturating_add(tokens);
                bound.output = Output::Fixed(tokens.saturating_add(1_000));
            }
        }
        bound
    }

    /// Input tokens as we count them.
    pub(super) fn count(&mut self, view: &RequestView) -> u64 {
        if self.input != Input::Counted && self.counted > 0 {
            self.counted = count::input_tokens(&view.body);
            self.input = Input::Counted;
        }
        self.counted
    }

    fn text(&mut self, operation: Operation, view: &RequestView) {
        let number = |name| view.object.u64(&view.body, name);
        let drops = view.object.raw(&view.body, "additional_drop_params");
        // Who has the maximum left out has none.
        let is_ours = drops.is_none_or(|list| memmem::find(list, b"max").is_none());
        let nested = |outer: &[&str], names: &[&str]| {
            let member = outer.iter().find_map(|name| view.object.get(&view.body, name))?;
            let members = scan::members(&view.body, member.value, &Limits::default()).ok()?;
            names.iter().find_map(|name| members.u64(&view.body, name))
        };
        const GEMINI: &[&str] = &["generationConfig", "generation_config"];
        let (asked, answers) = match view.dialect {
            // A provider may know one of the two only: the larger one counts.
            Dialect::OpenAi => {
                let asked = number("max_completion_tokens").max(number("max_tokens"));
                let n = number("n").unwrap_or(1).max(number("best_of").unwrap_or(1)).max(1);
                let prompts = match operation {
                    Operation::Completions => {
                        view.object.raw(&view.body, "prompt").map_or(1, prompts)
                    }
                    _ => 1,
                };
                (asked, n.saturating_mul(prompts))
            }
            Dialect::Responses => (number("max_output_tokens"), 1),
            Dialect::Anthropic => {
                let thinks = nested(&["thinking"], &["budget_tokens"]);
                self.thinking = thinks.map_or(0, |budget| budget.saturating_add(1));
                (number("max_tokens"), 1)
            }
            Dialect::Gemini => (
                nested(GEMINI, &["maxOutputTokens", "max_output_tokens"]),
                nested(GEMINI, &["candidateCount", "candidate_count"]).unwrap_or(1).max(1),
            ),
        };
        self.answers = answers;
        self.output = Output::Text { asked: asked.filter(|_| is_ours), is_ours };
        if may_search(view) {
            self.searches = SEARCHES;
        }
        if self.input == Input::Counted {
            self.units.input_images = memmem::find_iter(&view.body, b"image_url").count() as u64;
        }
    }

    /// The most a call costs at a deployment if each answer has up to so many tokens.
    fn at(&self, deployment: &Deployment, price: &Price, per_answer: u64) -> PicoDollars {
        let prompt = match self.has_unseen {
            true => self.prompt.max(deployment.max_input_tokens.unwrap_or(WINDOW)),
            false => self.prompt,
        };
        let output = self.answers.saturating_mul(per_answer);
        let units = cost(&self.units, price, self.tier);
        let more_units = self.units.search_units.saturating_sub(1);
        price
            .surcharged(worst_case(prompt, output, price, self.tier), self.served)
            .saturating_add(units.units)
            .saturating_add(price.per_request.times(more_units))
            .saturating_add(price.web_search.times(self.searches))
    }

    /// How many tokens an answer of a deployment has at most, and whether that is certain.
    fn output_of(&self, deployment: &Deployment, default: u64) -> (u64, bool) {
        match self.output {
            Output::Fixed(tokens) => (tokens / self.answers.max(1), true),
            Output::Text { asked: Some(asked), .. } => (asked, true),
            Output::Text { asked: None, .. } => match deployment.max_output_tokens {
                Some(most) => (most, true),
                None => (default, false),
            },
        }
    }
}

/// Who may come to serve a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers {
    /// The plan's group first, then those that are tried after any failure, then the others.
    pub(super) groups: SmallVec<[Arc<ModelGroup>; 2]>,
    /// How many of them are tried after any failure.
    pub(super) usual: usize,
    /// Deployments that are not to serve it, because their own budgets are spent.
    pub(super) left_out: Vec<Arc<str>>,
}

impl Servers {
    /// Adds a group, if there is one and it is not among them.
    pub(super) fn add(&mut self, group: Option<Arc<ModelGroup>>) {
        let Some(group) = group else { return };
        if !self.groups.iter().any(|have| have.name == group.name) {
            self.groups.push(group);
        }
    }

    /// The groups that have deployments which may serve it.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<ModelGroup>> {
        self.groups.iter().filter(|group| !group.deployments.is_empty())
    }

    /// Leaves out the deployments that a budget is about. False where that is none, or leaves none
    /// that the call would come to.
    pub(super) fn leave_out(&mut self, budget: &BudgetId) -> bool {
        let is_its = |deployment: &Arc<Deployment>| match budget.scope {
            BudgetScope::Provider => *deployment.provider == *budget.subject,
            BudgetScope::Deployment => deployment.id == budget.subject,
            _ => false,
        };
        let usual = self.groups[..self.usual].iter().flat_map(|group| &group.deployments);
        if !self.deployments().any(is_its) || usual.clone().all(is_its) {
            return false;
        }
        for group in &mut self.groups {
            if group.deployments.iter().any(is_its) {
                let its = group.deployments.iter().filter(|deployment| is_its(deployment));
                self.left_out.extend(its.map(|deployment| Arc::clone(&deployment.id)));
                let others = group.deployments.iter().filter(|deployment| !is_its(deployment));
                let deployments = others.cloned().collect();
                *group = Arc::new(ModelGroup { deployments, ..(**group).clone() });
            }
        }
        true
    }

    pub(super) fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.groups.iter().flat_map(|group| &group.deployments)
    }

    fn priced(&self) -> impl Iterator<Item = (&Deployment, &Price)> {
        self.deployments()
            .filter_map(|deployment| Some((&**deployment, deployment.price.as_deref()?)))
    }

    /// One whose price nobody knows.
    pub(super) fn unpriced(&self) -> Option<&Arc<Deployment>> {
        self.deployments().find(|deployment| deployment.price.is_none())
    }

    /// The most the call can cost, and whether it is certain that its output ends there.
    pub(super) fn most(&self, bound: &Bound, default: u64) -> (PicoDollars, bool) {
        let mut most = (PicoDollars::ZERO, true);
        for (deployment, price) in self.priced() {
            let (output, is_certain) = bound.output_of(deployment, default);
            most.0 = most.0.max(bound.at(deployment, price, output));
            most.1 &= is_certain || price.is_free();
        }
        most
    }

    /// The most tokens an answer can have at any of them.
    pub(super) fn most_output(&self, default: u64) -> u64 {
        let of = |(deployment, _): (&Deployment, &Price)| {
            deployment.max_output_tokens.unwrap_or(default)
        };
        self.priced().map(of).max().unwrap_or(default)
    }

    /// The most it can cost with so many tokens in each answer.
    pub(super) fn with_output(&self, bound: &Bound, per_answer: u64) -> PicoDollars {
        let of = |(deployment, price)| bound.at(deployment, price, per_answer);
        self.priced().map(of).max().unwrap_or_default()
    }

    /// How many tokens each answer may have for this much, `limit` at most.
    pub(super) fn output_for(&self, bound: &Bound, amount: PicoDollars, limit: u64) -> u64 {
        let fits = |tokens| self.with_output(bound, tokens) <= amount;
        if fits(limit) {
            return limit;
        }
        // The cost grows with the tokens: halve the distance.
        let (mut fit, mut too_many) = (0, limit);
        while too_many - fit > 1 {
            let middle = fit + (too_many - fit) / 2;
            match fits(middle) {
                true => fit = middle,
                false => too_many = middle,
            }
        }
        fit
    }

    /// What it may well cost: the input as counted, and a quarter of the output there may be.
    pub(super) fn estimate(&self, bound: &Bound, default: u64) -> PicoDollars {
        let Some(group) = self.groups.first() else { return PicoDollars::ZERO };
        let of = |deployment: &Arc<Deployment>| {
            let price = deployment.price.as_deref()?;
            let (output, _) = bound.output_of(deployment, default);
            let usage = Usage {
                prompt_tokens: bound.counted,
                completion_tokens: bound.answers.saturating_mul(output / 4),
                served: bound.served,
                ..bound.units
            };
            Some(cost(&usage, price, bound.tier).total())
        };
        group.deployments.iter().filter_map(of).max().unwrap_or_default()
    }
}

/// Whether the request refers to what is not in it.
fn has_unseen(view: &RequestView, has_files: bool) -> bool {
    const MEMBERS: &[&str] =
        &["previous_response_id", "conversation", "cachedContent", "cached_content", "container"];
    const WITHIN: &[&[u8]] = &[
        b"\"file_id\"",
        b"\"file_url\"",
        b"\"fileUri\"",
        b"\"file_uri\"",
        b"\"item_reference\"",
        b"\"type\":\"file\"",
    ];
    if !matches!(view.operation, Operation::ChatCompletions) {
        return false;
    }
    let is_there =
        |name: &&str| view.object.raw(&view.body, name).is_some_and(|value| value != b"null");
    // A prompt that is kept at the provider; in the other dialects it is the prompt itself.
    let is_kept = view.dialect == Dialect::Responses && is_there(&"prompt");
    is_kept
        || MEMBERS.iter().any(is_there)
        || has_files && WITHIN.iter().any(|name| memmem::find(&view.body, name).is_some())
}

/// How many prompts a text completion has: a text is one, a list of texts several, a list of tokens
/// one again.
fn prompts(json: &[u8]) -> u64 {
    match json.trim_ascii_start() {
        [b'[', rest @ ..] if matches!(rest.trim_ascii_start().first(), Some(b'"' | b'[')) => {
            items(json)
        }
        _ => 1,
    }
}

/// How many items a list has.
fn items(json: &[u8]) -> u64 {
    let items: Option<Vec<&serde_json::value::RawValue>> = serde_json::from_slice(json).ok();
    items.map_or(1, |items| items.len() as u64).max(1)
}

/// How many files a form has.
fn files(form: &[u8]) -> u64 {
    memmem::find_iter(form, b"filename=").count() as u64
}

/// The pixels of an image that is asked for: `size: 1024x1536`.
fn pixels(view: &RequestView) -> u64 {
    let size = view.object.str(&view.body, "size");
    let parse = |size: &str| {
        let (width, height) = size.split_once('x')?;
        width.parse::<u64>().ok()?.checked_mul(height.parse().ok()?)
    };
    size.and_then(|size| parse(&size)).unwrap_or(PIXELS)
}

/// Whether the provider may search by itself: because of an option, or a tool of its own. A function of
/// the caller's may have any name.
pub(super) fn may_search(view: &RequestView) -> bool {
    if view.object.get(&view.body, "web_search_options").is_some() {
        return true;
    }
    let Some(tools) = view.object.raw(&view.body, "tools") else { return false };
    let is_named = |bytes: &[u8]| {
        ["search", "Search"].iter().any(|word| memmem::find(bytes, word.as_bytes()).is_some())
    };
    if !is_named(tools) {
        return false;
    }
    // What cannot be read is taken for the worst.
    let Ok(tools) = serde_json::from_slice::<Vec<HashMap<String, &RawValue>>>(tools) else {
        return true;
    };
    tools.iter().any(|tool| match tool.get("type") {
        Some(kind) => is_named(kind.get().as_bytes()),
        // Gemini's have names for kinds: `googleSearch`.
        None => tool.keys().any(|name| is_named(name.as_bytes())),
    })
}
