//! Requests that name a model without a body to name it in: the model's filters see them as if the
//! name had come in one.

use std::sync::Arc;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use tollway_filter_api::{Flow, Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{self, Limits};
use tollway_wire::splice::json_string;

use crate::percent::percent_decoded;
use crate::state::Generation;
use crate::wishes;

/// A request that holds a model's name and nothing else. No answer of a cache is one to it.
fn view(model: &str) -> Result<RequestView, Rejection> {
    let mut body = b"{\"model\":".to_vec();
    body.extend_from_slice(&json_string(model));
    body.extend_from_slice(b",\"cache\":{\"no-cache\":true,\"no-store\":true}}");
    let body = Bytes::from(body);
    let object = scan::scan(&body, &Limits::default())
        .map_err(|error| Reject::internal("The model's name cannot be used.", error))?;
    Ok(RequestView {
        // Of all calls the one that needs nothing but a model.
        operation: Operation::ChatCompletions,
        dialect: Dialect::Responses,
        body,
        object,
        stream: false,
        include_usage: false,
        form: None,
    })
}

/// Sets the plan for a model, if the caller may call it: aliases, access and limits are those of a
/// model call.
pub(crate) async fn plan(
    session: &ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    model: &str,
) -> Result<(), Rejection> {
    let view = view(model)?;
    ctx.tags = wishes::tags(session, &view, ctx.identity.as_deref());
    ctx.view = Some(Arc::new(view));
    match generation.chain.body(ctx, session.req_header()).await {
        Flow::Next => {}
        Flow::Reject(reject) => return Err(reject),
        Flow::Answer(_) => {
            return Err(Reject::internal("No answer is wanted.", "a filter gave one"));
        }
    }
    if ctx.plan.is_none()
        && let Some(view) = &ctx.view
    {
        ctx.plan = Some(generation.plan_without_filter(view)?);
    }
    Ok(())
}

/// The values of a query's members with one of these names, decoded.
pub(crate) fn of_query<'q>(
    query: &'q str,
    names: &'q [&'q str],
) -> impl Iterator<Item = String> + 'q {
    query.split('&').filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        names.contains(&name).then(|| percent_decoded(&value.replace('+', " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_a_query() {
        let of = |query: &str| of_query(query, &["model"]).collect::<Vec<_>>();
        assert_eq!(of("a=1&model=openai%2Fgpt&model=b+c"), ["openai/gpt", "b c"]);
        assert_eq!(of("models=x&model"), [""]);
        assert!(of("").is_empty());
    }

    #[test]
    fn any_name_makes_a_request() {
        for name in ["m", "\"\\\n", "é\u{0}"] {
            let view = view(name).expect("it is JSON");
            assert_eq!(view.object.str(&view.body, "model").as_deref(), Some(name));
        }
    }
}
