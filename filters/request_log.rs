//! `request_log` writes one line of JSON when a request is over.
//!
//! Place it first: what is first on the way in is last on the way out, when `usage` has found out
//! the cost. A line has names, numbers and times, and never content, header values or keys; what is
//! not known is left out. The level is `error` where we or a provider failed, `warn` where the
//! caller did.
//!
//! ```yaml
//! - filter: request_log
//!   client_address: true
//!   level: warn
//! ```

use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tollway_filter_api::{
    BuildFilter, Clock, ConfigError, Deps, Filter, LogSink, Outcome, Phases, RequestCtx, Slot,
};
use tollway_wire::price::PicoDollars;

use crate::text::{push_date, push_dollars, push_millis, push_number};

/// How much room a thread keeps for its next line.
const LINE_BYTES_KEPT: usize = 16 * 1024;

/// The `request_log` entry of a filter list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestLogConfig {
    /// The lowest level that is written: `info`, the default, `warn` or `error`.
    pub level: Level,
    /// Whether to write the address the connection came from. In many places that is personal data.
    pub client_address: bool,
    /// Whether to write the end user that the request names. Often an e-mail address.
    pub end_user: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Answered.
    #[default]
    Info,
    /// Refused, or left by the client.
    Warn,
    /// Failed.
    Error,
}

/// Writes the line.
pub struct RequestLog {
    config: RequestLogConfig,
    clock: Clock,
    log: Arc<dyn LogSink>,
}

impl BuildFilter for RequestLog {
    const NAME: &'static str = "request_log";
    type Config = RequestLogConfig;

    fn build(config: RequestLogConfig, deps: &Deps, _slot: Slot) -> Result<Self, ConfigError> {
        Ok(RequestLog { config, clock: deps.clock.clone(), log: Arc::clone(&deps.log) })
    }
}

thread_local! {
    /// Lines have about the same length, so the room for one serves the next.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filter for RequestLog {
    fn phases(&self) -> Phases {
        Phases::END
    }

    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        let level = level(ctx.report.status, outcome);
        if level < self.config.level {
            return;
        }
        LINE.with_borrow_mut(|bytes| {
            bytes.clear();
            let mut line = Line { bytes };
            self.write(ctx, outcome, level, &mut line);
            self.log.line(bytes);
            bytes.shrink_to(LINE_BYTES_KEPT);
        });
    }
}

fn level(status: Option<u16>, outcome: Outcome) -> Level {
    match (status, outcome) {
        (Some(500..), _) | (_, Outcome::Broken) | (None, Outcome::Done) => Level::Error,
        (Some(400..), _) | (_, Outcome::ClientGone) => Level::Warn,
        (Some(_), Outcome::Done) => Level::Info,
    }
}

impl RequestLog {
    fn write(&self, ctx: &RequestCtx, outcome: Outcome, level: Level, line: &mut Line<'_>) {
        let report = &ctx.report;
        line.begin(self.clock.unix(), level);
        line.text("request_id", &ctx.id);
        line.text("route", ctx.route);
        line.maybe_text("operation", ctx.operation.map(|operation| operation.name()));
        line.maybe_number("status", report.status.map(u64::from));
        line.text(
            "outcome",
            match outcome {
                Outcome::Done => "done",
                Outcome::ClientGone => "client_gone",
                Outcome::Broken => "broken",
            },
        );
        line.maybe_text("error_kind", report.error_kind.as_deref());

        if let Some(key) = &ctx.identity {
            line.maybe_text("key_alias", key.alias.as_deref());
            line.maybe_text("key_hash", key.hash_hex.get(..8));
            line.maybe_text("user", key.user.as_deref());
            line.maybe_text("team", key.team.as_deref());
        }
        if self.config.end_user {
            line.maybe_text("end_user", ctx.end_user.as_deref());
        }
        if let (true, Some(client)) = (self.config.client_address, ctx.client) {
            line.display("client", &client);
        }

        if let Some(plan) = &ctx.plan {
            line.text("model_group", &plan.group.name);
            line.text("requested_model", &plan.requested);
        }
        if let Some(deployment) = &report.deployment {
            line.text("provider", deployment.provider);
            line.text("model", &deployment.model);
            line.text("model_id", &deployment.id);
        }
        if let Some(view) = &ctx.view {
            line.boolean("stream", view.stream);
            line.boolean("cache_hit", report.cache_hit);
            line.number("attempts", report.attempts.into());
            line.number("fallbacks", report.fallbacks.into());
        }
        if let Some(usage) = &report.usage {
            line.number("prompt_tokens", usage.prompt_tokens);
            line.number("completion_tokens", usage.completion_tokens);
            line.number("cached_tokens", usage.cache_read_tokens);
            line.number("reasoning_tokens", usage.reasoning_tokens);
            if report.usage_estimated {
                line.boolean("usage_estimated", true);
            }
        }
        if let Some(cost) = &report.cost {
            line.dollars("cost_usd", cost.total());
        }

        let now = ctx.ended(&self.clock);
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| to.saturating_duration_since(from))
        };
        let latency = ctx.elapsed(now);
        line.millis("latency_ms", latency);
        let waited = between(report.upstream_started, report.first_byte);
        let upstream = report.upstream_started.and(report.upstream_ended.or(Some(now)));
        let upstream = between(report.upstream_started, upstream);
        for (name, time) in [
            ("ttft_ms", waited),
            ("upstream_ms", upstream),
            ("overhead_ms", upstream.map(|upstream| latency.saturating_sub(upstream))),
        ] {
            if let Some(time) = time {
                line.millis(name, time);
            }
        }
        line.number("bytes_sent", report.bytes_sent);
        line.end();
    }
}

/// One JSON object, written member by member. Names are ours and need no escaping; texts may be
/// anybody's.
struct Line<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn begin(&mut self, now: Duration, level: Level) {
        let level = match level {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.bytes.extend_from_slice(br#"{"ts":""#);
        push_date(self.bytes, now);
        self.bytes.extend_from_slice(br#"","level":""#);
        self.bytes.extend_from_slice(level.as_bytes());
        self.bytes.extend_from_slice(br#"","msg":"request""#);
    }

    fn end(&mut self) {
        self.bytes.push(b'}');
    }

    fn name(&mut self, name: &'static str) {
        self.bytes.extend_from_slice(b",\"");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.bytes.push(b'"');
        push_escaped(self.bytes, text);
        self.bytes.push(b'"');
    }

    fn maybe_text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// Something whose text needs no escaping.
    fn display(&mut self, name: &'static str, value: &dyn fmt::Display) {
        self.name(name);
        // Writing to memory cannot fail.
        let _ = write!(self.bytes, "\"{value}\"");
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        push_number(self.bytes, number);
    }

    fn maybe_number(&mut self, name: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    fn boolean(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.bytes.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn millis(&mut self, name: &'static str, time: Duration) {
        self.name(name);
        push_millis(self.bytes, time);
    }

    fn dollars(&mut self, name: &'static str, amount: PicoDollars) {
        self.name(name);
        push_dollars(self.bytes, amount);
    }
}

/// Escapes what JSON asks for, and every other control character as well: terminals act on them.
fn push_escaped(bytes: &mut Vec<u8>, text: &str) {
    // Without a way out of the loop the compiler looks at many bytes at a time.
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\');
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        bytes.extend_from_slice(text.as_bytes());
        return;
    }
    for char in text.chars() {
        match char {
            '"' | '\\' => bytes.extend_from_slice(&[b'\\', char as u8]),
            '\n' => bytes.extend_from_slice(b"\\n"),
            // Control characters are below U+00A0; the other two end lines in JavaScript.
            _ if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
                let _ = write!(bytes, "\\u{:04x}", char as u32);
            }
            _ => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tollway_filter_api::limits::RateLimits;
    use tollway_filter_api::{Deployment, KeyHash, ModelGroup, Plan, RequestView, VirtualKey};
    use tollway_wire::operation::{Dialect, Operation};
    use tollway_wire::price::Cost;
    use tollway_wire::scan::{Limits, scan};
    use tollway_wire::usage::Usage;

    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl LogSink for Lines {
        fn line(&self, line: &[u8]) {
            self.0.lock().push(String::from_utf8(line.to_vec()).expect("a line is UTF-8"));
        }
    }

    /// The lines that are written for one request.
    fn run(
        settings: Value,
        outcome: Outcome,
        change: impl FnOnce(&mut RequestCtx, &Clock),
    ) -> Vec<String> {
        let lines = Arc::new(Lines::default());
        let deps = Deps { log: Arc::clone(&lines) as Arc<dyn LogSink>, ..Deps::for_test() };
        let config = serde_json::from_value(settings).expect("settings are of the right kind");
        let filter = RequestLog::build(config, &deps, Slot(0)).expect("the settings are right");
        let mut ctx = RequestCtx::new("id-1".into(), deps.clock.now(), "/v1/chat/completions");
        change(&mut ctx, &deps.clock);
        filter.end(&mut ctx, outcome);
        lines.0.lock().clone()
    }

    fn full(ctx: &mut RequestCtx, clock: &Clock) {
        let mut key = VirtualKey::new(KeyHash([0xab; 32]));
        key.alias = Some("ci".into());
        key.user = Some("u1".into());
        key.team = Some("t1".into());
        ctx.identity = Some(Arc::new(key));
        ctx.operation = Some(Operation::ChatCompletions);
        ctx.client = Some([10, 0, 0, 1].into());
        ctx.end_user = Some("jane@example.com".into());
        let body = r#"{"model":"gpt","messages":[{"content":"SECRET"}],"stream":true}"#;
        ctx.view = Some(Arc::new(RequestView {
            operation: Operation::ChatCompletions,
            dialect: Dialect::OpenAi,
            form: None,
            object: scan(body.as_bytes(), &Limits::default()).expect("the body is valid"),
            body: Bytes::from_static(body.as_bytes()),
            stream: true,
            include_usage: false,
        }));
        let group = ModelGroup { name: "gpt-group".into(), ..ModelGroup::default() };
        ctx.plan = Some(Plan { requested: "gpt".into(), group: Arc::new(group) });
        let report = &mut ctx.report;
        report.status = Some(200);
        report.attempts = 2;
        report.fallbacks = 1;
        report.deployment = Some(Arc::new(Deployment {
            id: "d-1".into(),
            entry: 0,
            provider: "openai",
            model: "gpt-4o".into(),
            litellm_model: "openai/gpt-4o".into(),
            api_base: "https://api.openai.com/v1".into(),
            price: None,
            max_input_tokens: None,
            max_output_tokens: None,
            limits: RateLimits::default(),
            weight: 1,
        }));
        report.usage = Some(Usage {
            prompt_tokens: 11,
            completion_tokens: 5,
            cache_read_tokens: 4,
            reasoning_tokens: 2,
            ..Usage::default()
        });
        report.cost = Some(Cost { input: PicoDollars(77_500_001), ..Cost::default() });
        report.bytes_sent = 1234;
        clock.advance(Duration::from_millis(2));
        report.upstream_started = Some(clock.now());
        clock.advance(Duration::from_micros(100_250));
        report.first_byte = Some(clock.now());
        clock.advance(Duration::from_millis(40));
        report.upstream_ended = Some(clock.now());
        clock.advance(Duration::from_millis(1));
    }

    #[test]
    fn line_tells_what_is_known() {
        let lines = run(json!({}), Outcome::Done, full);
        assert_eq!(
            lines,
            [concat!(
                r#"{"ts":"2026-01-01T00:00:00.143Z","level":"info","msg":"request","#,
                r#""request_id":"id-1","route":"/v1/chat/completions","#,
                r#""operation":"chat_completions","status":200,"outcome":"done","#,
                r#""key_alias":"ci","key_hash":"abababab","user":"u1","team":"t1","#,
                r#""model_group":"gpt-group","requested_model":"gpt","provider":"openai","#,
                r#""model":"gpt-4o","model_id":"d-1","stream":true,"cache_hit":false,"#,
                r#""attempts":2,"fallbacks":1,"prompt_tokens":11,"completion_tokens":5,"#,
                r#""cached_tokens":4,"reasoning_tokens":2,"cost_usd":0.000077500001,"#,
                r#""latency_ms":143.250,"ttft_ms":100.250,"upstream_ms":140.250,"#,
                r#""overhead_ms":3.000,"bytes_sent":1234}"#
            )]
        );
        serde_json::from_str::<Value>(&lines[0]).expect("a line is JSON");
    }

    #[test]
    fn line_of_a_bare_request_is_short() {
        let lines = run(json!({}), Outcome::ClientGone, |_, _| ());
        assert_eq!(
            lines,
            [concat!(
                r#"{"ts":"2026-01-01T00:00:00.000Z","level":"warn","msg":"request","#,
                r#""request_id":"id-1","route":"/v1/chat/completions","outcome":"client_gone","#,
                r#""latency_ms":0.000,"bytes_sent":0}"#
            )]
        );
    }

    #[test]
    fn personal_data_has_to_be_asked_for() {
        let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
        let plain = run(json!({}), Outcome::Done, full);
        let asked = run(json!({"client_address": true, "end_user": true}), Outcome::Done, full);
        for text in ["10.0.0.1", "jane@example.com"] {
            assert!(!has(&plain, text) && has(&asked, text), "{text}");
        }
    }

    #[test]
    fn content_and_whole_key_hashes_are_never_written() {
        let lines = run(json!({"client_address": true, "end_user": true}), Outcome::Done, full);
        assert!(!lines[0].contains("SECRET"));
        assert!(!lines[0].contains("ababababab"));
    }

    #[test]
    fn level_follows_whose_fault_it_was() {
        let check = |status, outcome, expect| assert_eq!(level(status, outcome), expect);
        check(Some(200), Outcome::Done, Level::Info);
        check(Some(204), Outcome::Done, Level::Info);
        check(Some(429), Outcome::Done, Level::Warn);
        check(Some(200), Outcome::ClientGone, Level::Warn);
        check(None, Outcome::ClientGone, Level::Warn);
        check(Some(503), Outcome::Done, Level::Error);
        check(Some(200), Outcome::Broken, Level::Error);
    }

    #[test]
    fn lower_levels_are_left_out() {
        let count = |setting: &str, status| {
            let change = |ctx: &mut RequestCtx, _: &Clock| ctx.report.status = Some(status);
            run(json!({"level": setting}), Outcome::Done, change).len()
        };
        assert_eq!(["info", "warn", "error"].map(|level| count(level, 200)), [1, 0, 0]);
        assert_eq!(["info", "warn", "error"].map(|level| count(level, 404)), [1, 1, 0]);
        assert_eq!(["info", "warn", "error"].map(|level| count(level, 500)), [1, 1, 1]);
    }

    #[test]
    fn texts_of_others_cannot_break_a_line() {
        let check = |text: &str, expect: &str| {
            let mut bytes = Vec::new();
            push_escaped(&mut bytes, text);
            let have = String::from_utf8(bytes).expect("it is UTF-8");
            assert_eq!(have, expect);
            let back: String = serde_json::from_str(&format!("\"{have}\"")).expect("it is JSON");
            assert_eq!(back, text);
        };
        check("gpt-4o", "gpt-4o");
        check("a\"b\\c", r#"a\"b\\c"#);
        check("a\nb\r\t\0", "a\\nb\\u000d\\u0009\\u0000");
        check("\u{1b}[31m\u{7f}\u{9b}", "\\u001b[31m\\u007f\\u009b");
        check("é\u{2028}😀", "é\\u2028😀");
        let lines = run(json!({}), Outcome::Done, |ctx, _| ctx.id = "x\",\"status\":200\n{".into());
        let line: Value = serde_json::from_str(&lines[0]).expect("a line is JSON");
        assert_eq!(line["request_id"], "x\",\"status\":200\n{");
        assert_eq!(line.get("status"), None);
        assert!(!lines[0].contains('\n'));
    }

    #[test]
    fn room_for_lines_is_not_kept_when_it_was_much() {
        let long = "x".repeat(1_000_000);
        run(json!({}), Outcome::Done, |ctx, _| ctx.id = long.into());
        run(json!({}), Outcome::Done, |_, _| ());
        LINE.with_borrow(|line| assert!(line.capacity() <= LINE_BYTES_KEPT));
    }
}
