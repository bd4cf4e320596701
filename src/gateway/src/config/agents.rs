//! Agents and tools, checked.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tollway_agent::agent::{AgentSpec, ConfigAgents};
use tollway_agent::links::LinkPolicy;
use tollway_agent::run::Approval;
use tollway_agent::service;
use tollway_agent::toolbox::Allowed;
use tollway_agent::tools;
use tollway_agent::tools::web_search::SearchTool;
use tollway_filter_api::ModelDirectory;

use super::directory::Directory;
use super::file::{FileAgentSettings, FileConfig};
use super::mcp;
use super::mistake::Report;

/// What there is of agents.
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    /// What runs are made by.
    pub(crate) service: service::Settings,
    /// The tools of keys that say nothing.
    pub(crate) default_tools: Allowed,
    /// The tools there are.
    pub(crate) tools: tools::Settings,
    /// Runs at work at once.
    pub(crate) running_max: usize,
    /// Runs that may wait.
    pub(crate) waiting_max: usize,
}

pub(super) fn resolve(
    file: &mut FileConfig,
    directory: &Directory,
    report: &mut Report,
) -> AgentSettings {
    let mut agents = ConfigAgents::new();
    for (at, given) in std::mem::take(&mut file.agents).into_iter().enumerate() {
        let path = format!("agents[{at}]");
        let Some(agent) = read::<AgentSpec>(given, &path, report) else { continue };
        if let Some((member, message)) = agent.mistake() {
            report.mistake(&format!("{path}.{member}"), message);
        } else if directory.resolve(&agent.model).is_none() {
            let message = format!("there is no model {:?} in model_list", agent.model);
            report.mistake(&format!("{path}.model"), message);
        } else if agents.contains_key(&agent.name) {
            let message = format!("there is an agent {:?} already", agent.name);
            report.mistake(&format!("{path}.name"), message);
        } else {
            agents.insert(agent.name.clone(), agent);
        }
    }
    let settings = std::mem::take(&mut file.agent_settings);
    let approval = settings
        .approval
        .clone()
        .and_then(|given| read::<Approval>(given.0, "agent_settings.approval", report));
    let links = settings
        .links
        .clone()
        .and_then(|given| read::<LinkPolicy>(given.0, "agent_settings.links", report));
    let mcp_servers = mcp::resolve(file, report);
    let tools = std::mem::take(&mut file.tools);
    let tools = tools.and_then(|given| read::<tools::Settings>(given.0, "tools", report));
    let tools = with_search_tools(tools.unwrap_or_default(), file, report);
    let FileAgentSettings { max_steps, max_steps_limit, deadline, deadline_limit, .. } = settings;
    let usual = service::Settings::default();
    let steps_limit = max_steps_limit.unwrap_or(usual.max_steps.1);
    let time_limit = deadline_limit.unwrap_or(usual.deadline.1);
    let number = |given: Option<u64>, usual: usize| {
        given.map_or(usual, |given| usize::try_from(given).unwrap_or(usize::MAX)).min(1 << 20)
    };
    AgentSettings {
        service: service::Settings {
            agents,
            max_steps: (max_steps.unwrap_or(usual.max_steps.0).min(steps_limit), steps_limit),
            max_cost: settings.max_cost,
            deadline: (
                deadline.unwrap_or(usual.deadline.0).min(time_limit).max(Duration::from_secs(1)),
                time_limit,
            ),
            tool_timeout: settings.tool_timeout.unwrap_or(usual.tool_timeout),
            approval,
            retention: settings.retention.unwrap_or(usual.retention),
            links: Arc::new(links.unwrap_or_default()),
            mcp_servers,
        },
        default_tools: Allowed(settings.default_tools.into_iter().collect()),
        tools,
        running_max: number(settings.running_max, 1_000),
        waiting_max: number(settings.waiting_max, 10_000),
    }
}

/// With LiteLLM's list of who searches the web, and keys from where they usually are.
fn with_search_tools(
    mut tools: tools::Settings,
    file: &mut FileConfig,
    report: &mut Report,
) -> tools::Settings {
    if let Some(given) = file.search_tools.take() {
        if !tools.search_tools.is_empty() {
            report.mistake("search_tools", "is there twice: here and in `tools`");
        } else if let Some(list) = read::<Vec<SearchTool>>(given.0, "search_tools", report) {
            tools.search_tools = list;
        }
    }
    for tool in &mut tools.search_tools {
        let params = &mut tool.litellm_params;
        let usual = || file.environment.get(params.search_provider.key_variable());
        let key = params.api_key.take();
        params.api_key = key.or_else(|| usual().map(SecretString::from));
    }
    tools
}

/// Reads what was written as it stands.
fn read<T: DeserializeOwned>(given: Value, path: &str, report: &mut Report) -> Option<T> {
    match serde_path_to_error::deserialize(given) {
        Ok(read) => Some(read),
        Err(error) => {
            let below = error.path().to_string();
            let at = if below == "." { path.to_owned() } else { format!("{path}.{below}") };
            report.mistake(&at, error.into_inner().to_string());
            None
        }
    }
}
