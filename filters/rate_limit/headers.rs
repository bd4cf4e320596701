//! The `x-ratelimit-*` headers.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tollway_filter_api::ResponseHead;
use tollway_filter_api::header::number;
use tollway_filter_api::limits::{LimitUnit, Remaining};

use super::{Held, Scope};

/// The names OpenAI's clients know, of one unit.
struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

macro_rules! header {
    ($($part:expr),*) => { HeaderName::from_static(concat!("x-ratelimit-", $($part),*)) };
}

static REQUESTS: Names = Names {
    limit: header!("limit-requests"),
    remaining: header!("remaining-requests"),
    reset: header!("reset-requests"),
};

static TOKENS: Names = Names {
    limit: header!("limit-tokens"),
    remaining: header!("remaining-tokens"),
    reset: header!("reset-tokens"),
};

/// LiteLLM's names of a scope's limit and of what remains, in the order of [`unit_index`].
type ScopeNames = [(HeaderName, HeaderName); 3];

macro_rules! scope_names {
    ($name:ident, $scope:literal) => {
        static $name: ScopeNames = [
            (header!($scope, "-limit-requests"), header!($scope, "-remaining-requests")),
            (header!($scope, "-limit-tokens"), header!($scope, "-remaining-tokens")),
            (
                header!($scope, "-limit-max_parallel_requests"),
                header!($scope, "-remaining-max_parallel_requests"),
            ),
        ];
    };
}

scope_names!(API_KEY, "api_key");
scope_names!(TEAM, "team");
scope_names!(USER, "user");
scope_names!(END_USER, "end_user");
scope_names!(MODEL, "model");
scope_names!(MODEL_PER_KEY, "model_per_key");
scope_names!(MODEL_PER_TEAM, "model_per_team");
scope_names!(MODEL_PER_USER, "model_per_user");

fn unit_index(unit: LimitUnit) -> usize {
    match unit {
        LimitUnit::Requests => 0,
        LimitUnit::Tokens => 1,
        LimitUnit::Parallel => 2,
    }
}

/// The names of a scope's own headers. What all callers together have used is not a caller's
/// business.
fn own_names(scope: Scope) -> Option<&'static ScopeNames> {
    match scope {
        Scope::Global => None,
        Scope::ApiKey => Some(&API_KEY),
        Scope::Team => Some(&TEAM),
        Scope::User => Some(&USER),
        Scope::EndUser => Some(&END_USER),
        Scope::Model => Some(&MODEL),
        Scope::ModelPerKey => Some(&MODEL_PER_KEY),
        Scope::ModelPerTeam => Some(&MODEL_PER_TEAM),
        Scope::ModelPerUser => Some(&MODEL_PER_USER),
    }
}

/// OpenAI's names, where it has some.
fn common_names(unit: LimitUnit) -> Option<&'static Names> {
    match unit {
        LimitUnit::Requests => Some(&REQUESTS),
        LimitUnit::Tokens => Some(&TOKENS),
        LimitUnit::Parallel => None,
    }
}

/// Puts the state of the limits that apply on an answer: of those that clients should mind, and of
/// `each` of them under LiteLLM's names.
pub(super) fn write(held: &[Held], each: bool, response: &mut ResponseHead) {
    // An upstream may have told of its own limits, which are not the caller's. It is quicker to
    // look for that once than to look for each name.
    let clean = !response.headers.iter().any(|(name, _)| name.as_str().starts_with("x-ratelimit-"));
    let mut set = |name: &'static HeaderName, value: HeaderValue| {
        if clean {
            response.headers.push((name.clone(), value));
        } else {
            response.set(name.clone(), value);
        }
    };
    let tightest = [LimitUnit::Requests, LimitUnit::Tokens].map(|unit| tightest(held, unit));
    for (at, held) in held.iter().enumerate() {
        let common = tightest.contains(&Some(at));
        let scope = each.then_some(held.scope);
        each_header(scope, held.ticket.key.unit, held.remaining, common, &mut set);
    }
}

/// The headers of a limit that refused a request.
pub(super) fn of_refusal(
    scope: Scope,
    unit: LimitUnit,
    state: Remaining,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(5);
    each_header(Some(scope), unit, state, true, &mut |name, value| {
        headers.push((name.clone(), value))
    });
    headers
}

/// Which limit a client should mind. The key's own is the one its holder knows; else it is the one
/// that ends first.
fn tightest(held: &[Held], unit: LimitUnit) -> Option<usize> {
    let of_unit = held.iter().enumerate().filter(|(_, held)| held.ticket.key.unit == unit);
    let tightest =
        of_unit.min_by_key(|(_, held)| (held.scope != Scope::ApiKey, held.remaining.remaining));
    tightest.map(|(at, _)| at)
}

/// The headers of one limit: LiteLLM's of the `scope`, and OpenAI's if this is the one that clients should mind.
fn each_header(
    scope: Option<Scope>,
    unit: LimitUnit,
    state: Remaining,
    common: bool,
    set: &mut impl FnMut(&'static HeaderName, HeaderValue),
) {
    let common = if common { common_names(unit) } else { None };
    let own = scope.and_then(own_names).map(|names| &names[unit_index(unit)]);
    if let Some(names) = common {
        set(&names.limit, number(state.limit));
        set(&names.remaining, number(state.remaining));
        set(&names.reset, duration(state.reset));
    }
    if let Some((limit_name, remaining_name)) = own {
        set(limit_name, number(state.limit));
        set(remaining_name, number(state.remaining));
    }
}

/// As OpenAI writes it: `20ms`, `1s`, `6m0s`. Rounded up, to whole seconds from one second on.
fn duration(duration: Duration) -> HeaderValue {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let seconds = millis.div_ceil(1_000);
    match seconds {
        // What a sliding window says nearly always.
        60 => HeaderValue::from_static("1m0s"),
        61 => HeaderValue::from_static("1m1s"),
        _ => {
            let text = match seconds {
                0 => "0s".to_owned(),
                1 if millis < 1_000 => format!("{millis}ms"),
                1..60 => format!("{seconds}s"),
                _ => format!("{}m{}s", seconds / 60, seconds % 60),
            };
            HeaderValue::try_from(text).expect("digits and letters are fit for a header")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        fn check(millis: u64, expect: &str) {
            assert_eq!(duration(Duration::from_millis(millis)), expect);
        }
        check(0, "0s");
        check(20, "20ms");
        check(999, "999ms");
        check(1_000, "1s");
        check(1_005, "2s");
        check(59_000, "59s");
        check(59_999, "1m0s");
        check(60_000, "1m0s");
        check(60_120, "1m1s");
        check(360_000, "6m0s");
        assert_eq!(duration(Duration::from_nanos(1)), "1ms");
    }
}
