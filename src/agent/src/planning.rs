//! From what a request, its agent and the operators say to what a run is to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tollway_filter_api::documents::Collection;
use tollway_filter_api::{Reject, Rejection};
use tollway_wire::price::PicoDollars;

use crate::ports::Caller;
use crate::request::RunRequest;
use crate::run::{Approval, ApprovalDefault, Plan};
use crate::service::{Agents, refused_tool};
use crate::threads;
use crate::toolbox::{Allowed, Tools, function_name, needs_approval};

impl Agents {
    /// What a request amounts to, with its agent and what operators have set.
    pub(crate) async fn plan(
        &self,
        caller: &Caller,
        request: RunRequest,
        run: &Arc<str>,
    ) -> Result<(Plan, Option<threads::Opened>), Rejection> {
        let live = self.live();
        let settings = &live.settings;
        let named = request.model.as_deref().and_then(|model| model.strip_prefix("agent/"));
        let name = request.agent.as_deref().or(named);
        let agent = match name {
            Some(name) => Some(self.agent(caller, name).await?),
            None => None,
        };
        let model = request.model.clone().filter(|_| named.is_none());
        let model = match (model, &agent) {
            // Which model an agent uses is its owner's to say.
            (_, Some(agent)) => agent.model.clone(),
            (Some(model), None) => model,
            (None, None) => {
                let message = "Missing required parameter: 'model' or 'agent'.";
                return Err(Reject::invalid_request(message).with_param("model"));
            }
        };
        let (names, functions) = split_tools(request.tools)?;
        let mut lists = caller.tools.clone();
        let wanted = match (&agent, names) {
            // An agent has the tools it was given; a request may leave some out.
            (Some(agent), names) => {
                lists.push(Allowed(agent.tools.iter().cloned().collect()));
                names
            }
            (None, names) => Some(names.unwrap_or_default()),
        };
        let tools = match &wanted {
            Some(wanted) => live.tools.select(wanted, &lists).map_err(refused_tool)?,
            None => {
                let own: Vec<_> = live.tools.allowed_by(&lists).collect();
                own.into_iter().map(|tool| Arc::clone(&tool.spec().name)).collect()
            }
        };
        for function in &functions {
            let name = function.pointer("/function/name").and_then(Value::as_str);
            let is_taken = |tool: &Arc<str>| Some(&*function_name(tool)) == name;
            if tools.iter().any(is_taken) {
                let message = format!("Two tools have the name '{}'.", name.unwrap_or_default());
                return Err(Reject::invalid_request(message).with_param("tools"));
            }
        }
        let of_agent = agent.as_ref();
        // Who says nothing demands nothing; where nobody says anything, what changes something waits.
        let parties = [
            settings.approval.as_ref(),
            of_agent.map(|agent| &agent.approval),
            request.approval.as_ref(),
        ];
        let mut parties: Vec<&Approval> = parties.into_iter().flatten().collect();
        let usual = Approval::default();
        if parties.is_empty() {
            parties.push(&usual);
        }
        let approval = joined(&parties, &live.tools, &tools);
        let instructions: Vec<&str> = of_agent
            .and_then(|agent| agent.instructions.as_deref())
            .into_iter()
            .chain(request.instructions.as_deref())
            .collect();
        let instructions = (!instructions.is_empty()).then(|| instructions.join("\n\n"));
        let (steps, steps_max) = settings.max_steps;
        let (seconds, seconds_max) = (settings.deadline.0.as_secs(), settings.deadline.1.as_secs());
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let max_steps = least(
            of_agent.and_then(|agent| agent.max_steps).map(u64::from),
            request.max_steps.map(u64::from),
        );
        let deadline = least(of_agent.and_then(|agent| agent.deadline_s), request.deadline_s);
        let amount = |amount: Option<PicoDollars>| amount.map(|amount| amount.0);
        let max_cost = least(
            least(
                amount(of_agent.and_then(|agent| agent.max_cost_usd)),
                amount(request.max_cost_usd),
            ),
            amount(settings.max_cost),
        );
        let thread = match &request.thread_id {
            Some(id) => {
                let found = self.owned(caller, Collection::Thread, "thread", id).await?;
                Some(threads::open(&self.shared, found, run).await?)
            }
            None => None,
        };
        let mut sampling = request.rest;
        for name in ["tools", "tool_choice", "stream", "model", "messages"] {
            sampling.remove(name);
        }
        let plan = Plan {
            model,
            agent: agent.map(|agent| agent.name),
            instructions,
            messages: request.messages,
            known_messages: 0,
            before: None,
            tools,
            functions,
            tool_choice: request.tool_choice,
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            sampling,
            max_steps: max_steps
                .map_or(steps, |n| u32::try_from(n).unwrap_or(u32::MAX))
                .min(steps_max),
            max_cost: max_cost.map(PicoDollars),
            deadline_s: deadline.unwrap_or(seconds).min(seconds_max),
            approval,
            user_context: Arc::new(Value::Object(request.user_context.unwrap_or_default())),
            metadata: request.metadata.unwrap_or_default(),
            thread: None,
            is_kept: request.store.unwrap_or(true),
            caller: caller.mark(),
        };
        Ok((plan, thread))
    }
}

/// What all parties demand, for the tools that were chosen.
fn joined(parties: &[&Approval], tools: &Tools, chosen: &[Arc<str>]) -> Approval {
    let (mut always, mut never) = (BTreeSet::new(), BTreeSet::new());
    for name in chosen {
        let Some(tool) = tools.get(name) else { continue };
        let into = match needs_approval(parties, name, tool.spec().risk) {
            true => &mut always,
            false => &mut never,
        };
        into.insert(name.to_string());
    }
    Approval { default: ApprovalDefault::Always, always, never }
}

/// Names of tools, and functions of the caller's. Without a list the names are left open.
fn split_tools(tools: Option<Vec<Value>>) -> Result<(Option<Vec<String>>, Vec<Value>), Rejection> {
    let Some(tools) = tools else { return Ok((None, Vec::new())) };
    let (mut names, mut functions) = (Vec::new(), Vec::new());
    for (at, tool) in tools.into_iter().enumerate() {
        let wrong = |message: &str| {
            Err(Reject::invalid_request(message.to_owned()).with_param(format!("tools[{at}]")))
        };
        match &tool {
            Value::String(name) => names.push(name.clone()),
            Value::Object(object) => match object.get("type").and_then(Value::as_str) {
                Some("function") => {
                    if tool.pointer("/function/name").and_then(Value::as_str).is_none() {
                        return wrong("A function needs a 'name'.");
                    }
                    functions.push(tool);
                }
                // A server of the config, by its name.
                Some("mcp") => match object.get("server_label").and_then(Value::as_str) {
                    Some(label) => match object.get("allowed_tools").and_then(Value::as_array) {
                        Some(allowed) => names.extend(
                            allowed
                                .iter()
                                .filter_map(Value::as_str)
                                .map(|tool| format!("mcp.{label}.{tool}")),
                        ),
                        None => names.push(format!("mcp.{label}")),
                    },
                    None => {
                        return wrong(
                            "An MCP server needs a 'server_label' that the gateway knows.",
                        );
                    }
                },
                Some("code_interpreter") => names.push("code.python".to_owned()),
                Some("web_search" | "web_search_preview") => names.push("web_search".to_owned()),
                _ => return wrong("A tool is a name, or an object of type 'function' or 'mcp'."),
            },
            _ => return wrong("A tool is a name, or an object of type 'function' or 'mcp'."),
        }
    }
    let is_open = names.is_empty() && !functions.is_empty();
    Ok(((!is_open).then_some(names), functions))
}
