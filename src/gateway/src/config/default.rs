//! The config without a file: whatever the environment has keys for, and the simulated provider.

use tollway_providers::Provider;
use tollway_providers::presets::{self, Preset, Quirks};
use tollway_wire::operation::Operation;

use super::env::Environment;
use super::file::{FileConfig, FileModel, FileParams};

/// The simulated provider, which answers without a model, a key or a network.
pub(super) const DEMO: &str = "demo";
/// What it can be asked for by name; any other name answers as `chat`.
const DEMO_MODELS: &[&str] = &["chat", "echo", "slow", "tools", "think"];

/// Other names of providers that are in the list already.
const SAME: &[&str] = &["text-completion-openai", "custom_openai", "ai21_chat"];

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

impl FileConfig {
    /// What is served without a config file: `provider/*` for every provider whose usual key is in
    /// the environment, and `demo/…`.
    pub(crate) fn of_environment(environment: Environment) -> FileConfig {
        let mut file = FileConfig::empty(environment);
        let has = |names: &[&str]| names.iter().any(|name| file.environment.get(name).is_some());
        let mut names: Vec<String> = presets::all()
            .filter(|provider| !SAME.contains(&provider.name()) && has(provider.key_variables()))
            .filter(|provider| {
                let base = provider.default_base(&Default::default());
                base.is_some() || has(provider.base_variables())
            })
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
