//! From a file's text to a config or its mistakes.

mod alerts;
mod budgets;
mod cache_section;
mod examples;
mod explanation;
mod filter_stack;
mod groups;
mod keys_section;
mod mcp;
mod no_file;
mod prices;
mod providers;
mod secrets;
mod sections;
mod wildcards;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::json;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::{KeyHash, ModelDirectory};

use super::mistake::Warning;
use super::*;

const FILTERS: &[&str] = &[
    "request_log",
    "usage",
    "cors",
    "auth",
    "validate",
    "model_alias",
    "budget",
    "rate_limit",
    "response_cache",
];

fn environment() -> Environment {
    [
        ("OPENAI_API_KEY", "sk-openai-secret"),
        ("AZURE_API_KEY", "azure-secret-1234"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
        ("ANTHROPIC_API_KEY", "sk-ant-secret"),
        ("LITELLM_MASTER_KEY", "sk-master-secret"),
        ("CI_KEY", "sk-ci-secret"),
        ("TAVILY_API_KEY", "tvly-secret"),
        ("TICKETS_TOKEN", "tickets-secret"),
        ("LIMIT", "7"),
    ]
    .into_iter()
    .collect()
}

fn load(text: &str) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
    load_with(text, environment())
}

fn load_with(text: &str, environment: Environment) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
    let file = FileConfig::read("config.yaml", text, environment);
    Config::resolve(file, FILTERS, "http://127.0.0.1:9/v1")
}

#[track_caller]
fn config(text: &str) -> Config {
    match load(text) {
        Ok((config, _)) => config,
        Err(mistakes) => panic!("{}", lines(&mistakes)),
    }
}

fn lines<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// The file has these mistakes, in this order, and no others.
#[track_caller]
fn mistakes(text: &str, expect: &[&str]) {
    let found = load(text).map(|_| ()).expect_err("no mistake was found");
    let found: Vec<_> = found.iter().map(Mistake::to_string).collect();
    let all = found.join("\n");
    assert_eq!(found.len(), expect.len(), "{all}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.contains(expect), "{expect:?} is not in\n{all}");
    }
}

#[track_caller]
fn warnings(text: &str, expect: &[&str]) {
    let (_, found) = load(text).unwrap_or_else(|mistakes| panic!("{}", lines(&mistakes)));
    let all = lines(&found);
    assert_eq!(found.len(), expect.len(), "{all}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.to_string().contains(expect), "{expect:?} is not in\n{all}");
    }
}

/// A file with one good model, and more.
fn with_model(more: &str) -> String {
    format!("model_list:\n- model_name: gpt-4o\n  litellm_params: {{model: openai/gpt-4o}}\n{more}")
}

/// A file with one model of these `litellm_params`.
fn with_params(params: &str) -> String {
    format!("model_list:\n- model_name: m\n  litellm_params: {{{params}}}\n")
}

fn only(config: &Config, name: &str) -> Arc<tollway_filter_api::Deployment> {
    let group = config.directory.resolve(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(group.deployments.len(), 1);
    Arc::clone(&group.deployments[0])
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    /// The keys and values of a real file, shuffled.
    #[test]
    fn no_mix_of_real_lines_panics_the_loader(lines in prop::collection::vec(0..400_usize, 0..40), indent in 0..6_usize) {
        let full = include_str!("../../../../conf/full.yaml");
        let all: Vec<_> = full.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let text: Vec<_> = lines.iter().map(|at| {
            let line = all[at % all.len()];
            &line[indent.min(line.len() - line.trim_start().len())..]
        }).collect();
        let _ = load(&text.join("\n"));
    }
}
