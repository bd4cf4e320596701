//! Agents and tools as they are written.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tollway_wire::price::PicoDollars;

use super::super::reader::Fields;

/// `agent_settings`: what holds for all agents.
#[derive(Debug, Default)]
pub(crate) struct FileAgentSettings {
    /// `default_tools`: the tools of keys that say nothing of `tools` in their metadata, nor their
    /// team or user. Default: none.
    pub(crate) default_tools: Vec<String>,
    /// `max_steps`: model calls of a run that says nothing. Default 12.
    pub(crate) max_steps: Option<u32>,
    /// `max_steps_limit`: what a run may ask for. Default 100.
    pub(crate) max_steps_limit: Option<u32>,
    /// `max_cost_usd`: what a run may spend, whatever it asks for. Default: what its key may.
    pub(crate) max_cost: Option<PicoDollars>,
    /// `deadline`: how long a run may be at work that says nothing. Default `5m`.
    pub(crate) deadline: Option<Duration>,
    /// `deadline_limit`: what a run may ask for. Default `1h`.
    pub(crate) deadline_limit: Option<Duration>,
    /// `tool_timeout`: how long one call of a tool may take. Default `1m`.
    pub(crate) tool_timeout: Option<Duration>,
    /// `running_max`: runs at work at once. Default 1000.
    pub(crate) running_max: Option<u64>,
    /// `waiting_max`: runs that may wait for a place. Default 10000.
    pub(crate) waiting_max: Option<u64>,
    /// `retention`: how long runs can be asked for when they are over. Default `30d`.
    pub(crate) retention: Option<Duration>,
    /// `approval`: `{default: policy, always: [files.delete], never: []}`: the tools that have to be
    /// approved, whatever agents and requests say.
    pub(crate) approval: Option<Written>,
    /// `links`: `{images: listed, links: any, allowed_hosts: [cdn.example.com]}`: what answers may show
    /// and link to. Default: images of no other host, and all links.
    pub(crate) links: Option<Written>,
}

pub(super) fn read_agent_settings(fields: &mut Fields<'_>) -> FileAgentSettings {
    FileAgentSettings {
        default_tools: fields.texts("default_tools"),
        max_steps: fields.small_number("max_steps").filter(|steps| *steps > 0),
        max_steps_limit: fields.small_number("max_steps_limit").filter(|steps| *steps > 0),
        max_cost: fields.parsed("max_cost_usd", "an amount in dollars, such as 0.5", |text| {
            PicoDollars::parse_rounding_up(text).ok()
        }),
        deadline: fields.timeout("deadline"),
        deadline_limit: fields.timeout("deadline_limit"),
        tool_timeout: fields.timeout("tool_timeout"),
        running_max: fields.count("running_max"),
        waiting_max: fields.count("waiting_max"),
        retention: fields.timeout("retention"),
        approval: fields.json("approval"),
        links: fields.json("links"),
    }
}

/// What is read further by whom it concerns. It may hold secrets, and is not shown.
#[derive(Clone, Default)]
pub(crate) struct Written(pub(crate) Value);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(…)")
    }
}

impl Fields<'_> {
    /// Whatever there is, references followed.
    pub(super) fn json(&mut self, name: &'static str) -> Option<Written> {
        let (node, path) = (self.take(name)?, self.path(name));
        Some(Written(self.reader.json(node, &path, true)))
    }
}
