//! What a call cost: found out once, by the first filter that wants to know.

use tollway_filter_api::RequestCtx;
use tollway_wire::price::{Cost, Tier, cost};

/// Finds out the cost as soon as the tokens are known.
pub(crate) fn settle(ctx: &mut RequestCtx) {
    let report = &ctx.report;
    if report.cost.is_some() {
        return;
    }
    if report.cache_hit {
        ctx.report.cost = Some(Cost::default());
    } else if let (Some(usage), Some(deployment)) = (&report.usage, &report.deployment)
        && let Some(price) = &deployment.price
    {
        ctx.report.cost = Some(cost(usage, price, tier(ctx)));
    }
}

/// The service tier the call is billed under.
pub(crate) fn tier(ctx: &RequestCtx) -> Tier {
    service_tier(ctx).map_or(Tier::Standard, |(_, tier)| tier)
}

/// The service tier that was asked for, with its name as a label.
pub(crate) fn service_tier(ctx: &RequestCtx) -> Option<(&'static str, Tier)> {
    let view = ctx.view.as_ref()?;
    let asked = view.object.str(&view.body, "service_tier")?;
    // A closed list: whatever else somebody writes is no label.
    let name =
        ["default", "flex", "priority", "auto", "scale", "ultrafast", "balanced", "standard_only"]
            .into_iter()
            .find(|name| *name == asked)?;
    Some((name, Tier::from_service_tier(name)))
}
