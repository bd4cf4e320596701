//! What a tool of a server has found, as ours say it, and the other way round.

use serde_json::{Map, Value, json};

use crate::tool::{CONTENT_BYTES_MAX, Output, ToolError};

/// What all images and other bytes of one result may take, as they come.
const BLOCKS_BYTES_MAX: usize = 1 << 20;
/// The largest structured content that is kept beside the text.
const STRUCTURED_BYTES_MAX: usize = 256 * 1024;
/// The most pieces of one result.
const PIECES_MAX: usize = 256;

/// The member of [`Output::data`] with what is no text: blocks as MCP has them.
const BLOCKS: &str = "content";
/// The member with what a program can read.
const STRUCTURED: &str = "structured_content";

/// Reads the result of `tools/call`.
pub(crate) fn read(mut result: Value) -> Result<Output, ToolError> {
    let (mut text, mut blocks, mut left) = (String::new(), Vec::new(), BLOCKS_BYTES_MAX);
    let pieces = match result.get_mut("content").map(Value::take) {
        Some(Value::Array(pieces)) => pieces,
        None if result.get("structuredContent").is_some() => Vec::new(),
        _ => return Err(ToolError::Failed("the MCP server's result is none".to_owned())),
    };
    let count = pieces.len();
    for piece in pieces.into_iter().take(PIECES_MAX) {
        if text.len() > CONTENT_BYTES_MAX {
            break;
        }
        let said = said(&piece);
        if !text.is_empty() && !said.is_empty() {
            text.push('\n');
        }
        text.push_str(&said);
        if piece["type"] != "text" {
            let size = piece.to_string().len();
            if let Some(rest) = left.checked_sub(size) {
                left = rest;
                blocks.push(piece);
            }
        }
    }
    if count > PIECES_MAX {
        text.push_str(&format!("\n[{} more pieces left out]", count - PIECES_MAX));
    }
    if result.get("isError").and_then(Value::as_bool) == Some(true) {
        let why =
            if text.is_empty() { "the tool failed and does not say why".into() } else { text };
        return Err(ToolError::Failed(why));
    }
    let structured = result.get_mut("structuredContent").map(Value::take);
    let structured = structured.filter(|structured| structured.is_object());
    let mut data = Map::new();
    if let Some(structured) = structured {
        let written = structured.to_string();
        if text.is_empty() {
            text.clone_from(&written);
        }
        if written.len() <= STRUCTURED_BYTES_MAX {
            data.insert(STRUCTURED.to_owned(), structured);
        }
    }
    if !blocks.is_empty() {
        data.insert(BLOCKS.to_owned(), blocks.into());
    }
    let data = (!data.is_empty()).then_some(Value::Object(data));
    Ok(Output { data, ..Output::text(text) })
}

/// What a model reads of a piece.
fn said(piece: &Value) -> String {
    let text = |pointer: &str| piece.pointer(pointer).and_then(Value::as_str);
    let size = |data: Option<&str>| data.map_or(0, |data| data.len() / 4 * 3);
    let word = |text: Option<&str>| text.unwrap_or("unknown").chars().take(200).collect::<String>();
    match text("/type") {
        Some("text") => text("/text").unwrap_or_default().to_owned(),
        Some(kind @ ("image" | "audio")) => {
            let about = word(text("/mimeType"));
            format!("[{kind}: {about}, about {} bytes]", size(text("/data")))
        }
        Some("resource") => match text("/resource/text") {
            Some(content) => format!("[resource {}]\n{content}", word(text("/resource/uri"))),
            None => {
                let uri = word(text("/resource/uri"));
                format!("[resource {uri}: about {} bytes]", size(text("/resource/blob")))
            }
        },
        Some("resource_link") => {
            format!("[resource {}: {}]", word(text("/name")), word(text("/uri")))
        }
        _ => "[something of an unknown kind]".to_owned(),
    }
}

/// The result of `tools/call` for what one of our tools has found.
pub(crate) fn written(output: Output) -> Value {
    let mut content = vec![json!({"type": "text", "text": output.content})];
    let mut structured = None;
    match output.data {
        Some(Value::Object(mut data)) if is_mcps(&data) => {
            if let Some(Value::Array(blocks)) = data.remove(BLOCKS) {
                content.extend(blocks);
            }
            structured = data.remove(STRUCTURED);
        }
        Some(data @ Value::Object(_)) => structured = Some(data),
        _ => {}
    }
    let mut result = json!({"content": content, "isError": false});
    if let Some(structured) = structured {
        result["structuredContent"] = structured;
    }
    if !output.files.is_empty() {
        result["_meta"] = json!({"tollway/files": output.files});
    }
    result
}

/// Whether data is what [`read`] makes of it.
fn is_mcps(data: &Map<String, Value>) -> bool {
    data.iter().all(|(name, value)| match name.as_str() {
        BLOCKS => value.as_array().is_some_and(|blocks| blocks.iter().all(Value::is_object)),
        STRUCTURED => value.is_object(),
        _ => false,
    })
}

/// The result of `tools/call` for one that went wrong, which models read.
pub(crate) fn failed(why: &str) -> Value {
    json!({"content": [{"type": "text", "text": why}], "isError": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(content: Value) -> Result<Output, ToolError> {
        read(json!({"content": content}))
    }

    #[test]
    fn results_are_text_and_what_is_more_is_data() {
        let image = json!({"type": "image", "mimeType": "image/png", "data": "AAAA"});
        let resource = json!({"type": "resource", "resource": {"uri": "x:1", "text": "inside"}});
        let link = json!({"type": "resource_link", "name": "n", "uri": "x:2"});
        let text = json!({"type": "text", "text": "hello"});
        let output = result(json!([text, image, resource, link, {"type": "hologram"}])).unwrap();
        assert_eq!(
            output.content,
            "hello\n[image: image/png, about 3 bytes]\n[resource x:1]\ninside\n[resource n: x:2]\n\
             [something of an unknown kind]"
        );
        let data = output.data.clone().unwrap();
        assert_eq!(data["content"][0], image);
        // And what comes of another server goes on to our clients as it was.
        let again = written(output);
        assert_eq!(again["content"][1], image);
        assert!(again.get("structuredContent").is_none());
    }

    #[test]
    fn structured_content_is_data_and_text_where_there_is_none() {
        let output = read(json!({"content": [], "structuredContent": {"a": 1}})).unwrap();
        assert_eq!(output.content, r#"{"a":1}"#);
        assert_eq!(output.data.clone().unwrap(), json!({"structured_content": {"a": 1}}));
        assert_eq!(written(output)["structuredContent"], json!({"a": 1}));
        let own = Output { data: Some(json!({"b": 2})), ..Output::text("b") };
        assert_eq!(written(own)["structuredContent"], json!({"b": 2}));
    }

    #[test]
    fn results_are_bounded() {
        let many = vec![json!({"type": "text", "text": "x"}); PIECES_MAX + 3];
        assert!(result(many.into()).unwrap().content.ends_with("[3 more pieces left out]"));
        let large = json!({"type": "image", "mimeType": "m", "data": "A".repeat(BLOCKS_BYTES_MAX)});
        let output = result(json!([large, {"type": "image", "data": "AA"}])).unwrap();
        assert_eq!(output.data.unwrap()["content"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn errors_are_errors() {
        let failed = read(json!({"content": [{"type": "text", "text": "no"}], "isError": true}));
        assert_eq!(failed, Err(ToolError::Failed("no".into())));
        for none in [json!({}), json!([]), json!(null), json!({"content": "text"})] {
            assert!(read(none).is_err());
        }
    }
}
