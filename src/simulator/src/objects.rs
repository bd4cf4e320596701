//! OpenAI's endpoints for things that stay: responses, files, batches and fine-tuning jobs.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::answer::answer;
use crate::ask::{Problem, optional_number, required_text};
use crate::dialect::{Dialect, Meta, Usage};
use crate::flight::{Body, Finished};
use crate::multipart::Form;
use crate::openai::{self, CREATED};
use crate::reply::Reply;
use crate::store::{Kind, Store};

/// Lines one batch may have.
const LINES_MAX: usize = 10_000;

/// A change of one thing, from the method and the rest of the path.
pub(crate) struct Objects<'a> {
    pub(crate) store: &'a Store,
    /// The number of the request, which makes ids.
    pub(crate) number: u64,
}

fn not_allowed() -> Problem {
    Problem::new(405, "The simulated provider does not offer this method here.")
}

fn not_found(what: &str, id: &str) -> Problem {
    Problem::new(404, format!("No such {what}: '{id}'.")).code("not_found")
}

fn page(data: Vec<Value>) -> Finished {
    let id = |value: Option<&Value>| value.map(|value| value["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Finished::json(&json!({
        "object": "list",
        "data": data,
        "first_id": first,
        "last_id": last,
        "has_more": false,
    }))
}

impl Objects<'_> {
    fn get(&self, kind: Kind, what: &str, id: &str) -> Result<(Value, Bytes), Problem> {
        self.store.get(kind, id).ok_or_else(|| not_found(what, id))
    }

    /// An earlier response.
    pub(crate) fn response(&self, method: &str, id: &str, what: &str) -> Result<Finished, Problem> {
        let missing = || {
            let message = format!("Response with id '{id}' not found.");
            Problem::new(404, message).code("not_found")
        };
        let (value, input) = self.store.get(Kind::Response, id).ok_or_else(missing)?;
        match (method, what) {
            ("GET", "") => Ok(Finished::json(&value)),
            ("GET", "input_items") => {
                Ok(page(serde_json::from_slice::<Vec<Value>>(&input).unwrap_or_default()))
            }
            ("DELETE", "") => {
                self.store.remove(Kind::Response, id);
                Ok(Finished::json(&json!({"id": id, "object": "response", "deleted": true})))
            }
            ("POST", "cancel") if value["background"] == true => {
                let cancel = |value: &mut Value| {
                    value["status"] = "cancelled".into();
                    value["output"] = json!([]);
                };
                let value = self.store.change(Kind::Response, id, cancel).ok_or_else(missing)?;
                Ok(Finished::json(&value))
            }
            ("POST", "cancel") => {
                let message = "Cannot cancel a synchronous response.";
                Err(Problem::invalid(message))
            }
            _ => Err(not_allowed()),
        }
    }

    /// All files, or a new one.
    pub(crate) fn files(
        &self,
        method: &str,
        form: impl FnOnce() -> Result<Form, Problem>,
    ) -> Result<Finished, Problem> {
        if method == "GET" {
            return Ok(page(self.store.list(Kind::File)));
        }
        if method != "POST" {
            return Err(not_allowed());
        }
        let form = form()?;
        let purpose = form.required_text("purpose")?;
        let file = form.file("file")?;
        let name = file.file_name.as_deref().unwrap_or_default();
        let id = format!("file-sim-{}", self.number);
        Ok(Finished::json(&self.keep_file(&id, name, &purpose, file.bytes.clone())))
    }

    fn keep_file(&self, id: &str, name: &str, purpose: &str, bytes: Bytes) -> Value {
        let value = json!({
            "id": id,
            "object": "file",
            "bytes": bytes.len(),
            "created_at": CREATED,
            "expires_at": null,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": null,
        });
        self.store.put(Kind::File, id, value.clone(), bytes);
        value
    }

    /// One file.
    pub(crate) fn file(&self, method: &str, id: &str, content: bool) -> Result<Finished, Problem> {
        let (value, bytes) = self.get(Kind::File, "File object", id)?;
        match (method, content) {
            ("GET", false) => Ok(Finished::json(&value)),
            ("GET", true) => Ok(Finished::new("application/octet-stream", Body::Whole(bytes))),
            ("DELETE", false) => {
                self.store.remove(Kind::File, id);
                Ok(Finished::json(&json!({"id": id, "object": "file", "deleted": true})))
            }
            _ => Err(not_allowed()),
        }
    }

    /// All batches, or a new one. It has not begun when it is answered, and is complete when it is
    /// asked for the first time.
    pub(crate) fn batches(&self, method: &str, body: &Value) -> Result<Finished, Problem> {
        if method == "GET" {
            return Ok(page(self.store.list(Kind::Batch)));
        }
        if method != "POST" {
            return Err(not_allowed());
        }
        let endpoint = required_text(body, "endpoint")?;
        let input = required_text(body, "input_file_id")?;
        let window = required_text(body, "completion_window")?;
        self.get(Kind::File, "File object", &input)?;
        let id = format!("batch_sim_{}", self.number);
        let value = json!({
            "id": id,
            "object": "batch",
            "endpoint": endpoint,
            "errors": null,
            "input_file_id": input,
            "completion_window": window,
            "status": "validating",
            "output_file_id": null,
            "error_file_id": null,
            "created_at": CREATED,
            "expires_at": CREATED + 86_400,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        });
        self.store.put(Kind::Batch, &id, value.clone(), Bytes::new());
        Ok(Finished::json(&value))
    }

    /// One batch.
    pub(crate) fn batch(&self, method: &str, id: &str, what: &str) -> Result<Finished, Problem> {
        let (value, _) = self.get(Kind::Batch, "Batch object", id)?;
        let new = value["status"] == "validating";
        let changed = match (method, what) {
            ("GET", "") if new => {
                let input = value["input_file_id"].as_str().unwrap_or_default();
                let lines = self.store.get(Kind::File, input).map(|(_, lines)| lines);
                let (output, done, failed) = self.run(&lines.unwrap_or_default());
                let file = format!("file-sim-{id}");
                self.keep_file(&file, &format!("{id}_output.jsonl"), "batch_output", output.into());
                self.store.change(Kind::Batch, id, |value| {
                    value["status"] = "completed".into();
                    value["output_file_id"] = file.into();
                    value["in_progress_at"] = CREATED.into();
                    value["completed_at"] = CREATED.into();
                    value["request_counts"] =
                        json!({"total": done + failed, "completed": done, "failed": failed});
                })
            }
            ("GET", "") => Some(value),
            ("POST", "cancel") if new => self.store.change(Kind::Batch, id, |value| {
                value["status"] = "cancelled".into();
                value["cancelling_at"] = CREATED.into();
                value["cancelled_at"] = CREATED.into();
            }),
            ("POST", "cancel") => {
                let status = value["status"].as_str().unwrap_or_default();
                let message = format!("Cannot cancel a batch with status '{status}'.");
                return Err(Problem::new(409, message));
            }
            _ => return Err(not_allowed()),
        };
        changed.map(|value| Finished::json(&value)).ok_or_else(|| not_found("Batch object", id))
    }

    /// Answers a batch's lines, those that are chat completions, with how many went well and not.
    fn run(&self, lines: &[u8]) -> (String, u64, u64) {
        let (mut output, mut done, mut failed) = (String::new(), 0, 0);
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        for (place, line) in lines.take(LINES_MAX).enumerate() {
            let line: Value = serde_json::from_slice(line).unwrap_or_default();
            let (status, body) = match openai::read_chat(&line["body"], None) {
                Ok(ask) => {
                    let said = Reply::default();
                    let answer = answer(&ask, &said).cut(ask.max_tokens.unwrap_or(u64::MAX));
                    let completion = answer.tokens();
                    let usage = Usage { prompt: ask.prompt_tokens, completion, ..Usage::default() };
                    let meta = Meta {
                        number: self.number,
                        model: ask.model,
                        choices: 1,
                        include_usage: true,
                        no_usage: false,
                        repeated: Value::Null,
                    };
                    done += 1;
                    (200, Dialect::Chat.whole(&meta, &answer, &usage))
                }
                Err(problem) => {
                    failed += 1;
                    (problem.status, Dialect::Chat.error(&problem))
                }
            };
            let line = json!({
                "id": format!("batch_req_sim_{place}"),
                "custom_id": line["custom_id"],
                "response": {"status_code": status, "request_id": "req_sim", "body": body},
                "error": null,
            });
            output.push_str(&format!("{line}\n"));
        }
        (output, done, failed)
    }

    /// All fine-tuning jobs, or a new one.
    pub(crate) fn jobs(&self, method: &str, body: &Value) -> Result<Finished, Problem> {
        if method == "GET" {
            return Ok(page(self.store.list(Kind::FineTuningJob)));
        }
        if method != "POST" {
            return Err(not_allowed());
        }
        let id = format!("ftjob-sim-{}", self.number);
        let value = json!({
            "id": id,
            "object": "fine_tuning.job",
            "model": required_text(body, "model")?,
            "created_at": CREATED,
            "finished_at": null,
            "fine_tuned_model": null,
            "organization_id": "org-sim",
            "result_files": [],
            "status": "queued",
            "training_file": required_text(body, "training_file")?,
            "validation_file": body.get("validation_file"),
            "hyperparameters": {"n_epochs": "auto"},
            "trained_tokens": null,
            "error": null,
            "seed": optional_number(body, "seed")?.unwrap_or(0),
            "metadata": body.get("metadata"),
        });
        self.store.put(Kind::FineTuningJob, &id, value.clone(), Bytes::new());
        Ok(Finished::json(&value))
    }

    /// One fine-tuning job. Nothing is ever trained: it stays in the queue until it is cancelled.
    pub(crate) fn job(&self, method: &str, id: &str, what: &str) -> Result<Finished, Problem> {
        let (value, _) = self.get(Kind::FineTuningJob, "fine-tuning job", id)?;
        match (method, what) {
            ("GET", "") => Ok(Finished::json(&value)),
            ("GET", "events") => Ok(page(vec![json!({
                "id": format!("ftevent-{id}"),
                "object": "fine_tuning.job.event",
                "created_at": CREATED,
                "level": "info",
                "message": "This is simulated; nothing will be trained.",
                "type": "message",
            })])),
            ("POST", "cancel") => {
                let cancel = |value: &mut Value| value["status"] = "cancelled".into();
                let value = self.store.change(Kind::FineTuningJob, id, cancel);
                value
                    .map(|value| Finished::json(&value))
                    .ok_or_else(|| not_found("fine-tuning job", id))
            }
            _ => Err(not_allowed()),
        }
    }
}
