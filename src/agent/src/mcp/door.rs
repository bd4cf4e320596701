//! Ours as an MCP server: `POST /mcp`, one message a request, without sessions. The tools are those
//! that the caller may use, and they are called as by `POST /tools/{name}`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::definitions::{NotUsed, UseTool};
use crate::mcp::call;
use crate::mcp::message::{
    INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, Message, RpcError, answer, refusal,
};
use crate::mcp::{VERSION, VERSIONS, implementation};
use crate::ports::Caller;
use crate::service::Agents;
use crate::tool::{Risk, Tool};
use crate::toolbox::{NoTool, function_name};

/// The member of `_meta` by which a client says that a call is the same as one before.
const IDEMPOTENCY_KEY: &str = "tollway/idempotency_key";

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The message; none where there is nothing to say.
    pub body: Option<Value>,
}

impl Answered {
    fn with(status: u16, body: Value) -> Answered {
        Answered { status, body: Some(body) }
    }
}

impl Agents {
    /// Answers one message of a client's, which may have said in a header which version of the
    /// protocol it speaks.
    pub async fn answer_mcp(
        &self,
        caller: &Caller,
        version: Option<&[u8]>,
        body: &[u8],
    ) -> Answered {
        let is_known = |version: &[u8]| VERSIONS.iter().any(|known| known.as_bytes() == version);
        if version.is_some_and(|version| !is_known(version)) {
            let known = VERSIONS.join(", ");
            let message = format!("The header MCP-Protocol-Version must be one of {known}.");
            let error = RpcError::new(INVALID_REQUEST, message);
            return Answered::with(400, refusal(&Value::Null, &error));
        }
        let (id, method, params) = match Message::read(body) {
            Ok(Message::Request { id, method, params }) => (id, method, params),
            // Nothing was asked: there is nothing to say.
            Ok(Message::Notification { .. } | Message::Answer { .. }) => {
                return Answered { status: 202, body: None };
            }
            Err(error) => return Answered::with(400, error.answer()),
        };
        let result = match method.as_str() {
            "initialize" => Ok(greeted(&params)),
            "ping" => Ok(json!({})),
            "tools/list" => self.listed(caller, &params),
            "tools/call" => self.called(caller, params).await,
            _ => {
                let method: String = method.chars().take(100).collect();
                let message = format!("There is no method {method:?}.");
                Err(RpcError::new(METHOD_NOT_FOUND, message))
            }
        };
        Answered::with(
            200,
            match result {
                Ok(result) => answer(&id, &result),
                Err(error) => refusal(&id, &error),
            },
        )
    }

    fn listed(&self, caller: &Caller, params: &Map<String, Value>) -> Result<Value, RpcError> {
        // All of them are on the first page.
        if params.get("cursor").is_some_and(|cursor| !cursor.is_null()) {
            return Err(RpcError::new(INVALID_PARAMS, "There is no such cursor."));
        }
        let live = self.live();
        let tools = live.tools.allowed_by(&caller.tools).map(|tool| listed_tool(&**tool));
        Ok(json!({"tools": tools.collect::<Vec<_>>()}))
    }

    async fn called(
        &self,
        caller: &Caller,
        mut params: Map<String, Value>,
    ) -> Result<Value, RpcError> {
        let Some(Value::String(wanted)) = params.remove("name") else {
            return Err(RpcError::new(INVALID_PARAMS, "A tool's 'name' is missing."));
        };
        let arguments = match params.remove("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(RpcError::new(INVALID_PARAMS, "'arguments' must be an object.")),
        };
        let key = params.get("_meta").and_then(|meta| meta.get(IDEMPOTENCY_KEY)?.as_str());
        let body =
            UseTool { arguments, idempotency_key: key.map(str::to_owned), ..UseTool::default() };
        let name = self.meant(&wanted).unwrap_or_else(|| wanted.as_str().into());
        match self.used(caller, &name, body).await {
            Ok(output) => Ok(call::written(output)),
            Err(NotUsed::Call(error)) => Ok(call::failed(&error.to_string())),
            Err(NotUsed::Tool(NoTool::Missing(_, why))) => {
                Ok(call::failed(&format!("The tool cannot be used here: {}.", why.message)))
            }
            // Whether it is there is nobody's business who may not use it.
            Err(NotUsed::Tool(NoTool::Unknown(_) | NoTool::Forbidden(_))) => {
                let wanted: String = wanted.chars().take(100).collect();
                let message = format!("Unknown tool: {wanted}");
                Err(RpcError::new(INVALID_PARAMS, message))
            }
        }
    }

    /// The name of the tool that clients know by another one.
    fn meant(&self, wanted: &str) -> Option<Arc<str>> {
        let live = self.live();
        if live.tools.get(wanted).is_some() {
            return None;
        }
        let mut names = live.tools.iter().map(|tool| &tool.spec().name);
        names.find(|name| function_name(name) == wanted).cloned()
    }
}

fn greeted(params: &Map<String, Value>) -> Value {
    let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
    let version = VERSIONS.iter().find(|known| **known == asked).copied().unwrap_or(VERSION);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": false}},
        "serverInfo": implementation(),
    })
}

/// A tool as MCP has it. Its name is the one models know it by: the protocol allows dots, and many
/// clients hand names on to providers that do not.
fn listed_tool(tool: &dyn Tool) -> Value {
    let spec = tool.spec();
    json!({
        "name": function_name(&spec.name),
        "title": spec.name,
        "description": spec.description,
        "inputSchema": *spec.parameters,
        "annotations": {
            "readOnlyHint": spec.risk == Risk::Read,
            "idempotentHint": spec.is_idempotent,
        },
    })
}
