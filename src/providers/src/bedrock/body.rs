//! A request of Converse, as it is put together.

use serde_json::{Map, Value, json};

/// What goes into the body besides the conversation.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// `maxTokens`, `temperature`, `topP`, `stopSequences`.
    pub(super) inference: Map<String, Value>,
    /// `toolConfig.tools`.
    pub(super) tools: Vec<Value>,
    /// `toolConfig.toolChoice`.
    pub(super) tool_choice: Option<Value>,
    /// Anthropic's own tools, which Converse does not know.
    pub(super) claude_tools: Vec<Value>,
    /// `additionalModelRequestFields`: what only the model knows.
    pub(super) additional: Map<String, Value>,
    /// `outputConfig`.
    pub(super) output: Map<String, Value>,
    /// Members of Converse's that clients who know it send as they are.
    pub(super) own: Map<String, Value>,
    betas: Vec<Value>,
}

impl Body {
    /// Asks for a beta of Anthropic's.
    pub(super) fn add_beta(&mut self, name: &str) {
        let name = name.trim();
        if !name.is_empty() && !self.betas.iter().any(|known| known == name) {
            self.betas.push(name.into());
        }
    }

    /// Whether there is a tool of the client's.
    pub(super) fn has_tool_specs(&self) -> bool {
        self.tools.iter().any(|tool| tool.get("toolSpec").is_some())
    }

    /// The kind of thinking asked for, if it is Anthropic's: `enabled`, `adaptive`, `disabled`.
    pub(super) fn thinks(&self) -> bool {
        let thinking = self.additional.get("thinking");
        thinking.is_some_and(|thinking| thinking["type"] != "disabled")
    }

    /// The whole body.
    pub(super) fn into_json(mut self, system: Vec<Value>, messages: Vec<Value>) -> Value {
        let mut body = Map::new();
        body.insert("messages".into(), messages.into());
        if !system.is_empty() {
            body.insert("system".into(), system.into());
        }
        if !self.inference.is_empty() {
            body.insert("inferenceConfig".into(), self.inference.into());
        }
        if !self.tools.is_empty() {
            let mut config = json!({"tools": self.tools});
            if let Some(choice) = self.tool_choice {
                config["toolChoice"] = choice;
            }
            body.insert("toolConfig".into(), config);
        }
        if !self.output.is_empty() {
            body.insert("outputConfig".into(), self.output.into());
        }
        if !self.claude_tools.is_empty() {
            self.additional.insert("tools".into(), self.claude_tools.into());
        }
        if !self.betas.is_empty() {
            self.additional.insert("anthropic_beta".into(), self.betas.into());
        }
        if !self.additional.is_empty() {
            body.insert("additionalModelRequestFields".into(), self.additional.into());
        }
        body.extend(self.own);
        body.into()
    }
}
