//! Images, documents, audio and video: OpenAI's data URLs as Converse's bytes and formats
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html>, 2026-11).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{FilePart, ImageUrl, Part};

use crate::RequestError;
use crate::media::{is_url, parse_data_url};
use crate::messages::{invalid, not_base64, without_data};

use super::messages::DocumentNames;

/// The longest name of a document.
const NAME_CHARS_MAX: usize = 200;

/// Base64 that need not be padded.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Base64 as Converse takes it: AWS's blobs are padded, in the standard alphabet and on one line.
pub(super) fn blob(data: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let padding = data.bytes().rev().take_while(|byte| *byte == b'=').count();
    let text = &data[..data.len() - padding];
    if data.len().is_multiple_of(4) && padding <= 2 && !text.is_empty() && text.bytes().all(good) {
        return Some(data.to_owned());
    }
    let text: String = data
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    let bytes = LENIENT.decode(text).ok().filter(|bytes| !bytes.is_empty())?;
    Some(LENIENT.encode(bytes))
}

/// What a source is: bytes in place, or an object in S3.
fn source(at: usize, data: &str) -> Result<Value, RequestError> {
    let bytes = blob(data).ok_or_else(|| invalid(at, "the data is not base64"))?;
    Ok(json!({"bytes": bytes}))
}

fn s3(uri: &str, extra: &Map<String, Value>) -> Value {
    let mut location = json!({"uri": uri});
    if let Some(owner) = extra.get("bucketOwner").filter(|owner| owner.is_string()) {
        location["bucketOwner"] = owner.clone();
    }
    json!({"s3Location": location})
}

/// A URL that Bedrock would have to fetch, which it does not.
fn refuse_url(at: usize, what: &str) -> RequestError {
    invalid(at, format_args!("bedrock does not fetch {what}; send it as a base64 data URL"))
}

/// The media type without its parameters, in small letters.
fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The last part of a URL's path after its dot.
fn extension(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, end)| end)
}

/// The block of an image, by data URL or `s3://`; a document among them becomes one.
pub(super) fn image(
    at: usize,
    image: ImageUrl,
    names: &mut DocumentNames,
) -> Result<Value, RequestError> {
    let (url, format, extra) = match image {
        ImageUrl::Url(url) => (url, None, Map::new()),
        ImageUrl::Object { url, format, extra } => (url, format, extra),
    };
    if url.starts_with("s3://") {
        let format = image_format(at, format.as_deref().unwrap_or(extension(&url)))?;
        return Ok(json!({"image": {"format": format, "source": s3(&url, &extra)}}));
    }
    if let Some((media_type, data)) = parse_data_url(&url) {
        let media_type = bare(format.as_deref().unwrap_or(media_type));
        if document_format(&media_type).is_some() {
            return document(at, &media_type, source(at, data)?, None, names);
        }
        let format = image_format(at, &media_type)?;
        return Ok(json!({"image": {"format": format, "source": source(at, data)?}}));
    }
    if is_url(&url) {
        return Err(refuse_url(at, "images"));
    }
    Err(invalid(at, "an image is neither a base64 data URL nor an s3 URI"))
}

fn image_format(at: usize, media_type: &str) -> Result<&'static str, RequestError> {
    Ok(match media_type.trim_start_matches("image/") {
        "png" => "png",
        "jpeg" | "jpg" => "jpeg",
        "gif" => "gif",
        "webp" => "webp",
        _ => return Err(invalid(at, "an image is none of png, jpeg, gif or webp")),
    })
}

/// The block of a file: a document, an image or a video by its type.
pub(super) fn file(
    at: usize,
    file: FilePart,
    extra: &Map<String, Value>,
    names: &mut DocumentNames,
) -> Result<Value, RequestError> {
    let name = file.filename.as_deref();
    let of_name = |name: Option<&str>| name.map(extension).unwrap_or_default().to_owned();
    let (media_type, source) = match (&file.file_data, &file.file_id) {
        (Some(data), _) => match parse_data_url(data) {
            Some((media_type, data)) => {
                (bare(file.format.as_deref().unwrap_or(media_type)), source(at, data)?)
            }
            None if data.starts_with("data:") => {
                return Err(not_base64(at));
            }
            // Bare base64, which OpenAI refuses and LiteLLM takes.
            None => {
                let media_type = file.format.as_deref().map_or_else(|| of_name(name), bare);
                (if media_type.is_empty() { "pdf".into() } else { media_type }, source(at, data)?)
            }
        },
        (None, Some(id)) if id.starts_with("s3://") => {
            let media_type = file.format.as_deref().map_or_else(|| of_name(Some(id)), bare);
            (media_type, s3(id, &file.extra))
        }
        (None, Some(id)) if is_url(id) => return Err(refuse_url(at, "files")),
        (None, Some(_)) => return Err(invalid(at, "bedrock keeps no uploaded files")),
        (None, None) => {
            return Err(without_data(at));
        }
    };
    if media_type.starts_with("image/") {
        return Ok(json!({"image": {"format": image_format(at, &media_type)?, "source": source}}));
    }
    if let Some(format) = media_type.strip_prefix("video/") {
        return Ok(json!({"video": {"format": video_format(at, format)?, "source": source}}));
    }
    // `octet-stream` says nothing; the name may.
    let media_type = match document_format(&media_type) {
        Some(_) => media_type,
        None => of_name(name).to_ascii_lowercase(),
    };
    let mut block = document(at, &media_type, source, name, names)?;
    for member in ["citations", "context"] {
        let value = file.extra.get(member).or_else(|| extra.get(member));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            block["document"][member] = value.clone();
        }
    }
    Ok(block)
}

fn document(
    at: usize,
    media_type: &str,
    source: Value,
    name: Option<&str>,
    names: &mut DocumentNames,
) -> Result<Value, RequestError> {
    let Some(format) = document_format(media_type) else {
        let formats = "pdf, csv, doc, docx, xls, xlsx, html, txt or md";
        return Err(invalid(at, format_args!("a document is none of {formats}")));
    };
    let name = names.unique(document_name(name.unwrap_or_default()));
    Ok(json!({"document": {"format": format, "name": name, "source": source}}))
}

/// Converse's word for a media type, or for the end of a file's name.
fn document_format(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "application/pdf" | "pdf" => "pdf",
        "text/csv" | "csv" => "csv",
        "application/msword" | "doc" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" | "docx" => {
            "docx"
        }
        "application/vnd.ms-excel" | "xls" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" | "xlsx" => "xlsx",
        "text/html" | "html" | "htm" => "html",
        "text/markdown" | "text/x-markdown" | "md" => "md",
        "txt" => "txt",
        // The only format for any other text.
        other if other.starts_with("text/") => "txt",
        "application/json" | "application/xml" | "json" | "xml" => "txt",
        _ => return None,
    })
}

/// A name Converse takes: letters, digits, single spaces, hyphens, parentheses and square brackets.
fn document_name(filename: &str) -> String {
    let stem = filename.rsplit_once('.').map_or(filename, |(stem, _)| stem);
    let good =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '(' | ')' | '[' | ']');
    let safe = |c: char| match c {
        c if good(c) => c,
        c if c.is_whitespace() => ' ',
        _ => '-',
    };
    let name: String = stem.chars().map(safe).collect();
    let name: Vec<&str> = name.split_ascii_whitespace().collect();
    let name: String = name.join(" ").chars().take(NAME_CHARS_MAX - 8).collect();
    // Bedrock advises neutral names: the model reads them.
    if name.is_empty() { "document".to_owned() } else { name }
}

fn video_format(at: usize, format: &str) -> Result<&str, RequestError> {
    Ok(match format {
        "x-matroska" => "mkv",
        "quicktime" => "mov",
        "x-flv" => "flv",
        "x-ms-wmv" => "wmv",
        "3gpp" => "three_gp",
        "mkv" | "mov" | "mp4" | "webm" | "flv" | "mpeg" | "mpg" | "wmv" | "three_gp" => format,
        _ => return Err(invalid(at, "the video has a format that bedrock does not take")),
    })
}

/// The block of a `video_url` part.
pub(super) fn video(at: usize, part: &Part) -> Result<Value, RequestError> {
    let video = part.extra.get("video_url");
    let url = video.and_then(|video| video.as_str().or_else(|| video.get("url")?.as_str()));
    let url = url.ok_or_else(|| invalid(at, "a video_url part has no `video_url`"))?;
    let (format, source) = if let Some((media_type, data)) = parse_data_url(url) {
        (bare(media_type).trim_start_matches("video/").to_owned(), source(at, data)?)
    } else if url.starts_with("s3://") {
        (extension(url).to_ascii_lowercase(), s3(url, &Map::new()))
    } else {
        return Err(refuse_url(at, "videos"));
    };
    Ok(json!({"video": {"format": video_format(at, &format)?, "source": source}}))
}

/// The block of an `input_audio` part.
pub(super) fn audio(at: usize, part: &Part) -> Result<Value, RequestError> {
    let audio = part.extra.get("input_audio");
    let text = |name: &str| audio.and_then(|audio| audio.get(name)?.as_str());
    let (Some(data), Some(format)) = (text("data"), text("format")) else {
        return Err(invalid(at, "an input_audio part has no `data` or no `format`"));
    };
    Ok(json!({"audio": {"format": format, "source": source(at, data)?}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_made_what_aws_takes() {
        assert_eq!(blob("aGVsbG8=").as_deref(), Some("aGVsbG8="));
        assert_eq!(blob("aGVs\nbG8").as_deref(), Some("aGVsbG8="));
        assert_eq!(blob("__--").as_deref(), Some("//++"));
        assert_eq!(blob("a*b="), None);
        assert_eq!(blob(""), None);
        assert_eq!(blob("===="), None);
    }

    #[test]
    fn names_follow_the_rules() {
        assert_eq!(document_name("Q3 report (final).v2.pdf"), "Q3 report (final)-v2");
        assert_eq!(document_name("  a   b\t_ü.txt"), "a b --");
        assert_eq!(document_name(".pdf"), "document");
        assert_eq!(document_name(&"a".repeat(500)).len(), NAME_CHARS_MAX - 8);
        let mut names = DocumentNames::default();
        assert_eq!(names.unique("a".into()), "a");
        assert_eq!(names.unique("a".into()), "a 2");
        assert_eq!(names.unique("a".into()), "a 3");
        assert_eq!(names.unique("a 2".into()), "a 2 2");
    }
}
