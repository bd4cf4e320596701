//! The tools a server offers: what it says of them, within bounds.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::mcp::settings::ServerSettings;
use crate::tool::Risk;

/// The most tools of one server.
pub(crate) const TOOLS_MAX: usize = 256;
/// The longest name, description and schema of a tool.
const NAME_BYTES_MAX: usize = 128;
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// A tool as a server describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// The server's own name of it.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Value,
    pub(crate) risk: Risk,
    pub(crate) is_idempotent: bool,
    /// Of everything the server says of it: another one is another tool.
    pub(crate) digest: [u8; 32],
}

/// What a server offers.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    pub(crate) tools: Vec<Offered>,
    /// What cannot be taken, and why.
    pub(crate) refused: Vec<(String, &'static str)>,
}

impl Offer {
    /// Adds what one page of `tools/list` says. False where there is no list in it.
    pub(crate) fn add(&mut self, page: &Value, settings: &ServerSettings) -> bool {
        let Some(tools) = page.get("tools").and_then(Value::as_array) else { return false };
        for tool in tools {
            let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
            if !is_name(name) {
                let shown: String = name.chars().take(40).collect();
                self.refuse(format!("{shown:?}"), "its name is none");
            } else if !settings.takes(name) {
                // Not wanted.
            } else if self.tools.iter().any(|have| have.name == name) {
                self.refuse(name.to_owned(), "there are two of this name");
            } else if self.tools.len() == TOOLS_MAX {
                self.refuse(name.to_owned(), "there are too many tools");
            } else {
                match read(tool, name, settings) {
                    Ok(tool) => self.tools.push(tool),
                    Err(why) => self.refuse(name.to_owned(), why),
                }
            }
        }
        true
    }

    fn refuse(&mut self, name: String, why: &'static str) {
        if self.refused.len() < TOOLS_MAX {
            self.refused.push((name, why));
        }
    }

    /// The names of the tools that are offered.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.tools.iter().map(|tool| tool.name.as_str()).collect()
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_plain)
}

fn read(tool: &Value, name: &str, settings: &ServerSettings) -> Result<Offered, &'static str> {
    let Some(Value::Object(schema)) = tool.get("inputSchema") else {
        return Err("it has no schema");
    };
    if schema.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "object") {
        return Err("its arguments are no object");
    }
    let schema = schema_of(schema.clone());
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        return Err("its schema is too large");
    }
    let text = |name: &str| tool.get(name).and_then(Value::as_str);
    let description = text("description").or(text("title")).unwrap_or_default();
    let hint = |name: &str| tool.pointer(&format!("/annotations/{name}")).and_then(Value::as_bool);
    let said = if hint("readOnlyHint") == Some(true) { Risk::Read } else { Risk::Write };
    let mut hash = Sha256::new();
    digest(tool, &mut hash);
    Ok(Offered {
        name: name.to_owned(),
        description: plain(description),
        schema,
        risk: settings.risk.get(name).copied().unwrap_or(said),
        // Whoever says what it does does not believe the server's other words about it either.
        is_idempotent: hint("idempotentHint") == Some(true) && !settings.risk.contains_key(name),
        digest: hash.finalize().into(),
    })
}

/// A schema as providers take it: they know which version of JSON Schema it is.
fn schema_of(mut schema: Map<String, Value>) -> Value {
    schema.remove("$schema");
    schema.insert("type".to_owned(), "object".into());
    schema.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    Value::Object(schema)
}

/// What people see of a text as well: nothing that is invisible or turns it round, behind which
/// instructions to models can hide.
fn plain(text: &str) -> String {
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
            || matches!(c, '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{E0000}'..='\u{E0FFF}')
    };
    let mut plain: String = text.chars().filter(|c| !is_hidden(*c)).collect();
    plain.truncate(plain.floor_char_boundary(DESCRIPTION_BYTES_MAX));
    plain
}

/// Of a value, whatever the order of its members is.
fn digest(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            hash.update(b"{");
            for name in names {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                digest(&members[name], hash);
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| digest(item, hash));
            hash.update(b"]");
        }
        leaf => {
            let text = leaf.to_string();
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp::settings::{Program, Transport};

    fn settings() -> ServerSettings {
        let program = Program { command: "x".into(), args: vec![], env: Default::default() };
        ServerSettings::new(Transport::Stdio(program))
    }

    fn offer(tools: Value, settings: &ServerSettings) -> Offer {
        let mut offer = Offer::default();
        assert!(offer.add(&json!({"tools": tools}), settings));
        offer
    }

    fn tool(more: Value) -> Value {
        let mut tool = json!({"name": "look", "inputSchema": {"type": "object"}});
        for (name, value) in more.as_object().unwrap() {
            tool[name] = value.clone();
        }
        tool
    }

    #[test]
    fn what_a_tool_does_is_believed_only_where_nobody_says_otherwise() {
        let risk = |annotations: Value, settings: &ServerSettings| {
            let offer = offer(json!([tool(json!({"annotations": annotations}))]), settings);
            (offer.tools[0].risk, offer.tools[0].is_idempotent)
        };
        let mut settings = settings();
        assert_eq!(risk(json!({}), &settings), (Risk::Write, false));
        assert_eq!(risk(json!({"readOnlyHint": true}), &settings), (Risk::Read, false));
        assert_eq!(risk(json!({"readOnlyHint": "yes"}), &settings), (Risk::Write, false));
        assert_eq!(risk(json!({"idempotentHint": true}), &settings), (Risk::Write, true));
        settings.risk.insert("look".into(), Risk::Exec);
        assert_eq!(risk(json!({"idempotentHint": true}), &settings), (Risk::Exec, false));
        assert_eq!(risk(json!({"readOnlyHint": true}), &settings), (Risk::Exec, false));
    }

    #[test]
    fn what_is_no_tool_is_refused() {
        let long = "x".repeat(200);
        let huge = json!({"type": "object", "description": "x".repeat(SCHEMA_BYTES_MAX)});
        for (wrong, why) in [
            (json!({}), "its name is none"),
            (json!({"name": long, "inputSchema": {}}), "its name is none"),
            (json!({"name": "a b", "inputSchema": {}}), "its name is none"),
            (json!({"name": "*", "inputSchema": {}}), "its name is none"),
            (json!({"name": "a"}), "it has no schema"),
            (json!({"name": "a", "inputSchema": {"type": "array"}}), "its arguments are no object"),
            (json!({"name": "a", "inputSchema": huge}), "its schema is too large"),
        ] {
            let offer = offer(json!([wrong]), &settings());
            assert_eq!((offer.tools.len(), offer.refused[0].1), (0, why), "{wrong}");
        }
        let twice = offer(json!([tool(json!({})), tool(json!({}))]), &settings());
        assert_eq!((twice.tools.len(), twice.refused[0].1), (1, "there are two of this name"));
        let many = (0..TOOLS_MAX + 9).map(|at| tool(json!({"name": format!("t{at}")})));
        let many = offer(many.collect(), &settings());
        assert_eq!((many.tools.len(), many.refused.len()), (TOOLS_MAX, 9));
        assert!(!Offer::default().add(&json!({"tools": {}}), &settings()));
    }

    #[test]
    fn lists_say_which_tools_are_taken() {
        let mut settings = settings();
        let tools = json!([tool(json!({"name": "a"})), tool(json!({"name": "b"}))]);
        settings.disallowed_tools.insert("a".into());
        assert_eq!(offer(tools.clone(), &settings).names(), BTreeSet::from(["b"]));
        settings.allowed_tools.insert("a".into());
        assert_eq!(offer(tools, &settings).names(), BTreeSet::new());
    }

    #[test]
    fn digest_is_of_what_is_said_and_not_of_its_order() {
        let digest = |tool: Value| offer(json!([tool]), &settings()).tools[0].digest;
        let one = json!({"name": "a", "inputSchema": {"type": "object", "properties": {}}});
        let other = json!({"inputSchema": {"properties": {}, "type": "object"}, "name": "a"});
        assert_eq!(digest(one.clone()), digest(other));
        for changed in [
            json!({"description": "Send it to me."}),
            json!({"title": "x"}),
            json!({"annotations": {"readOnlyHint": true}}),
            json!({"inputSchema": {"type": "object", "properties": {"x": {}}}}),
        ] {
            let mut changed_tool = one.clone();
            for (name, value) in changed.as_object().unwrap() {
                changed_tool[name] = value.clone();
            }
            assert_ne!(digest(one.clone()), digest(changed_tool), "{changed}");
        }
    }

    #[test]
    fn nothing_hides_in_a_description() {
        let hidden = "Adds.\u{E0041}\u{E0042}\u{200B}\u{202E}\u{7}\nTwo numbers.";
        let offer = offer(json!([tool(json!({"description": hidden}))]), &settings());
        assert_eq!(offer.tools[0].description, "Adds.\nTwo numbers.");
    }
}
