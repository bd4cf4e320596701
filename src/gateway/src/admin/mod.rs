//! The admin API: keys, users, teams, budgets and spend, in LiteLLM's shapes.
//!
//! ```text
//! head filters ── table (route, fields, rule) ── access ── keys, people, budgets, spend … ── store
//!                    └── openapi.json                             └── audit, in the same transaction
//! ```
//! Who may not see an object is told that there is none.

mod access;
mod budgets;
mod cache;
mod fields;
mod keys;
pub(crate) mod litellm;
mod members;
mod models;
mod openapi;
mod people;
mod rows;
mod spend;
mod store;
mod table;
mod teams;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use serde_json::Value;
use tollway_filter_api::accounts::Accounts;
use tollway_filter_api::cache::CacheStore;
use tollway_filter_api::ledger::Ledger;
use tollway_filter_api::treasury::Treasury;
use tollway_filter_api::{
    Answer, AnswerBody, Clock, Outcome, Reject, Rejection, RequestCtx, VirtualKey,
};

use crate::body::{self, BodyError};
use crate::config::Config;
use crate::directory::{Directory, Joined};
use crate::early::{finish, refuse};
use crate::percent::percent_decoded;
use crate::state::{Gateway, Generation};

use access::Caller;
use fields::Said;
use table::Call;
pub(crate) use table::{Found, find};

/// How large the body of a request may be.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The admin API. Lives as long as the process.
pub(crate) struct Admin {
    accounts: Arc<dyn Accounts>,
    ledger: Arc<dyn Ledger>,
    treasury: Option<Arc<dyn Treasury>>,
    directory: Arc<Directory>,
    clock: Clock,
}

/// What a request needs besides what it says: the config it began with.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cache: Option<&'a Arc<dyn CacheStore>>,
}

/// A request, before it is known whether it may be answered.
pub(crate) struct Request<'a> {
    pub(crate) found: Found,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) key: Option<&'a Arc<VirtualKey>>,
}

/// A request that may be answered.
struct Ask<'a> {
    admin: &'a Admin,
    around: Around<'a>,
    caller: Caller,
    said: Said,
    /// What stands for `{key}` in the path.
    named: Option<String>,
}

impl Admin {
    /// The API over these stores.
    pub(crate) fn new(
        accounts: Arc<dyn Accounts>,
        ledger: Arc<dyn Ledger>,
        treasury: Option<Arc<dyn Treasury>>,
        directory: Arc<Directory>,
        clock: Clock,
    ) -> Admin {
        Admin { accounts, ledger, treasury, directory, clock }
    }

    /// The stored keys.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Whether the store answers, so that what is known of keys is what is true.
    pub(crate) fn is_current(&self) -> bool {
        self.directory.is_current()
    }

    /// Answers a request.
    pub(crate) async fn answer(
        &self,
        request: Request<'_>,
        around: Around<'_>,
    ) -> Result<Value, Rejection> {
        let endpoint = request.found.endpoint;
        if endpoint.call == Call::OpenApi {
            return Ok(openapi::document());
        }
        let Some(key) = request.key else {
            // A config whose filters ask nobody for a key has not opened this to everybody.
            let message = "Authentication Error, No api key passed in.";
            return Err(Reject::unauthorized("auth_error", message));
        };
        let (config, stored) = (Arc::clone(&around.config.keys), Arc::clone(&self.directory));
        let caller = Caller::new(key, Joined { config, stored });
        caller.may_ask(endpoint, request.found.pattern)?;
        let said = match endpoint.method {
            Method::GET => Said::of_query(request.query, endpoint.fields)?,
            _ => Said::of_body(request.body, endpoint.fields)?,
        };
        // It is about tools, not about what its holder has made.
        if said.says("object_permission") && !caller.is_admin() {
            let message = "Only an admin says which MCP servers somebody may use.";
            return Err(access::forbidden(message).with_param("object_permission"));
        }
        let pieces = request.found.pattern.split('/').zip(request.path.split('/'));
        let named = pieces.into_iter().find(|(pattern, _)| pattern.starts_with('{'));
        let named = named.map(|(_, piece)| percent_decoded(piece));
        let ask = Ask { admin: self, around, caller, said, named };
        // Boxed, because some of them are large.
        match endpoint.call {
            Call::KeyGenerate => Box::pin(ask.key_generate()).await,
            Call::KeyInfo => Box::pin(ask.key_info()).await,
            Call::KeyUpdate => Box::pin(ask.key_update()).await,
            Call::KeyDelete => Box::pin(ask.key_delete()).await,
            Call::KeyBlock => Box::pin(ask.key_set_blocked(true)).await,
            Call::KeyUnblock => Box::pin(ask.key_set_blocked(false)).await,
            Call::KeyRegenerate => Box::pin(ask.key_regenerate()).await,
            Call::KeyList => Box::pin(ask.key_list()).await,
            Call::UserNew => Box::pin(ask.user_new()).await,
            Call::UserInfo => Box::pin(ask.user_info()).await,
            Call::UserList => Box::pin(ask.user_list()).await,
            Call::UserUpdate => Box::pin(ask.user_update()).await,
            Call::UserDelete => Box::pin(ask.user_delete()).await,
            Call::TeamNew => Box::pin(ask.team_new()).await,
            Call::TeamInfo => Box::pin(ask.team_info()).await,
            Call::TeamList => Box::pin(ask.team_list()).await,
            Call::TeamUpdate => Box::pin(ask.team_update()).await,
            Call::TeamDelete => Box::pin(ask.team_delete()).await,
            Call::TeamMemberAdd => Box::pin(ask.team_member_add()).await,
            Call::TeamMemberUpdate => Box::pin(ask.team_member_update()).await,
            Call::TeamMemberDelete => Box::pin(ask.team_member_delete()).await,
            Call::TeamBlock => Box::pin(ask.team_set_blocked(true)).await,
            Call::TeamUnblock => Box::pin(ask.team_set_blocked(false)).await,
            Call::CustomerNew => Box::pin(ask.customer_new()).await,
            Call::CustomerInfo => Box::pin(ask.customer_info()).await,
            Call::CustomerUpdate => Box::pin(ask.customer_update()).await,
            Call::CustomerDelete => Box::pin(ask.customer_delete()).await,
            Call::CustomerList => Box::pin(ask.customer_list()).await,
            Call::CustomerBlock => Box::pin(ask.customer_set_blocked(true)).await,
            Call::CustomerUnblock => Box::pin(ask.customer_set_blocked(false)).await,
            Call::BudgetNew => Box::pin(ask.budget_new()).await,
            Call::BudgetInfo => Box::pin(ask.budget_info()).await,
            Call::BudgetUpdate => Box::pin(ask.budget_update()).await,
            Call::BudgetDelete => Box::pin(ask.budget_delete()).await,
            Call::BudgetList => Box::pin(ask.budget_list()).await,
            Call::TagNew => Box::pin(ask.tag_new()).await,
            Call::TagInfo => Box::pin(ask.tag_info()).await,
            Call::TagUpdate => Box::pin(ask.tag_update()).await,
            Call::TagDelete => Box::pin(ask.tag_delete()).await,
            Call::TagList => Box::pin(ask.tag_list()).await,
            Call::ModelInfo => ask.model_info(),
            Call::ModelGroupInfo => ask.model_group_info(),
            Call::SpendLogs => Box::pin(ask.spend_logs()).await,
            Call::SpendLogsPaged => Box::pin(ask.spend_logs_paged()).await,
            Call::SpendTags => Box::pin(ask.spend_tags()).await,
            Call::SpendKeys => Box::pin(ask.spend_keys()).await,
            Call::SpendUsers => Box::pin(ask.spend_users()).await,
            Call::SpendReport => Box::pin(ask.spend_report()).await,
            Call::SpendCalculate => ask.spend_calculate(),
            Call::CachePing => Box::pin(ask.cache_ping()).await,
            Call::CacheDelete => Box::pin(ask.cache_delete()).await,
            Call::CacheFlush => Box::pin(ask.cache_flush()).await,
            Call::Audit => Box::pin(ask.audit()).await,
            Call::OpenApi => Ok(openapi::document()),
        }
    }
}

impl Ask<'_> {
    /// Since the Unix epoch.
    fn now(&self) -> Duration {
        self.admin.clock.unix()
    }

    /// Which page, and how many a page.
    fn page(&self, size: u64, most: u64) -> Result<(u64, u64), Rejection> {
        let page = self.said.count("page").unwrap_or(1);
        let size = self.said.count("size").or(self.said.count("page_size")).unwrap_or(size);
        if page == 0 || page > 1 << 32 {
            return Err(fields::wrong("page", "a number from 1 on"));
        }
        if size == 0 || size > most {
            return Err(fields::wrong("size", &format!("a number from 1 to {most}")));
        }
        Ok((page, size))
    }
}

/// Serves a request for the admin API, whose head filters have let it through.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    let Some(found) = find(session.req_header().uri.path()) else {
        let reject = Reject::internal("no such route", "a route that is not in the table");
        return refuse(session, generation, ctx, reject).await;
    };
    let patience = generation.config.server.body_timeout;
    let read = match found.endpoint.method {
        Method::GET => None,
        _ => Some(body::read(session, BODY_BYTES_MAX, patience, &gateway.body_memory).await),
    };
    let held = match read.transpose() {
        Ok(held) => held,
        Err(BodyError::Rejected(reject)) => return refuse(session, generation, ctx, reject).await,
        Err(BodyError::Gone(error)) => return Err(error),
    };
    let head = session.req_header();
    let (path, query) =
        (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let key = ctx.identity.clone();
    let request = Request {
        found,
        path: &path,
        query: &query,
        body: held.as_ref().map_or(&[], |(bytes, _)| bytes),
        key: key.as_ref(),
    };
    let around = Around { config: &generation.config, cache: generation.cache.as_ref() };
    let answer = gateway.admin.answer(request, around).await.map(|value| {
        let bytes = value.to_string().into();
        // What it holds is nobody else's, and may be a key.
        let headers =
            vec![(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"))];
        let body = AnswerBody::Full { content_type: "application/json", bytes };
        Answer { status: 200, headers, body }
    });
    finish(session, generation, ctx, answer).await
}
