//! The realtime websocket.

use serde_json::{Value, json};
use tollway_simulator::{Credential, End, Options, Reply, Simulator};

use crate::client::Client;
use crate::simulator;

struct Talk(Client);

impl Talk {
    async fn open(simulator: &Simulator, path: &str, headers: &str) -> (u16, Talk) {
        let mut client = Client::new(simulator).await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: sim\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 {headers}\r\n"
            ))
            .await;
        let response = client.response().await.unwrap();
        if response.status == 101 {
            let accept = response.header("sec-websocket-accept");
            assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        }
        (response.status, Talk(client))
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mask = [7, 1, 9, 3];
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 126);
                frame.extend((long as u16).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.send(frame).await;
    }

    async fn say(&mut self, event: Value) {
        self.frame(1, event.to_string().as_bytes()).await;
    }

    async fn said(&mut self, text: &str) {
        let content = json!([{"type": "input_text", "text": text}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        self.say(json!({"type": "conversation.item.create", "item": item})).await;
        assert_eq!(self.hear().await.unwrap()["type"], "conversation.item.added");
        assert_eq!(self.hear().await.unwrap()["type"], "conversation.item.done");
    }

    async fn raw(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.0.take(2).await?;
        let length = match head[1] {
            126 => {
                let long = self.0.take(2).await?;
                usize::from(u16::from_be_bytes([long[0], long[1]]))
            }
            short => usize::from(short),
        };
        Some((head[0] & 15, self.0.take(length).await?))
    }

    async fn hear(&mut self) -> Option<Value> {
        let (opcode, text) = self.raw().await?;
        assert_eq!(opcode, 1);
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// The events of one response, up to its end or that of the connection.
    async fn answer(&mut self) -> Vec<Value> {
        self.say(json!({"type": "response.create"})).await;
        let mut events = Vec::new();
        while let Some(event) = self.hear().await {
            let last = ["response.done", "error"].contains(&event["type"].as_str().unwrap());
            events.push(event);
            if last {
                break;
            }
        }
        events
    }
}

const PATH: &str = "/v1/realtime?model=echo";

fn text(events: &[Value]) -> String {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    deltas.filter_map(|event| event["delta"].as_str()).collect()
}

#[tokio::test]
async fn a_conversation_is_answered_event_by_event() {
    let simulator = simulator().await;
    let (_, mut talk) = Talk::open(&simulator, PATH, "").await;
    let created = talk.hear().await.unwrap();
    assert_eq!(
        (&created["type"], &created["session"]["model"]),
        (&json!("session.created"), &json!("echo"))
    );
    talk.say(json!({"type": "session.update", "session": {"instructions": "Be brief."}})).await;
    assert_eq!(talk.hear().await.unwrap()["session"]["instructions"], "Be brief.");
    talk.said("Hello, all").await;
    let events = talk.answer().await;
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let expected = [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(text(&events), "Hello, all");
    let done = &events[11]["response"];
    assert_eq!(
        (&done["status"], &done["usage"]["output_tokens"]),
        (&json!("completed"), &json!(3))
    );
    assert_eq!(simulator.billed().completion_tokens, 3);
    let asked = simulator.wait_for(|request| request.json()["type"] == "response.create").await;
    assert_eq!((&*asked.method, &*asked.path), ("WEBSOCKET", PATH));
    assert_eq!(simulator.outcome(asked.id).await.chunks, 3);

    talk.frame(9, b"still there?").await;
    assert_eq!(talk.raw().await.unwrap(), (10, b"still there?".to_vec()));
    talk.say(json!({"type": "dance"})).await;
    assert_eq!(talk.hear().await.unwrap()["error"]["code"], "unknown_event");
    talk.frame(1, b"{").await;
    assert_eq!(talk.hear().await.unwrap()["error"]["code"], "invalid_json");
    talk.frame(8, &1000_u16.to_be_bytes()).await;
    assert_eq!(talk.raw().await.unwrap(), (8, 1000_u16.to_be_bytes().to_vec()));
    assert!(talk.0.is_closed().await);
}

#[tokio::test]
async fn calls_and_their_results_go_over_the_websocket() {
    let simulator = simulator().await;
    let (_, mut talk) = Talk::open(&simulator, "/v1/realtime?model=tools", "").await;
    talk.hear().await.unwrap();
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    talk.say(json!({"type": "session.update", "session": {"tools": [tool]}})).await;
    talk.hear().await.unwrap();
    talk.said("weather?").await;
    let done = talk.answer().await.pop().unwrap();
    let call = &done["response"]["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("weather")));
    let item =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "12 °C"});
    talk.say(json!({"type": "conversation.item.create", "item": item})).await;
    talk.hear().await.unwrap();
    talk.hear().await.unwrap();
    assert_eq!(text(&talk.answer().await), "The tool answered: 12 °C");
}

#[tokio::test]
async fn answers_over_a_websocket_break_as_others_do() {
    let simulator = simulator().await;
    for k in 0..=30 {
        let (_, mut talk) = Talk::open(&simulator, PATH, "").await;
        talk.hear().await.unwrap();
        talk.said(&format!("[[sim tokens=30 cut_after={k}]]")).await;
        let events = talk.answer().await;
        let deltas = events.iter().filter(|e| e["type"] == "response.output_text.delta");
        assert_eq!(deltas.count(), k);
        assert_eq!(talk.0.gone, Some(crate::client::Ended::Short));
    }
    let (_, mut talk) = Talk::open(&simulator, PATH, "x-tollway-sim: tokens=3\r\n").await;
    talk.hear().await.unwrap();
    talk.said("hi").await;
    assert_eq!(text(&talk.answer().await), "one more word");
    simulator.enqueue(Reply::text("queued"));
    assert_eq!(text(&talk.answer().await), "queued");
    simulator.enqueue(Reply::error(500).message("Oh."));
    assert_eq!(talk.answer().await[0]["error"]["message"], "Oh.");
    talk.said("[[sim tokens=9 error_event=2]]").await;
    assert_eq!(talk.answer().await.last().unwrap()["type"], "error");
    talk.said("[[sim tokens=9 stall_after=2]]").await;
    talk.say(json!({"type": "response.create"})).await;
    talk.0.until(b" more").await.unwrap();
    drop(talk);
    assert_eq!(simulator.next_cancelled().await.end, End::ClientLeft);
}

#[tokio::test]
async fn a_websocket_is_refused_as_other_requests_are() {
    let options = Options { required_key: Some("k".into()), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    assert_eq!(Talk::open(&simulator, PATH, "").await.0, 401);
    let protocol = "sec-websocket-protocol: realtime, openai-insecure-api-key.k\r\n";
    assert_eq!(Talk::open(&simulator, PATH, protocol).await.0, 101);
    let seen = simulator.requests().pop().unwrap().credential();
    assert_eq!(seen, Credential::Protocol("k".into()));
    let azure = "/openai/realtime?api-version=1&deployment=rt";
    let (status, mut talk) = Talk::open(&simulator, azure, "api-key: k\r\n").await;
    assert_eq!(status, 101);
    assert_eq!(talk.hear().await.unwrap()["session"]["model"], "rt");
    let headers = "api-key: k\r\nx-tollway-sim: status=403\r\n";
    assert_eq!(Talk::open(&simulator, PATH, headers).await.0, 403);
    let mut client = Client::new(&simulator).await;
    client.send(format!("GET {PATH} HTTP/1.1\r\napi-key: k\r\n\r\n")).await;
    assert_eq!(client.response().await.unwrap().status, 426);
    // A frame without a mask ends it.
    talk.0.send(b"\x81\x01a").await;
    assert_eq!(talk.raw().await.unwrap().0, 8);
    assert!(talk.0.is_closed().await);
}
