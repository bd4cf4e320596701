//! A gateway in front of a simulated provider, which is what nearly every test needs.

use std::time::Duration;

use serde_json::{Value, json};
use tollway_simulator::{Received, Simulator};

use crate::client::{Connection, Response, get, post, post_with};
use crate::gateway::{Gateway, MASTER_KEY, Options, PATIENCE};

/// The credential with which the gateway calls its upstreams.
pub const UPSTREAM_KEY: &str = "sk-upstream-secret-123456";

/// Models of both dialects, all of them at the simulator. `fast` is another name of `gpt-4o-mini`.
pub const MODELS: &str = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: fast
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
  - model_name: text-embedding-3-small
    litellm_params: { model: openai/text-embedding-3-small, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: gpt-3.5-turbo-instruct
    litellm_params: { model: openai/gpt-3.5-turbo-instruct, api_key: $KEY, api_base: $SIM/v1 }
";

const GENERAL: &str = "\ngeneral_settings: { master_key: $MASTER }\n";

/// The usual filters, with `rate_limit` as given: `per_user: { rpm: 3 }`.
pub fn filters_with_limits(limits: &str) -> String {
    format!(
        "
filters:
  - request_log
  - usage
  - cors
  - auth
  - validate
  - model_alias
  - filter: rate_limit
    {limits}
"
    )
}

/// Fills in a config: `$SIM` is the simulator's URL, `$KEY` the upstream's credential, `$MASTER`
/// the master key. Models and the master key are added where the text has none.
pub fn config(text: &str, simulator: &Simulator) -> String {
    let mut config = text.to_owned();
    if !text.contains("model_list:") {
        config.push_str(MODELS);
    }
    if !text.contains("general_settings:") {
        config.push_str(GENERAL);
    }
    config
        .replace("$SIM", &simulator.base_url())
        .replace("$KEY", UPSTREAM_KEY)
        .replace("$MASTER", MASTER_KEY)
}

/// A chat request.
pub fn chat(model: &str, said: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": said}]})
}

/// A chat request for a stream.
pub fn stream(model: &str, said: &str) -> Value {
    let mut body = chat(model, said);
    body["stream"] = true.into();
    body
}

/// A gateway and its simulated upstream.
pub struct Setup {
    /// The gateway.
    pub gateway: Gateway,
    /// What it calls.
    pub simulator: Simulator,
}

impl Setup {
    /// With the usual models and nothing else.
    pub async fn start() -> Setup {
        Setup::with("").await
    }

    /// With this config; see [`config`] for what is filled in.
    pub async fn with(text: &str) -> Setup {
        Setup::with_env(text, &[]).await
    }

    /// With this config and environment.
    pub async fn with_env(text: &str, env: &[(&str, &str)]) -> Setup {
        let simulator = simulator().await;
        let options = Options {
            config: Some(config(text, &simulator)),
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..Options::default()
        };
        Setup { gateway: Gateway::start_with(options).await, simulator }
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Response {
        get(self.gateway.address, path, &[]).await
    }

    /// `POST /v1/chat/completions` with the master key.
    pub async fn chat(&self, body: &Value) -> Response {
        post(self.gateway.address, "/v1/chat/completions", body).await
    }

    /// `POST /v1/chat/completions` with these headers.
    pub async fn chat_with(&self, headers: &[(&str, &str)], body: &Value) -> Response {
        post_with(self.gateway.address, "/v1/chat/completions", headers, body).await
    }

    /// `POST /v1/chat/completions` with this key.
    pub async fn chat_as(&self, key: &str, body: &Value) -> Response {
        self.chat_with(&[("authorization", &format!("Bearer {key}"))], body).await
    }

    /// Sends a chat request and reads nothing yet.
    pub async fn send_chat(&self, key: &str, body: &Value) -> Connection {
        let mut connection = Connection::open(self.gateway.address).await;
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body = body.to_string();
        connection.request("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        connection
    }

    /// Begins a stream: its head has been read.
    ///
    /// # Panics
    /// When it does not begin.
    pub async fn open_stream(&self, body: &Value) -> Connection {
        let mut connection = self.send_chat(MASTER_KEY, body).await;
        let (status, _) = connection.head().await;
        assert_eq!(status, 200);
        connection
    }

    /// Everything the upstream was asked.
    pub fn asked(&self) -> Vec<Received> {
        self.simulator.requests()
    }

    /// Waits until the gateway has finished with a request, which is a little after its answer is
    /// there: it is in the request log, and all filters are done with it. The line.
    ///
    /// # Panics
    /// When the answer has no id.
    pub async fn settled(&self, response: &Response) -> Value {
        let id = response.header("x-litellm-call-id").expect("answers have an id").to_owned();
        self.log_line(&id).await
    }

    /// The line of the request log with this id.
    ///
    /// # Panics
    /// When the line is no JSON.
    pub async fn log_line(&self, id: &str) -> Value {
        let wanted = format!("\"request_id\":\"{id}\"");
        let line = self.gateway.stdout_line(|line| line.contains(&wanted)).await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

/// A simulator that a test scripts.
///
/// # Panics
/// When there is no free port.
pub async fn simulator() -> Simulator {
    Simulator::start(tollway_simulator::Options::default()).await.expect("a port is free")
}

/// Lets something happen within bounds: an answer that never comes is a failure, not a hang.
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Waits until something is so: it looks a little later each time it is not.
///
/// # Panics
/// When it never is.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let look = async {
        let mut pause = Duration::from_millis(1);
        while !is_so().await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    };
    within(PATIENCE, what, look).await;
}
