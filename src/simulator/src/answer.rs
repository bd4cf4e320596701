//! What the simulated model says, whatever dialect it is asked in.
//!
//! A token is a piece: up to four bytes of a word, with the blanks before it. A stream sends one
//! piece per content chunk, so `tokens=200` is 200 chunks and is billed as 200 tokens.

use serde_json::{Map, Value};

use crate::ask::{Ask, ToolChoice};
use crate::reply::{Call, Finish, Reply};

/// The simulated models, as `GET /models` lists them, each with what it does.
pub(crate) const MODELS: [(&str, &str); 6] = [
    ("chat", "says that it is simulated and repeats what you said"),
    ("echo", "repeats the last user message and nothing else"),
    ("slow", "as chat, with a second before the first token and five tokens per second"),
    ("think", "as chat, after thinking aloud"),
    ("tools", "calls a tool if the request offers one, and reports its result"),
    ("embed", "embeddings: unit vectors in which texts that share words are close"),
];

/// Whether this is one of the simulated models, with or without the `demo/` in front.
pub(crate) fn is_known(model: &str) -> bool {
    MODELS.iter().any(|(name, _)| *name == base_name(model))
}

/// The model's name without the `demo/` under which the gateway offers it.
pub(crate) fn base_name(model: &str) -> &str {
    model.strip_prefix("demo/").unwrap_or(model)
}

/// Cuts a text into tokens; joined, they are the text again.
#[derive(Clone)]
pub(crate) struct Pieces<'a>(pub(crate) &'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (mut word, mut end) = (0, 0);
        for (at, c) in self.0.char_indices() {
            let length = c.len_utf8();
            if c.is_whitespace() {
                if word > 0 {
                    break;
                }
            } else {
                if word > 0 && word + length > 4 {
                    break;
                }
                word += length;
            }
            end = at + length;
        }
        // Blanks at the very end go with the last word.
        if self.0[end..].trim_start().is_empty() {
            end = self.0.len();
        }
        let (piece, rest) = self.0.split_at(end);
        self.0 = rest;
        (!piece.is_empty()).then_some(piece)
    }
}

/// How many tokens a text is.
pub(crate) fn count_tokens(text: &str) -> u64 {
    Pieces(text).count() as u64
}

/// What the simulated model says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) thinking: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) finish: Option<Finish>,
    /// The stop sequence that ended the text.
    pub(crate) stopped_by: Option<String>,
}

/// One step of an answer: what one content chunk carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delta<'a> {
    Thinking(&'a str),
    Text(&'a str),
    Call(usize, &'a Call),
    Arguments(usize, &'a str),
}

impl Delta<'_> {
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Delta::Call(_, call) => count_tokens(&call.name),
            _ => 1,
        }
    }
}

impl Answer {
    /// The answer's steps in order.
    pub(crate) fn deltas(&self) -> impl Iterator<Item = Delta<'_>> {
        let thinking = Pieces(&self.thinking).map(Delta::Thinking);
        let text = Pieces(&self.text).map(Delta::Text);
        let calls = self.calls.iter().enumerate().flat_map(|(index, call)| {
            let arguments =
                Pieces(&call.arguments).map(move |piece| Delta::Arguments(index, piece));
            std::iter::once(Delta::Call(index, call)).chain(arguments)
        });
        thinking.chain(text).chain(calls)
    }

    /// How many tokens the whole answer is.
    pub(crate) fn tokens(&self) -> u64 {
        self.deltas().map(|delta| delta.tokens()).sum()
    }

    /// The reason the answer ends for, if it is allowed this many tokens.
    pub(crate) fn finish(&self, max_tokens: u64) -> Finish {
        match self.finish {
            Some(finish) => finish,
            None if self.tokens() > max_tokens => Finish::Length,
            None if self.calls.is_empty() => Finish::Stop,
            None => Finish::ToolCalls,
        }
    }

    /// What is left of the answer when it is allowed this many tokens.
    pub(crate) fn cut(&self, max_tokens: u64) -> Answer {
        let mut cut = Answer { finish: Some(self.finish(max_tokens)), ..Answer::default() };
        cut.stopped_by.clone_from(&self.stopped_by);
        let mut used = 0;
        for delta in self.deltas() {
            used += delta.tokens();
            if used > max_tokens {
                break;
            }
            match delta {
                Delta::Thinking(piece) => cut.thinking.push_str(piece),
                Delta::Text(piece) => cut.text.push_str(piece),
                Delta::Call(_, call) => {
                    cut.calls.push(Call { name: call.name.clone(), arguments: String::new() });
                }
                Delta::Arguments(_, piece) => {
                    if let Some(call) = cut.calls.last_mut() {
                        call.arguments.push_str(piece);
                    }
                }
            }
        }
        cut
    }
}

/// Decides what the model says to this, given what the script wants.
pub(crate) fn answer(ask: &Ask, reply: &Reply) -> Answer {
    let model = base_name(&ask.model);
    let mut answer = Answer { finish: reply.finish, ..Answer::default() };
    answer.calls = calls(ask, reply);
    if let Some(thinking) = &reply.think {
        answer.thinking.clone_from(thinking);
    } else if ask.think || model == "think" {
        answer.thinking =
            format!("I am simulated, so nothing is thought here. They said: {}", brief(&ask.said));
    }
    answer.text = match &reply.say {
        Some(text) => text.clone(),
        None if !answer.calls.is_empty() => String::new(),
        None if !ask.tool_results.is_empty() => {
            format!("The tool answered: {}", ask.tool_results.join("; "))
        }
        None if model == "echo" => ask.said.clone(),
        None if ask.json => {
            let mut object = Map::new();
            object.insert("simulated".into(), Value::Bool(true));
            object.insert("you_said".into(), Value::String(ask.said.clone()));
            Value::Object(object).to_string()
        }
        None => canned(&ask.said),
    };
    let stop = ask.stop.iter().filter(|stop| !stop.is_empty());
    let first = stop.filter_map(|stop| Some((answer.text.find(stop.as_str())?, stop))).min();
    if let Some((at, stop)) = first {
        answer.text.truncate(at);
        answer.stopped_by = Some(stop.clone());
    }
    answer
}

fn canned(said: &str) -> String {
    format!("This is Tollway's simulated provider; no model was asked. You said: {}", brief(said))
}

/// The beginning of a text.
fn brief(text: &str) -> String {
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The tool calls to make now. A script's rounds come first; then the caller's `tool_choice`;
/// then the `tools` model's own idea. What was answered already is not called again.
fn calls(ask: &Ask, reply: &Reply) -> Vec<Call> {
    if !reply.rounds.is_empty() {
        let last = reply.rounds.len() - 1;
        let round = if reply.forever { ask.rounds_done.min(last) } else { ask.rounds_done };
        return reply.rounds.get(round).cloned().unwrap_or_default();
    }
    // A scripted text is the answer; the model does not add calls to it.
    if reply.say.is_some() || !ask.tool_results.is_empty() {
        return Vec::new();
    }
    let wanted = match &ask.tool_choice {
        ToolChoice::None => None,
        ToolChoice::Named(name) => ask.tools.iter().find(|tool| tool.name == *name),
        ToolChoice::Auto if base_name(&ask.model) != "tools" => None,
        ToolChoice::Auto | ToolChoice::Required => ask
            .tools
            .iter()
            .find(|tool| !tool.name.is_empty() && ask.said.contains(&tool.name))
            .or(ask.tools.first()),
    };
    let call = wanted.map(|tool| Call {
        name: tool.name.clone(),
        arguments: match sample(&tool.schema, &ask.said, 0) {
            object @ Value::Object(_) => object.to_string(),
            _ => "{}".to_owned(),
        },
    });
    call.into_iter().collect()
}

/// A value that fits a JSON schema, near enough for a demonstration.
fn sample(schema: &Value, said: &str, depth: u32) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.get("default")) {
        return value.clone();
    }
    if let Some(value) = schema.get("enum").and_then(|values| values.get(0)) {
        return value.clone();
    }
    let kind = match schema.get("type") {
        // Gemini writes them in capitals.
        Some(Value::String(kind)) => &*kind.to_ascii_lowercase(),
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or_default(),
        _ if schema.get("properties").is_some() => "object",
        _ => "string",
    };
    match kind {
        "object" => {
            let mut object = Map::new();
            let required = schema.get("required").and_then(Value::as_array);
            for name in required.into_iter().flatten().filter_map(Value::as_str).take(64) {
                let property = &schema["properties"][name];
                let value = if depth < 8 { sample(property, said, depth + 1) } else { Value::Null };
                object.insert(name.to_owned(), value);
            }
            Value::Object(object)
        }
        "array" => Value::Array(Vec::new()),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
        "boolean" => Value::Bool(true),
        "null" => Value::Null,
        _ => Value::String(brief(said)),
    }
}

/// A unit vector for a text: the same for the same text, and near to that of a text that shares
/// words with it, so that a semantic cache has something to find.
pub(crate) fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; dimensions];
    // The bound keeps a very long text from taking very long.
    let mut words = 0;
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(64)
    {
        add_direction(&mut sum, word.to_lowercase().as_bytes());
        words += 1;
    }
    if words == 0 {
        add_direction(&mut sum, text.as_bytes());
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    sum.iter().map(|x| (x / norm) as f32).collect()
}

/// Numbers as JSON, with no more digits than a 32-bit number has.
pub(crate) fn numbers(numbers: &[f32]) -> Value {
    numbers.iter().map(|x| x.to_string().parse::<f64>().unwrap_or_default()).collect()
}

/// Adds a direction drawn from the hash of these bytes: FNV-1a, spread out by splitmix64.
fn add_direction(sum: &mut [f64], bytes: &[u8]) {
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    for x in sum {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // Odd numerators: never zero, so that a sum of one word has a length.
        *x += ((z >> 12 << 1) | 1) as f64 / (1_u64 << 52) as f64 - 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_text_and_are_at_most_four_bytes_of_a_word() {
        for text in
            ["", " ", "a", "one two", "  simulated  provider \n", "日本語 🦀🦀", "\u{a0}x\u{a0}"]
        {
            let pieces: Vec<&str> = Pieces(text).collect();
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| piece.trim().len() <= 4), "{pieces:?}");
        }
        assert_eq!(Pieces("simulated one").collect::<Vec<_>>(), ["simu", "late", "d", " one"]);
        assert_eq!(count_tokens("a b c"), 3);
    }

    #[test]
    fn a_cut_answer_has_the_allowed_tokens_and_finishes_for_length() {
        let call = Call { name: "find".into(), arguments: r#"{"query":1}"#.into() };
        let answer = Answer { text: "one two".into(), calls: vec![call], ..Answer::default() };
        for max in 0..answer.tokens() {
            let cut = answer.cut(max);
            assert_eq!((cut.tokens(), cut.finish(max)), (max, Finish::Length));
        }
        assert_eq!(answer.cut(100).finish(100), Finish::ToolCalls);
    }

    #[test]
    fn embeddings_are_unit_vectors_and_nearer_when_words_are_shared() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let [a, b, c] = ["how is the weather", "How is the weather?!", "tax law of 1930"]
            .map(|text| embedding(text, 64));
        assert!((dot(&a, &a) - 1.0).abs() < 1e-5);
        assert!(dot(&a, &b) > 0.999);
        assert!(dot(&a, &c) < 0.8);
        for text in ["", " ", "?"] {
            assert!(embedding(text, 1).iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn sampled_arguments_fit_the_schema() {
        let schema = serde_json::json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["c", "f"]},
                "days": {"type": "integer", "minimum": 3},
                "extra": {"type": "string"}
            },
            "required": ["city", "unit", "days"]
        });
        assert_eq!(
            sample(&schema, "Ulm", 0),
            serde_json::json!({"city": "Ulm", "unit": "c", "days": 3})
        );
    }
}
