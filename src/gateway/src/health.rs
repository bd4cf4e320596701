//! `GET /health`: whether the deployments work, as LiteLLM tells it.
//!
//! Without `background_health_checks` the question itself has them checked, each by the smallest
//! call there is; with it a task does so from time to time, the answer is what it has found, and
//! routing avoids what does not work. A wildcard is checked only where `health_check_model` says
//! with which model, and what makes pictures or sound never.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup, VirtualKey};
use tollway_filters::model_alias;

use crate::exchange::{Condition, Exchange, can_be_checked};
use crate::named;
use crate::state::{Gateway, Generation};

/// How many deployments are checked at once.
const AT_ONCE: usize = 16;
/// What LiteLLM's name of a provider's header begins with when we pass it on.
const PASSED: &str = "llm_provider-";

/// What is known of the deployments. It survives a reload, by their ids.
#[derive(Default)]
pub(crate) struct Health {
    known: Mutex<HashMap<Arc<str>, Arc<Known>>>,
    /// Told when there is another config.
    pub(crate) reloaded: Notify,
}

/// One deployment.
#[derive(Default)]
struct Known {
    /// Held while it is checked, so that a crowd of questions asks once.
    checking: tokio::sync::Mutex<()>,
    last: Mutex<Option<Last>>,
}

/// The last check.
#[derive(Clone)]
struct Last {
    began: Instant,
    condition: Condition,
}

/// A deployment that can be checked.
#[derive(Clone)]
struct Subject {
    group: Arc<ModelGroup>,
    deployment: Arc<Deployment>,
}

/// What the caller sees and what can be checked, each deployment once.
fn subjects(generation: &Generation, sees: impl Fn(&ModelGroup) -> bool) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for group in generation.config.directory.groups() {
        if !can_be_checked(group.mode.as_deref()) || !sees(&group) {
            continue;
        }
        for deployment in &group.deployments {
            let settings = &generation.config.entries[deployment.entry].health;
            let has_model = !group.name.contains('*') && !deployment.model.contains('*');
            if (has_model || settings.model.is_some()) && seen.insert(Arc::clone(&deployment.id)) {
                let (group, deployment) = (Arc::clone(&group), Arc::clone(deployment));
                subjects.push(Subject { group, deployment });
            }
        }
    }
    subjects
}

impl Health {
    fn known(&self, id: &Arc<str>) -> Arc<Known> {
        Arc::clone(self.known.lock().entry(Arc::clone(id)).or_default())
    }

    fn last(&self, id: &str) -> Option<Last> {
        let known = self.known.lock().get(id).cloned();
        known.and_then(|known| known.last.lock().clone())
    }

    /// Forgets what is in no config any more.
    fn keep(&self, generation: &Generation) {
        let entries = &generation.config.entries;
        self.known.lock().retain(|id, _| entries.iter().any(|entry| entry.id == *id));
    }

    /// Whether the last check of a deployment has found it bad.
    pub(crate) fn is_bad(&self, id: &str) -> bool {
        self.last(id).is_some_and(|last| last.condition.error.is_some())
    }
}

/// Checks a deployment, unless somebody has since `asked`.
async fn check(
    gateway: &Gateway,
    generation: &Arc<Generation>,
    subject: &Subject,
    asked: Instant,
) -> Condition {
    let Subject { group, deployment } = subject;
    let known = gateway.health.known(&deployment.id);
    let _checking = known.checking.lock().await;
    let last = known.last.lock().clone();
    if let Some(last) = last.filter(|last| last.began >= asked) {
        return last.condition;
    }
    let began = gateway.clock.now();
    let condition = gateway.exchange.check(generation, group, deployment).await;
    *known.last.lock() = Some(Last { began, condition: condition.clone() });
    condition
}

/// Checks many, some at once. Dropping the future stops them.
async fn check_all(
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
    subjects: Vec<Subject>,
) -> Vec<(Subject, Condition)> {
    let asked = gateway.clock.now();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut checks = JoinSet::new();
    for (at, subject) in subjects.into_iter().enumerate() {
        let (gateway, generation) = (Arc::clone(gateway), Arc::clone(generation));
        let room = Arc::clone(&room);
        checks.spawn(async move {
            let _room = room.acquire_owned().await;
            let condition = check(&gateway, &generation, &subject, asked).await;
            (at, subject, condition)
        });
    }
    let mut checked = checks.join_all().await;
    checked.sort_by_key(|(at, ..)| *at);
    checked.into_iter().map(|(_, subject, condition)| (subject, condition)).collect()
}

/// The answer to `GET /health`: of `model` alone, or of the deployment `model_id`, where the query
/// names one.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
    key: Option<&VirtualKey>,
    query: &str,
) -> Value {
    let model = named::of_query(query, &["model"]).next();
    let id = named::of_query(query, &["model_id"]).next();
    let mut asked =
        subjects(generation, |group| key.is_none_or(|key| model_alias::allowed(key, group)));
    asked.retain(|Subject { group, deployment }| {
        let is_model = |name: &String| **name == *group.name || **name == *deployment.litellm_model;
        model.as_ref().is_none_or(is_model) && id.as_ref().is_none_or(|id| **id == *deployment.id)
    });
    let checked = match generation.config.health_check_interval {
        None => check_all(gateway, generation, asked).await,
        Some(_) => {
            let last = |subject: Subject| {
                let last = gateway.health.last(&subject.deployment.id)?;
                Some((subject, last.condition))
            };
            asked.into_iter().filter_map(last).collect()
        }
    };
    let (mut healthy, mut unhealthy) = (Vec::new(), Vec::new());
    for (subject, condition) in &checked {
        let told = told(subject, condition);
        match condition.error {
            None => healthy.push(told),
            Some(_) => unhealthy.push(told),
        }
    }
    json!({
        "healthy_count": healthy.len(),
        "unhealthy_count": unhealthy.len(),
        "healthy_endpoints": healthy,
        "unhealthy_endpoints": unhealthy,
    })
}

fn told(subject: &Subject, condition: &Condition) -> Value {
    let Subject { group, deployment } = subject;
    let mut told = json!({
        "model": &*deployment.litellm_model,
        "model_id": &*deployment.id,
        "model_name": &*group.name,
        "api_base": &*deployment.api_base,
    });
    for (name, value) in &condition.headers {
        let name = name.as_str().strip_prefix(PASSED).unwrap_or_default();
        if name.starts_with("x-ratelimit-remaining-")
            && let Ok(value) = value.to_str()
        {
            told[name] = value.into();
        }
    }
    if let Some(error) = &condition.error {
        told["error"] = error.as_str().into();
    }
    told
}

/// Checks the deployments from time to time, for as long as the config wants it.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    let mut next = gateway.clock.now();
    loop {
        let reloaded = gateway.health.reloaded.notified();
        let mut reloaded = std::pin::pin!(reloaded);
        // Registered before the config is looked at, so that no reload is missed.
        reloaded.as_mut().enable();
        let generation = gateway.live.load_full();
        gateway.health.keep(&generation);
        let Some(interval) = generation.config.health_check_interval else {
            drop(generation);
            reloaded.await;
            next = gateway.clock.now();
            continue;
        };
        // Endpoints that came with a reload know nothing of earlier checks.
        for subject in background(&generation) {
            if let Some(last) = gateway.health.last(&subject.deployment.id) {
                Exchange::mark(&generation, &subject.deployment, &last.condition);
            }
        }
        let now = gateway.clock.now();
        let wait = next.min(now + interval).saturating_duration_since(now);
        if !wait.is_zero() {
            drop(generation);
            tokio::select! {
                () = reloaded => {}
                () = tokio::time::sleep(wait) => {}
            }
            continue;
        }
        next = now + interval;
        round(&gateway, &generation).await;
    }
}

/// What is checked in the background.
fn background(generation: &Generation) -> Vec<Subject> {
    let mut subjects = subjects(generation, |_| true);
    let entries = &generation.config.entries;
    subjects.retain(|subject| entries[subject.deployment.entry].health.in_background);
    subjects
}

async fn round(gateway: &Arc<Gateway>, generation: &Arc<Generation>) {
    for (subject, condition) in check_all(gateway, generation, background(generation)).await {
        Exchange::mark(generation, &subject.deployment, &condition);
        if let Some(error) = &condition.error {
            let (model, id) = (&subject.deployment.litellm_model, &subject.deployment.id);
            tracing::warn!(%model, %id, error, "health check failed");
        }
    }
}
