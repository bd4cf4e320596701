//! What a batch took and what that costs, by model.

use std::collections::BTreeMap;
use std::sync::Arc;

use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup};
use tollway_providers::prices;
use tollway_wire::batch::{self, Answered, Batch, Line, Lines};
use tollway_wire::price::{PicoDollars, Price, Tier, cost, cost_of_calls};
use tollway_wire::usage::Usage;

use super::kept::Kept;
use super::{ask, is_name};
use crate::exchange::Endpoint;
use crate::state::{Gateway, Generation};

/// The longest line of an output that is read whole. An answer with many embeddings is longer.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many models the requests of one batch can be for.
const MODELS_MAX: usize = 64;

/// What one model did.
pub(super) struct Part {
    pub(super) group: Arc<ModelGroup>,
    /// The deployment that has a price, and the model that answered.
    pub(super) deployment: Arc<Deployment>,
    pub(super) usage: Usage,
    /// `None` where no price is known.
    pub(super) cost: Option<PicoDollars>,
}

/// What a whole batch did.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) parts: Vec<Part>,
    /// Whose part each model's name that answers have is: several names may mean one.
    names: BTreeMap<String, usize>,
    /// Lines that could not be read.
    pub(super) unread: u64,
}

/// Why it is not known what a batch took.
pub(super) enum Unknown {
    /// The provider does not have its output any more.
    Gone,
    /// It cannot be asked now.
    Unasked(String),
}

/// Whose prices count.
#[derive(Clone, Copy)]
pub(super) struct Prices<'p> {
    pub(super) generation: &'p Generation,
    pub(super) kept: &'p Kept,
    pub(super) endpoint: &'p Arc<Endpoint>,
}

/// Finds out what a batch took that is over: from what it says itself, else from its output.
pub(super) async fn tally(
    gateway: &Gateway,
    prices: Prices<'_>,
    batch: &Batch,
) -> Result<Tally, Unknown> {
    let mut tally = Tally::default();
    let output = batch.output_file_id.as_deref().filter(|id| is_name(id));
    if let (Some(usage), Some(model)) = (batch.usage, &batch.model) {
        let mut part = prices.part(model);
        let price = part.deployment.price.clone();
        // How long each prompt was that a price depends on, only the output tells.
        let depends = price.as_ref().is_some_and(|price| price.thresholds().next().is_some());
        if !depends || output.is_none() {
            part.usage = usage;
            let of_price = |price: &Arc<Price>| {
                cost_of_calls(&usage, batch.completed, price, Tier::Batch).total()
            };
            part.cost = price.as_ref().map(of_price);
            tally.parts.push(part);
            return Ok(tally);
        }
    }
    let Some(output) = output else {
        // Nobody says which model it was: that of the deployment that was named.
        if let Some(usage) = batch.usage {
            tally.add(prices, Answered { model: String::new(), usage });
        }
        return Ok(tally);
    };
    let path = format!("/files/{output}/content");
    let asked = ask::get(&gateway.exchange, prices.endpoint, &path).await;
    let mut answer = asked.map_err(Unknown::Unasked)?;
    match answer.status {
        200 => {}
        404 | 410 => return Err(Unknown::Gone),
        status => return Err(Unknown::Unasked(format!("its output: status {status}"))),
    }
    let mut lines = Lines::new(LINE_BYTES_MAX);
    while let Some(piece) = answer.piece().await.map_err(Unknown::Unasked)? {
        lines.take(&piece, &mut |line| tally.line(prices, line));
    }
    lines.end(&mut |line| tally.line(prices, line));
    Ok(tally)
}

impl Tally {
    fn line(&mut self, prices: Prices<'_>, line: Line<'_>) {
        match batch::answered(line) {
            Ok(Some(answered)) => self.add(prices, answered),
            Ok(None) => {}
            Err(_) => self.unread += 1,
        }
    }

    fn add(&mut self, prices: Prices<'_>, Answered { model, usage }: Answered) {
        let Some(at) = self.part(prices, model) else {
            self.unread += 1;
            return;
        };
        let part = &mut self.parts[at];
        for (sum, count) in part.usage.counts_mut().into_iter().zip(usage.counts()) {
            *sum = sum.saturating_add(count);
        }
        if let (Some(sum), Some(price)) = (&mut part.cost, &part.deployment.price) {
            *sum = sum.saturating_add(cost(&usage, price, Tier::Batch).total());
        }
    }

    /// The part of a model, unless there are too many.
    fn part(&mut self, prices: Prices<'_>, model: String) -> Option<usize> {
        if let Some(at) = self.names.get(&model) {
            return Some(*at);
        }
        if self.names.len() >= MODELS_MAX {
            return None;
        }
        let part = prices.part(&model);
        let is_its = |other: &Part| {
            other.group.name == part.group.name
                && other.deployment.id == part.deployment.id
                && other.deployment.litellm_model == part.deployment.litellm_model
        };
        let at = self.parts.iter().position(is_its).unwrap_or(self.parts.len());
        if at == self.parts.len() {
            self.parts.push(part);
        }
        self.names.insert(model, at);
        Some(at)
    }
}

impl Prices<'_> {
    /// A model that has done nothing yet.
    fn part(self, model: &str) -> Part {
        let (group, deployment) = self.find(model);
        let cost = deployment.price.is_some().then_some(PicoDollars::ZERO);
        Part { group, deployment, usage: Usage::default(), cost }
    }

    /// The deployment that a model's answer came from: one of the same account, whose price the
    /// config may have stated; the group that was named before all others. A model that the config
    /// does not have costs what the table says.
    fn find(self, model: &str) -> (Arc<ModelGroup>, Arc<Deployment>) {
        let Prices { generation, kept, endpoint } = self;
        let directory = &generation.config.directory;
        let named = kept.group.as_deref().and_then(|name| directory.resolve(name));
        let groups = directory.groups();
        let all = named.iter().chain(&groups);
        let here: Vec<_> = all
            .flat_map(|group| group.deployments.iter().map(move |deployment| (group, deployment)))
            .filter(|(_, deployment)| kept.is_at(&generation.endpoints[deployment.entry]))
            .collect();
        let found = here.iter().find(|(_, deployment)| is_of(&deployment.model, model));
        if let Some((group, deployment)) = found {
            return (Arc::clone(group), Arc::clone(deployment));
        }
        let provider = endpoint.provider.name();
        let in_table = prices::find(provider, model).and_then(|info| info.price);
        // The name of a deployment of the provider's is not the model's.
        let named = here.first().filter(|(group, deployment)| {
            kept.group.as_deref() == Some(&*group.name)
                && (model.is_empty() || prices::find(provider, &deployment.model).is_none())
        });
        if let Some((group, deployment)) = named {
            return (Arc::clone(group), Arc::clone(deployment));
        }
        let deployment = Arc::new(Deployment {
            id: "".into(),
            entry: 0,
            provider,
            model: model.into(),
            litellm_model: format!("{provider}/{model}").into(),
            api_base: Arc::clone(&kept.api_base),
            price: in_table.map(Arc::new),
            max_input_tokens: None,
            max_output_tokens: None,
            limits: Default::default(),
            weight: 1,
        });
        let deployments = vec![Arc::clone(&deployment)];
        let group = ModelGroup { name: model.into(), deployments, ..ModelGroup::default() };
        (Arc::new(group), deployment)
    }
}

/// Whether an answer's model is the one that was called: it may name the day of its version.
fn is_of(called: &str, said: &str) -> bool {
    let Some(version) = said.strip_prefix(called) else { return false };
    version.is_empty()
        || !called.is_empty()
            && version.strip_prefix('-').is_some_and(|day| {
                day.len() == 10 && day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
            })
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn answers_may_name_a_version() {
        assert!(is_of("gpt-4o", "gpt-4o"));
        assert!(is_of("gpt-4o", "gpt-4o-2024-08-06"));
        for other in ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4", "gpt-4o-", "gpt-4o-audio-1"]
        {
            assert!(!is_of("gpt-4o", other), "{other}");
        }
        assert!(!is_of("", "-2024-08-06"));
    }
}
