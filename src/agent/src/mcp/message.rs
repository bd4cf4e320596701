//! JSON-RPC 2.0, as MCP uses it: reading and writing one message.

use serde_json::{Map, Value, json};

/// What cannot be read at all.
pub const PARSE_ERROR: i64 = -32700;
/// What is JSON and no message.
pub const INVALID_REQUEST: i64 = -32600;
/// A method that there is not.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Parameters that the method does not take.
pub const INVALID_PARAMS: i64 = -32602;
/// What went wrong here.
pub const INTERNAL_ERROR: i64 = -32603;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The other side wants something.
    Request {
        /// By which it is answered: text or a number.
        id: Value,
        /// What is wanted.
        method: String,
        /// With what.
        params: Map<String, Value>,
    },
    /// The other side says something.
    Notification {
        /// What about.
        method: String,
        /// What.
        params: Map<String, Value>,
    },
    /// The answer to a request.
    Answer {
        /// Which; null where the other side could not tell.
        id: Value,
        /// What has come of it.
        result: Result<Value, RpcError>,
    },
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    /// For programs.
    pub code: i64,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// An error.
    pub fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into() }
    }
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotAMessage {
    /// They are no JSON.
    #[error("no JSON")]
    Syntax,
    /// They are several at once, which the protocol has no more.
    #[error("a batch, which the protocol no longer has")]
    Batch,
    /// They are JSON, and no message of JSON-RPC 2.0. Where a request's id could be read, it is here.
    #[error("no message of JSON-RPC 2.0")]
    Invalid(Value),
}

impl NotAMessage {
    /// The answer to who has sent it.
    pub fn answer(&self) -> Value {
        let (id, code) = match self {
            NotAMessage::Syntax => (Value::Null, PARSE_ERROR),
            NotAMessage::Batch => (Value::Null, INVALID_REQUEST),
            NotAMessage::Invalid(id) => (id.clone(), INVALID_REQUEST),
        };
        refusal(&id, &RpcError::new(code, format!("Invalid message: {self}.")))
    }
}

/// Whether a value can be the id of a request.
fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(bytes: &[u8]) -> Result<Message, NotAMessage> {
        let mut members = match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => members,
            Ok(Value::Array(_)) => return Err(NotAMessage::Batch),
            Ok(_) => return Err(NotAMessage::Invalid(Value::Null)),
            Err(_) => return Err(NotAMessage::Syntax),
        };
        let id = members.remove("id");
        let invalid = |id: &Option<Value>| {
            let id = id.clone().filter(is_id).unwrap_or_default();
            NotAMessage::Invalid(id)
        };
        if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(invalid(&id));
        }
        match (members.remove("method"), members.remove("result"), members.remove("error")) {
            (Some(Value::String(method)), None, None) => {
                let params = match members.remove("params") {
                    None | Some(Value::Null) => Map::new(),
                    Some(Value::Object(params)) => params,
                    Some(_) => return Err(invalid(&id)),
                };
                match id {
                    None => Ok(Message::Notification { method, params }),
                    Some(id) if is_id(&id) => Ok(Message::Request { id, method, params }),
                    // MCP has no null here.
                    Some(_) => Err(invalid(&None)),
                }
            }
            (None, Some(result), None) => match id {
                Some(id) if is_id(&id) => Ok(Message::Answer { id, result: Ok(result) }),
                _ => Err(invalid(&None)),
            },
            (None, None, Some(error)) => {
                let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason");
                let code = error.get("code").and_then(Value::as_i64).unwrap_or(INTERNAL_ERROR);
                let error = RpcError { code, message: message.to_owned() };
                let id = id.filter(is_id).unwrap_or_default();
                Ok(Message::Answer { id, result: Err(error) })
            }
            _ => Err(invalid(&id)),
        }
    }
}

/// A request of ours.
pub fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// Something said.
pub fn notification(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// The answer to a request that was carried out.
pub fn answer(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// The answer to a request that was not.
pub fn refusal(id: &Value, error: &RpcError) -> Value {
    let error = json!({"code": error.code, "message": error.message});
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Message, NotAMessage> {
        Message::read(text.as_bytes())
    }

    #[test]
    fn messages_are_told_apart() {
        let request = read(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#);
        let wanted =
            Message::Request { id: json!("a"), method: "ping".to_owned(), params: Map::new() };
        assert_eq!(request, Ok(wanted));
        assert!(matches!(
            read(
                r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#
            ),
            Ok(Message::Notification { .. })
        ));
        assert_eq!(
            read(r#"{"jsonrpc":"2.0","id":3,"result":{}}"#),
            Ok(Message::Answer { id: json!(3), result: Ok(json!({})) })
        );
        let error = RpcError::new(-32601, "no");
        assert_eq!(
            read(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no"}}"#),
            Ok(Message::Answer { id: Value::Null, result: Err(error) })
        );
    }

    #[test]
    fn what_is_no_message_is_refused_and_answered() {
        for (text, wanted, code) in [
            ("", NotAMessage::Syntax, PARSE_ERROR),
            ("{", NotAMessage::Syntax, PARSE_ERROR),
            ("[]", NotAMessage::Batch, INVALID_REQUEST),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, NotAMessage::Batch, INVALID_REQUEST),
            ("7", NotAMessage::Invalid(Value::Null), INVALID_REQUEST),
            (r#"{"id":7,"method":"ping"}"#, NotAMessage::Invalid(json!(7)), INVALID_REQUEST),
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}"#,
                NotAMessage::Invalid(json!(7)),
                INVALID_REQUEST,
            ),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
                NotAMessage::Invalid(Value::Null),
                INVALID_REQUEST,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                NotAMessage::Invalid(Value::Null),
                INVALID_REQUEST,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
                NotAMessage::Invalid(json!(1)),
                INVALID_REQUEST,
            ),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error, wanted, "{text}");
            assert_eq!(error.answer()["error"]["code"], code, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep), Err(NotAMessage::Syntax));
    }

    fn params() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::vec(inner, 0..4).prop_map(Value::from)
        });
        proptest::collection::hash_map(any::<String>(), value, 0..4)
            .prop_map(|members| members.into_iter().collect())
    }

    fn id() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Err(error) = Message::read(&bytes) {
                // Whatever it was, what we answer is a message.
                let answer = error.answer().to_string();
                let is_answer = matches!(Message::read(answer.as_bytes()), Ok(Message::Answer { .. }));
                prop_assert!(is_answer);
            }
        }

        #[test]
        fn what_is_written_is_read(
            id in id(), number in any::<u64>(), method in any::<String>(), params in params(),
        ) {
            let told = Value::Object(params.clone());
            let read = Message::read(request(number, &method, &told).to_string().as_bytes());
            let wanted = Message::Request {
                id: number.into(), method: method.clone(), params: params.clone(),
            };
            prop_assert_eq!(read, Ok(wanted));
            let read = Message::read(notification(&method, &told).to_string().as_bytes());
            prop_assert_eq!(read, Ok(Message::Notification { method: method.clone(), params }));
            let read = Message::read(answer(&id, &told).to_string().as_bytes());
            prop_assert_eq!(read, Ok(Message::Answer { id: id.clone(), result: Ok(told) }));
            let error = RpcError::new(7, method);
            let read = Message::read(refusal(&id, &error).to_string().as_bytes());
            prop_assert_eq!(read, Ok(Message::Answer { id, result: Err(error) }));
        }
    }
}
