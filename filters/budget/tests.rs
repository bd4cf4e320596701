use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::Account as Somebody;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::identity::Role;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::treasury::Unpaid;
use tollway_filter_api::{
    Deployment, Flow, KeyHash, ModelGroup, Plan, RequestView, ResponseHead, VirtualKey,
};
use tollway_wire::operation::Dialect;
use tollway_wire::price::Price;
use tollway_wire::scan::{Limits, scan};
use tollway_wire::usage::Usage;

use super::fake::{Books, Fake};
use super::*;

/// Prices of one pico-dollar an input token and ten an output token: costs can be read.
const INPUT: u64 = 1;
const OUTPUT: u64 = 10;

fn deployment(provider: &'static str, priced: bool, writes: Option<u64>) -> Arc<Deployment> {
    let price = Price::new(PicoDollars(INPUT), PicoDollars(OUTPUT));
    Arc::new(Deployment {
        id: format!("id-{provider}").into(),
        entry: 0,
        provider,
        model: "m".into(),
        litellm_model: format!("{provider}/m").into(),
        api_base: "http://there".into(),
        price: priced.then(|| Arc::new(price)),
        max_input_tokens: Some(1_000_000),
        max_output_tokens: writes,
        limits: RateLimits::default(),
        weight: 1,
    })
}

fn group(name: &str) -> Option<Arc<ModelGroup>> {
    let (deployments, fallbacks) = match name {
        "plain" => (vec![deployment("openai", true, Some(1_000))], vec![]),
        "endless" => (vec![deployment("openai", true, None)], vec![]),
        "unpriced" => (vec![deployment("openai", false, None)], vec![]),
        "falls" => (vec![deployment("openai", true, Some(1_000))], vec!["other".into()]),
        "other" => (vec![deployment("anthropic", true, Some(1_000))], vec![]),
        _ => return None,
    };
    Some(Arc::new(ModelGroup {
        name: name.into(),
        deployments,
        fallbacks,
        ..ModelGroup::default()
    }))
}

struct Models;

impl ModelDirectory for Models {
    fn resolve(&self, name: &str) -> Option<Arc<ModelGroup>> {
        group(name)
    }
    fn groups(&self) -> Vec<Arc<ModelGroup>> {
        Vec::new()
    }
}

/// A team `dev` with a budget of 1000 and a blocked one.
struct People;

impl KeyStore for People {
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>> {
        let mut key = key(4_000_000_000_000);
        // One that was taken away has no key any more.
        (*hash == key.hash).then(|| {
            key.team = Some("dev".into());
            Arc::new(key)
        })
    }
    fn account(&self, kind: Kind, id: &str) -> Option<Arc<Somebody>> {
        let budget = budget(BudgetScope::Team, id, 1_000, "Team=dev");
        (kind == Kind::Team && id == "dev").then(|| {
            Arc::new(Somebody {
                kind,
                id: id.into(),
                alias: Some("developers".into()),
                email: None,
                role: Role::None,
                members: Default::default(),
                models: Vec::new(),
                limits: RateLimits::default(),
                model_limits: Default::default(),
                budgets: vec![budget],
                members_budgets: Default::default(),
                blocked: false,
                metadata: Default::default(),
            })
        })
    }
}

fn budget(scope: BudgetScope, subject: &str, limit: u64, owner: &str) -> Arc<Budget> {
    Arc::new(Budget {
        id: BudgetId { scope, subject: subject.into(), part: None, period: None },
        limit: Some(PicoDollars(limit)),
        soft: None,
        owner: owner.into(),
    })
}

struct Setup {
    filter: Budgets,
    treasury: Fake,
    deps: Deps,
}

fn setup(settings: Value) -> Setup {
    let treasury = Fake::default();
    let deps = Deps {
        keys: Arc::new(People),
        models: Arc::new(Models),
        treasury: Some(Arc::new(treasury.clone())),
        ..Deps::for_test()
    };
    let config = serde_json::from_value(settings).expect("settings are of the right kind");
    let filter = Budgets::build(config, &deps, Slot(0)).expect("the settings make sense");
    Setup { filter, treasury, deps }
}

/// A key that may spend so much.
fn key(limit: u64) -> VirtualKey {
    let mut key = VirtualKey::new(KeyHash([1; 32]));
    key.alias = Some("ci".into());
    key.budgets = Box::new([budget(BudgetScope::Key, &key.hash_hex, limit, "Key=ci (sk-...AbCd)")]);
    key
}

fn request(dialect: Dialect, body: Value) -> RequestCtx {
    let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/v1/chat/completions");
    let body = Bytes::from(body.to_string());
    let object = scan(&body, &Limits::default()).expect("the body is valid");
    let model = object.str(&body, "model").expect("a model").into_owned();
    ctx.operation = Some(Operation::ChatCompletions);
    ctx.dialect = dialect;
    let group = group(&model).expect("it is known");
    ctx.plan = Some(Plan { requested: model.as_str().into(), group: Arc::clone(&group) });
    ctx.report.deployment = group.deployments.first().cloned();
    let stream = object.bool(&body, "stream") == Some(true);
    ctx.view = Some(Arc::new(RequestView {
        operation: Operation::ChatCompletions,
        dialect,
        object,
        stream,
        include_usage: false,
        form: None,
        body,
    }));
    ctx
}

fn chat(model: &str, members: Value) -> RequestCtx {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in members.as_object().expect("members") {
        body[name] = value.clone();
    }
    request(Dialect::OpenAi, body)
}

fn head(headers: &[(&'static str, &'static str)]) -> RequestHead {
    let mut head = http::Request::new(()).into_parts().0;
    for (name, value) in headers {
        head.headers.insert(*name, value.parse().expect("a value"));
    }
    head
}

/// What a step comes to that has nothing to wait for.
fn at_once(step: Step<'_>) -> Flow {
    let mut wait = match step {
        Step::Ready(flow) => return flow,
        Step::Wait(wait) => wait,
    };
    match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(flow) => flow,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}

impl Setup {
    fn open_with(
        &self,
        ctx: &mut RequestCtx,
        key: VirtualKey,
        headers: &[(&'static str, &'static str)],
    ) -> Result<(), Rejection> {
        ctx.identity = Some(Arc::new(key));
        match at_once(self.filter.body(ctx, &head(headers))) {
            Flow::Next => self.call(ctx),
            Flow::Reject(why) => Err(why),
            Flow::Answer(_) => panic!("it never answers"),
        }
    }

    /// No other filter has answered.
    fn call(&self, ctx: &mut RequestCtx) -> Result<(), Rejection> {
        match at_once(self.filter.call(ctx)) {
            Flow::Next => Ok(()),
            Flow::Reject(why) => Err(why),
            Flow::Answer(_) => panic!("it never answers"),
        }
    }

    fn open(&self, ctx: &mut RequestCtx, key: VirtualKey) -> Result<(), Rejection> {
        self.open_with(ctx, key, &[])
    }

    fn headers(&self, ctx: &mut RequestCtx, status: u16, streaming: bool) -> ResponseHead {
        let mut response = ResponseHead { status, headers: Vec::new(), streaming };
        self.filter.response(ctx, &head(&[]), &mut response);
        response
    }

    /// Ends a call that took so many tokens.
    fn close(&self, mut ctx: RequestCtx, prompt: u64, completion: u64) {
        ctx.report.status = Some(200);
        ctx.report.usage = Some(Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            ..Usage::default()
        });
        self.filter.end(&mut ctx, Outcome::Done);
    }

    /// Spent and reserved of all budgets of a scope.
    fn state(&self, scope: BudgetScope) -> (u64, u64) {
        let books = self.treasury.0.lock();
        let of = books.accounts.iter().filter(|(id, _)| id.scope == scope);
        of.fold((0, 0), |sum, (_, (spent, reserved))| (sum.0 + spent, sum.1 + reserved))
    }
}

fn member(ctx: &RequestCtx, name: &str) -> Option<u64> {
    let view = ctx.view.as_ref().expect("a view");
    view.object.u64(&view.body, name)
}

fn header<'h>(response: &'h ResponseHead, name: &str) -> Option<&'h str> {
    let found = response.headers.iter().find(|(have, _)| have == name);
    found.map(|(_, value)| value.to_str().expect("text"))
}

#[test]
fn worst_case_is_reserved_and_replaced_by_what_it_cost() {
    let setup = setup(json!({}));
    let mut ctx = chat("plain", json!({"max_tokens": 100}));
    setup.open(&mut ctx, key(10_000)).expect("it fits");
    let (spent, reserved) = setup.state(BudgetScope::Key);
    let length = ctx.view.as_ref().map_or(0, |view| view.body.len() as u64);
    assert_eq!((spent, reserved), (0, 100 * OUTPUT + 32 + length));
    assert_eq!(member(&ctx, "max_tokens"), Some(100));
    setup.close(ctx, 8, 20);
    assert_eq!(setup.state(BudgetScope::Key), (8 + 20 * OUTPUT, 0));
    let books = setup.treasury.0.lock();
    let record = &books.records[0];
    assert_eq!(record.cost, PicoDollars(208));
    assert_eq!(
        (&*record.group, &*record.model, &*record.provider),
        ("plain", "openai/m", "openai")
    );
    assert_eq!((&*record.operation, record.status), ("chat_completions", 200));
    assert_eq!(record.key_alias.as_deref(), Some("ci"));
    assert!(!record.usage_estimated && !record.unpriced && !record.cache_hit);
}

#[test]
fn input_is_counted_only_where_its_length_does_not_fit_or_says_nothing() {
    let setup = setup(json!({}));
    let opened = |ctx: &mut RequestCtx, limit| {
        let before = setup.treasury.0.lock().opened;
        setup.open(ctx, key(limit)).expect("it fits");
        let books = setup.treasury.0.lock();
        (books.opened - before, books.asked.map_or(0, |(most, _)| most.0))
    };
    let text = json!([{"role": "user", "content": "Hello there, how are you?"}]);
    let body = json!({"max_tokens": 100, "messages": text});
    let mut ctx = chat("plain", body.clone());
    let length = ctx.view.as_ref().map_or(0, |view| view.body.len() as u64);
    assert_eq!(opened(&mut ctx, 10_000), (1, 100 * OUTPUT + 32 + length));
    setup.close(ctx, 0, 0);
    // By its length it does not fit, by its tokens it does.
    let mut ctx = chat("plain", body);
    let (times, most) = opened(&mut ctx, 100 * OUTPUT + 32 + length - 1);
    assert!(times == 2 && most < 100 * OUTPUT + 50, "{times} {most}");
    assert_eq!(member(&ctx, "max_tokens"), Some(100));
    setup.close(ctx, 0, 0);
    // An image has more tokens than its address has bytes.
    let image = json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]);
    let mut ctx = chat("plain", json!({"max_tokens": 100, "messages": image}));
    let (times, most) = opened(&mut ctx, 10_000);
    assert!(times == 1 && most > 100 * OUTPUT + 765, "{times} {most}");
}

#[test]
fn call_that_does_not_fit_is_made_smaller_and_says_so() {
    let setup = setup(json!({}));
    let mut ctx = chat("plain", json!({"max_tokens": 100}));
    setup.open(&mut ctx, key(600)).expect("less fits");
    let (_, reserved) = setup.state(BudgetScope::Key);
    let tokens = member(&ctx, "max_tokens").expect("a maximum");
    assert!((40..60).contains(&tokens), "{tokens}");
    assert!(reserved <= 600);
    let response = setup.headers(&mut ctx, 200, false);
    assert_eq!(header(&response, "x-tollway-max-tokens-clamped"), Some(&*tokens.to_string()));
}

#[test]
fn every_dialect_is_clamped_in_its_own_words() {
    let check = |dialect, members: Value, read: &dyn Fn(&Value) -> Option<u64>| {
        let setup = setup(json!({}));
        let mut body = json!({"model": "plain", "messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().expect("it is one").extend(members.as_object().cloned().expect("one"));
        let mut ctx = request(dialect, body);
        setup.open(&mut ctx, key(600)).expect("less fits");
        let view = ctx.view.as_ref().expect("a view");
        let body: Value = serde_json::from_slice(&view.body).expect("it is JSON");
        let tokens = read(&body).unwrap_or_else(|| panic!("{body}"));
        assert!((30..60).contains(&tokens), "{body}");
    };
    check(Dialect::OpenAi, json!({"max_completion_tokens": 500}), &|body| {
        assert!(body.get("max_tokens").is_none());
        body["max_completion_tokens"].as_u64()
    });
    check(Dialect::OpenAi, json!({"max_completion_tokens": 1, "max_tokens": 500}), &|body| {
        assert_eq!(body["max_tokens"], body["max_completion_tokens"]);
        body["max_tokens"].as_u64()
    });
    check(Dialect::OpenAi, json!({}), &|body| body["max_tokens"].as_u64());
    check(Dialect::Anthropic, json!({"max_tokens": 500}), &|body| body["max_tokens"].as_u64());
    check(Dialect::Responses, json!({}), &|body| body["max_output_tokens"].as_u64());
    check(Dialect::Gemini, json!({}), &|body| body["generationConfig"]["maxOutputTokens"].as_u64());
    let config = json!({"generationConfig": {"maxOutputTokens": 999, "temperature": 0.5}, "x": 1});
    check(Dialect::Gemini, config, &|body| {
        assert_eq!(
            (&body["x"], &body["generationConfig"]["temperature"]),
            (&json!(1), &json!(0.5))
        );
        body["generationConfig"]["maxOutputTokens"].as_u64()
    });
}

#[test]
fn refused_call_is_told_what_litellm_tells() {
    let setup = setup(json!({}));
    setup.treasury.0.lock().accounts.insert(key(0).budgets[0].id.clone(), (102, 0));
    let mut ctx = chat("plain", json!({}));
    let why = setup.open(&mut ctx, key(100)).expect_err("nothing is left");
    assert_eq!((why.status, &*why.kind), (422, "budget_exceeded"));
    assert_eq!(
        why.message,
        "Budget has been exceeded! Key=ci (sk-...AbCd) Current cost: 0.000000000102, Max budget: \
         0.0000000001"
    );
    assert_eq!(why.retry_after, Some(std::time::Duration::from_secs(60)));
    assert_eq!(refusal::dollars(PicoDollars(10_000_000_000_000)), "10.0");
    let response = setup.headers(&mut ctx, 422, false);
    assert_eq!(header(&response, "x-litellm-key-spend"), Some("0.000000000102"));
    assert_eq!(header(&response, "x-litellm-key-max-budget"), Some("0.0000000001"));
    assert!(setup.treasury.0.lock().records.is_empty());
}

#[test]
fn policy_can_refuse_what_does_not_fit_whole() {
    let setup = setup(json!({"on_budget": "refuse", "status": 429}));
    let mut ctx = chat("plain", json!({"max_tokens": 100}));
    let why = setup.open(&mut ctx, key(600)).expect_err("the worst case does not fit");
    assert_eq!(why.status, 429);
    assert!(why.message.contains("What is left is not enough: this call may cost up to"));
}

#[test]
fn everybodys_amounts_are_nobodys_business() {
    let setup = setup(json!({"global": {"max_budget": "0.0000000001"}}));
    let mut ctx = chat("plain", json!({}));
    let why = setup.open(&mut ctx, VirtualKey::new(KeyHash([2; 32]))).expect_err("too little");
    assert_eq!(why.message, "Budget has been exceeded!");
}

#[test]
fn all_budgets_that_apply_are_asked() {
    let setup = setup(json!({
        "global": {"max_budget": 1},
        "providers": {"anthropic": {"budget_limit": 1, "time_period": "1d"}},
        "models": {"other": {"max_budget": 1}, "plain": {"max_budget": 1}},
        "tags": {"nightly": {"max_budget": 1}},
        "per_user": {"max_budget": 1},
        "per_end_user": {"max_budget": 1},
    }));
    let mut ctx = chat("falls", json!({}));
    (ctx.end_user, ctx.tags) = (Some("them".into()), vec!["nightly".into(), "other".into()]);
    let mut key = key(1_000_000);
    (key.user, key.team) = (Some("anna".into()), Some("dev".into()));
    let part = |model: &str| {
        let mut budget = Budget::clone(&key.budgets[0]);
        (budget.id.scope, budget.id.part) = (BudgetScope::KeyModel, Some(model.into()));
        Arc::new(budget)
    };
    key.budgets = [Arc::clone(&key.budgets[0]), part("falls"), part("plain")].into();
    setup.open(&mut ctx, key).expect("it is clamped by the team");
    let books = setup.treasury.0.lock();
    let mut asked: Vec<_> = books
        .accounts
        .keys()
        .map(|id| format!("{} {}", id.scope.name(), id.part.as_deref().unwrap_or(&id.subject)))
        .collect();
    asked.sort();
    let hash = VirtualKey::new(KeyHash([1; 32])).hash_hex;
    let key = format!("key {hash}");
    let expect = [
        "end_user them",
        "global ",
        &key,
        "model other",
        "model_per_key falls",
        "provider anthropic",
        "tag nightly",
        "team dev",
        "user anna",
    ];
    assert_eq!(asked, expect);
}

#[test]
fn fallbacks_pay_only_where_they_have_answered() {
    let providers =
        json!({"providers": {"openai": {"max_budget": 1}, "anthropic": {"max_budget": 1}}});
    let setup = setup(providers);
    let mut ctx = chat("falls", json!({}));
    setup.open(&mut ctx, key(1_000_000)).expect("it fits");
    ctx.report.deployment = group("other").expect("it is there").deployments.first().cloned();
    setup.close(ctx, 10, 10);
    let books = setup.treasury.0.lock();
    let spent = |provider: &str| {
        let of = books.accounts.iter().find(|(id, _)| &*id.subject == provider);
        of.map(|(_, account)| *account)
    };
    assert_eq!((spent("openai"), spent("anthropic")), (Some((0, 0)), Some((110, 0))));
    assert_eq!(&*books.records[0].group, "other");
}

#[test]
fn deployment_whose_budget_is_spent_is_left_out_as_long_as_another_has_room() {
    let providers = json!({"deployments": {"id-openai": {"max_budget": "0.00000001"}, "id-anthropic": {"max_budget": 1}}});
    let setup = setup(providers);
    // It fits as a whole: nobody is left out.
    let mut small = chat("falls", json!({"max_tokens": 10}));
    setup.open(&mut small, key(1_000_000)).expect("it fits");
    assert_eq!(small.left_out, Vec::<Arc<str>>::new());
    setup.close(small, 1, 10);
    // It does not, and is rather made elsewhere than made smaller.
    let mut large = chat("falls", json!({"max_tokens": 1_000}));
    setup.open(&mut large, key(1_000_000)).expect("the other one has room");
    assert_eq!(large.left_out, ["id-openai".into()]);
    assert_eq!(member(&large, "max_tokens"), Some(1_000));
    large.report.deployment = group("other").expect("it is there").deployments.first().cloned();
    setup.close(large, 1, 1_000);
    // Where there is nobody else it is made as small as what is left.
    let mut alone = chat("plain", json!({"max_tokens": 1_000}));
    setup.open(&mut alone, key(1_000_000)).expect("it is clamped");
    assert_eq!(alone.left_out, Vec::<Arc<str>>::new());
    assert!(member(&alone, "max_tokens").is_some_and(|tokens| tokens < 1_000));
    setup.close(alone, 0, 989);
    let why = setup.open(&mut chat("plain", json!({})), key(1_000_000)).expect_err("all is spent");
    assert_eq!(
        (why.status, &*why.message),
        (422, "Budget has been exceeded! Deployment=id-openai")
    );
    let mut falls = chat("falls", json!({}));
    setup.open(&mut falls, key(1_000_000)).expect("the other one has room");
    assert_eq!(falls.left_out, ["id-openai".into()]);
}

#[test]
fn provider_whose_budget_is_spent_is_left_out_as_long_as_another_has_room() {
    let setup = setup(json!({"providers": {"openai": {"max_budget": 0}}}));
    let mut falls = chat("falls", json!({}));
    setup.open(&mut falls, key(1_000_000)).expect("the other one has room");
    assert_eq!(falls.left_out, ["id-openai".into()]);
    setup.open(&mut chat("plain", json!({})), key(1_000_000)).expect_err("there is nobody else");
}

#[test]
fn nothing_is_charged_for_what_cost_nothing() {
    let setup = setup(json!({}));
    let mut cached = chat("plain", json!({}));
    setup.open(&mut cached, key(1_000_000)).expect("it fits");
    cached.report.cache_hit = true;
    setup.close(cached, 10, 10);
    let mut failed = chat("plain", json!({}));
    setup.open(&mut failed, key(1_000_000)).expect("it fits");
    failed.report.status = Some(503);
    setup.filter.end(&mut failed, Outcome::Done);
    assert_eq!(setup.state(BudgetScope::Key), (0, 0));
    let books = setup.treasury.0.lock();
    assert!(books.records[0].cache_hit && books.records[0].cost == PicoDollars::ZERO);
    assert_eq!((books.records[1].status, books.records[1].cost), (503, PicoDollars::ZERO));
}

#[test]
fn reservation_is_written_before_a_call_and_not_where_none_is_made() {
    let setup = setup(json!({}));
    let mut hit = chat("plain", json!({}));
    hit.identity = Some(Arc::new(key(1_000_000)));
    assert!(matches!(at_once(setup.filter.body(&mut hit, &head(&[]))), Flow::Next));
    assert!(setup.state(BudgetScope::Key).1 > 0, "it counts at once");
    // Another filter has the answer.
    hit.report.cache_hit = true;
    setup.close(hit, 10, 10);
    assert_eq!(setup.treasury.0.lock().written, 0);
    let mut miss = chat("plain", json!({}));
    setup.open(&mut miss, key(1_000_000)).expect("it fits");
    assert_eq!(setup.treasury.0.lock().written, 1);
    setup.close(miss, 10, 10);
    assert_eq!(setup.treasury.0.lock().records.len(), 2);
}

#[test]
fn answers_that_nobody_has_counted_are_not_free() {
    let setup = setup(json!({}));
    let mut silent = chat("plain", json!({}));
    setup.open(&mut silent, key(1_000_000)).expect("it fits");
    silent.report.status = Some(200);
    silent.report.first_byte = Some(Instant::now());
    silent.report.bytes_sent = 400;
    setup.filter.end(&mut silent, Outcome::Done);
    let mut abandoned = chat("plain", json!({}));
    setup.open(&mut abandoned, key(1_000_000)).expect("it fits");
    abandoned.report.upstream_started = Some(Instant::now());
    setup.filter.end(&mut abandoned, Outcome::ClientGone);
    let books = setup.treasury.0.lock();
    assert_eq!(books.records[0].usage.completion_tokens, 100);
    assert!(books.records[0].cost >= PicoDollars(1_000) && books.records[0].usage_estimated);
    assert_eq!(books.records[1].status, 499);
    assert!(books.records[1].usage.prompt_tokens > 0 && books.records[1].cost > PicoDollars::ZERO);
}

#[test]
fn unpriced_model_is_served_and_counted_but_not_under_a_budget() {
    let setup = setup(json!({}));
    let mut ctx = chat("unpriced", json!({}));
    let why = setup.open(&mut ctx, key(1_000_000)).expect_err("its cost cannot be bounded");
    assert_eq!((why.status, why.code.as_deref()), (403, Some("model_not_priced")));
    let mut ctx = chat("unpriced", json!({}));
    setup.open(&mut ctx, VirtualKey::new(KeyHash([2; 32]))).expect("there is no budget");
    setup.close(ctx, 10, 10);
    let books = setup.treasury.0.lock();
    assert!(books.records[0].unpriced && books.records[0].cost == PicoDollars::ZERO);
}

#[test]
fn request_can_say_what_it_may_cost() {
    let setup = setup(json!({}));
    let nobody = || VirtualKey::new(KeyHash([2; 32]));
    let cap = [("x-tollway-max-cost", "0.0000000006")];
    let mut ctx = chat("plain", json!({"max_tokens": 100}));
    setup.open_with(&mut ctx, nobody(), &cap).expect("less fits");
    assert!((40..60).contains(&member(&ctx, "max_tokens").expect("a maximum")));
    let mut ctx = chat("plain", json!({"max_tokens": 100, "max_cost": 0.0000000006}));
    setup.open(&mut ctx, nobody()).expect("less fits");
    assert!((40..60).contains(&member(&ctx, "max_tokens").expect("a maximum")));
    assert_eq!(member(&ctx, "max_cost"), None, "no provider knows it");
    let view = ctx.view.as_ref().expect("a view");
    assert!(view.object.get(&view.body, "max_cost").is_none());
    let mut ctx = chat("plain", json!({}));
    let why = setup.open_with(&mut ctx, nobody(), &[("x-tollway-max-cost", "0.0000000000001")]);
    assert_eq!(why.expect_err("finer than there is").status, 400);
    for (text, status) in [("0.00000000001", 422), ("-1", 400), ("much", 400)] {
        let headers: [(&'static str, &'static str); 1] = [("x-tollway-max-cost", text)];
        let why = setup.open_with(&mut ctx, nobody(), &headers).expect_err("too little");
        assert_eq!(why.status, status, "{text}: {}", why.message);
    }
}

fn events(count: usize) -> Bytes {
    Bytes::from("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".repeat(count))
}

#[test]
fn endless_stream_reserves_as_it_goes_and_ends_at_the_cent() {
    let setup = setup(json!({"output_tokens_default": 50}));
    let mut ctx = chat("endless", json!({"stream": true}));
    setup.open(&mut ctx, key(1_300)).expect("it can begin");
    assert_eq!(member(&ctx, "max_tokens"), None, "a stream can reserve more later");
    setup.headers(&mut ctx, 200, true);
    let mut sent = 0;
    let refused = loop {
        match setup.filter.chunk(&mut ctx, &mut events(10)) {
            Ok(()) => sent += 10,
            Err(refused) => break refused,
        }
        let (_, reserved) = setup.state(BudgetScope::Key);
        assert!(reserved <= 1_300 && reserved >= sent * OUTPUT, "{sent} {reserved}");
    };
    assert_eq!((refused.status, &*refused.kind), (422, "budget_exceeded"));
    assert!((110..=130).contains(&sent), "{sent}");
}

#[test]
fn endless_answer_that_is_no_stream_gets_a_maximum() {
    let setup = setup(json!({"output_tokens_default": 50}));
    let mut ctx = chat("endless", json!({}));
    setup.open(&mut ctx, key(1_000_000)).expect("it fits");
    assert_eq!(member(&ctx, "max_tokens"), Some(50));
    let mut ctx = chat("endless", json!({}));
    setup.open(&mut ctx, VirtualKey::new(KeyHash([2; 32]))).expect("there is no budget");
    assert_eq!(member(&ctx, "max_tokens"), None);
}

#[test]
fn bounded_stream_is_not_watched() {
    let setup = setup(json!({}));
    let mut ctx = chat("plain", json!({"stream": true, "max_tokens": 10}));
    setup.open(&mut ctx, key(1_000)).expect("it fits");
    let response = setup.headers(&mut ctx, 200, true);
    assert!(header(&response, "x-tollway-cost-max").is_some_and(|most| most.starts_with("0.0")));
    assert!(header(&response, "x-tollway-cost-estimate").is_some());
    assert!(setup.filter.chunk(&mut ctx, &mut events(10_000)).is_ok());
}

#[test]
fn stream_tells_what_it_costs_when_asked() {
    let setup = setup(json!({}));
    let mut ctx = chat("plain", json!({"stream": true}));
    let asks = [("x-tollway-stream-cost", "running, final")];
    setup.open_with(&mut ctx, key(1_000_000), &asks).expect("it fits");
    setup.headers(&mut ctx, 200, true);
    let mut chunk = events(3);
    setup.filter.chunk(&mut ctx, &mut chunk).expect("it goes on");
    let text = String::from_utf8_lossy(&chunk);
    assert!(text.starts_with("data: ") && text.contains("\n\n: cost 0.0000000000"), "{text}");
    let usage = "{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}";
    let mut chunk = Bytes::from(format!("data: {usage}\n\ndata: [DONE]\n\n"));
    setup.filter.chunk(&mut ctx, &mut chunk).expect("it goes on");
    let text = String::from_utf8_lossy(&chunk);
    assert!(text.contains("\"completion_tokens\":5,\"cost\":0.00000000006}"), "{text}");
}

#[test]
fn headers_say_what_was_spent_and_what_is_left() {
    let setup = setup(json!({}));
    let mut ctx = chat("plain", json!({"max_tokens": 10}));
    setup.open(&mut ctx, key(1_000)).expect("it fits");
    ctx.report.usage = Some(Usage { prompt_tokens: 10, completion_tokens: 9, ..Usage::default() });
    let response = setup.headers(&mut ctx, 200, false);
    assert_eq!(header(&response, "x-litellm-key-spend"), Some("0.0000000001"));
    assert_eq!(header(&response, "x-litellm-key-max-budget"), Some("0.000000001"));
    assert_eq!(header(&response, "x-tollway-budget-remaining"), Some("0.0000000009"));
    assert_eq!(header(&response, "x-tollway-budget-scope"), Some("key"));
}

#[test]
fn nothing_is_spent_that_cannot_be_written_down() {
    let setup = setup(json!({}));
    setup.treasury.0.lock().is_broken = true;
    let why = setup.open(&mut chat("plain", json!({})), key(1_000_000)).expect_err("no journal");
    assert_eq!((why.status, why.code.as_deref()), (503, Some("spend_not_recorded")));
    // The disk is full when the call is about to be made.
    *setup.treasury.0.lock() = Books { is_full: true, ..Books::default() };
    let mut ctx = chat("plain", json!({}));
    let why = setup.open(&mut ctx, key(1_000_000)).expect_err("it cannot be written");
    assert_eq!((why.status, why.code.as_deref()), (503, Some("spend_not_recorded")));
    assert_eq!(setup.state(BudgetScope::Key), (0, 0));
    ctx.report.status = Some(503);
    setup.filter.end(&mut ctx, Outcome::Done);
    assert!(setup.treasury.0.lock().records.is_empty());
    let deps = Deps { treasury: None, ..setup.deps.clone() };
    let filter = Budgets::build(BudgetConfig::default(), &deps, Slot(0)).expect("it can be built");
    let mut ctx = chat("plain", json!({}));
    ctx.identity = Some(Arc::new(key(1_000_000)));
    assert!(matches!(filter.body(&mut ctx, &head(&[])), Step::Ready(Flow::Reject(_))));
    let unavailable = refusal::unpaid(&Unpaid::Unavailable("x"), PicoDollars::ZERO, 422);
    assert!(!unavailable.message.contains('x') || unavailable.source.is_some());
}

#[tokio::test]
async fn treasury_that_has_to_ask_is_asked_once_and_waited_for() {
    let setup = setup(json!({}));
    setup.treasury.0.lock().waits = true;
    let mut ctx = chat("plain", json!({"max_tokens": 100}));
    ctx.identity = Some(Arc::new(key(10_000)));
    let head = head(&[]);
    let Step::Wait(wait) = setup.filter.body(&mut ctx, &head) else { panic!("it must wait") };
    assert!(matches!(wait.await, Flow::Next));
    assert_eq!(setup.treasury.0.lock().opened, 1);
    setup.close(ctx, 8, 20);
    assert_eq!(setup.state(BudgetScope::Key), (208, 0));
}

#[test]
fn gauges_show_what_is_left() {
    let setup = setup(
        json!({"providers": {"openai": {"max_budget": 2, "budget_duration": "1d"}}, "series_max": 3}),
    );
    let mut ctx = chat("plain", json!({}));
    let mut key = key(4_000_000_000_000);
    key.team = Some("dev".into());
    setup.open(&mut ctx, key).expect("it fits");
    setup.close(ctx, 0, 50_000_000_000);
    // A budget that was taken away meanwhile.
    let mut ctx = chat("plain", json!({}));
    let mut gone = VirtualKey::new(KeyHash([2; 32]));
    gone.alias = Some("gone".into());
    gone.budgets = [budget(BudgetScope::Key, &gone.hash_hex, 1_000_000, "Key=gone")].into();
    setup.open(&mut ctx, gone).expect("it fits");
    setup.close(ctx, 0, 0);
    let mut text = String::new();
    for family in setup.deps.metrics.registry.gather() {
        for metric in family.get_metric() {
            let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
            text += &format!("{} {labels:?} {}\n", family.name(), metric.get_gauge().get_value());
        }
    }
    let hash = VirtualKey::new(KeyHash([1; 32])).hash_hex;
    assert!(!text.contains("gone"), "{text}");
    for line in [
        "litellm_provider_remaining_budget_metric [\"openai\"] 1.5\n".to_owned(),
        format!("litellm_remaining_api_key_budget_metric [\"ci\", \"{hash}\"] 3.5\n"),
        format!("litellm_api_key_max_budget_metric [\"ci\", \"{hash}\"] 4\n"),
        "litellm_team_max_budget_metric [\"dev\", \"developers\"] 0.000000001\n".to_owned(),
        "tollway_budget_limit_dollars [\"openai\", \"openai\", \"\", \"1d\", \"provider\", \"\"] 2\n"
            .to_owned(),
        "tollway_budget_spent_dollars [\"openai\", \"openai\", \"\", \"1d\", \"provider\", \"\"] 0.5\n"
            .to_owned(),
        // The clock of tests stands at midnight.
        "tollway_budget_reset_seconds [\"openai\", \"openai\", \"\", \"1d\", \"provider\", \"\"] 86400\n"
            .to_owned(),
    ] {
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |settings: Value, expect: &str| {
        let built = serde_json::from_value::<BudgetConfig>(settings.clone())
            .map_err(|error| error.to_string())
            .and_then(|config| config.check().map_err(|error| error.to_string()));
        let error = built.expect_err("a mistake");
        assert!(error.contains(expect), "{settings}: {error}");
    };
    check(json!({"status": 200}), "status: must be 422, 429 or 400");
    check(json!({"global": {}}), "global: needs a `max_budget`");
    check(json!({"global": {"max_budget": -1}}), "cannot be negative");
    check(json!({"global": {"max_budget": 1e9}}), "is more than 18 million dollars");
    check(json!({"global": {"max_budget": "0.0000000000001"}}), "is finer than");
    check(json!({"global": {"max_budget": true}}), "must be an amount of dollars");
    check(json!({"global": {"max_budget": 1, "budget_duration": "1y"}}), "must be a time");
    check(
        json!({"tags": {"a": {"max_budget": 1, "soft_budget": 2}}}),
        "tags.a.soft_budget: is above",
    );
    check(json!({"globl": {"max_budget": 1}}), "unknown field");
}

proptest! {
    #[test]
    fn what_is_clamped_costs_no_more_than_was_granted(
        // No more input than is added to every count, whatever the count is.
        limit in 0_u64..20_000, asked in 1_u64..2_000, n in 1_u64..4, prompt in 0_u64..=32,
        output in 0_u64..2_000,
    ) {
        let setup = setup(json!({}));
        let mut ctx = chat("plain", json!({"max_tokens": asked, "n": n}));
        if setup.open(&mut ctx, key(limit)).is_ok() {
            let tokens = member(&ctx, "max_tokens").expect("a maximum");
            prop_assert!(tokens <= asked);
            // A provider keeps to the maximum.
            setup.close(ctx, prompt, output.min(tokens) * n);
        }
        let (spent, reserved) = setup.state(BudgetScope::Key);
        prop_assert!(spent <= limit && reserved == 0);
    }
}

#[test]
fn function_of_any_name_is_no_search_of_the_providers() {
    let searches = |tools: Value| {
        let ctx = chat("plain", json!({"tools": tools}));
        super::bound::may_search(ctx.view.as_ref().expect("a body"))
    };
    let function =
        json!({"type": "function", "function": {"name": "web_search", "parameters": {}}});
    assert!(!searches(json!([function])));
    assert!(!searches(json!([{"functionDeclarations": [{"name": "search"}]}])));
    assert!(searches(json!([function, {"type": "web_search_20250305", "name": "web_search"}])));
    assert!(searches(json!([{"googleSearch": {}}])));
    assert!(searches(json!([{"google_search": {}}])));
    assert!(searches(json!("search")));
}
