//! OpenAI's endpoints for pictures, sound, moderation, and reranking, the last in Cohere's form.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::answer::{Pieces, count_tokens, embedding};
use crate::ask::{Problem, optional_bool, optional_number, required_text, texts};
use crate::dialect::{Dialect, data, named};
use crate::encoding::base64;
use crate::flight::{Body, Finished};
use crate::multipart::Form;
use crate::openai::{CREATED, model_of};
use crate::reply::Reply;

/// A picture of one pixel, in base64.
pub(crate) const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// Pictures one request may ask for.
const PICTURES_MAX: u64 = 10;
/// Texts one request may have moderated.
const TEXTS_MAX: usize = 1000;
/// Tokens of a text that are spoken; the rest is not.
const SPOKEN_MAX: usize = 20_000;
/// Documents one request may have ranked.
const DOCUMENTS_MAX: usize = 1000;

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Answers a moderation: a text is flagged for each category whose name stands in it.
pub(crate) fn moderation(body: &Value) -> Result<Finished, Problem> {
    let mut inputs = texts(body.get("input"));
    let parts = body["input"].as_array().into_iter().flatten();
    let parts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
    if !parts.is_empty() {
        // Parts with types are one input together.
        inputs = vec![parts.join("\n")];
    }
    if inputs.is_empty() || inputs.len() > TEXTS_MAX {
        let message = format!("input must be 1 to {TEXTS_MAX} texts");
        return Err(Problem::invalid(message));
    }
    let results: Vec<Value> = inputs
        .iter()
        .map(|input| {
            let (mut categories, mut scores, mut types) = (Map::new(), Map::new(), Map::new());
            for name in CATEGORIES {
                let found = input.contains(name);
                categories.insert(name.to_owned(), found.into());
                scores.insert(name.to_owned(), if found { 0.9 } else { 0.000_01 }.into());
                types.insert(name.to_owned(), if found { json!(["text"]) } else { json!([]) });
            }
            json!({
                "flagged": categories.values().any(|found| found == true),
                "categories": categories,
                "category_scores": scores,
                "category_applied_input_types": types,
            })
        })
        .collect();
    let model = body["model"].as_str().unwrap_or("omni-moderation-latest");
    let mut answer = Finished::json(&json!({
        "id": "modr-sim",
        "model": model,
        "results": results,
    }));
    // Moderation costs nothing, but it is a request.
    answer.billed = Some(0);
    answer.said = inputs.join("\n");
    Ok(answer)
}

/// Answers a reranking: documents that share words with the query come first.
pub(crate) fn rerank(body: &Value, dialect: Dialect) -> Result<Finished, Problem> {
    let model = required_text(body, "model")?;
    let query = required_text(body, "query")?;
    let documents: Vec<String> = match body.get("documents") {
        Some(Value::Array(all)) if !all.is_empty() && all.len() <= DOCUMENTS_MAX => all
            .iter()
            .map(|document| match (document.as_str(), document["text"].as_str()) {
                (Some(text), _) | (None, Some(text)) => text.to_owned(),
                (None, None) => document.to_string(),
            })
            .collect(),
        _ => {
            let message = format!("documents must be a list of 1 to {DOCUMENTS_MAX}");
            return Err(Problem::invalid(message));
        }
    };
    let wanted = embedding(&query, 64);
    let mut scores: Vec<(usize, f64)> = documents
        .iter()
        .map(|text| {
            let near: f32 = embedding(text, 64).iter().zip(&wanted).map(|(a, b)| a * b).sum();
            // Rounded, so that the numbers are short.
            f64::from((near.clamp(0.0, 1.0) * 1e6).round()) / 1e6
        })
        .enumerate()
        .collect();
    scores.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let top = optional_number(body, "top_n")?.unwrap_or(u64::MAX);
    scores.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    let returned = dialect == Dialect::Chat && optional_bool(body, "return_documents")?;
    let results: Vec<Value> = scores
        .into_iter()
        .map(|(index, score)| {
            let mut result = json!({"index": index, "relevance_score": score});
            if returned {
                result["document"] = json!({"text": documents[index]});
            }
            result
        })
        .collect();
    let tokens =
        count_tokens(&query) + documents.iter().map(|text| count_tokens(text)).sum::<u64>();
    let version = if dialect == Dialect::Cohere { "2" } else { "1" };
    let mut answer = json!({
        "id": "sim-rerank",
        "results": results,
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": documents.len().div_ceil(100)},
        },
    });
    if dialect == Dialect::Chat {
        // As Jina and others have it.
        answer["model"] = model.into();
        answer["usage"] = json!({"total_tokens": tokens, "prompt_tokens": tokens});
    }
    let mut answer = Finished::json(&answer);
    (answer.billed, answer.said) = (Some(tokens), query);
    Ok(answer)
}

/// The picture's bytes.
pub(crate) fn picture() -> Finished {
    let bytes = crate::encoding::from_base64(PICTURE).unwrap_or_default();
    Finished::new("image/png", Body::Whole(bytes.into()))
}

/// What a request for pictures wants, in JSON or in a form.
pub(crate) struct Pictures {
    pub(crate) prompt: String,
    pub(crate) count: u64,
    /// As addresses, not in the answer itself.
    pub(crate) urls: bool,
    pub(crate) stream: bool,
    pub(crate) partial: u64,
}

impl Pictures {
    pub(crate) fn from_json(body: &Value) -> Result<Pictures, Problem> {
        Ok(Pictures {
            prompt: required_text(body, "prompt")?,
            count: optional_number(body, "n")?.unwrap_or(1),
            urls: body["response_format"] == "url",
            stream: optional_bool(body, "stream")?,
            partial: optional_number(body, "partial_images")?.unwrap_or(0),
        })
    }

    pub(crate) fn from_form(form: &Form) -> Result<Pictures, Problem> {
        form.file("image")?;
        let number = |name: &str, default: u64| match form.text(name) {
            None => Ok(default),
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| Problem::invalid(format!("{name} must be a whole number"))),
        };
        Ok(Pictures {
            prompt: form.text("prompt").unwrap_or_default(),
            count: number("n", 1)?,
            urls: form.text("response_format").as_deref() == Some("url"),
            stream: form.text("stream").as_deref() == Some("true"),
            partial: number("partial_images", 0)?,
        })
    }

    /// Answers; `kind` is what the events of a stream are about.
    pub(crate) fn finish(self, kind: &str, host: &str) -> Result<Finished, Problem> {
        if !(1..=PICTURES_MAX).contains(&self.count) || self.partial > 3 {
            return Err(Problem::invalid(format!("n must be from 1 to {PICTURES_MAX}")));
        }
        let tokens = count_tokens(&self.prompt);
        let drawn = 10 * self.count;
        let usage = json!({
            "input_tokens": tokens,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": tokens},
            "output_tokens": drawn,
            "output_tokens_details": {"image_tokens": drawn, "text_tokens": 0},
            "total_tokens": tokens + drawn,
        });
        let mut answer = match self.stream {
            true => {
                let event = |what: &str| {
                    json!({
                        "type": format!("{kind}.{what}"),
                        "b64_json": PICTURE,
                        "created_at": CREATED,
                        "size": "1024x1024",
                        "quality": "low",
                        "background": "opaque",
                        "output_format": "png",
                    })
                };
                let mut events: Vec<Bytes> = (0..self.partial)
                    .map(|index| {
                        let mut partial = event("partial_image");
                        partial["partial_image_index"] = index.into();
                        named(&partial).into()
                    })
                    .collect();
                let mut last = event("completed");
                last["usage"] = usage;
                events.push(named(&last).into());
                Finished::new(Dialect::Chat.stream_type(), Body::Pieces(events))
            }
            false => {
                let image = match self.urls {
                    true => json!({"url": format!("http://{host}/simulated.png")}),
                    false => json!({"b64_json": PICTURE}),
                };
                Finished::json(&json!({
                    "created": CREATED,
                    "background": "opaque",
                    "output_format": "png",
                    "quality": "low",
                    "size": "1024x1024",
                    "data": vec![image; self.count as usize],
                    "usage": usage,
                }))
            }
        };
        (answer.billed, answer.said) = (Some(tokens), self.prompt);
        Ok(answer)
    }
}

/// Answers speech: silence in the formats without compression, and in the others bytes that say
/// they are none. Each token of the text is a chunk of the answer.
pub(crate) fn speech(body: &Value, model: Option<&str>) -> Result<Finished, Problem> {
    model_of(body, model)?;
    let text = required_text(body, "input")?;
    // Some providers take the voice as an object.
    if body.get("voice").is_none_or(Value::is_null) {
        return Err(Problem::invalid("you must provide a voice parameter"));
    }
    let format = body["response_format"].as_str().unwrap_or("mp3");
    let kind = match format {
        "mp3" => "audio/mpeg",
        "opus" => "audio/ogg",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        "pcm" => "audio/pcm",
        _ => return Err(Problem::invalid("response_format: mp3, opus, aac, flac, wav or pcm")),
    };
    let (reply, kept) = Reply::from_text(&text).unwrap_or_else(|_| (None, text.clone()));
    // A text that is asked for stands for the one that is spoken, so that its length can be chosen.
    let spoken = reply.and_then(|reply| reply.say).unwrap_or(kept);
    let tokens = Pieces(&spoken).take(SPOKEN_MAX).count() as u64;
    let sound = |piece: &str| match format {
        "wav" | "pcm" => vec![0; 480],
        _ => format!("[simulated {format}:{piece}]").into_bytes(),
    };
    let mut pieces: Vec<Vec<u8>> = Pieces(&spoken).take(SPOKEN_MAX).map(sound).collect();
    if format == "wav" {
        pieces.insert(0, wav_head(pieces.len() * 480));
    }
    let mut answer = match body["stream_format"] == "sse" {
        true => {
            let mut events: Vec<Bytes> = pieces
                .iter()
                .map(|piece| {
                    let event = json!({"type": "speech.audio.delta", "audio": base64(piece)});
                    data(&event).into()
                })
                .collect();
            let usage = json!({
                "input_tokens": tokens,
                "output_tokens": tokens,
                "total_tokens": 2 * tokens,
            });
            let done = json!({"type": "speech.audio.done", "usage": usage});
            events.push(data(&done).into());
            Finished::new(Dialect::Chat.stream_type(), Body::Pieces(events))
        }
        false => {
            let pieces = pieces.into_iter().map(Bytes::from).collect();
            Finished::new(kind, Body::Pieces(pieces))
        }
    };
    (answer.billed, answer.said) = (Some(tokens), text);
    Ok(answer)
}

/// The head of a WAV file: one channel, 24 000 samples of 16 bits in a second.
fn wav_head(bytes: usize) -> Vec<u8> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut head = b"RIFF".to_vec();
    head.extend_from_slice(&bytes.saturating_add(36).to_le_bytes());
    head.extend_from_slice(b"WAVEfmt ");
    for (value, size) in [(16_u32, 4), (1, 2), (1, 2), (24_000, 4), (48_000, 4), (2, 2), (16, 2)] {
        head.extend_from_slice(&value.to_le_bytes()[..size]);
    }
    head.extend_from_slice(b"data");
    head.extend_from_slice(&bytes.to_le_bytes());
    head
}

/// A transcription or translation that is wanted. What it says is decided late, by the script.
pub(crate) struct Transcript {
    pub(crate) model: String,
    /// The form's prompt, in which directives may stand.
    pub(crate) said: String,
    bytes: usize,
    format: String,
    stream: bool,
    task: &'static str,
    language: String,
}

impl Transcript {
    pub(crate) fn read(
        form: &Form,
        model: Option<&str>,
        task: &'static str,
    ) -> Result<Transcript, Problem> {
        let model = match model {
            Some(model) => model.to_owned(),
            None => form.required_text("model")?,
        };
        let format = form.text("response_format").unwrap_or_else(|| "json".to_owned());
        if !["json", "text", "srt", "vtt", "verbose_json"].contains(&format.as_str()) {
            let message = "response_format: json, text, srt, vtt or verbose_json";
            return Err(Problem::invalid(message));
        }
        Ok(Transcript {
            model,
            said: form.text("prompt").unwrap_or_default(),
            bytes: form.file("file")?.bytes.len(),
            format,
            stream: form.text("stream").as_deref() == Some("true"),
            task,
            language: form.text("language").unwrap_or_else(|| "english".to_owned()),
        })
    }

    /// Answers. A second of sound is a token of its text.
    pub(crate) fn finish(self, reply: &Reply) -> Finished {
        let text = reply.say.clone().unwrap_or_else(|| {
            let bytes = self.bytes;
            format!("This is Tollway's simulated provider; nobody listened to the {bytes} bytes.")
        });
        let tokens = count_tokens(&text);
        let seconds = tokens.max(1);
        let clock = |mark: char| {
            let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            format!("00:00:00{mark}000 --> {hours:02}:{minutes:02}:{rest:02}{mark}000")
        };
        let duration = json!({"type": "duration", "seconds": seconds});
        let plain = |kind, text: String| Finished::new(kind, Body::Whole(text.into()));
        let mut answer = match self.format.as_str() {
            _ if self.stream => {
                let mut events: Vec<Bytes> = Pieces(&text)
                    .map(|piece| {
                        data(&json!({"type": "transcript.text.delta", "delta": piece})).into()
                    })
                    .collect();
                let usage = json!({
                    "type": "tokens",
                    "input_tokens": seconds,
                    "input_token_details": {"audio_tokens": seconds, "text_tokens": 0},
                    "output_tokens": tokens,
                    "total_tokens": seconds + tokens,
                });
                let done = json!({"type": "transcript.text.done", "text": text, "usage": usage});
                events.push(data(&done).into());
                Finished::new(Dialect::Chat.stream_type(), Body::Pieces(events))
            }
            "text" => plain("text/plain; charset=utf-8", format!("{text}\n")),
            "srt" => plain("text/plain; charset=utf-8", format!("1\n{}\n{text}\n\n", clock(','))),
            "vtt" => {
                plain("text/plain; charset=utf-8", format!("WEBVTT\n\n{}\n{text}\n\n", clock('.')))
            }
            "verbose_json" => Finished::json(&json!({
                "task": self.task,
                "language": self.language,
                "duration": seconds,
                "text": text,
                "segments": [{
                    "id": 0,
                    "seek": 0,
                    "start": 0.0,
                    "end": seconds,
                    "text": text,
                    "tokens": [],
                    "temperature": 0.0,
                    "avg_logprob": -0.1,
                    "compression_ratio": 1.0,
                    "no_speech_prob": 0.0,
                }],
                "usage": duration,
            })),
            _ => Finished::json(&json!({"text": text, "usage": duration})),
        };
        answer.billed = Some(seconds);
        answer
    }
}
