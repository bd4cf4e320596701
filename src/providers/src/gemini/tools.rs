//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;

use super::model::Model;
use super::params::Lacks;
use super::schema;

/// Gemini's own tools, by the names the API and LiteLLM's users have for them.
const BUILT_IN: &[(&str, &str)] = &[
    ("googleSearch", "google_search"),
    ("googleSearchRetrieval", "google_search_retrieval"),
    ("enterpriseWebSearch", "enterprise_web_search"),
    ("urlContext", "url_context"),
    ("codeExecution", "code_execution"),
    ("googleMaps", "google_maps"),
    ("computerUse", "computer_use"),
    ("fileSearch", "file_search"),
    ("retrieval", "retrieval"),
    ("mcpServers", "mcp_servers"),
];

/// Those that search, which the models before Gemini 3 cannot have beside functions.
const SEARCHES: &[&str] = &["googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"];

/// What a request's tools become.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// The functions the model may call.
    functions: Vec<Value>,
    /// Gemini's own tools, each by its name.
    built_in: Map<String, Value>,
}

fn invalid(at: usize, what: &str) -> RequestError {
    RequestError::Invalid {
        message: format!("tools[{at}]: {what}"),
        param: Some(format!("tools[{at}]")),
    }
}

impl Tools {
    /// Translates the tools of a request.
    pub(super) fn of(
        tools: Vec<Value>,
        model: Model,
        lacks: &mut Lacks,
    ) -> Result<Tools, RequestError> {
        let mut all = Tools::default();
        for (at, tool) in tools.into_iter().enumerate() {
            let Value::Object(tool) = tool else { return Err(invalid(at, "a tool is an object")) };
            all.add(at, tool, model, lacks)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        at: usize,
        mut tool: Map<String, Value>,
        model: Model,
        lacks: &mut Lacks,
    ) -> Result<(), RequestError> {
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(Value::Object(function)) = tool.remove("function") {
            self.functions.push(declaration(at, function, model)?);
            return Ok(());
        }
        let mut is_native = false;
        if let Some(Value::Array(declared)) =
            tool.remove("functionDeclarations").or_else(|| tool.remove("function_declarations"))
        {
            self.functions.extend(declared);
            is_native = true;
        }
        for (name, snake) in BUILT_IN {
            if let Some(options) = tool.remove(*name).or_else(|| tool.remove(*snake)) {
                self.built_in.insert((*name).into(), options);
                is_native = true;
            }
        }
        if is_native {
            return Ok(());
        }
        // The same by `type`, as Responses and Anthropic write theirs.
        let built_in = BUILT_IN.iter().find(|(name, snake)| kind == *name || kind == *snake);
        let name = match kind.as_str() {
            _ if kind.starts_with("web_search") => "googleSearch",
            _ if kind.starts_with("web_fetch") => "urlContext",
            _ if kind.starts_with("code_execution_") || kind == "code_interpreter" => {
                "codeExecution"
            }
            "function" => return Err(invalid(at, "a function tool has no `function`")),
            _ => match built_in {
                Some((name, _)) => name,
                None => {
                    lacks.note("tools");
                    return Ok(());
                }
            },
        };
        tool.remove("type");
        // Only what was written in Gemini's own words has options it understands.
        let options = if built_in.is_some() { Value::Object(tool) } else { json!({}) };
        self.built_in.insert(name.into(), options);
        Ok(())
    }

    /// OpenAI's `web_search_options`. Google's search has none of its options.
    pub(super) fn add_search(&mut self) {
        self.built_in.entry("googleSearch").or_insert_with(|| json!({}));
    }

    /// Drops searches beside functions, which the API refuses; agents send both by habit, and LiteLLM
    /// does the same. With `mixed` the client asks for both, as Gemini 3 has it.
    pub(super) fn separate(&mut self, mixed: bool) {
        if !mixed && !self.functions.is_empty() {
            for name in SEARCHES {
                self.built_in.remove(*name);
            }
        }
    }

    /// Gemini's `tools`.
    pub(super) fn into_value(self) -> Option<Value> {
        let mut list = Vec::new();
        if !self.functions.is_empty() {
            list.push(json!({"functionDeclarations": self.functions}));
        }
        for (name, options) in self.built_in {
            let mut tool = Map::new();
            tool.insert(name, options);
            list.push(tool.into());
        }
        (!list.is_empty()).then(|| list.into())
    }

    /// Translates `tool_choice`. OpenAI's `allowed_tools` also narrows the tools themselves.
    pub(super) fn choice(&mut self, choice: Option<Value>) -> Result<Option<Value>, RequestError> {
        let invalid = || RequestError::Invalid {
            message: "tool_choice is none of auto, none, required or a tool by name".into(),
            param: Some("tool_choice".into()),
        };
        let config = match choice {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(word)) => json!({"mode": mode(&word).ok_or_else(invalid)?}),
            Some(Value::Object(choice)) => {
                let kind = choice.get("type").and_then(Value::as_str).unwrap_or("function");
                match kind {
                    "function" | "tool" => {
                        let function = choice.get("function").or_else(|| choice.get("name"));
                        let name =
                            function.and_then(|of| of.as_str().or_else(|| of["name"].as_str()));
                        let name = name.ok_or_else(invalid)?;
                        json!({"mode": "ANY", "allowedFunctionNames": [name]})
                    }
                    "allowed_tools" => self.allow(&choice).ok_or_else(invalid)?,
                    // A tool of the provider's own: it is in the tools, and cannot be forced.
                    _ if kind.starts_with("web_search") => return Ok(None),
                    word => json!({"mode": mode(word).ok_or_else(invalid)?}),
                }
            }
            Some(_) => return Err(invalid()),
        };
        Ok((!self.functions.is_empty()).then(|| json!({"functionCallingConfig": config})))
    }

    fn allow(&mut self, choice: &Map<String, Value>) -> Option<Value> {
        let allowed = choice.get("allowed_tools").unwrap_or(&Value::Null);
        let list = allowed.get("tools").or_else(|| choice.get("tools"))?.as_array()?;
        let named =
            |tool: &Value| Some(tool.get("function").unwrap_or(tool)["name"].as_str()?.to_owned());
        let names: Vec<String> = list.iter().filter_map(named).collect();
        self.functions
            .retain(|function| names.iter().any(|name| function["name"] == name.as_str()));
        let word = allowed.get("mode").or_else(|| choice.get("mode"));
        mode(word.and_then(Value::as_str).unwrap_or("auto")).map(|mode| json!({"mode": mode}))
    }
}

fn mode(word: &str) -> Option<&'static str> {
    Some(match word {
        "auto" => "AUTO",
        "none" => "NONE",
        "required" | "any" => "ANY",
        "validated" => "VALIDATED",
        _ => return None,
    })
}

fn declaration(
    at: usize,
    mut function: Map<String, Value>,
    model: Model,
) -> Result<Value, RequestError> {
    let Some(Value::String(name)) = function.remove("name") else {
        return Err(invalid(at, "the function has no name"));
    };
    let mut declared = json!({"name": name});
    if let Some(description @ Value::String(_)) = function.remove("description") {
        declared["description"] = description;
    }
    if let Some(Value::Object(mut parameters)) = function.remove("parameters") {
        // Google demands an object; one without properties is what leaving it out means.
        parameters.entry("type").or_insert_with(|| "object".into());
        let has_properties = parameters
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|properties| !properties.is_empty());
        let mut parameters = Value::Object(parameters);
        if model.has_json_schema() {
            schema::tame(&mut parameters);
            declared["parametersJsonSchema"] = parameters;
        } else if has_properties {
            declared["parameters"] = schema::open_api(&parameters);
        }
    }
    Ok(declared)
}
