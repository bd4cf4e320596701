//! Responses outlive the process that made them, and are seen by all nodes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tollway_simulator::{Reply, Simulator};
use tollway_tests::Response;
use tollway_tests::client::{Connection, get, post_with, send};
use tollway_tests::gateway::{Folder, Gateway, Options, PATIENCE};
use tollway_tests::postgres::Postgres;
use tollway_tests::responses::{CONFIG, ONE, TWO, text_of};
use tollway_tests::setup::{config, eventually, simulator, within};

/// Bytes that are nowhere else.
const SECRET: &str = "quetzalcoatlus-northropi";

/// A database, the provider that all gateways call, and the config they start with.
struct World {
    simulator: Simulator,
    postgres: Option<Postgres>,
    more: &'static str,
}

impl World {
    async fn sqlite() -> World {
        World { simulator: simulator().await, postgres: None, more: "" }
    }

    async fn postgres() -> World {
        let postgres = Some(Postgres::start().await);
        World { simulator: simulator().await, postgres, more: "" }
    }

    /// Starts a gateway in a folder: the same node as the one that was there before.
    async fn node(&self, folder: &Path) -> Node {
        let mut text = config(&format!("{CONFIG}{}", self.more), &self.simulator);
        if let Some(postgres) = &self.postgres {
            let url = format!("general_settings: {{ database_url: \"{}\",", postgres.url());
            text = text.replace("general_settings: {", &url);
        }
        let options =
            Options { config: Some(text), folder: Some(folder.to_owned()), ..Options::default() };
        Node(Gateway::start_with(options).await)
    }

    /// How many responses the database of Postgres has.
    async fn rows(&self) -> u64 {
        let postgres = self.postgres.as_ref().expect("there is one");
        let count = postgres.run("SELECT COUNT(*) FROM tollway_responses").await;
        count.parse().expect("a number")
    }
}

struct Node(Gateway);

impl Node {
    async fn create(&self, body: &Value) -> Response {
        post_with(self.0.address, "/v1/responses", &ONE, body).await
    }

    /// Asks `claude`, which answers with `answer`; the response's id.
    async fn answered(&self, world: &World, input: &str, answer: &str) -> String {
        world.simulator.enqueue(Reply::text(answer));
        let made = self.create(&json!({"model": "claude", "input": input})).await;
        world.simulator.next_request().await;
        id_of(&made)
    }

    /// Goes on from a response; how many messages the provider is asked with.
    async fn goes_on(&self, world: &World, id: &str) -> usize {
        let body = json!({"model": "claude", "input": "And then?", "previous_response_id": id});
        let second = self.create(&body).await;
        assert_eq!(second.status, 200, "{}", second.text());
        let asked = world.simulator.next_request().await.json();
        asked["messages"].as_array().expect("messages").len()
    }

    async fn get(&self, id: &str) -> Response {
        get(self.0.address, &format!("/v1/responses/{id}"), &ONE).await
    }

    async fn delete(&self, id: &str) -> Response {
        send(self.0.address, "DELETE", &format!("/v1/responses/{id}"), &ONE, b"").await
    }

    /// Ends it as an operator does.
    async fn stop(mut self) {
        self.0.signal("TERM");
        assert!(self.0.ended().await.success(), "{}", self.0.stderr());
    }

    /// Ends it without a word.
    async fn kill(mut self) {
        self.0.signal("KILL");
        self.0.ended().await;
    }
}

fn id_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["id"].as_str().expect("an id").to_owned()
}

/// The files of SQLite in a gateway's folder, as bytes.
fn database_bytes(folder: &Path) -> Vec<u8> {
    let files = ["tollway.db", "tollway.db-wal"].map(|name| folder.join("tollway-data").join(name));
    files.iter().flat_map(|file| std::fs::read(file).unwrap_or_default()).collect()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A stream in the background whose provider says something and then nothing more.
async fn held_stream(world: &World, node: &Node) -> (Connection, String) {
    let reply = Reply::text("Some words that come one after the other.");
    world.simulator.enqueue(reply.stall_after(4));
    let body = json!({"model": "claude", "input": "Go.", "background": true, "stream": true});
    let mut connection = Connection::open(node.0.address).await;
    let bytes = body.to_string();
    connection.request("POST", "/v1/responses", &ONE, bytes.as_bytes()).await;
    assert_eq!(connection.head().await.0, 200);
    let mut text = String::new();
    while !text.contains("response.output_text.delta") {
        let chunk = within(PATIENCE, "an event", connection.chunk()).await.expect("no end");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    let first: Value = serde_json::from_str(
        text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an event"),
    )
    .expect("JSON");
    let id = first["response"]["id"].as_str().expect("an id").to_owned();
    (connection, id)
}

async fn goes_on_after_a_restart(world: World) {
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let id = node.answered(&world, "The first question.", "The first answer.").await;
    let mut ids = vec![id.clone()];
    for n in 0..20 {
        ids.push(node.answered(&world, &format!("Question {n}."), "An answer.").await);
    }
    let deleted = ids.remove(1);
    assert_eq!(node.delete(&deleted).await.status, 200);
    node.stop().await;

    let node = world.node(&folder.0).await;
    for id in &ids {
        assert_eq!(node.get(id).await.status, 200, "nothing is lost by a graceful stop");
    }
    assert_eq!(text_of(&node.get(&id).await.json()), "The first answer.");
    assert_eq!(node.get(&deleted).await.status, 404);
    assert_eq!(node.goes_on(&world, &id).await, 3);
    let items = get(node.0.address, &format!("/v1/responses/{id}/input_items"), &ONE).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "The first question.");

    // Somebody else's key finds nothing.
    for path in [format!("/v1/responses/{id}"), format!("/v1/responses/{id}/input_items")] {
        assert_eq!(get(node.0.address, &path, &TWO).await.status, 404);
    }
    let path = format!("/v1/responses/{id}");
    assert_eq!(send(node.0.address, "DELETE", &path, &TWO, b"").await.status, 404);
    let on = json!({"model": "claude", "input": "Tell me.", "previous_response_id": id});
    let refused = post_with(node.0.address, "/v1/responses", &TWO, &on).await;
    assert_eq!(refused.error("code"), "previous_response_not_found");
    assert_eq!(node.get(&id).await.status, 200);
}

#[tokio::test]
async fn response_is_gone_on_from_after_a_restart() {
    goes_on_after_a_restart(World::sqlite().await).await;
}

#[tokio::test]
async fn response_in_postgres_is_gone_on_from_after_a_restart() {
    goes_on_after_a_restart(World::postgres().await).await;
}

#[tokio::test]
async fn another_node_goes_on_and_hears_of_a_removal() {
    let world = World::postgres().await;
    let folders = [Folder::fresh(), Folder::fresh()];
    let (one, two) = (world.node(&folders[0].0).await, world.node(&folders[1].0).await);
    // As a client does that is sent elsewhere for its next turn.
    let id = one.answered(&world, "The first question.", "The first answer.").await;
    eventually("it is seen", async || two.get(&id).await.status == 200).await;
    assert_eq!(two.goes_on(&world, &id).await, 3);
    let id = one.answered(&world, "What is it?", "It is this.").await;
    eventually("it is seen", async || two.get(&id).await.status == 200).await;
    assert_eq!(text_of(&two.get(&id).await.json()), "It is this.");
    let deleted = two.delete(&id).await;
    assert_eq!(deleted.json()["deleted"], true, "{}", deleted.text());
    assert_eq!(two.get(&id).await.status, 404);
    // The maker's memory has it for a second at most.
    eventually("it is gone", async || one.get(&id).await.status == 404).await;
    let on = json!({"model": "claude", "input": "More.", "previous_response_id": id});
    assert_eq!(one.create(&on).await.error("code"), "previous_response_not_found");
}

#[tokio::test]
async fn response_in_the_background_is_polled_and_cancelled_from_another_node() {
    let world = World::postgres().await;
    let folders = [Folder::fresh(), Folder::fresh()];
    let (one, two) = (world.node(&folders[0].0).await, world.node(&folders[1].0).await);
    let (mut stream, id) = held_stream(&world, &one).await;
    eventually("it is seen", async || two.get(&id).await.json()["status"] == "in_progress").await;
    let path = format!("/v1/responses/{id}");
    // Somebody follows it there.
    let mut follower = Connection::open(two.0.address).await;
    follower.request("GET", &format!("{path}?stream=true"), &ONE, b"").await;
    assert_eq!(follower.head().await.0, 200);

    let cancelled = send(two.0.address, "POST", &format!("{path}/cancel"), &ONE, b"").await;
    assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    assert_eq!(one.get(&id).await.json()["status"], "cancelled");
    for connection in [&mut stream, &mut follower] {
        let mut rest = String::new();
        while let Some(chunk) = within(PATIENCE, "the rest", connection.chunk()).await {
            rest.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(rest.contains("event: response.cancelled"), "{rest}");
    }

    // One that is removed elsewhere is given up as well.
    let (mut stream, id) = held_stream(&world, &one).await;
    eventually("it is seen", async || two.get(&id).await.status == 200).await;
    assert_eq!(two.delete(&id).await.status, 200);
    while within(PATIENCE, "the rest", stream.chunk()).await.is_some() {}
    assert_eq!(one.get(&id).await.status, 404);
    assert_eq!(two.get(&id).await.status, 404);

    // One that nobody holds any more is ended by whoever is there.
    let (_stream, id) = held_stream(&world, &one).await;
    eventually("it is seen", async || two.get(&id).await.status == 200).await;
    one.kill().await;
    let postgres = world.postgres.as_ref().expect("there is one");
    assert_eq!(two.get(&id).await.json()["status"], "in_progress");
    postgres.run("UPDATE tollway_responses SET held_until_ms = 0").await;
    eventually("it has failed", async || two.get(&id).await.json()["status"] == "failed").await;
    let one = world.node(&folders[0].0).await;

    // And one that is made to its end is there for both.
    world.simulator.enqueue(Reply::text("Made elsewhere."));
    let body = json!({"model": "claude", "input": "Go.", "background": true});
    let id = id_of(&one.create(&body).await);
    eventually("it is completed", async || two.get(&id).await.json()["status"] == "completed")
        .await;
    assert_eq!(text_of(&two.get(&id).await.json()), "Made elsewhere.");
}

async fn interrupted_is_failed(world: World) {
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let other = node.answered(&world, "Another question.", "An answer.").await;
    let (_stream, id) = held_stream(&world, &node).await;
    let done = {
        world.simulator.enqueue(Reply::text("Done in time."));
        let body = json!({"model": "claude", "input": "Go.", "background": true});
        id_of(&node.create(&body).await)
    };
    eventually("it is done", async || node.get(&done).await.json()["status"] == "completed").await;
    let asked = world.simulator.requests().len();
    // What was written is what a killed gateway leaves.
    let (before, mut last) = (folder.0.clone(), String::new());
    eventually("they are written", async || {
        last = match &world.postgres {
            Some(postgres) => postgres.run("SELECT id FROM tollway_responses").await,
            None => String::from_utf8_lossy(&database_bytes(&before)).into_owned(),
        };
        last.contains(&id) && last.contains(&done)
    })
    .await;
    // This comes behind the transaction whose bytes were seen.
    assert_eq!(node.delete(&other).await.status, 200);
    node.kill().await;

    let node = world.node(&folder.0).await;
    eventually("it has failed", async || node.get(&id).await.json()["status"] == "failed").await;
    let failed = node.get(&id).await.json();
    assert_eq!(failed["error"]["code"], "server_error", "{failed}");
    let message = failed["error"]["message"].as_str().expect("a message");
    assert!(message.contains("restarted"), "{message}");
    // Whatever a client has had of its events, it hears of the end.
    for (query, count) in [("", 3), ("&starting_after=1", 1), ("&starting_after=40", 1)] {
        let path = format!("/v1/responses/{id}?stream=true{query}");
        let events = get(node.0.address, &path, &ONE).await.text();
        let last = events.lines().rfind(|line| line.starts_with("data: ")).expect("an event");
        let last: Value = serde_json::from_str(&last["data: ".len()..]).expect("JSON");
        assert_eq!(last["type"], "response.failed", "{events}");
        assert_eq!(events.matches("data: ").count(), count, "{events}");
        assert_eq!(last["response"]["id"], id.as_str());
    }
    let kept = node.get(&done).await.json();
    assert_eq!((kept["status"].as_str(), text_of(&kept)), (Some("completed"), "Done in time."));
    // Nobody was paid twice.
    assert_eq!(world.simulator.requests().len(), asked);
}

#[tokio::test]
async fn response_in_the_background_that_was_interrupted_has_failed() {
    interrupted_is_failed(World::sqlite().await).await;
}

#[tokio::test]
async fn response_in_the_background_in_postgres_that_was_interrupted_has_failed() {
    interrupted_is_failed(World::postgres().await).await;
}

#[tokio::test]
async fn what_was_answered_a_moment_before_a_kill_is_there() {
    let world = World::sqlite().await;
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let other = node.answered(&world, "Another question.", "An answer.").await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(node.answered(&world, &format!("Question {n}."), "An answer.").await);
    }
    // All but those of the last moment: they are written in their order.
    let first = &ids[..9];
    eventually("the ninth is written", async || has(&database_bytes(&folder.0), &ids[8])).await;
    // This comes behind the transaction whose bytes were seen.
    assert_eq!(node.delete(&other).await.status, 200);
    node.kill().await;
    let node = world.node(&folder.0).await;
    for id in first {
        assert_eq!(node.get(id).await.status, 200);
    }
    // What was not written is not there, and nothing worse.
    assert!([200, 404].contains(&node.get(&ids[9]).await.status));
}

#[tokio::test]
async fn answers_go_on_while_the_database_is_away() {
    let mut world = World::postgres().await;
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let known = node.answered(&world, "Before.", "Known.").await;
    eventually("it is written", async || world.rows().await == 1).await;
    if let Some(postgres) = &mut world.postgres {
        postgres.stop().await;
    }
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(node.answered(&world, &format!("Question {n}."), "In memory.").await);
    }
    assert_eq!(text_of(&node.get(&ids[0]).await.json()), "In memory.");
    assert_eq!(node.goes_on(&world, &ids[1]).await, 3);
    assert_eq!(text_of(&node.get(&known).await.json()), "Known.");
    // Nobody can say whether there is one, nor remove what is there.
    let unknown = node.get("resp_unknown").await;
    assert_eq!(unknown.status, 503, "{}", unknown.text());
    let kept = node.delete(&known).await;
    assert_eq!(kept.status, 503, "{}", kept.text());

    if let Some(postgres) = &mut world.postgres {
        postgres.again().await;
    }
    eventually("all are written", async || world.rows().await == 5).await;
    node.stop().await;
    let node = world.node(&folder.0).await;
    for id in &ids {
        assert_eq!(text_of(&node.get(id).await.json()), "In memory.");
    }
    assert_eq!(node.delete(&known).await.status, 200);
    assert_eq!(world.rows().await, 4);
}

#[tokio::test]
async fn graceful_stop_writes_what_waits() {
    let world = World::postgres().await;
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let postgres = world.postgres.as_ref().expect("there is one");
    // From now on it takes connections and says nothing.
    postgres.signal("STOP");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(node.answered(&world, &format!("Question {n}."), "An answer.").await);
    }
    node.0.signal("TERM");
    node.0.stderr_line(|line| line.contains("stopped")).await;
    postgres.signal("CONT");
    node.stop().await;
    assert_eq!(world.rows().await, 5);
    let node = world.node(&folder.0).await;
    for id in &ids {
        assert_eq!(text_of(&node.get(id).await.json()), "An answer.");
    }
}

#[tokio::test]
async fn run_of_an_agent_goes_on_where_its_response_was_interrupted() {
    let world =
        World { more: "\nagents: [{ name: helper, model: claude }]\n", ..World::postgres().await };
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    world.simulator.enqueue(Reply::hang());
    let body = json!({"model": "agent/helper", "input": "Go.", "background": true});
    let made = node.create(&body).await;
    let run = made.header("x-tollway-run-id").expect("a run").to_owned();
    let id = id_of(&made);
    world.simulator.next_request().await;
    eventually("it is written", async || world.rows().await == 1).await;
    node.kill().await;

    world.simulator.enqueue(Reply::text("Done after all."));
    let node = world.node(&folder.0).await;
    eventually("it has failed", async || node.get(&id).await.json()["status"] == "failed").await;
    let run = format!("/agent/runs/{run}");
    eventually("the run is done", async || {
        get(node.0.address, &run, &ONE).await.json()["status"] == "completed"
    })
    .await;
}

#[tokio::test]
async fn what_is_past_its_time_is_removed() {
    let world = World {
        more: "\nresponses: { retention: 2h, response_bytes_max: 64KiB }\n",
        ..World::postgres().await
    };
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let id = node.answered(&world, "Question.", "Answer.").await;
    eventually("it is written", async || world.rows().await == 1).await;
    let postgres = world.postgres.as_ref().expect("there is one");
    let left = "SELECT round((expires_ms / 1000 - EXTRACT(EPOCH FROM now())) / 3600) \
                FROM tollway_responses";
    assert_eq!(postgres.run(left).await, "2", "hours");
    assert_eq!(node.get(&id).await.status, 200);
    postgres.run("UPDATE tollway_responses SET expires_ms = 1").await;
    eventually("its time is over", async || node.get(&id).await.status == 404).await;
    eventually("it is removed", async || world.rows().await == 0).await;

    // One that is too large is answered all the same, counted, and not kept.
    let large = "word ".repeat(20_000);
    let id = node.answered(&world, &large, "Answer.").await;
    assert_eq!(node.get(&id).await.status, 404);
    let lost = node.0.metric("tollway_responses_lost_total", &["reason=\"too_large\""]).await;
    assert_eq!(lost, 1.0);
    let body = json!({"model": "claude", "input": large, "background": true});
    let refused = node.create(&body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[tokio::test]
async fn nothing_is_in_the_database_that_is_not_to_be_kept() {
    let world = World::sqlite().await;
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    for stream in [false, true] {
        world.simulator.enqueue(Reply::text(format!("{SECRET} it is.")));
        let body = json!({"model": "claude", "input": SECRET, "store": false, "stream": stream});
        assert_eq!(node.create(&body).await.status, 200);
        world.simulator.next_request().await;
    }
    // One behind it, so that it would have been written.
    let kept = node.answered(&world, "To be kept.", "Kept words.").await;
    node.stop().await;
    let bytes = database_bytes(&folder.0);
    assert!(has(&bytes, &kept) && has(&bytes, "Kept words."));
    assert!(!has(&bytes, SECRET));
    // Nor are keys.
    assert!(!has(&bytes, "sk-one-1234567890") && !has(&bytes, "sk-upstream"));
}

#[tokio::test]
async fn credentials_for_servers_of_tools_are_not_kept() {
    let world = World::postgres().await;
    let folder = Folder::fresh();
    let node = world.node(&folder.0).await;
    let tool = json!({"type": "mcp", "server_label": "s", "server_url": "https://mcp.example",
        "authorization": SECRET, "headers": {"x-key": SECRET}});
    let body = json!({"model": "gpt", "input": "Go.", "background": true, "tools": [tool]});
    let made = node.create(&body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert!(!made.text().contains(SECRET));
    let id = id_of(&made);
    eventually("it has ended", async || node.get(&id).await.json()["status"] == "completed").await;
    let asked = world.simulator.next_request().await.json();
    assert_eq!(asked["tools"][0]["authorization"], SECRET, "the provider gets them");
    node.stop().await;
    let dump = world.postgres.as_ref().expect("there is one").dump().await;
    assert!(dump.contains(&id) && !dump.contains(SECRET), "{dump}");
}

#[tokio::test]
async fn responses_can_be_kept_in_memory_or_not_at_all() {
    let in_memory = World { more: "\nresponses: { store: memory }\n", ..World::sqlite().await };
    let folder = Folder::fresh();
    let node = in_memory.node(&folder.0).await;
    let id = node.answered(&in_memory, SECRET, "Answer.").await;
    assert_eq!(node.goes_on(&in_memory, &id).await, 3);
    assert_eq!(node.delete(&id).await.status, 200);
    assert_eq!(node.get(&id).await.status, 404);
    let body = json!({"model": "claude", "input": "Go.", "background": true});
    let made = id_of(&node.create(&body).await);
    eventually("it is made", async || node.get(&made).await.json()["status"] == "completed").await;
    node.stop().await;
    assert!(!has(&database_bytes(&folder.0), SECRET));

    let nowhere = World { more: "\nresponses: { store: none }\n", ..World::sqlite().await };
    let folder: PathBuf = folder.0.clone();
    let node = nowhere.node(&folder).await;
    let id = node.answered(&nowhere, "Question.", "Answer.").await;
    assert_eq!(node.get(&id).await.status, 404);
    let refused = node.create(&body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("no responses are kept"), "{}", refused.text());
}
