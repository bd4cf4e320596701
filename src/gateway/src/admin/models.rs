//! What can be called and what it costs: `/model/info`, `/model_group/info`, `/spend/calculate`.

use serde_json::{Map, Value, json};
use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup, Reject, Rejection};
use tollway_filters::model_alias;
use tollway_providers::prices::{self, Capability, ModelInfo};
use tollway_wire::count;
use tollway_wire::openai::usage::usage_of_object;
use tollway_wire::price::{Price, Tier, cost};
use tollway_wire::usage::Usage;

use super::Ask;
use super::access::missing;
use super::rows::dollars;

impl Ask<'_> {
    fn groups(&self) -> impl Iterator<Item = std::sync::Arc<ModelGroup>> {
        let groups = self.around.config.directory.groups().into_iter();
        groups.filter(|group| model_alias::allowed(&self.caller.key, group))
    }

    pub(super) fn model_info(&self) -> Result<Value, Rejection> {
        let wanted = self.said.text("litellm_model_id");
        let mut data = Vec::new();
        for group in self.groups() {
            for deployment in &group.deployments {
                if wanted.is_none_or(|id| *deployment.id == *id) {
                    data.push(self.deployment_row(&group, deployment));
                }
            }
        }
        if wanted.is_some() && data.is_empty() {
            return Err(missing("model", "litellm_model_id"));
        }
        Ok(json!({"data": data}))
    }

    fn deployment_row(&self, group: &ModelGroup, deployment: &Deployment) -> Value {
        let known = prices::find(deployment.provider, &deployment.model);
        let mut info = facts(group, deployment, known.as_ref());
        info.insert("id".to_owned(), deployment.id.as_ref().into());
        info.insert("db_model".to_owned(), false.into());
        info.insert("key".to_owned(), deployment.model.as_ref().into());
        info.insert("litellm_provider".to_owned(), deployment.provider.into());
        info.insert("access_groups".to_owned(), group.access_groups.clone().into());
        let mut params = json!({"model": &*deployment.litellm_model});
        // Where a provider is called is for those to know who administer it.
        if self.caller.is_viewer() {
            params["api_base"] = deployment.api_base.as_ref().into();
            params["rpm"] = deployment.limits.rpm.into();
            params["tpm"] = deployment.limits.tpm.into();
            params["weight"] = deployment.weight.into();
        }
        json!({"model_name": &*group.name, "litellm_params": params, "model_info": info})
    }

    pub(super) fn model_group_info(&self) -> Result<Value, Rejection> {
        let wanted = self.said.text("model_group");
        let mut data = Vec::new();
        for group in self.groups().filter(|group| wanted.is_none_or(|name| *group.name == *name)) {
            let Some(first) = group.deployments.first() else { continue };
            let known = prices::find(first.provider, &first.model);
            let mut row = facts(&group, first, known.as_ref());
            let mut providers: Vec<&str> = group.deployments.iter().map(|d| d.provider).collect();
            providers.sort_unstable();
            providers.dedup();
            row.insert("model_group".to_owned(), group.name.as_ref().into());
            row.insert("providers".to_owned(), providers.into());
            row.insert("rpm".to_owned(), group.limits.rpm.into());
            row.insert("tpm".to_owned(), group.limits.tpm.into());
            data.push(Value::Object(row));
        }
        if wanted.is_some() && data.is_empty() {
            return Err(missing("model group", "model_group"));
        }
        Ok(json!({"data": data}))
    }

    pub(super) fn spend_calculate(&self) -> Result<Value, Rejection> {
        let (usage, tier) = self.usage_to_price()?;
        let model = self
            .said
            .text("model")
            .or_else(|| self.said.0.get("completion_response")?.get("model")?.as_str());
        let Some(model) = model else {
            let message = "Either 'model' or 'completion_response' must be provided.";
            return Err(Reject::invalid_request(message).with_param("model"));
        };
        let price = self.price_of(model)?;
        Ok(json!({"cost": dollars(cost(&usage, &price, tier).total().0.into())}))
    }

    fn usage_to_price(&self) -> Result<(Usage, Tier), Rejection> {
        if let Some(response) = self.said.0.get("completion_response").filter(|r| r.is_object()) {
            let usage = response
                .get("usage")
                .and_then(|usage| usage_of_object(usage.to_string().as_bytes()));
            let Some(usage) = usage else {
                let message = "'completion_response' has no usage to be priced.";
                return Err(Reject::invalid_request(message).with_param("completion_response"));
            };
            let tier = response.get("service_tier").and_then(Value::as_str);
            return Ok((usage, tier.map_or(Tier::default(), Tier::from_service_tier)));
        }
        let messages = self.said.0.get("messages").cloned().unwrap_or_else(|| json!([]));
        let body = json!({"messages": messages}).to_string();
        let usage =
            Usage { prompt_tokens: count::input_tokens(body.as_bytes()), ..Usage::default() };
        Ok((usage, Tier::default()))
    }

    /// What a model costs, by our name for it or by its own.
    fn price_of(&self, model: &str) -> Result<Price, Rejection> {
        let unpriced = || {
            let message = "There is no such model, or nobody knows its price.";
            Reject::invalid_request(message).with_param("model").with_code("model_not_found")
        };
        if let Some(group) = self.around.config.directory.resolve(model) {
            if !model_alias::allowed(&self.caller.key, &group) {
                return Err(unpriced());
            }
            let price = group.deployments.first().and_then(|deployment| deployment.price.clone());
            return price.map(|price| (*price).clone()).ok_or_else(unpriced);
        }
        // An answer names the provider's model.
        let (provider, name) = match model.split_once('/') {
            Some((provider, name)) => (provider, name),
            None => (prices::infer_provider(model).ok_or_else(unpriced)?, model),
        };
        prices::find(provider, name).and_then(|info| info.price).ok_or_else(unpriced)
    }
}

/// What is known of a model.
fn facts(
    group: &ModelGroup,
    deployment: &Deployment,
    known: Option<&ModelInfo>,
) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    set("mode", group.mode.as_deref().into());
    set("max_tokens", deployment.max_output_tokens.into());
    set("max_input_tokens", deployment.max_input_tokens.into());
    set("max_output_tokens", deployment.max_output_tokens.into());
    let rates = deployment.price.as_ref().map(|price| price.rates(Tier::default(), 0));
    let per_token =
        |amount: Option<u64>| amount.map_or(Value::Null, |amount| dollars(amount.into()));
    set("input_cost_per_token", per_token(rates.as_ref().map(|rates| rates.input.0)));
    set("output_cost_per_token", per_token(rates.as_ref().map(|rates| rates.output.0)));
    for capability in Capability::ALL {
        let has = known.map(|known| known.capabilities.has(capability));
        set(capability.key(), has.into());
    }
    facts
}
