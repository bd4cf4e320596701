//! What models can do with files.

use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::analyse::Wishes;
use super::{FileInfo, Files, Listed, NewFile};
use crate::keeper::{Keeper, Keeping};
use crate::tool::{Call, Called, Output, Risk, Tool, ToolError, ToolSpec};
use crate::tools::arguments;

/// How much of a text is read at once where nothing is said, and at most.
const READ_BYTES: (u64, u64) = (16 * 1024, 60 * 1024);
/// How many files are listed where nothing is said, and at most.
const LISTED: (u32, u32) = (50, 200);
/// What files are for that models and their tools write.
const WRITTEN: &str = "assistants_output";

/// What is done with files.
#[derive(Clone, Copy, Debug)]
enum Verb {
    List,
    Read,
    Analyze,
    Write,
    Delete,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    /// Only files with this purpose: `user_data`, `assistants`, `assistants_output` …
    purpose: Option<String>,
    /// Go on behind the file with this id.
    after: Option<String>,
    /// How many, 200 at most. 50 are usual.
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    /// The file's id, as `files.list` tells it.
    id: String,
    /// Where to begin, in bytes.
    offset: Option<u64>,
    /// How many bytes, 61440 at most. 16384 are usual.
    limit: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnalyzeArguments {
    /// The file's id, as `files.list` tells it.
    id: String,
    /// What is wanted of it.
    #[serde(default)]
    want: Wishes,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    /// The file's name, such as `report.md`.
    name: String,
    /// Its text.
    content: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteArguments {
    /// The file's id.
    id: String,
}

struct FileTool {
    spec: ToolSpec,
    verb: Verb,
    files: Files,
}

/// All of them.
pub(super) fn all(files: &Files) -> Vec<Arc<dyn Tool>> {
    let tool = |verb, name: &str, risk, parameters, description: &'static str| {
        let spec = ToolSpec {
            name: name.into(),
            description: description.into(),
            parameters,
            risk,
            is_idempotent: true,
        };
        Arc::new(FileTool { spec, verb, files: files.clone() }) as Arc<dyn Tool>
    };
    vec![
        tool(
            Verb::List,
            "files.list",
            Risk::Read,
            arguments::schema::<ListArguments>(),
            "Lists the user's files: id, size, type and name, latest first.",
        ),
        tool(
            Verb::Read,
            "files.read",
            Risk::Read,
            arguments::schema::<ReadArguments>(),
            "Reads a text file of the user's, a part at a time.",
        ),
        tool(
            Verb::Analyze,
            "files.analyze",
            Risk::Read,
            arguments::schema::<AnalyzeArguments>(),
            "Looks into a file of the user's: the text of a PDF's pages, rows of a table or \
             workbook, the outline of code, how much text there is, an image's size and copy.",
        ),
        tool(
            Verb::Write,
            "files.write",
            Risk::Write,
            arguments::schema::<WriteArguments>(),
            "Writes a new text file for the user. Files that are there are never changed.",
        ),
        tool(
            Verb::Delete,
            "files.delete",
            Risk::Write,
            arguments::schema::<DeleteArguments>(),
            "Deletes a file of the user's.",
        ),
    ]
}

impl Tool for FileTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Called<'a> {
        let owner = &call.scope.owner;
        Box::pin(async move {
            match self.verb {
                Verb::List => self.list(owner, arguments::read(call.arguments)?).await,
                Verb::Read => self.read(owner, arguments::read(call.arguments)?).await,
                Verb::Analyze => {
                    let AnalyzeArguments { id, want } = arguments::read(call.arguments)?;
                    let analysis = self.files.analyse(owner, &id, &want).await?.1;
                    let data = json!({"kind": analysis.kind, "data": analysis.data});
                    Ok(Output { data: Some(data), ..Output::text(analysis.text) })
                }
                Verb::Write => self.write(owner, arguments::read(call.arguments)?).await,
                Verb::Delete => {
                    let DeleteArguments { id } = arguments::read(call.arguments)?;
                    self.files.remove(owner, &id).await?;
                    Ok(Output::text(format!("Deleted {id}.")))
                }
            }
        })
    }
}

/// For tools that take files in and give some out.
impl Keeper for Files {
    fn read<'a>(&'a self, owner: &'a str, id: &'a str) -> Keeping<'a, (String, Bytes)> {
        Box::pin(async move {
            let (info, bytes) = self.bytes(owner, id).await?;
            Ok((info.name, bytes))
        })
    }

    fn keep<'a>(
        &'a self,
        owner: &'a Arc<str>,
        name: &'a str,
        bytes: Bytes,
    ) -> Keeping<'a, Arc<str>> {
        Box::pin(async move { Ok(self.add_once(owner, written(name, bytes)).await?.id) })
    }
}

/// A file that a tool leaves.
fn written(name: &str, bytes: Bytes) -> NewFile {
    NewFile { name: name.to_owned(), purpose: WRITTEN.to_owned(), bytes, expires_after: None }
}

impl FileTool {
    async fn list(&self, owner: &Arc<str>, arguments: ListArguments) -> Result<Output, ToolError> {
        let limit = arguments.limit.unwrap_or(LISTED.0).clamp(1, LISTED.1);
        let listed = Listed {
            purpose: arguments.purpose.as_deref(),
            after: arguments.after.as_deref(),
            limit: usize::try_from(limit).unwrap_or(1),
            is_latest_first: true,
        };
        let (files, has_more) = self.files.list(owner, &listed).await?;
        let line = |file: &FileInfo| {
            format!("{}  {} bytes  {}  {}\n", file.id, file.bytes, file.media_type, file.name)
        };
        let mut text: String = files.iter().map(line).collect();
        match files.last() {
            None => text.push_str("There are no files."),
            Some(last) if has_more => {
                text.push_str(&format!("There are more: go on with after={}.", last.id));
            }
            Some(_) => {}
        }
        let shown: Vec<Value> = files.iter().map(FileInfo::view).collect();
        Ok(Output {
            data: Some(json!({"files": shown, "has_more": has_more})),
            ..Output::text(text)
        })
    }

    async fn read(&self, owner: &str, arguments: ReadArguments) -> Result<Output, ToolError> {
        let ReadArguments { id, offset, limit } = arguments;
        let (offset, limit) = (offset.unwrap_or(0), limit.unwrap_or(READ_BYTES.0));
        // At least one character, and as much more as the last one may have.
        let limit = limit.clamp(4, READ_BYTES.1);
        let (info, bytes) = self.files.part(owner, &id, offset, limit + 3).await?;
        if !info.is_text {
            let message =
                format!("{id} is no text but {}: look into it with files.analyze", info.media_type);
            return Err(ToolError::Failed(message));
        }
        let (before, text) = characters(&bytes, usize::try_from(limit).unwrap_or(usize::MAX));
        let begin = offset.saturating_add(before as u64).min(info.bytes);
        let next = begin + text.len() as u64;
        let mut said = text.to_owned();
        if next < info.bytes {
            said.push_str(&format!(
                "\n[bytes {begin} to {next} of {}: go on with offset={next}]",
                info.bytes
            ));
        }
        let more = (next < info.bytes).then_some(next);
        let data = json!({"offset": begin, "next_offset": more, "bytes": info.bytes});
        Ok(Output { data: Some(data), ..Output::text(said) })
    }

    async fn write(
        &self,
        owner: &Arc<str>,
        arguments: WriteArguments,
    ) -> Result<Output, ToolError> {
        let WriteArguments { name, content } = arguments;
        let file = self.files.add_once(owner, written(&name, content.into())).await?;
        Ok(Output {
            data: Some(file.view()),
            files: vec![Arc::clone(&file.id)],
            ..Output::text(format!("Written: {} ({}, {} bytes).", file.id, file.name, file.bytes))
        })
    }
}

/// The whole characters within some bytes of a text, `limit` bytes at most, and how many bytes of a cut
/// one stand before.
fn characters(bytes: &[u8], limit: usize) -> (usize, &str) {
    let is_inside = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let before = bytes.iter().take(3).take_while(is_inside).count();
    let bytes = &bytes[before..bytes.len().min(before + limit)];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    (before, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_read_whole_part_by_part(text in "[aé€😀\n]{0,60}", limit in 4_usize..20) {
            let bytes = text.as_bytes();
            let (mut offset, mut read) = (0, String::new());
            while offset < bytes.len() {
                let part = &bytes[offset..bytes.len().min(offset + limit + 3)];
                let (before, characters) = characters(part, limit);
                prop_assert_eq!(before, 0);
                prop_assert!(!characters.is_empty() && characters.len() <= limit);
                read.push_str(characters);
                offset += characters.len();
            }
            prop_assert_eq!(read, text);
        }

        #[test]
        fn no_offset_is_wrong(text in "[aé€😀]{0,9}", offset in 0_usize..40) {
            let part = text.as_bytes().get(offset..).unwrap_or_default();
            let (before, characters) = characters(part, 8);
            prop_assert!(text.is_char_boundary((offset + before).min(text.len())));
            prop_assert!(text.contains(characters));
        }
    }
}
