//! The `x-ratelimit-*` headers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use tollway_filter_api::ResponseHead;
use tollway_filter_api::limits::{LimitUnit, Remaining};

use super::{Held, Scope};

/// The names OpenAI's clients know, of one unit.
struct Names {
    unit: LimitUnit,
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

macro_rules! header {
    ($($part:expr),*) => { HeaderName::from_static(concat!("x-ratelimit-", $($part),*)) };
}

static REQUESTS: Names = Names {
    unit: LimitUnit::Requests,
    limit: header!("limit-requests"),
    remaining: header!("remaining-requests"),
    reset: header!("reset-requests"),
};

static TOKENS: Names = Names {
    unit: LimitUnit::Tokens,
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
scope_names!(USER, "user");
scope_names!(END_USER, "end_user");
scope_names!(MODEL, "model");
scope_names!(MODEL_PER_KEY, "model_per_key");

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
        Scope::User => Some(&USER),
        Scope::EndUser => Some(&END_USER),
        Scope::Model => Some(&MODEL),
        Scope::ModelPerKey => Some(&MODEL_PER_KEY),
    }
}

/// Puts the state of all limits that apply on an answer.
pub(super) fn write(held: &[Held], response: &mut ResponseHead) {
    let headers = |each: &mut dyn FnMut(Whose, &'static HeaderName, Value)| {
        for names in [&REQUESTS, &TOKENS] {
            // The key's own limit is the one its holder knows; else the one that ends first.
            let tightest = held
                .iter()
                .filter(|held| held.ticket.key.unit == names.unit)
                .min_by_key(|held| (held.scope != Scope::ApiKey, held.remaining.remaining));
            if let Some(held) = tightest {
                common(names, held.remaining, each);
            }
        }
        for held in held {
            own(held.scope, held.ticket.key.unit, held.remaining, each);
        }
    };
    render(headers, |whose, name, value| match whose {
        // Replaces what an upstream said of its own limits, which are not the caller's.
        Whose::Everyones => response.set(name, value),
        // Nobody but this filter uses these names, and it uses each once.
        Whose::Ours => response.headers.push((name, value)),
    });
}

/// The headers of a limit that refused a request.
pub(super) fn of_refusal(
    scope: Scope,
    unit: LimitUnit,
    state: Remaining,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(5);
    let all = |each: &mut dyn FnMut(Whose, &'static HeaderName, Value)| {
        if let Some(names) = [&REQUESTS, &TOKENS].into_iter().find(|names| names.unit == unit) {
            common(names, state, each);
        }
        own(scope, unit, state, each);
    };
    render(all, |_, name, value| headers.push((name, value)));
    headers
}

fn common(
    names: &'static Names,
    state: Remaining,
    each: &mut dyn FnMut(Whose, &'static HeaderName, Value),
) {
    each(Whose::Everyones, &names.limit, Value::Number(state.limit));
    each(Whose::Everyones, &names.remaining, Value::Number(state.remaining));
    each(Whose::Everyones, &names.reset, Value::Duration(state.reset));
}

fn own(
    scope: Scope,
    unit: LimitUnit,
    state: Remaining,
    each: &mut dyn FnMut(Whose, &'static HeaderName, Value),
) {
    if let Some(names) = own_names(scope) {
        let (limit, remaining) = &names[unit_index(unit)];
        each(Whose::Ours, limit, Value::Number(state.limit));
        each(Whose::Ours, remaining, Value::Number(state.remaining));
    }
}

/// Who else may use a header's name.
#[derive(Clone, Copy)]
enum Whose {
    Everyones,
    Ours,
}

/// What a header says.
#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Duration(Duration),
}

/// Gives each of `headers` to `set`. Their values share one buffer, because a dozen small
/// allocations for each answer would cost more than everything else here; so they are gone through
/// twice, first to write the buffer and then to cut it up.
fn render(
    headers: impl Fn(&mut dyn FnMut(Whose, &'static HeaderName, Value)),
    mut set: impl FnMut(Whose, HeaderName, HeaderValue),
) {
    let mut text = Vec::with_capacity(128);
    let mut ends = SmallVec::<[usize; 24]>::new();
    headers(&mut |_, _, value| {
        put(value, &mut text);
        ends.push(text.len());
    });
    let text = Bytes::from(text);
    let (mut ends, mut start) = (ends.into_iter(), 0);
    headers(&mut |whose, name, _| {
        let end = ends.next().unwrap_or(start);
        let value = HeaderValue::from_maybe_shared(text.slice(start..end))
            .expect("digits, letters and points are fit for a header");
        start = end;
        set(whose, name.clone(), value);
    });
}

fn put(value: Value, text: &mut Vec<u8>) {
    match value {
        Value::Number(number) => put_number(number, text),
        Value::Duration(duration) => put_duration(duration, text),
    }
}

fn put_number(number: u64, text: &mut Vec<u8>) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// As OpenAI writes it: `20ms`, `1s`, `8.64s`, `6m0s`. Rounded up to a millisecond.
fn put_duration(duration: Duration, text: &mut Vec<u8>) {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    if (1..1_000).contains(&millis) {
        put_number(millis, text);
        text.extend_from_slice(b"ms");
        return;
    }
    if millis >= 60_000 {
        put_number(millis / 60_000, text);
        text.push(b'm');
    }
    put_number(millis / 1_000 % 60, text);
    let mut fraction = (millis % 1_000) as u16;
    if fraction > 0 {
        text.push(b'.');
    }
    let mut place = 100;
    while fraction > 0 {
        text.push(b'0' + (fraction / place) as u8);
        fraction %= place;
        place /= 10;
    }
    text.push(b's');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        fn check(millis: u64, expect: &str) {
            check_exact(Duration::from_millis(millis), expect);
        }
        fn check_exact(duration: Duration, expect: &str) {
            let mut text = Vec::new();
            put_duration(duration, &mut text);
            assert_eq!(text, expect.as_bytes(), "{duration:?}");
        }
        check(0, "0s");
        check(20, "20ms");
        check(999, "999ms");
        check(1_000, "1s");
        check(1_005, "1.005s");
        check(8_640, "8.64s");
        check(59_999, "59.999s");
        check(60_000, "1m0s");
        check(60_120, "1m0.12s");
        check(360_000, "6m0s");
        check_exact(Duration::from_nanos(1), "1ms");
    }
}
