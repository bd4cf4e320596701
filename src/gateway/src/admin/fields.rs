//! What requests may say: fields, their shapes, and reading them.
//!
//! What LiteLLM does not know it ignores, and so do we. What it knows and we do not do is refused,
//! where it is about money, limits or access: nobody should believe in a limit that is none.

use serde_json::{Map, Value, json};
use tollway_filter_api::treasury::Period;
use tollway_filter_api::{Reject, Rejection};

use crate::percent::percent_decoded;
use crate::{config, directory};

/// The longest id, alias or other name, in characters.
const NAME_CHARS_MAX: usize = 256;
/// The longest free text.
const TEXT_CHARS_MAX: usize = 4_096;
/// How many entries a list or map may have.
const ENTRIES_MAX: usize = 1_000;
/// How large a free-form member may be, as JSON.
const JSON_BYTES_MAX: usize = 64 << 10;
/// What of `object_permission` is supported.
const MCP_SERVERS: &str = "mcp_servers";
const MCP_TOOLS: &str = "mcp_tool_permissions";
/// How large a whole query may be.
const QUERY_BYTES_MAX: usize = 16 << 10;

/// One member of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it has to be.
    pub(crate) shape: Shape,
    /// Whether it must be there.
    pub(crate) required: bool,
    /// What it means.
    pub(crate) about: &'static str,
}

/// What a member has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An id, an alias: anything short.
    Name,
    /// Anything somewhat longer.
    Text,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Yes or no.
    Flag,
    /// A whole number from 0 on.
    Count,
    /// Dollars from 0 on.
    Amount,
    /// A length of time from now: `30d`.
    Length,
    /// A piece of the calendar: `30d` is a month, from the first on.
    Period,
    /// A date or moment.
    Date,
    /// A list of names.
    Names,
    /// A list of addresses and networks.
    Networks,
    /// Anything, as a map.
    Map,
    /// Anything, as a list.
    List,
    /// Numbers by name.
    Counts,
    /// Names by name.
    Renames,
    /// LiteLLM's `model_max_budget`.
    ModelBudgets,
    /// LiteLLM's `budget_limits`.
    BudgetLimits,
    /// Members of a team: one or a list.
    Members,
    /// The teams of a new user: ids, or ids with roles.
    Teams,
    /// LiteLLM's `object_permission`: which MCP servers, and which of their tools.
    Permission,
    /// LiteLLM has it, and we cannot do what it says.
    Unsupported,
}

/// A member that may be left out.
pub(crate) const fn field(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: false, about }
}

/// A member that may not.
pub(crate) const fn required(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: true, about }
}

/// What a request said, checked: nothing in it but known members of their shapes, or null.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said(pub(crate) Map<String, Value>);

impl Said {
    /// Reads a body.
    pub(crate) fn of_body(bytes: &[u8], fields: &[&[Field]]) -> Result<Said, Rejection> {
        let value = match bytes.trim_ascii() {
            b"" => Value::Object(Map::new()),
            bytes => serde_json::from_slice(bytes).map_err(|error| {
                // The message of serde_json quotes nothing but single characters and numbers.
                let message = format!(
                    "Invalid JSON payload: line {}, column {}.",
                    error.line(),
                    error.column()
                );
                Reject::invalid_request(message).with_param("request_body")
            })?,
        };
        let Value::Object(said) = value else {
            return Err(Reject::invalid_request("The request body must be a JSON object.")
                .with_param("request_body"));
        };
        Said::checked(said, fields)
    }

    /// Reads a query. A member that comes twice counts as it came last.
    pub(crate) fn of_query(query: &str, fields: &[&[Field]]) -> Result<Said, Rejection> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(wrong("query", "shorter"));
        }
        let mut said = Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decoded(&name.replace('+', " "));
            let value = percent_decoded(&value.replace('+', " "));
            let Some(field) = fields.iter().copied().flatten().find(|field| field.name == name)
            else {
                continue;
            };
            // What a form leaves empty is not there.
            if value.is_empty() {
                continue;
            }
            let value = match field.shape {
                Shape::Count => value
                    .parse::<u64>()
                    .map(Value::from)
                    .map_err(|_| wrong(field.name, "a whole number from 0 on"))?,
                Shape::Flag => match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => Value::Bool(true),
                    "false" | "0" => Value::Bool(false),
                    _ => return Err(wrong(field.name, "true or false")),
                },
                _ => Value::String(value),
            };
            said.insert(name, value);
        }
        Said::checked(said, fields)
    }

    fn checked(mut said: Map<String, Value>, fields: &[&[Field]]) -> Result<Said, Rejection> {
        let mut checked = Map::new();
        for field in fields.iter().copied().flatten() {
            let value = said.remove(field.name);
            let is_nothing = value.as_ref().is_none_or(|value| value.is_null() || value == "");
            match value {
                _ if field.required && is_nothing => {
                    let message = format!("Missing required parameter: '{}'.", field.name);
                    return Err(
                        Reject::new(422, "invalid_request_error", message).with_param(field.name)
                    );
                }
                None => {}
                Some(Value::Null) => {
                    checked.insert(field.name.to_owned(), Value::Null);
                }
                Some(value) => {
                    if holds_nul(&value) {
                        return Err(wrong(field.name, "text without NUL characters"));
                    }
                    if let Some(value) = field.shape.check(field.name, value)? {
                        checked.insert(field.name.to_owned(), value);
                    }
                }
            }
        }
        Ok(Said(checked))
    }

    /// A text that is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// Whether something is said, be it null.
    pub(crate) fn says(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Yes or no, if it is said.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// A number, if it is said.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// A list of names; empty where nothing is said.
    pub(crate) fn names(&self, name: &str) -> Vec<&str> {
        let list = self.0.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    }

    /// A length of time, if it is said.
    pub(crate) fn length(&self, name: &str) -> Option<Period> {
        self.text(name).and_then(|text| Period::length(text).ok())
    }

    /// A moment in milliseconds since the Unix epoch, if it is said.
    pub(crate) fn moment_ms(&self, name: &str) -> Option<u64> {
        let moment = config::moment(self.text(name)?)?;
        u64::try_from(moment.as_millis()).ok()
    }
}

impl Shape {
    /// The value as it is kept. `None`: as if it had not been said.
    pub(super) fn check(
        self,
        name: &'static str,
        value: Value,
    ) -> Result<Option<Value>, Rejection> {
        let is = |is: bool, expected: &str| if is { Ok(()) } else { Err(wrong(name, expected)) };
        let is_name = |value: &Value| {
            value.as_str().is_some_and(|text| {
                text.chars().count() <= NAME_CHARS_MAX && !text.contains(char::is_control)
            })
        };
        let few = |entries: usize| is(entries <= ENTRIES_MAX, "shorter: at most 1000 entries");
        let small = |value: &Value| {
            is(json_bytes(value) <= JSON_BYTES_MAX, "smaller: at most 64 KiB of JSON")
        };
        match self {
            Shape::Name => {
                is(is_name(&value), "a text of at most 256 characters, without control characters")?
            }
            Shape::Text => is(
                value.as_str().is_some_and(|text| text.chars().count() <= TEXT_CHARS_MAX),
                "a text of at most 4096 characters",
            )?,
            Shape::OneOf(names) => {
                let expected = format!("one of {}", names.join(", "));
                is(value.as_str().is_some_and(|text| names.contains(&text)), &expected)?;
            }
            Shape::Flag => {
                return flag(&value)
                    .map(Value::Bool)
                    .map(Some)
                    .ok_or_else(|| wrong(name, "true or false"));
            }
            Shape::Count => {
                let count = count(&value).ok_or_else(|| wrong(name, "a whole number from 0 on"))?;
                return Ok(Some(count.into()));
            }
            Shape::Amount => {
                return self::amount(&value).map(Some).ok_or_else(|| wrong(name, AMOUNT));
            }
            Shape::Length => {
                // LiteLLM's way to say never.
                let is_length =
                    |text: &str| text.is_empty() || text == "-1" || Period::length(text).is_ok();
                is(value.as_str().is_some_and(is_length), LENGTH)?;
            }
            Shape::Period => {
                let is_period = |text: &str| text.is_empty() || is_period(text);
                is(value.as_str().is_some_and(is_period), LENGTH)?;
            }
            Shape::Date => is(
                value.as_str().is_some_and(|text| config::moment(text).is_some()),
                "a date (2027-01-31) or a moment (2027-01-31T12:00:00Z)",
            )?,
            Shape::Names => {
                let list = value.as_array().ok_or_else(|| wrong(name, "a list of texts"))?;
                few(list.len())?;
                is(list.iter().all(is_name), "a list of texts of at most 256 characters")?;
            }
            Shape::Networks => {
                let list = value.as_array().ok_or_else(|| wrong(name, "a list of addresses"))?;
                few(list.len())?;
                let is_network =
                    |value: &Value| value.as_str().and_then(directory::network).is_some();
                is(
                    list.iter().all(is_network),
                    "a list of addresses and networks, such as 10.0.0.0/8",
                )?;
            }
            Shape::Map => {
                is(value.is_object(), "a map")?;
                small(&value)?;
            }
            Shape::List => {
                is(value.is_array(), "a list")?;
                small(&value)?;
            }
            Shape::Counts => {
                let map = value
                    .as_object()
                    .ok_or_else(|| wrong(name, "a map of names to whole numbers"))?;
                few(map.len())?;
                small(&value)?;
                is(map.values().all(Value::is_u64), "a map of names to whole numbers from 0 on")?;
            }
            Shape::Renames => {
                let map =
                    value.as_object().ok_or_else(|| wrong(name, "a map of names to names"))?;
                few(map.len())?;
                is(
                    map.iter()
                        .all(|(from, to)| from.chars().count() <= NAME_CHARS_MAX && is_name(to)),
                    "a map of names to names",
                )?;
            }
            Shape::ModelBudgets => return model_budgets(name, value).map(Some),
            Shape::BudgetLimits => return budget_limits(name, value).map(Some),
            Shape::Members => return members(name, value).map(Some),
            Shape::Teams => {
                let list = value.as_array().ok_or_else(|| wrong(name, "a list of teams"))?;
                few(list.len())?;
                let is_team =
                    |value: &Value| is_name(value) || value.get("team_id").is_some_and(is_name);
                is(list.iter().all(is_team), "a list of team ids, or of {team_id, user_role}")?;
                small(&value)?;
            }
            Shape::Permission => {
                small(&value)?;
                return permission(name, value);
            }
            Shape::Unsupported => {
                if is_nothing(&value) {
                    return Ok(None);
                }
                let message = format!("'{name}' is not supported: it would have no effect.");
                return Err(Reject::invalid_request(message)
                    .with_param(name)
                    .with_code("unsupported_parameter"));
            }
        }
        Ok(Some(value))
    }

    /// Its JSON Schema.
    pub(crate) fn schema(self) -> Value {
        let text = json!({"type": "string", "maxLength": NAME_CHARS_MAX});
        match self {
            Shape::Name => text,
            Shape::Text => json!({"type": "string", "maxLength": TEXT_CHARS_MAX}),
            Shape::OneOf(names) => json!({"type": "string", "enum": names}),
            Shape::Flag => json!({"type": "boolean"}),
            Shape::Count => json!({"type": "integer", "minimum": 0}),
            Shape::Amount => json!({"type": "number", "minimum": 0}),
            Shape::Period => json!({"type": "string", "pattern": "^[0-9]+(s|m|h|d|w|mo)$"}),
            Shape::Length => json!({"type": "string", "pattern": "^(-1|[0-9]+(s|m|h|d|w|mo))$"}),
            Shape::Date => {
                json!({"type": "string", "examples": ["2027-01-31", "2027-01-31T12:00:00Z"]})
            }
            Shape::Names => json!({"type": "array", "items": text, "maxItems": ENTRIES_MAX}),
            Shape::Networks => {
                json!({"type": "array", "items": {"type": "string", "examples": ["10.0.0.0/8"]}})
            }
            Shape::Map => json!({"type": "object"}),
            Shape::List => json!({"type": "array"}),
            Shape::Counts => {
                json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}})
            }
            Shape::Renames => json!({"type": "object", "additionalProperties": text}),
            Shape::ModelBudgets => json!({"type": "object", "additionalProperties": {"anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "object", "properties": {
                    "budget_limit": {"type": "number", "minimum": 0}, "time_period": {"type": "string"},
                    "max_budget": {"type": "number", "minimum": 0}, "budget_duration": {"type": "string"},
                }},
            ]}}),
            Shape::BudgetLimits => json!({"type": "array", "items": {"type": "object",
                "properties": {"max_budget": {"type": "number", "minimum": 0}, "budget_duration": {"type": "string"}},
                "required": ["max_budget", "budget_duration"]}}),
            Shape::Members => {
                let member = json!({"type": "object", "properties": {
                    "user_id": text, "user_email": text, "role": {"type": "string", "enum": ["admin", "user"]},
                }});
                json!({"anyOf": [member, {"type": "array", "items": member}]})
            }
            Shape::Teams => json!({"type": "array", "items": {"anyOf": [text,
                {"type": "object", "properties": {"team_id": text, "user_role": {"type": "string", "enum": ["admin", "user"]}}}]}}),
            Shape::Permission => json!({"type": "object", "properties": {
                MCP_SERVERS: {"type": "array", "items": text, "maxItems": ENTRIES_MAX},
                MCP_TOOLS: {"type": "object", "additionalProperties": {"type": "array", "items": text}},
            }}),
            Shape::Unsupported => json!({"description": "refused unless empty"}),
        }
    }
}

const AMOUNT: &str = "an amount of dollars that is not negative, such as 10.5";
const LENGTH: &str = "a length of time, such as 30s, 30m, 24h, 30d, 2w or 1mo";

fn is_period(text: &str) -> bool {
    text.parse::<Period>().is_ok()
}

/// 422, naming the member. Says what is expected, not what came.
pub(crate) fn wrong(name: &'static str, expected: &str) -> Rejection {
    let message = format!("'{name}' must be {expected}.");
    Reject::new(422, "invalid_request_error", message).with_param(name).with_code("invalid_type")
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(is) => Some(*is),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A whole number, also where it is written as `10.0` or `"10"`.
fn count(value: &Value) -> Option<u64> {
    let count = match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            let whole = number.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 9e15)?;
            Some(whole as u64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }?;
    // What a database column and JavaScript hold.
    (count < 1 << 53).then_some(count)
}

/// The amount as a number: what is kept is what was meant, to the last digit.
fn amount(value: &Value) -> Option<Value> {
    directory::dollars(value)?;
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => text.parse().ok().map(Value::Number),
        _ => None,
    }
}

fn json_bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// Databases take no NUL in a text.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(holds_nul),
        Value::Object(map) => {
            map.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

/// What clients say of it that we can do, without what says nothing.
fn permission(name: &'static str, value: Value) -> Result<Option<Value>, Rejection> {
    let Value::Object(mut said) = value else { return Err(wrong(name, "a map")) };
    said.retain(|member, value| {
        matches!(member.as_str(), MCP_SERVERS | MCP_TOOLS) && !value.is_null() || !is_nothing(value)
    });
    let names = |value: &Value| {
        value.as_array().is_some_and(|list| list.iter().all(|name| name.as_str().is_some()))
    };
    for (member, value) in &said {
        match member.as_str() {
            MCP_SERVERS if names(value) => {}
            MCP_SERVERS => return Err(wrong(name, "a map whose mcp_servers is a list of names")),
            MCP_TOOLS if value.as_object().is_some_and(|map| map.values().all(names)) => {}
            MCP_TOOLS => {
                let expected = "a map whose mcp_tool_permissions has a list of tools by server";
                return Err(wrong(name, expected));
            }
            _ => {
                let shown: String = member.chars().filter(|c| !c.is_control()).take(64).collect();
                let message = format!(
                    "'{name}.{shown}' is not supported: it would have no effect. Supported are \
                     {MCP_SERVERS} and {MCP_TOOLS}."
                );
                return Err(Reject::invalid_request(message)
                    .with_param(name)
                    .with_code("unsupported_parameter"));
            }
        }
    }
    Ok((!said.is_empty()).then_some(Value::Object(said)))
}

/// Whether a value says nothing, as clients write it that send all members they know.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(it) => !it,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
    }
}

fn model_budgets(name: &'static str, value: Value) -> Result<Value, Rejection> {
    let expected = "a map of models to amounts, or to {budget_limit, time_period}";
    let map = value
        .as_object()
        .filter(|map| map.len() <= ENTRIES_MAX)
        .ok_or_else(|| wrong(name, expected))?;
    for (model, budget) in map {
        let is_right = match budget {
            Value::Object(budget) => {
                let limit = budget.get("budget_limit").or_else(|| budget.get("max_budget"));
                let period = budget.get("time_period").or_else(|| budget.get("budget_duration"));
                let has_rates = ["tpm_limit", "rpm_limit"]
                    .iter()
                    .any(|rate| budget.get(*rate).is_some_and(|r| !r.is_null()));
                limit.is_some_and(|limit| amount(limit).is_some())
                    && period.is_none_or(|p| p.is_null() || p.as_str().is_some_and(is_period))
                    && !has_rates
            }
            plain => amount(plain).is_some(),
        };
        if !is_right || model.chars().count() > NAME_CHARS_MAX {
            return Err(wrong(name, expected));
        }
    }
    Ok(value)
}

fn budget_limits(name: &'static str, value: Value) -> Result<Value, Rejection> {
    let list = value.as_array().filter(|list| list.len() <= 32);
    let is_right = |entry: &Value| {
        entry.get("max_budget").is_some_and(|limit| amount(limit).is_some())
            && entry.get("budget_duration").and_then(Value::as_str).is_some_and(is_period)
    };
    if !list.is_some_and(|list| list.iter().all(is_right)) {
        return Err(wrong(name, "a list of {max_budget, budget_duration}"));
    }
    Ok(value)
}

/// Always a list afterwards.
fn members(name: &'static str, value: Value) -> Result<Value, Rejection> {
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let text = |member: &Value, name: &str| {
        let text = member.get(name)?.as_str()?;
        (text.chars().count() <= NAME_CHARS_MAX
            && !text.contains(char::is_control)
            && !text.is_empty())
        .then(|| text.to_owned())
    };
    let one = |member: &Value| {
        let role = member.get("role").map_or(Some("user"), Value::as_str)?;
        let (id, email) = (text(member, "user_id"), text(member, "user_email"));
        if (id.is_none() && email.is_none()) || !["admin", "user"].contains(&role) {
            return None;
        }
        Some(json!({"role": role, "user_id": id, "user_email": email}))
    };
    let list: Option<Vec<Value>> = list.iter().map(one).collect();
    let list = list.filter(|list| list.len() <= ENTRIES_MAX);
    list.map(Value::Array).ok_or_else(|| {
        wrong(name, "{role: admin or user, user_id or user_email}, or a list of them")
    })
}
