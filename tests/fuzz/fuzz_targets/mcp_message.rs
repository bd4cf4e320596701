//! Any bytes as a message of MCP are read or refused; what was read is read again as it was, and
//! what we answer to what we cannot read is a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_agent::mcp::message::{self, Message};

fuzz_target!(|data: &[u8]| {
    let again = match Message::read(data) {
        Err(error) => {
            let answer = error.answer().to_string();
            let read = Message::read(answer.as_bytes());
            assert!(matches!(read, Ok(Message::Answer { result: Err(_), .. })), "{answer}");
            return;
        }
        Ok(Message::Request { id, method, params }) if id.is_u64() => {
            let number = id.as_u64().unwrap_or_default();
            let written = message::request(number, &method, &Value::Object(params.clone()));
            (Message::Request { id, method, params }, written)
        }
        Ok(Message::Request { .. }) => return,
        Ok(Message::Notification { method, params }) => {
            let written = message::notification(&method, &Value::Object(params.clone()));
            (Message::Notification { method, params }, written)
        }
        Ok(Message::Answer { id, result }) => {
            let written = match &result {
                Ok(result) => message::answer(&id, result),
                Err(error) => message::refusal(&id, error),
            };
            (Message::Answer { id, result }, written)
        }
    };
    let (read, written) = again;
    assert_eq!(Message::read(written.to_string().as_bytes()), Ok(read));
});
