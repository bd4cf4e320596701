//! Looks into files: what is in them, in words for a model and as data for programs.
//!
//! Text is looked at here. Whatever else there is has parsers that hostile documents bring to panic,
//! to loop or to eat memory: they are [`NATIVES`], functions of bytes alone, and run elsewhere, behind
//! [`Isolation`].

mod image;
mod native;
mod outline;
mod pdf;
mod sandboxed;
mod sheet;
mod table;
mod text;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::native::{NATIVES, Native};

use super::kept::FileInfo;
use crate::tool::ToolError;

/// The longest text of an analysis.
const TEXT_BYTES_MAX: usize = 48 * 1024;

/// What becomes of a document in isolation: what the guest wrote.
pub type Isolated<'a> = Pin<Box<dyn Future<Output = Result<Bytes, ToolError>> + Send + 'a>>;

/// Runs one of [`NATIVES`] where it can do no harm.
pub trait Isolation: Send + Sync {
    /// Gives `input` to the guest of this name. Dropping the future ends it.
    fn run(&self, guest: &'static str, input: Bytes) -> Isolated<'_>;
}

/// There is no place where parsers can do no harm: only text is looked into.
#[derive(Clone, Copy, Debug)]
pub struct NoIsolation;

impl Isolation for NoIsolation {
    fn run(&self, _: &'static str, _: Bytes) -> Isolated<'_> {
        Box::pin(async {
            let message = "only text can be looked into here: other documents need the sandbox";
            Err(ToolError::Unavailable { code: "sandbox_unavailable", message: message.to_owned() })
        })
    }
}

/// What of a file is wanted. All of it is for some kinds of files only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wishes {
    /// Of a PDF: the first page whose text is wanted. The first one is 1.
    pub first_page: Option<u32>,
    /// Of a PDF: the last page whose text is wanted.
    pub last_page: Option<u32>,
    /// Of a workbook: the sheet. The first one is usual.
    pub sheet: Option<String>,
    /// Of a table: the first row that is wanted. The first one is 1.
    pub first_row: Option<u32>,
    /// Of a table: how many rows are wanted, 200 at most.
    pub rows: Option<u32>,
    /// Of an image: gives a copy as a data URL that is at most so many pixels wide and high, 512
    /// at most.
    pub copy_pixels: Option<u32>,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// `text`, `table`, `code`, `pdf`, `sheet` or `image`.
    pub kind: String,
    /// For a model.
    pub text: String,
    /// For programs.
    pub data: Value,
}

/// Looks into a file.
///
/// # Errors
/// Where nobody knows how, where there is no isolation, or where it cannot be read.
pub async fn analyse(
    isolation: &dyn Isolation,
    info: &FileInfo,
    bytes: Bytes,
    wishes: &Wishes,
) -> Result<Analysis, ToolError> {
    if info.is_text {
        let (media_type, wishes) = (info.media_type.clone(), wishes.clone());
        // Megabytes take their time: nobody else on this thread should have to wait.
        let looking = tokio::task::spawn_blocking(move || of_text(&media_type, &bytes, &wishes));
        return looking.await.map_err(|error| ToolError::Failed(error.to_string()));
    }
    let Some(guest) = native::guest_of(&info.media_type) else {
        let message = format!("a file of the type {} cannot be looked into", info.media_type);
        return Err(ToolError::Failed(message));
    };
    let written = isolation.run(guest, native::input(wishes, &bytes)).await?;
    let mut analysis = native::answer(&written).map_err(ToolError::Failed)?;
    cut(&mut analysis.text, TEXT_BYTES_MAX);
    Ok(analysis)
}

fn of_text(media_type: &str, bytes: &[u8], wishes: &Wishes) -> Analysis {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut analysis = match media_type {
        "text/csv" | "text/tab-separated-values" => table::analyse(text, wishes),
        _ => match outline::Language::of(media_type) {
            Some(language) => outline::analyse(language, text),
            None => text::analyse(text),
        },
    };
    cut(&mut analysis.text, TEXT_BYTES_MAX);
    analysis
}

/// Cuts a text that is too long, between two characters.
fn cut(text: &mut String, bytes_max: usize) {
    const MARK: &str = "\n[cut here]";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut text = "é".repeat(100);
        cut(&mut text, 50);
        assert!(text.len() <= 50 && text.starts_with('é') && text.ends_with("[cut here]"));
        cut(&mut text, 50);
        assert_eq!(text.matches("[cut here]").count(), 1);
    }

    #[tokio::test]
    async fn without_isolation_only_text_is_looked_into() {
        let mut info = crate::tools::files::kept::example();
        let text = Bytes::from_static(b"one\ntwo\n");
        let wishes = Wishes::default();
        let analysis = analyse(&NoIsolation, &info, text.clone(), &wishes).await.unwrap();
        assert_eq!((analysis.kind.as_str(), &analysis.data["lines"]), ("text", &2.into()));
        info.is_text = false;
        info.media_type = "application/pdf".to_owned();
        let error = analyse(&NoIsolation, &info, text.clone(), &wishes).await.unwrap_err();
        let ToolError::Unavailable { code, .. } = error else { panic!("{error}") };
        assert_eq!(code, "sandbox_unavailable");
        info.media_type = "video/mp4".to_owned();
        let error = analyse(&NoIsolation, &info, text, &wishes).await.unwrap_err();
        assert!(error.to_string().contains("video/mp4"), "{error}");
    }
}
