//! The built-in tools, one file (or folder) each.
//!
//! To add one: its file, its `pub mod` line, its line in `BUILTIN`; where it has settings, a member
//! of [`Settings`]; where something beside the model uses what is behind it, a member of [`Services`].

pub mod arguments;
pub mod calculator;
pub mod code;
pub mod files;
pub mod html;
pub mod settings;
pub mod web_fetch;
pub mod web_search;

use std::sync::Arc;

use serde::Deserialize;
use tollway_filter_api::Clock;
use tollway_sandbox::Sandbox;

use self::code::CodeSettings;
use self::files::{Files, FilesSettings};
use self::web_fetch::WebFetchSettings;
use self::web_search::{SearchTool, WebSearch, WebSearchSettings};
use crate::keeper::Keeper;
use crate::outgoing::{ClientError, Outgoing, Policy};
use crate::tool::Tool;
use crate::toolbox::Missing;

/// What a config says of the tools.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where tools may go that take URLs from models and strangers.
    pub outgoing: Policy,
    /// Where files are kept; without it, nowhere.
    pub files: Option<FilesSettings>,
    /// Who searches the web, in the order in which they are asked.
    pub search_tools: Vec<SearchTool>,
    /// How it is searched.
    pub web_search: WebSearchSettings,
    /// How pages are read.
    pub web_fetch: WebFetchSettings,
    /// Which languages are run, if any.
    pub code: Option<CodeSettings>,
}

impl Settings {
    /// Whether a tool wants the sandbox.
    pub fn needs_sandbox(&self) -> bool {
        self.code.is_some() || self.files.is_some()
    }
}

/// What tools are made of, and what others use of it directly.
#[derive(Clone)]
pub struct Services {
    /// The time.
    pub clock: Clock,
    /// HTTP clients.
    pub outgoing: Outgoing,
    /// Keeps files, where they are kept.
    pub files: Option<Files>,
    /// Searches the web, if somebody is configured to.
    pub web_search: Option<Arc<WebSearch>>,
    /// Runs untrusted code, where a tool wants that.
    pub sandbox: Option<Sandbox>,
    /// Keeps files, where that is configured.
    pub keeper: Option<Arc<dyn Keeper>>,
}

/// Settings that no tool can be made with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// One that makes no sense.
    #[error("{path}: {message}")]
    Wrong {
        /// Where it is, from [`Settings`] on.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// There can be no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Services {
    /// Makes them.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn new(
        settings: &Settings,
        outgoing: Outgoing,
        clock: Clock,
    ) -> Result<Services, SettingsError> {
        let (tools, how) = (&settings.search_tools, &settings.web_search);
        let web_search = WebSearch::new(tools, how, &outgoing, clock.clone())?.map(Arc::new);
        Ok(Services { clock, outgoing, files: None, web_search, sandbox: None, keeper: None })
    }
}

/// Makes tools: none where the settings do not ask for them.
type Build = fn(&Settings, &Services) -> Result<Vec<Arc<dyn Tool>>, SettingsError>;

/// All there are.
const BUILTIN: &[Build] =
    &[calculator::build, code::build, files::build, web_fetch::build, web_search::build];

/// The built-in tools.
///
/// # Errors
/// When the settings make no sense.
pub fn built_in(
    settings: &Settings,
    services: &Services,
) -> Result<Vec<Arc<dyn Tool>>, SettingsError> {
    let mut tools = Vec::new();
    for build in BUILTIN {
        tools.extend(build(settings, services)?);
    }
    Ok(tools)
}

/// The tools that are wanted and cannot be there, and why.
pub fn missing(settings: &Settings, services: &Services) -> Vec<(&'static str, Missing)> {
    code::missing(settings, services)
}
