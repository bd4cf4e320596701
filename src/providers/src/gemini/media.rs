//! Images, documents, audio and video: OpenAI's URLs and data URLs as Gemini's `inlineData` and
//! `fileData`.
//!
//! Google fetches http URLs itself (<https://ai.google.dev/gemini-api/docs/file-input-methods>), as it
//! does `gs://` URIs and those of its Files API, so nothing is downloaded here.

use serde_json::{Value, json};
use tollway_wire::openai::request::{FilePart, ImageUrl, Part};

use crate::RequestError;
use crate::media::parse_data_url;
use crate::messages::{file_of, invalid, not_base64, without_data, without_image};

/// Where AI Studio keeps uploaded files.
const FILES: &str = "https://generativelanguage.googleapis.com/v1beta/";

/// What kind of media a part holds, for URLs that do not tell.
const IMAGE: &str = "image/jpeg";
const VIDEO: &str = "video/mp4";
const DOCUMENT: &str = "application/pdf";

/// Translates an `image_url`, `video_url`, `input_audio` or `file` part. `None` if it is another.
pub(super) fn media(at: usize, part: &mut Part) -> Result<Option<Value>, RequestError> {
    Ok(Some(match part.kind.as_str() {
        "image_url" => match part.image_url.take() {
            Some(ImageUrl::Url(url)) => by_url(at, &url, None, IMAGE)?,
            Some(ImageUrl::Object { url, format, .. }) => by_url(at, &url, format, IMAGE)?,
            None => return Err(without_image(at)),
        },
        "video_url" => {
            let video = part.extra.get("video_url").unwrap_or(&Value::Null);
            let url = video.as_str().or_else(|| video["url"].as_str());
            let url = url.ok_or_else(|| invalid(at, "a video_url part has no `video_url`"))?;
            let format = video["format"].as_str().map(str::to_owned);
            by_url(at, url, format, VIDEO)?
        }
        "input_audio" => {
            let audio = part.extra.get("input_audio").unwrap_or(&Value::Null);
            let (data, format) = (audio["data"].as_str(), audio["format"].as_str());
            let data = data.ok_or_else(|| invalid(at, "an input_audio part has no data"))?;
            match parse_data_url(data) {
                Some((media_type, data)) => inline(media_type, data),
                None => inline(&audio_type(format.unwrap_or("wav")), data),
            }
        }
        "file" => file_part(at, file_of(at, part.file.take())?)?,
        _ => return Ok(None),
    }))
}

fn file_part(at: usize, file: FilePart) -> Result<Value, RequestError> {
    let mut part = match (file.file_data, file.file_id) {
        (Some(data), _) => match parse_data_url(&data) {
            Some((media_type, data)) => inline(file.format.as_deref().unwrap_or(media_type), data),
            None if data.starts_with("data:") => {
                return Err(not_base64(at));
            }
            // Bare base64, which OpenAI refuses and LiteLLM takes.
            None => {
                let named = file.filename.as_deref().and_then(type_of_path);
                let media_type = file.format.as_deref().or(named);
                inline(media_type.unwrap_or(DOCUMENT), &data)
            }
        },
        (None, Some(id)) => by_url(at, &id, file.format, DOCUMENT)?,
        (None, None) => {
            return Err(without_data(at));
        }
    };
    // LiteLLM's member for cuts and frame rates.
    if let Some(video) = file.extra.get("video_metadata").filter(|video| video.is_object()) {
        part["videoMetadata"] = video.clone();
    }
    Ok(part)
}

fn by_url(
    at: usize,
    url: &str,
    format: Option<String>,
    default: &str,
) -> Result<Value, RequestError> {
    if let Some((media_type, data)) = parse_data_url(url) {
        let media_type = if media_type.is_empty() { default } else { media_type };
        return Ok(inline(format.as_deref().unwrap_or(media_type), data));
    }
    let is_uri = ["https://", "http://", "gs://"].iter().any(|scheme| url.starts_with(scheme));
    let uri = match url.strip_prefix("files/") {
        Some(_) => format!("{FILES}{url}"),
        None if is_uri => url.to_owned(),
        None => {
            return Err(invalid(
                at,
                "a file is neither a base64 data URL, nor an http or gs URL, nor one of Google's files",
            ));
        }
    };
    // The Files API knows what its files are.
    let is_uploaded = uri.starts_with(FILES);
    let named = type_of_path(url.split(['?', '#']).next().unwrap_or_default());
    let media_type = format.or_else(|| match named {
        Some(named) => Some(named.to_owned()),
        None => (!is_uploaded).then(|| default.to_owned()),
    });
    let mut file = json!({"fileUri": uri});
    if let Some(media_type) = media_type {
        file["mimeType"] = known_type(&media_type).into();
    }
    Ok(json!({"fileData": file}))
}

fn inline(media_type: &str, data: &str) -> Value {
    json!({"inlineData": {"mimeType": known_type(media_type), "data": data}})
}

/// Google knows JPEG by its registered name only.
fn known_type(media_type: &str) -> String {
    let media_type = media_type.trim().to_ascii_lowercase();
    if media_type == "image/jpg" { IMAGE.to_owned() } else { media_type }
}

fn audio_type(format: &str) -> String {
    if format.contains('/') { format.to_owned() } else { format!("audio/{format}") }
}

/// The media type a path's ending tells.
fn type_of_path(path: &str) -> Option<&'static str> {
    let (_, ending) = path.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "gif" => "image/gif",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "md" => "text/markdown",
        "html" | "htm" => "text/html",
        "csv" => "text/csv",
        "json" => "application/json",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "ogg" => "audio/ogg",
        "aac" => "audio/aac",
        "m4a" => "audio/m4a",
        "mp4" => "video/mp4",
        "mov" => "video/mov",
        "webm" => "video/webm",
        "mpeg" | "mpg" => "video/mpeg",
        _ => return None,
    })
}
