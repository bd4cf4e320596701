//! Runs that go on: after somebody has decided what may be done, or from an earlier step.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tollway_filter_api::documents::{Append, Batch, Collection, Document};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Reject, Rejection};

use crate::ports::Caller;
use crate::request::{OnDisconnect, read_json};
use crate::run::journal::{self, Decision, State, Step, ToolResult};
use crate::run::{Plan, Status};
use crate::service::{Agents, Begun, conflict, new_id, to_its_end, unavailable, unreadable};

impl Agents {
    /// Takes what somebody has decided about a run that waits, and lets it go on.
    pub async fn resume(
        &self,
        caller: Caller,
        id: &str,
        body: Resume,
        on_disconnect: OnDisconnect,
    ) -> Result<Begun, Rejection> {
        let (agents, id) = (self.clone(), id.to_owned());
        let goes_on = on_disconnect == OnDisconnect::Continue;
        to_its_end(goes_on, async move { agents.go_on(caller, &id, body).await }).await
    }

    async fn go_on(&self, caller: Caller, id: &str, body: Resume) -> Result<Begun, Rejection> {
        let mut document = self.ruled(&caller, Collection::Run, "run", id).await?;
        if *document.state != *Status::RequiresAction.name() {
            let message = format!("The run is {}: nothing is to be decided.", document.state);
            return Err(conflict("already_decided", message));
        }
        let (mut state, last_event) = self.journal(id).await?;
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        let steps = body.steps(&state, &caller)?;
        // The gateway may have just been started.
        self.await_tools(&plan.tools).await;
        // Whoever decides for somebody else does not pay for it.
        let payer = match *caller.owner == *document.owner {
            true => caller,
            false => {
                let owner = self.shared.completions.caller(&document.owner, &plan.caller);
                owner.ok_or_else(|| {
                    Reject::new(403, "permission_error", "The key this run works for is gone.")
                        .with_code("caller_gone")
                })?
            }
        };
        document.state = Status::InProgress.name().into();
        document.holder = Some(Arc::clone(&self.shared.node));
        document.held_until_ms = self.shared.held_until_ms();
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&document.id),
            from: state.entries,
            entries: steps.iter().map(Step::entry).collect(),
        };
        let batch = Batch { put: vec![document.clone()], append: vec![append], ..Batch::default() };
        let versions = match self.shared.documents.write(batch).await {
            Ok(versions) => versions,
            // Two have decided at once: one of them was first.
            Err(StoreError::Conflict(_)) => {
                return Err(conflict("already_decided", "Somebody else has decided meanwhile."));
            }
            Err(error) => return Err(unavailable(error)),
        };
        document.version = versions.first().copied().unwrap_or_default();
        state.entries += steps.len() as u64;
        steps.into_iter().for_each(|step| state.apply(step));
        Ok(self.spawn(document, plan, state, Arc::new(payer), last_event, false))
    }

    /// A new run that goes on from a step of an earlier one.
    pub async fn fork(&self, caller: Caller, id: &str, body: Fork) -> Result<Begun, Rejection> {
        let (agents, id) = (self.clone(), id.to_owned());
        let goes_on = body.background;
        to_its_end(goes_on, async move { agents.begin_forked(caller, &id, body).await }).await
    }

    async fn begin_forked(&self, caller: Caller, id: &str, body: Fork) -> Result<Begun, Rejection> {
        let document = self.owned(&caller, Collection::Run, "run", id).await?;
        let (state, _) = self.journal(&document.id).await?;
        let Some(plan) = &state.plan else { return Err(unreadable()) };
        let step = body.step as usize;
        if step > state.answers.len() {
            let message = format!("The run has {} steps.", state.answers.len());
            return Err(Reject::invalid_request(message).with_param("step"));
        }
        let mut plan = Plan::clone(plan);
        // The tools of the one who forks it, and of no one else.
        let lists = &caller.tools;
        plan.tools.retain(|tool| lists.iter().all(|list| list.allows(tool)));
        plan.caller = caller.mark();
        plan.thread = None;
        plan.messages.extend(messages_until(&state, step));
        plan.messages.extend(body.messages);
        let new = Document {
            id: new_id("run_").into(),
            owner: Arc::clone(&caller.owner),
            parent: None,
            state: Status::InProgress.name().into(),
            created_ms: self.shared.now_ms(),
            expires_ms: None,
            holder: Some(Arc::clone(&self.shared.node)),
            held_until_ms: self.shared.held_until_ms(),
            version: 0,
            ..document
        };
        let mut new = new;
        let state = self.write_begin(&mut new, plan, None).await?;
        self.started(state, new, caller)
    }
}

/// The body of `POST /agent/runs/{id}/resume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resume {
    /// What may be done.
    pub decisions: Vec<Decided>,
    /// What the caller's own functions have returned.
    pub tool_outputs: Vec<ToolOutput>,
    /// Whether what follows comes as events.
    pub stream: bool,
    /// Answers at once.
    pub background: bool,
}

/// A decision about one tool call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// Which call.
    pub call_id: String,
    /// What may happen.
    pub decision: Decision,
    /// With `edit`: the arguments it is made with.
    #[serde(default)]
    pub arguments: Option<Map<String, Value>>,
    /// The digest that was shown with the request, so that nothing else is approved than was seen.
    #[serde(default)]
    pub arguments_sha256: Option<String>,
    /// Why, for the model.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What one of the caller's own functions has returned.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolOutput {
    /// Which call.
    #[serde(alias = "tool_call_id")]
    pub call_id: String,
    /// What it returned.
    pub output: String,
}

impl Resume {
    /// Reads the body.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read(body: &[u8]) -> Result<Resume, Rejection> {
        read_json(body)
    }

    fn steps(self, state: &State, caller: &Caller) -> Result<Vec<Step>, Rejection> {
        let wrong = |param: &'static str, message: String| {
            Err(Reject::invalid_request(message).with_param(param))
        };
        let mut seen = BTreeSet::new();
        let mut steps = Vec::new();
        for decided in self.decisions {
            let Decided { call_id, decision, arguments, arguments_sha256, reason } = decided;
            let call = state.calls.iter().find(|call| call.asked.id == call_id);
            let Some(call) = call else {
                return wrong("decisions", format!("The run does not wait for call '{call_id}'."));
            };
            if !call.waits_for_approval() || !seen.insert(call_id.clone()) {
                let message = format!("Call '{call_id}' is decided already.");
                return Err(conflict("already_decided", message));
            }
            let asked = &call.asked;
            if arguments_sha256
                .is_some_and(|seen| seen != journal::digest(&asked.tool, &asked.arguments))
            {
                let message = "The arguments are not those that were shown.";
                return Err(conflict("arguments_changed", message));
            }
            if (decision == Decision::Edit) != arguments.is_some() {
                return wrong(
                    "decisions",
                    "'arguments' belong to the decision 'edit', and to no other.".to_owned(),
                );
            }
            steps.push(Step::Decided {
                id: call_id,
                decision,
                arguments: arguments.map(|arguments| Value::Object(arguments).to_string()),
                reason,
                by: Arc::clone(&caller.owner),
            });
        }
        for ToolOutput { call_id, output } in self.tool_outputs {
            let call = state.calls.iter().find(|call| call.asked.id == call_id);
            if !call.is_some_and(|call| call.waits_for_caller()) || !seen.insert(call_id.clone()) {
                return wrong(
                    "tool_outputs",
                    format!("The run does not wait for the output of call '{call_id}'."),
                );
            }
            steps.push(Step::Result(ToolResult {
                id: call_id,
                is_ok: true,
                content: output,
                data: None,
                files: Vec::new(),
                cost: 0,
                duration_ms: 0,
            }));
        }
        if steps.is_empty() {
            return wrong(
                "decisions",
                "'decisions' or 'tool_outputs' must say something.".to_owned(),
            );
        }
        Ok(steps)
    }
}

/// The body of `POST /agent/runs/{id}/fork`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fork {
    /// How many of its answers are kept.
    pub step: u32,
    /// What is said then.
    pub messages: Vec<Value>,
    /// Whether what follows comes as events.
    pub stream: bool,
    /// Answers at once.
    pub background: bool,
}

impl Fork {
    /// Reads the body.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read(body: &[u8]) -> Result<Fork, Rejection> {
        read_json(body)
    }
}

/// The messages of the first `step` answers, with the results of their tools.
fn messages_until(state: &State, step: usize) -> Vec<Value> {
    let mut answers = 0;
    let mut messages = Vec::new();
    for message in &state.messages {
        if message["role"] == "assistant" {
            answers += 1;
            if answers > step {
                break;
            }
        }
        messages.push(message.clone());
    }
    // An answer whose tools have not all come back cannot be gone on from.
    let open =
        |message: &Value| message["role"] == "assistant" && message.get("tool_calls").is_some();
    if messages.last().is_some_and(open) {
        messages.pop();
    }
    messages
}
