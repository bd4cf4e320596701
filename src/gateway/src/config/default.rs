//! The config without a file: whatever the environment has keys for, and the simulated provider.

use std::collections::BTreeMap;

use tollway_providers::presets::{self, Preset, Quirks};
use tollway_providers::{Access, Provider};
use tollway_wire::operation::Operation;

use super::entry::with_file;
use super::env::Environment;
use super::file::{FileConfig, FileModel, FileParams};

/// The simulated provider, which answers without a model, a key or a network.
pub(super) const DEMO: &str = "demo";
/// What it can be asked for by name; any other name answers as `chat`.
const DEMO_MODELS: &[&str] = &["chat", "echo", "slow", "tools", "think"];

/// Other names of providers that are in the list already.
const SAME: &[&str] = &["text-completion-openai", "custom_openai", "ai21_chat", "vertex_ai_beta"];

static PRESET: Preset = Preset {
    name: DEMO,
    base: None,
    key_variables: &[],
    base_variables: &[],
    free: true,
    quirks: Quirks {
        operations: &[
            Operation::ChatCompletions,
            Operation::Completions,
            Operation::Embeddings,
            Operation::Moderations,
            Operation::Rerank,
            Operation::ImageGeneration,
            Operation::ImageEdit,
            Operation::ImageVariation,
            Operation::Speech,
            Operation::Transcription,
            Operation::Translation,
        ],
        responses: true,
        middle_form: true,
        ..Quirks::NONE
    },
};

/// The simulated provider, if that is its name. It is not among the presets because only the
/// gateway knows where it is.
pub(super) fn demo(name: &str) -> Option<&'static dyn Provider> {
    (name == DEMO).then_some(&PRESET as &dyn Provider)
}

/// Whether the environment holds what it takes to call a provider, and to know where.
fn is_usable(provider: &dyn Provider, environment: &Environment) -> bool {
    let first = |names: &[&str]| names.iter().find_map(|name| environment.get(name));
    let key = first(provider.key_variables());
    let mut settings = BTreeMap::new();
    for setting in provider.settings() {
        let Some(value) = first(setting.variables) else { continue };
        // A file that cannot be read is a mistake only of a config that names the provider.
        if let Ok(value) = with_file(setting.name, value) {
            settings.insert(setting.name.to_owned(), value.into_owned());
        }
    }
    if key.is_none() && (provider.needs_key() || settings.is_empty()) {
        return false;
    }
    let access = Access { api_key: key, settings: &settings, ..Access::default() };
    let has_place =
        provider.default_base(&access).is_some() || first(provider.base_variables()).is_some();
    has_place && provider.headers(&access).is_ok()
}

impl FileConfig {
    /// What is served without a config file: `provider/*` for every provider whose usual key is in
    /// the environment, or whose settings are where it needs no key (Bedrock's, Vertex AI's), and
    /// `demo/…`.
    pub(crate) fn of_environment(environment: Environment) -> FileConfig {
        let mut file = FileConfig::empty(environment);
        let mut names: Vec<String> = presets::all()
            .filter(|provider| !SAME.contains(&provider.name()))
            .filter(|provider| is_usable(*provider, &file.environment))
            .map(|provider| format!("{}/*", provider.name()))
            .collect();
        names.extend(DEMO_MODELS.iter().map(|model| format!("{DEMO}/{model}")));
        names.push(format!("{DEMO}/*"));
        let model = |name: String| FileModel {
            params: FileParams { model: Some(name.clone()), ..FileParams::default() },
            model_name: Some(name),
            ..FileModel::default()
        };
        file.model_list = names.into_iter().map(model).collect();
        file
    }
}
