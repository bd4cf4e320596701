//! What answers about images and audio say they took.
//!
//! Images: <https://platform.openai.com/docs/api-reference/images/object>; transcriptions:
//! `/docs/api-reference/audio/json-object` and `verbose-json-object`; read 2026-11.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::usage::Usage;

/// The counts of newer models. Older ones have none and are billed by the image or the second.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Details,
    output_tokens_details: Details,
    /// `duration` where a transcription is billed by time.
    #[serde(rename = "type")]
    kind: String,
    seconds: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    image_tokens: u64,
    audio_tokens: u64,
}

impl Counts {
    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.input_tokens,
            completion_tokens: self.output_tokens,
            image_prompt_tokens: self.input_tokens_details.image_tokens,
            audio_prompt_tokens: self.input_tokens_details.audio_tokens,
            image_completion_tokens: self.output_tokens_details.image_tokens,
            ..Usage::default()
        }
    }
}

/// The usage of an answer with images: their number, and tokens where the model counts them.
pub fn usage_of_images(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        data: Vec<IgnoredAny>,
        usage: Option<Counts>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let images = answer.data.len() as u64;
    let mut usage = Usage { images, ..answer.usage.map(|c| c.usage()).unwrap_or_default() };
    // What is written in an answer with images and nothing else is images.
    if usage.image_completion_tokens == 0 {
        usage.image_completion_tokens = usage.completion_tokens;
    }
    Some(usage)
}

/// The usage of a transcription or translation: tokens, or how long the audio was.
pub fn usage_of_transcript(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Answer {
        usage: Option<Counts>,
        duration: Option<f64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let seconds = |seconds: f64| match seconds.is_finite() && seconds > 0.0 {
        // Not more than a year, whatever a provider says.
        true => (seconds.min(31_536_000.0) * 1000.0).ceil() as u64,
        false => 0,
    };
    match answer.usage {
        Some(counts) if counts.kind != "duration" => Some(counts.usage()),
        Some(counts) => {
            let length = counts.seconds.or(answer.duration).unwrap_or_default();
            Some(Usage { audio_ms: seconds(length), ..Usage::default() })
        }
        None => Some(Usage { audio_ms: seconds(answer.duration?), ..Usage::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_and_so_are_their_tokens() {
        let usage = usage_of_images(br#"{"created":1,"data":[{"url":"x"},{"url":"y"}]}"#);
        assert_eq!(usage, Some(Usage { images: 2, ..Usage::default() }));
        let usage = usage_of_images(
            br#"{"data":[{"b64_json":"x"}],"usage":{"input_tokens":50,"output_tokens":100,
                "total_tokens":150,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#,
        );
        let expect = Usage {
            images: 1,
            prompt_tokens: 50,
            completion_tokens: 100,
            image_prompt_tokens: 40,
            image_completion_tokens: 100,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expect));
        assert_eq!(usage_of_images(b"x"), None);
    }

    #[test]
    fn transcripts_take_tokens_or_time() {
        let by_time = |ms| Some(Usage { audio_ms: ms, ..Usage::default() });
        let check = |body: &str, usage| assert_eq!(usage_of_transcript(body.as_bytes()), usage);
        check(r#"{"text":"a","usage":{"type":"duration","seconds":9}}"#, by_time(9_000));
        check(r#"{"text":"a","duration":8.4701}"#, by_time(8_471));
        check(r#"{"text":"a"}"#, None);
        check(
            r#"{"text":"a","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,
                "input_token_details":{"text_tokens":0,"audio_tokens":14}}}"#,
            Some(Usage { prompt_tokens: 14, completion_tokens: 45, ..Usage::default() }),
        );
    }
}
