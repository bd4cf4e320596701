//! The features that are still betas: which of them a request uses.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tollway_wire::anthropic::MessagesRequest;

use super::BETA_HEADER;
use super::messages::Conversation;
use super::model::Abilities;

/// The beta features a body uses. What is not listed here is part of the API: prompt caching for
/// five minutes or an hour, PDF, structured output, citations (platform.claude.com, 2026-11).
#[derive(Default)]
pub(super) struct Betas(Vec<String>);

impl Betas {
    fn add(&mut self, name: &str) {
        let name = name.trim();
        if !name.is_empty() && !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    /// What the client asks for by its own header.
    pub(super) fn of_header(&mut self, header: Option<&str>) {
        header.into_iter().flat_map(|names| names.split(',')).for_each(|name| self.add(name));
    }

    /// What the client asks for by LiteLLM's `extra_headers`.
    pub(super) fn of_client(&mut self, extra: &Map<String, Value>) {
        let headers = extra.get("extra_headers");
        let names = headers.and_then(|headers| headers.get("anthropic-beta")?.as_str());
        self.of_header(names);
    }

    pub(super) fn of_body(
        &mut self,
        body: &MessagesRequest,
        abilities: &Abilities,
        all: &Conversation,
    ) {
        if all.has_uploaded_file {
            self.add("files-api-2025-04-14");
        }
        let effort = body.output_config.as_ref().and_then(|config| config.get("effort"));
        if abilities.effort_beta && effort.is_some() {
            self.add("effort-2025-11-24");
        }
        if body.extra.contains_key("mcp_servers") {
            self.add("mcp-client-2025-04-04");
        }
        if let Some(management) = body.extra.get("context_management") {
            self.add("context-management-2025-06-27");
            let edits = management.get("edits").and_then(Value::as_array);
            if edits.is_some_and(|edits| edits.iter().any(|e| e["type"] == "compact_20260112")) {
                self.add("compact-2026-01-12");
            }
        }
        if body.extra.get("container").is_some_and(|container| container.get("skills").is_some()) {
            self.add("skills-2025-10-02");
        }
        if body.extra.get("speed").is_some_and(|speed| speed == "fast") {
            self.add("fast-mode-2026-02-01");
        }
        for tool in body.tools.iter().flatten() {
            let beta = match tool["type"].as_str().unwrap_or_default() {
                "computer_20241022" => "computer-use-2024-10-22",
                "computer_20250124" => "computer-use-2025-01-24",
                "computer_20251124" => "computer-use-2025-11-24",
                "code_execution_20250825" => "code-execution-2025-08-25",
                "web_fetch_20250910" => "web-fetch-2025-09-10",
                "memory_20250818" => "context-management-2025-06-27",
                kind if kind.starts_with("tool_search_tool") => "advanced-tool-use-2025-11-20",
                _ if tool.get("input_examples").is_some()
                    || tool.get("allowed_callers").is_some()
                    || tool.get("defer_loading").is_some() =>
                {
                    "advanced-tool-use-2025-11-20"
                }
                _ => continue,
            };
            self.add(beta);
        }
    }

    pub(super) fn into_headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let value = HeaderValue::from_str(&self.0.join(","));
        match value {
            Ok(value) if !self.0.is_empty() => vec![(BETA_HEADER, value)],
            // A name that cannot be a header is no beta's.
            _ => Vec::new(),
        }
    }
}
