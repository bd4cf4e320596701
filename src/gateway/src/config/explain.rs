//! The config in words: what `tollway check --model NAME` and the first lines of a start say.

use std::fmt::Write;
use std::sync::Arc;

use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::treasury::Budget;
use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup, VirtualKey};
use tollway_filters::budget::{Allowance, BudgetConfig};
use tollway_wire::price::{PicoDollars, Price, Rates, Tier};

use super::Config;
use super::mistake::hint;

impl Config {
    /// What is served, in a few lines.
    pub(crate) fn summary(&self) -> String {
        let names: Vec<_> = self.directory.groups().iter().map(|g| g.name.to_string()).collect();
        let mut text = String::new();
        let _ = writeln!(text, "serves: {}", names.join(", "));
        let virtual_keys = self.keys.iter().filter(|key| !key.master).count();
        if virtual_keys > 0 {
            let _ = writeln!(text, "keys: {virtual_keys}");
        }
        let filters: Vec<_> = self.filters.iter().map(|filter| filter.name.as_str()).collect();
        let _ = writeln!(text, "filters: {}", filters.join(", "));
        for endpoint in &self.pass_through {
            let _ = writeln!(text, "passes through: {} to {}", endpoint.path, endpoint.target);
        }
        text
    }

    /// What happens to a request for the model `name`: its route, deployments, prices, limits,
    /// fallbacks, and who may call it. `None` if there is no such model, with a guess at what was
    /// meant in the error.
    ///
    /// # Errors
    /// When nothing of that name is served.
    pub(crate) fn explain(&self, name: &str) -> Result<String, String> {
        let Some(group) = self.directory.resolve(name) else {
            let hint = hint(name, self.directory.names());
            return Err(format!("there is no model `{name}`{hint}"));
        };
        let mut text = String::new();
        match *group.name == *name {
            true => _ = writeln!(text, "{name}"),
            false => _ = writeln!(text, "{name} means {}", group.name),
        }
        if let Some(mode) = &group.mode {
            let _ = writeln!(text, "  mode: {mode}");
        }
        if !group.access_groups.is_empty() {
            let _ = writeln!(text, "  access groups: {}", group.access_groups.join(", "));
        }
        let weights: u64 = group.deployments.iter().map(|d| u64::from(d.weight)).sum();
        for deployment in &group.deployments {
            self.explain_deployment(&mut text, deployment, weights);
        }
        let router = &self.router;
        let _ = writeln!(text, "  retries: {}", self.retries());
        match group.fallbacks.as_slice() {
            [] => _ = writeln!(text, "  fallbacks: none"),
            fallbacks => {
                let tried = fallbacks.iter().take(router.max_fallbacks);
                let names: Vec<_> = tried.map(|name| &**name).collect();
                let _ = writeln!(text, "  fallbacks: {}", names.join(", then "));
            }
        }
        self.explain_budgets(&mut text, &group);
        self.explain_callers(&mut text, name, &group);
        Ok(text)
    }

    fn retries(&self) -> String {
        let router = &self.router;
        let policy = &router.retry_policy;
        let mut text = router.num_retries.to_string();
        for (failure, retries) in [
            ("a bad request", policy.bad_request),
            ("bad credentials", policy.authentication),
            ("a timeout", policy.timeout),
            ("a rate limit", policy.rate_limit),
            ("refused content", policy.content_policy),
            ("a server error", policy.internal_server),
        ] {
            if let Some(retries) = retries {
                let _ = write!(text, ", {retries} after {failure}");
            }
        }
        if !router.retry_after.is_zero() {
            let _ = write!(text, ", after {:?} at least", router.retry_after);
        }
        text
    }

    fn explain_deployment(&self, text: &mut String, deployment: &Deployment, weights: u64) {
        let entry = &self.entries[deployment.entry];
        let share = 100 * u64::from(deployment.weight) / weights.max(1);
        let _ = writeln!(text, "  deployment {} ({})", deployment.litellm_model, entry.path);
        let _ = writeln!(text, "    at: {}", deployment.api_base);
        let _ = writeln!(text, "    id: {}", deployment.id);
        let _ = writeln!(text, "    weight: {} ({share} % of the calls)", deployment.weight);
        let _ = writeln!(text, "    price: {}", price(deployment.price.as_deref()));
        if let Some(limits) = limits(&deployment.limits) {
            let _ = writeln!(text, "    limits: {limits}");
        }
        let tokens =
            [("reads", deployment.max_input_tokens), ("writes", deployment.max_output_tokens)];
        for (what, tokens) in tokens {
            if let Some(tokens) = tokens {
                let _ = writeln!(text, "    {what} at most: {tokens} tokens");
            }
        }
        let _ = writeln!(
            text,
            "    timeouts: connect {:?}, first byte of a stream {:?}, silence in a stream {:?}, \
             whole {:?}",
            entry.connect_timeout, entry.first_byte_timeout, entry.idle_timeout, entry.timeout
        );
        if let Some(retries) = entry.max_retries {
            let _ = writeln!(text, "    retries: {retries}");
        }
        if !entry.tags.is_empty() {
            let _ = writeln!(text, "    tags: {}", entry.tags.join(", "));
        }
    }

    /// What it may cost, whoever calls it.
    fn explain_budgets(&self, text: &mut String, group: &ModelGroup) {
        let filter = self.filters.iter().find(|filter| filter.name == "budget");
        // Mistakes in the settings were found when the filter was built.
        let settings = filter.and_then(|filter| {
            serde_json::from_value::<BudgetConfig>(filter.settings.clone()).ok()
        });
        let Some(settings) = settings else { return };
        let mut lines: Vec<(String, Allowance)> = Vec::new();
        lines.extend(settings.global.map(|allowance| ("everybody".to_owned(), allowance)));
        for (provider, allowance) in settings.providers {
            if group.deployments.iter().any(|deployment| deployment.provider == provider) {
                lines.push((format!("provider {provider}"), allowance));
            }
        }
        let own = settings.models.get(&*group.name);
        lines.extend(own.map(|allowance| (format!("model {}", group.name), *allowance)));
        lines.extend(settings.per_user.map(|allowance| ("each user".to_owned(), allowance)));
        lines.extend(settings.per_end_user.map(|each| ("each end user".to_owned(), each)));
        for (tag, allowance) in settings.tags {
            lines.push((format!("tag {tag}"), allowance));
        }
        for (whose, allowance) in lines {
            let _ = writeln!(text, "  budget of {whose}: {}", allowed(&allowance));
        }
    }

    fn explain_callers(&self, text: &mut String, name: &str, group: &ModelGroup) {
        let mut callers = vec!["the master key".to_owned()];
        for (at, key) in self.keys.iter().filter(|key| !key.master).enumerate() {
            if !may_call(key, name, group) {
                continue;
            }
            let mut caller = match &key.alias {
                Some(alias) => alias.to_string(),
                None => format!("keys[{at}]"),
            };
            let own = key.settings.model_limits.get(&*group.name).and_then(limits);
            let mut notes: Vec<_> =
                [key.blocked.then(|| "blocked".to_owned()), limits(&key.settings.limits), own]
                    .into_iter()
                    .flatten()
                    .collect();
            notes.extend(self.budgets_of(key, group));
            if !notes.is_empty() {
                let _ = write!(caller, " ({})", notes.join(", "));
            }
            callers.push(caller);
        }
        let _ = writeln!(text, "  may call it: {}", callers.join(", "));
    }

    /// What a caller may spend on this model.
    fn budgets_of(&self, key: &VirtualKey, group: &ModelGroup) -> Vec<String> {
        let applies = |budget: &&Arc<Budget>| {
            budget.id.part.as_ref().is_none_or(|model| *model == group.name)
        };
        let own = key.budgets.iter().filter(applies);
        let of = |kind, id: &Option<Arc<str>>| self.keys.account(kind, id.as_deref()?);
        let shared = [of(Kind::Team, &key.team), of(Kind::User, &key.user)];
        let mut notes: Vec<_> = own.map(|budget| (String::new(), Arc::clone(budget))).collect();
        for account in shared.iter().flatten() {
            let whose = format!("{} {}: ", account.kind.name(), account.id);
            let its = account.budgets.iter().filter(applies);
            notes.extend(its.map(|budget| (whose.clone(), Arc::clone(budget))));
        }
        let note = |(whose, budget): (String, Arc<Budget>)| {
            let part = if budget.id.part.is_some() { " on this model" } else { "" };
            let allowance = Allowance {
                max_budget: budget.limit,
                soft_budget: budget.soft,
                budget_duration: budget.id.period,
            };
            format!("{whose}{}{part}", allowed(&allowance))
        };
        notes.into_iter().map(note).collect()
    }
}

/// `$10 each 1mo, told from $8 on`
fn allowed(allowance: &Allowance) -> String {
    let mut text = match allowance.max_budget {
        Some(max) => format!("${max}"),
        None => "no limit".to_owned(),
    };
    if let Some(period) = allowance.budget_duration {
        let _ = write!(text, " each {period}");
    }
    if let Some(soft) = allowance.soft_budget {
        let _ = write!(text, ", told from ${soft} on");
    }
    text
}

/// As the `model_alias` filter decides it.
fn may_call(key: &VirtualKey, name: &str, group: &ModelGroup) -> bool {
    let covers = |entry: &String| match entry.strip_suffix('*') {
        Some(prefix) => group.name.starts_with(prefix) || name.starts_with(prefix),
        None => {
            *entry == *group.name
                || entry == name
                || entry == "all-proxy-models"
                || group.access_groups.contains(entry)
        }
    };
    key.settings.models.is_empty() || key.settings.models.iter().any(covers)
}

fn limits(limits: &RateLimits) -> Option<String> {
    let parts: Vec<_> = [
        limits.rpm.map(|rpm| format!("{rpm} requests a minute")),
        limits.tpm.map(|tpm| format!("{tpm} tokens a minute")),
        limits.max_parallel_requests.map(|most| format!("{most} at once")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Dollars per million tokens, which is how providers print them.
fn price(price: Option<&Price>) -> String {
    let Some(price) = price else {
        return "not known; it is served and counted as unpriced".to_owned();
    };
    if price.is_free() {
        return "free".to_owned();
    }
    let mut text = rates(&price.rates(Tier::Standard, 0));
    let mut thresholds: Vec<_> = price.thresholds().collect();
    thresholds.reverse();
    for above in thresholds {
        let above_rates = rates(&price.rates(Tier::Standard, above + 1));
        let _ = write!(text, "; above {above} prompt tokens {above_rates}");
    }
    if price.per_request != PicoDollars::ZERO {
        let _ = write!(text, "; ${} a request", price.per_request);
    }
    text
}

fn rates(rates: &Rates) -> String {
    let million = |amount: PicoDollars| amount.times(1_000_000);
    let mut text = format!("${} in, ${} out", million(rates.input), million(rates.output));
    let kinds = [
        ("cached", rates.cache_read, rates.input),
        ("cache writes", rates.cache_write, rates.input),
        ("audio in", rates.audio_input, rates.input),
        ("audio out", rates.audio_output, rates.output),
        ("reasoning", rates.reasoning, rates.output),
    ];
    for (kind, rate, general) in kinds {
        if rate != general {
            let _ = write!(text, ", ${} {kind}", million(rate));
        }
    }
    text.push_str(" per million tokens");
    text
}
