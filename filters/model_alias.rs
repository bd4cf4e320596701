//! `model_alias` finds out which model is meant, and whether the caller may use it.
//!
//! Place it after `auth` and `validate`, and before everything that counts by model. The name in
//! the body goes through the key's own aliases, then those of this entry, then the aliases, groups
//! and wildcards of the config; each of them once, so that aliases cannot run in circles.
//!
//! ```yaml
//! - filter: model_alias
//!   aliases: { gpt-4: gpt-4o, fast: groq/llama-3.3-70b }
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::{
    BuildFilter, ConfigError, Deps, Filter, ModelDirectory, ModelGroup, Phases, Plan, Reject,
    Rejection, RequestCtx, RequestHead, Slot, Step, VirtualKey,
};

/// How much of a model name an error message quotes.
const NAME_CHARS_MAX: usize = 256;

/// The `model_alias` entry of a filter list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelAliasConfig {
    /// Names that mean another model, for all callers.
    pub aliases: BTreeMap<String, String>,
}

/// Sets `ctx.plan`, or refuses the request.
pub struct ModelAlias {
    aliases: BTreeMap<String, String>,
    models: Arc<dyn ModelDirectory>,
    keys: Arc<dyn KeyStore>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ModelError {
    #[error("{path}: Missing required parameter: 'model'.")]
    Missing { path: &'static str },
    #[error(
        "litellm.BadRequestError: You passed in model={model}. There are no healthy deployments \
         for this model"
    )]
    Unknown { model: String },
    #[error(
        "The requested model '{model}' is not available for this API key, or the model name is \
         invalid. Check the models available to you and try again."
    )]
    Denied { model: String, by: Kind },
    #[error("End User={0} is blocked.")]
    EndUserBlocked(String),
}

impl BuildFilter for ModelAlias {
    const NAME: &'static str = "model_alias";
    type Config = ModelAliasConfig;

    fn build(config: ModelAliasConfig, deps: &Deps, _slot: Slot) -> Result<Self, ConfigError> {
        for (from, to) in &config.aliases {
            if deps.models.resolve(to).is_none() {
                return Err(ConfigError::new(
                    format!("aliases.{from}"),
                    format!("{to:?} is no model of this config"),
                ));
            }
        }
        let (models, keys) = (Arc::clone(&deps.models), Arc::clone(&deps.keys));
        Ok(ModelAlias { aliases: config.aliases, models, keys })
    }
}

impl Filter for ModelAlias {
    fn phases(&self) -> Phases {
        Phases::BODY
    }

    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, _head: &'a RequestHead) -> Step<'a> {
        let Some(view) = &ctx.view else { return Step::next() };
        if let Some(id) = &ctx.end_user
            && self.keys.account(Kind::EndUser, id).is_some_and(|account| account.blocked)
        {
            return Step::reject(ModelError::EndUserBlocked(quote(id)));
        }
        let planned = match view.object.str(&view.body, "model") {
            Some(model) => self.plan(model, &mut ctx.identity),
            None => Err(ModelError::Missing { path: view.operation.path() }),
        };
        match planned {
            Ok(plan) => {
                ctx.plan = Some(plan);
                Step::next()
            }
            Err(error) => Step::reject(error),
        }
    }
}

impl ModelAlias {
    fn plan(
        &self,
        model: Cow<'_, str>,
        caller: &mut Option<Arc<VirtualKey>>,
    ) -> Result<Plan, ModelError> {
        let key = caller.as_deref();
        let own =
            key.and_then(|key| key.settings.aliases.get(&*model)).map_or(&*model, String::as_str);
        let name = self.aliases.get(own).map_or(own, String::as_str);
        let group = self.models.resolve(name);

        // Before saying that a model is unknown: which models exist is nobody's business who may
        // not call them.
        let denied = |key: &VirtualKey| denied_by(key, &*self.keys, group.as_deref(), &model);
        if let Some(key) = key
            && let Some(by) = denied(key)
        {
            let other = self.in_other_teams(key).find(|key| denied(key).is_none());
            let Some(other) = other.filter(|_| by == Kind::Team) else {
                return Err(ModelError::Denied { model: quote(&model), by });
            };
            *caller = Some(Arc::new(other));
        }
        let group = group.ok_or_else(|| ModelError::Unknown { model: quote(&model) })?;
        let requested = match *model == *group.name {
            true => Arc::clone(&group.name),
            false => Arc::from(&*model),
        };
        Ok(Plan { requested, group })
    }
}

impl ModelAlias {
    /// The same caller in each of its teams, where a token names several.
    fn in_other_teams<'k>(&'k self, key: &'k VirtualKey) -> impl Iterator<Item = VirtualKey> + 'k {
        let is_open =
            |team: &&Arc<str>| self.keys.account(Kind::Team, team).is_some_and(|t| !t.blocked);
        let teams = key.other_teams().iter().filter(is_open);
        teams.map(|team| VirtualKey { team: Some(Arc::clone(team)), ..key.clone() })
    }
}

/// Who keeps a caller from a model of this name, which may be that of a group: the key's own list,
/// that of its team, or of its user where it has no team, as in LiteLLM.
pub fn denied_by(
    key: &VirtualKey,
    people: &dyn KeyStore,
    group: Option<&ModelGroup>,
    name: &str,
) -> Option<Kind> {
    if key.master {
        return None;
    }
    let covers = |list: &[String]| {
        is_all(list)
            || has_named(list, name)
            || group.is_some_and(|group| has_named(list, &group.name) || has_access(list, group))
    };
    if !covers(&key.settings.models) {
        return Some(Kind::Key);
    }
    let (kind, id) = match (&key.team, &key.user) {
        (Some(team), _) => (Kind::Team, team),
        (None, Some(user)) => (Kind::User, user),
        (None, None) => return None,
    };
    let account = people.account(kind, id)?;
    (!covers(&account.models)).then_some(kind)
}

/// Whether a key's own list allows a group.
///
/// The list names groups, access groups, all names with a prefix (`openai/*`) or all (`*`). An empty
/// list and the master key allow all.
pub fn allowed(key: &VirtualKey, group: &ModelGroup) -> bool {
    let list = &key.settings.models;
    key.master || is_all(list) || has_named(list, &group.name) || has_access(list, group)
}

/// Whether nothing restricts which models a key may call.
pub fn may_all(key: &VirtualKey, people: &dyn KeyStore) -> bool {
    // No model has this name, and no list of some models covers it.
    denied_by(key, people, None, "").is_none()
}

/// Whether a list restricts nothing. LiteLLM has two more ways to write it; that of the team is
/// looked at by itself.
fn is_all(list: &[String]) -> bool {
    let words = ["*", "all-proxy-models", "all-team-models"];
    list.is_empty() || list.iter().any(|entry| words.contains(&entry.as_str()))
}

/// Whether a list names this model, by itself or by a prefix.
fn has_named(list: &[String], model: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => model.starts_with(prefix),
        None => entry == model,
    })
}

fn has_access(list: &[String], group: &ModelGroup) -> bool {
    group.access_groups.iter().any(|access| list.contains(access))
}

fn quote(model: &str) -> String {
    model.chars().filter(|char| !char.is_control()).take(NAME_CHARS_MAX).collect()
}

impl From<ModelError> for Rejection {
    fn from(error: ModelError) -> Self {
        let reject = match &error {
            ModelError::Missing { .. } => {
                Reject::invalid_request(error.to_string()).with_code("missing_required_parameter")
            }
            ModelError::Unknown { .. } => {
                Reject::invalid_request(error.to_string()).with_code("model_not_found")
            }
            // OpenAI answers with this code in both cases, so that one cannot be told from the
            // other.
            ModelError::Denied { by, .. } => {
                let kind = match by {
                    Kind::Team => "team_model_access_denied",
                    Kind::User => "user_model_access_denied",
                    _ => "key_model_access_denied",
                };
                Reject::new(403, kind, error.to_string()).with_code("model_not_found")
            }
            ModelError::EndUserBlocked(_) => {
                return Reject::unauthorized("auth_error", error.to_string())
                    .with_param("user")
                    .with_code("end_user_blocked");
            }
        };
        reject.with_param("model")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use serde_json::json;
    use tollway_filter_api::{Flow, KeyHash, RequestView};
    use tollway_wire::operation::{Dialect, Operation};
    use tollway_wire::scan::{Limits, scan};

    use super::*;

    fn group(name: &str, access_groups: &[&str]) -> Arc<ModelGroup> {
        Arc::new(ModelGroup {
            name: name.into(),
            access_groups: access_groups.iter().map(|name| (*name).to_owned()).collect(),
            ..ModelGroup::default()
        })
    }

    /// Two groups, an alias and a wildcard.
    struct Models;

    impl ModelDirectory for Models {
        fn resolve(&self, name: &str) -> Option<Arc<ModelGroup>> {
            match name {
                "gpt-4o" | "gpt-4-router-alias" => Some(group("gpt-4o", &["beta"])),
                "claude" => Some(group("claude", &[])),
                name if name.starts_with("openai/") => Some(group(name, &[])),
                _ => None,
            }
        }
        fn groups(&self) -> Vec<Arc<ModelGroup>> {
            vec![group("gpt-4o", &["beta"]), group("claude", &[])]
        }
    }

    fn deps() -> Deps {
        Deps { models: Arc::new(Models), ..Deps::for_test() }
    }

    fn key(models: &[&str]) -> VirtualKey {
        let mut key = VirtualKey::new(KeyHash([1; 32]));
        let settings = Arc::make_mut(&mut key.settings);
        settings.models = models.iter().map(|name| (*name).to_owned()).collect();
        settings.aliases = [("mine".to_owned(), "claude".to_owned())].into();
        settings.aliases.insert("twice".to_owned(), "house".to_owned());
        key
    }

    fn run(key: Option<VirtualKey>, body: &str) -> Result<Plan, Rejection> {
        let config = json!({"aliases": {"house": "gpt-4o", "claude": "claude"}});
        let config = serde_json::from_value(config).expect("settings are of the right kind");
        let filter = ModelAlias::build(config, &deps(), Slot(0)).expect("the settings are right");
        let object = scan(body.as_bytes(), &Limits::default()).expect("the body is valid");
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/v1/chat/completions");
        ctx.identity = key.map(Arc::new);
        ctx.view = Some(Arc::new(RequestView {
            operation: Operation::ChatCompletions,
            dialect: Dialect::OpenAi,
            form: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
            object,
            stream: false,
            include_usage: false,
        }));
        let head = http::Request::new(()).into_parts().0;
        match filter.body(&mut ctx, &head) {
            Step::Ready(Flow::Next) => (),
            Step::Ready(Flow::Reject(why)) => return Err(why),
            _ => panic!("model_alias neither waits nor answers"),
        }
        Ok(ctx.plan.expect("there is a plan now"))
    }

    #[track_caller]
    fn check(key: Option<VirtualKey>, model: &str, expect: Result<&str, (u16, &str)>) {
        let have = run(key, &json!({"model": model}).to_string());
        let have = have.as_ref().map(|plan| {
            assert_eq!(&*plan.requested, model);
            &*plan.group.name
        });
        assert_eq!(have.map_err(|why| (why.status, &*why.kind)), expect, "{model}");
    }

    const UNKNOWN: Result<&str, (u16, &str)> = Err((400, "invalid_request_error"));
    const DENIED: Result<&str, (u16, &str)> = Err((403, "key_model_access_denied"));

    #[test]
    fn names_lead_to_groups() {
        check(None, "gpt-4o", Ok("gpt-4o"));
        check(None, "gpt-4-router-alias", Ok("gpt-4o"));
        check(None, "house", Ok("gpt-4o"));
        check(None, "openai/o3", Ok("openai/o3"));
        check(None, "nope", UNKNOWN);
        check(None, "mine", UNKNOWN);
    }

    #[test]
    fn aliases_of_a_key_come_first_and_are_followed_once() {
        check(Some(key(&[])), "mine", Ok("claude"));
        check(Some(key(&[])), "twice", Ok("gpt-4o"));
        check(Some(key(&[])), "house", Ok("gpt-4o"));
    }

    #[test]
    fn group_name_is_shared_when_it_is_what_was_asked_for() {
        let plan = run(None, r#"{"model":"\u0067pt-4o"}"#).expect("it is known");
        assert!(Arc::ptr_eq(&plan.requested, &plan.group.name));
    }

    #[test]
    fn keys_call_what_their_list_names() {
        check(Some(key(&["gpt-4o"])), "gpt-4o", Ok("gpt-4o"));
        check(Some(key(&["gpt-4o"])), "house", Ok("gpt-4o"));
        check(Some(key(&["house"])), "house", Ok("gpt-4o"));
        check(Some(key(&["house"])), "gpt-4o", DENIED);
        check(Some(key(&["beta"])), "gpt-4o", Ok("gpt-4o"));
        check(Some(key(&["beta"])), "claude", DENIED);
        check(Some(key(&["openai/*"])), "openai/o3", Ok("openai/o3"));
        check(Some(key(&["openai/*"])), "claude", DENIED);
        check(Some(key(&["openai/"])), "openai/o3", DENIED);
        check(Some(key(&["claude", "*"])), "gpt-4o", Ok("gpt-4o"));
        check(Some(key(&["all-proxy-models"])), "gpt-4o", Ok("gpt-4o"));
        check(Some(key(&["no-default-models"])), "gpt-4o", DENIED);
        check(Some(VirtualKey { master: true, ..key(&["claude"]) }), "gpt-4o", Ok("gpt-4o"));
    }

    #[test]
    fn restricted_key_cannot_find_out_which_models_exist() {
        check(Some(key(&["claude"])), "nope", DENIED);
        check(Some(key(&["nope"])), "nope", UNKNOWN);
        check(Some(key(&[])), "nope", UNKNOWN);
    }

    #[test]
    fn refusals_say_what_litellm_says() {
        let why = run(None, r#"{"model":"nope"}"#).expect_err("unknown");
        assert_eq!(
            why.message,
            "litellm.BadRequestError: You passed in model=nope. There are no healthy deployments \
             for this model"
        );
        assert_eq!(why.code.as_deref(), Some("model_not_found"));
        assert_eq!(why.param.as_deref(), Some("model"));
        let why = run(Some(key(&["x"])), r#"{"model":"gpt-4o"}"#).expect_err("denied");
        assert_eq!(
            why.message,
            "The requested model 'gpt-4o' is not available for this API key, or the model name is \
             invalid. Check the models available to you and try again."
        );
        let why = run(None, r#"{"model":7}"#).expect_err("no name");
        assert_eq!(why.code.as_deref(), Some("missing_required_parameter"));
        let long = json!({"model": format!("a\n{}", "b".repeat(9_999))}).to_string();
        assert!(run(None, &long).expect_err("unknown").message.len() < 400);
    }

    #[test]
    fn key_sees_the_models_it_may_call() {
        let check = |models: &[&str], expect: &[&str]| {
            let key = key(models);
            let groups = Models.groups();
            let seen = groups.iter().filter(|group| allowed(&key, group));
            let seen: Vec<_> = seen.map(|group| &*group.name).collect();
            assert_eq!(seen, expect, "{models:?}");
        };
        check(&[], &["gpt-4o", "claude"]);
        check(&["*"], &["gpt-4o", "claude"]);
        check(&["beta"], &["gpt-4o"]);
        check(&["cl*"], &["claude"]);
        check(&["openai/*"], &[]);
    }

    #[test]
    fn alias_to_an_unknown_model_is_refused_at_load() {
        let config = ModelAliasConfig { aliases: [("a".to_owned(), "nope".to_owned())].into() };
        let error = ModelAlias::build(config, &deps(), Slot(0)).err().expect("it is refused");
        assert_eq!(error.path, "aliases.a");
    }
}
