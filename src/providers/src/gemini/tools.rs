//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::params::Lacks;
use crate::tools::{invalid_choice, members, names_of, take_name, without_function};

use super::model::Model;
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

impl Tools {
    /// Translates the tools of a request.
    pub(super) fn of(
        tools: Vec<Value>,
        model: Model,
        lacks: &mut Lacks,
    ) -> Result<Tools, RequestError> {
        let mut all = Tools::default();
        for (at, tool) in tools.into_iter().enumerate() {
            all.add(at, members(at, tool)?, model, lacks)?;
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
            "function" => return Err(without_function(at)),
            _ => match built_in {
                Some((name, _)) => name,
                None => {
                    lacks.add("tools");
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
        let config = match choice {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(word)) => json!({"mode": mode(&word).ok_or_else(invalid_choice)?}),
            Some(Value::Object(choice)) => {
                let kind = choice.get("type").and_then(Value::as_str).unwrap_or("function");
                match kind {
                    "function" | "tool" => {
                        let function = choice.get("function").or_else(|| choice.get("name"));
                        let name =
                            function.and_then(|of| of.as_str().or_else(|| of["name"].as_str()));
                        let name = name.ok_or_else(invalid_choice)?;
                        json!({"mode": "ANY", "allowedFunctionNames": [name]})
                    }
                    "allowed_tools" => self.allow(&choice).ok_or_else(invalid_choice)?,
                    // A tool of the provider's own: it is in the tools, and cannot be forced.
                    _ if kind.starts_with("web_search") => return Ok(None),
                    word => json!({"mode": mode(word).ok_or_else(invalid_choice)?}),
                }
            }
            Some(_) => return Err(invalid_choice()),
        };
        Ok((!self.functions.is_empty()).then(|| json!({"functionCallingConfig": config})))
    }

    fn allow(&mut self, choice: &Map<String, Value>) -> Option<Value> {
        let allowed = choice.get("allowed_tools").unwrap_or(&Value::Null);
        let names = names_of(allowed.get("tools").or_else(|| choice.get("tools"))?)?;
        self.functions.retain(|function| names.iter().any(|name| function["name"] == *name));
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
    let mut declared = json!({"name": take_name(at, &mut function)?});
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
