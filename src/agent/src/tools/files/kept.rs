//! Files as they are kept.
//!
//! A file is a document that names its bytes, by their hash, so that the same bytes of one owner are
//! there once. A file arrives before its bytes do, and leaves before they do: whoever writes looks
//! afterwards whether somebody else removes the same bytes just now, and the other way round, so that
//! of two that meet, on whichever nodes, one at least sees the other.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore};
use tollway_filter_api::Clock;
use tollway_filter_api::clock::millis;
use tollway_filter_api::documents::{Batch, Collection, Document, Documents, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Reject, Rejection};

use super::analyse::{Analysis, Isolation, Wishes, analyse};
use super::{FilesSettings, kind, name};
use crate::service::{new_id, unavailable};
use crate::tool::ToolError;

/// With what ids of files begin that are kept here, and not at a provider.
pub const ID_PREFIX: &str = "file-tw";

/// What is on its way in after so long never came.
const ARRIVES_WITHIN: Duration = Duration::from_secs(600);

/// For how long a file may be asked to be kept: OpenAI's bounds.
const EXPIRES_AFTER: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;

/// Documents that are asked for at once.
const PAGE: u64 = 500;

/// How many files are held whole at once to be looked into.
const LOOKED_INTO_MAX: usize = 4;

/// Locks, by owner: two uploads at the edge of a quota are looked at one after the other.
const EDGES: usize = 64;

/// It is written down that the file comes.
const ARRIVING: &str = "arriving";
/// It is there.
const KEPT: &str = "kept";
/// It is being removed.
const LEAVING: &str = "leaving";

/// Why something cannot be done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is none of this id, or it is somebody else's.
    #[error("No such File object: {0}")]
    NotFound(String),
    /// Something that was asked for makes no sense.
    #[error("Invalid value for '{param}': {message}.")]
    Invalid {
        /// What.
        param: &'static str,
        /// Why.
        message: String,
    },
    /// One file is too large.
    #[error("The file is too large: at most {0} bytes are kept.")]
    TooLarge(u64),
    /// All files of the owner are too many or too large.
    #[error("The files that are kept for you would be more than {0}: delete some.")]
    Full(String),
    /// The documents cannot be asked.
    #[error(transparent)]
    Documents(#[from] StoreError),
    /// The bytes cannot be asked for.
    #[error("What is kept cannot be reached at the moment.")]
    Bytes(#[source] object_store::Error),
}

impl From<FilesError> for Rejection {
    fn from(error: FilesError) -> Rejection {
        let message = error.to_string();
        match error {
            FilesError::NotFound(_) => Reject::new(404, "invalid_request_error", message)
                .with_param("id")
                .with_code("file_not_found"),
            FilesError::Invalid { param, .. } => Reject::invalid_request(message).with_param(param),
            FilesError::TooLarge(_) => {
                Reject::new(413, "invalid_request_error", message).with_code("file_too_large")
            }
            FilesError::Full(_) => {
                Reject::new(403, "permission_error", message).with_code("file_quota_exceeded")
            }
            FilesError::Documents(error) => unavailable(error),
            FilesError::Bytes(error) => unavailable(StoreError::Unavailable(error.to_string())),
        }
    }
}

impl From<FilesError> for ToolError {
    fn from(error: FilesError) -> ToolError {
        match error {
            FilesError::Invalid { param, message } => {
                ToolError::Arguments(format!("{param}: {message}"))
            }
            FilesError::TooLarge(_) | FilesError::Full(_) => ToolError::Refused(error.to_string()),
            _ => ToolError::Failed(error.to_string()),
        }
    }
}

/// A file that is to be kept.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// How it is called, by somebody who may be up to anything.
    pub name: String,
    /// What it is for: `user_data`, `assistants` …
    pub purpose: String,
    /// What it has.
    pub bytes: Bytes,
    /// After how many seconds it goes; none keeps it.
    pub expires_after: Option<u64>,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileInfo {
    /// Its id.
    pub id: Arc<str>,
    /// Its name, made harmless.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// How large it is.
    pub bytes: u64,
    /// Its media type, by its bytes.
    pub media_type: String,
    /// It is UTF-8.
    pub is_text: bool,
    /// The hash of its bytes, in hexadecimal.
    pub sha256: String,
    /// Since the Unix epoch.
    pub created_ms: u64,
    /// When it goes.
    pub expires_ms: Option<u64>,
}

/// Of a document, what only this module reads.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    name: String,
    purpose: String,
    media_type: String,
    is_text: bool,
    sha256: String,
}

impl FileInfo {
    fn of(document: &Document) -> Option<FileInfo> {
        let about: About = serde_json::from_slice(&document.body).ok()?;
        Some(FileInfo {
            id: Arc::clone(&document.id),
            name: about.name,
            purpose: about.purpose,
            bytes: document.size,
            media_type: about.media_type,
            is_text: about.is_text,
            sha256: about.sha256,
            created_ms: document.created_ms,
            expires_ms: document.expires_ms,
        })
    }

    /// As OpenAI shows a file, with what we know beside.
    pub fn view(&self) -> Value {
        json!({
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_ms / 1000,
            "expires_at": self.expires_ms.map(|at| at / 1000),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": null,
            "content_type": self.media_type,
            "sha256": self.sha256,
        })
    }
}

/// Which files are wanted.
#[derive(Clone, Debug)]
pub struct Listed<'a> {
    /// For this purpose only.
    pub purpose: Option<&'a str>,
    /// Behind this one, which may be gone meanwhile.
    pub after: Option<&'a str>,
    /// How many at most.
    pub limit: usize,
    /// Latest first, or oldest first.
    pub is_latest_first: bool,
}

/// Keeps files.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    documents: Arc<dyn Documents>,
    store: Arc<dyn ObjectStore>,
    clock: Clock,
    isolation: Arc<dyn Isolation>,
    file_bytes_max: u64,
    quota_bytes: u64,
    quota_files: u64,
    edges: [Mutex<()>; EDGES],
    looking: Semaphore,
}

impl Files {
    /// Files with their documents here and their bytes there.
    pub fn new(
        settings: &FilesSettings,
        documents: Arc<dyn Documents>,
        store: Arc<dyn ObjectStore>,
        clock: Clock,
        isolation: Arc<dyn Isolation>,
    ) -> Files {
        Files(Arc::new(Inner {
            documents,
            store,
            clock,
            isolation,
            file_bytes_max: settings.file_bytes_max,
            quota_bytes: settings.quota_bytes,
            quota_files: settings.quota_files,
            edges: std::array::from_fn(|_| Mutex::new(())),
            looking: Semaphore::new(LOOKED_INTO_MAX),
        }))
    }

    /// How large one file may be.
    pub fn file_bytes_max(&self) -> u64 {
        self.0.file_bytes_max
    }

    /// Looks into a file.
    ///
    /// # Errors
    /// Where there is none of this id for this owner, or it cannot be looked into.
    pub async fn analyse(
        &self,
        owner: &str,
        id: &str,
        wishes: &Wishes,
    ) -> Result<(FileInfo, Analysis), ToolError> {
        // Never closed: an error would let all look.
        let _one_of_few = self.0.looking.acquire().await;
        let (info, bytes) = self.bytes(owner, id).await?;
        let analysis = analyse(&*self.0.isolation, &info, bytes, wishes).await?;
        Ok((info, analysis))
    }

    /// Keeps a file. It is kept also where nobody waits for that any more.
    ///
    /// # Errors
    /// Where it makes no sense, is too large, or there is no room.
    pub async fn add(&self, owner: &Arc<str>, new: NewFile) -> Result<FileInfo, FilesError> {
        self.add_in_the_end(owner, new, false).await
    }

    /// Keeps a file unless the owner has one of this name with these bytes.
    ///
    /// # Errors
    /// As [`Files::add`].
    pub async fn add_once(&self, owner: &Arc<str>, new: NewFile) -> Result<FileInfo, FilesError> {
        self.add_in_the_end(owner, new, true).await
    }

    async fn add_in_the_end(
        &self,
        owner: &Arc<str>,
        new: NewFile,
        once: bool,
    ) -> Result<FileInfo, FilesError> {
        let (inner, owner) = (Arc::clone(&self.0), Arc::clone(owner));
        let adding = tokio::spawn(async move { inner.add(&owner, new, once).await });
        adding.await.unwrap_or_else(|error| {
            Err(FilesError::Documents(StoreError::Unavailable(error.to_string())))
        })
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// Where there is none of this id for this owner.
    pub async fn info(&self, owner: &str, id: &str) -> Result<FileInfo, FilesError> {
        Ok(self.0.find(owner, id).await?.1)
    }

    /// The files of an owner, and whether there are more.
    ///
    /// # Errors
    /// Where `after` is no file's id.
    pub async fn list(
        &self,
        owner: &Arc<str>,
        listed: &Listed<'_>,
    ) -> Result<(Vec<FileInfo>, bool), FilesError> {
        let mut after = match listed.after {
            None => None,
            Some(id) => Some((created_of(id).ok_or_else(|| not_found(id))?, id.into())),
        };
        let now = self.0.now_ms();
        let mut files = Vec::new();
        loop {
            let wanted = Wanted {
                owner: Some(Arc::clone(owner)),
                states: vec![KEPT.into()],
                is_latest_first: listed.is_latest_first,
                after: after.take(),
                ..Wanted::of(Collection::File, PAGE)
            };
            let found = self.0.documents.list(wanted).await?;
            let Some(last) = found.last() else { return Ok((files, false)) };
            after = Some((last.created_ms, Arc::clone(&last.id)));
            for file in found.iter().filter(|found| !is_over(found, now)).filter_map(FileInfo::of) {
                if listed.purpose.is_some_and(|purpose| purpose != file.purpose) {
                    continue;
                }
                if files.len() == listed.limit {
                    return Ok((files, true));
                }
                files.push(file);
            }
        }
    }

    /// A file as it is, piece by piece.
    ///
    /// # Errors
    /// Where there is none of this id for this owner, or its bytes cannot be had.
    pub async fn content(
        &self,
        owner: &str,
        id: &str,
    ) -> Result<(FileInfo, BoxStream<'static, Result<Bytes, FilesError>>), FilesError> {
        let (document, info) = self.0.find(owner, id).await?;
        let got = self.0.store.get(&place_of(&document)).await.map_err(FilesError::Bytes)?;
        Ok((info, Box::pin(got.into_stream().map_err(FilesError::Bytes))))
    }

    /// A file as it is, whole.
    ///
    /// # Errors
    /// As [`Files::content`].
    pub async fn bytes(&self, owner: &str, id: &str) -> Result<(FileInfo, Bytes), FilesError> {
        let (document, info) = self.0.find(owner, id).await?;
        let got = self.0.store.get(&place_of(&document)).await.map_err(FilesError::Bytes)?;
        Ok((info, got.bytes().await.map_err(FilesError::Bytes)?))
    }

    /// A part of a file: as many bytes as there are behind `from`, and at most `limit`.
    ///
    /// # Errors
    /// As [`Files::content`].
    pub async fn part(
        &self,
        owner: &str,
        id: &str,
        from: u64,
        limit: u64,
    ) -> Result<(FileInfo, Bytes), FilesError> {
        let (document, info) = self.0.find(owner, id).await?;
        let to = from.saturating_add(limit).min(info.bytes);
        if from >= to {
            return Ok((info, Bytes::new()));
        }
        let got = self.0.store.get_range(&place_of(&document), from..to).await;
        Ok((info, got.map_err(FilesError::Bytes)?))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Where there is none of this id for this owner.
    pub async fn remove(&self, owner: &str, id: &str) -> Result<(), FilesError> {
        let (document, _) = self.0.find(owner, id).await?;
        match self.0.remove(document).await {
            // Somebody else removes it just now.
            Err(FilesError::Documents(StoreError::Conflict(_))) => Err(not_found(id)),
            removed => removed,
        }
    }

    /// Removes what is past its time, what never came, and what is half removed.
    ///
    /// # Errors
    /// Where the documents cannot be asked. Bytes that cannot be removed now are tried again.
    pub async fn forget_expired(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let wanted = Wanted {
                expired_at_ms: Some(self.0.now_ms()),
                is_latest_first: false,
                after: after.take(),
                ..Wanted::of(Collection::File, PAGE)
            };
            let expired = self.0.documents.list(wanted).await?;
            let Some(last) = expired.last() else { return Ok(()) };
            after = Some((last.created_ms, Arc::clone(&last.id)));
            for document in expired {
                match self.0.remove(document).await {
                    Ok(()) | Err(FilesError::Documents(StoreError::Conflict(_))) => {}
                    Err(FilesError::Documents(error)) => return Err(error),
                    Err(error) => tracing::warn!(%error, "a file cannot be removed"),
                }
            }
        }
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    async fn find(&self, owner: &str, id: &str) -> Result<(Document, FileInfo), FilesError> {
        let found = match id.starts_with(ID_PREFIX) {
            true => self.documents.get(Collection::File, id).await?,
            false => None,
        };
        let now = self.now_ms();
        found
            .filter(|found| *found.owner == *owner && *found.state == *KEPT && !is_over(found, now))
            .and_then(|found| FileInfo::of(&found).map(|info| (found, info)))
            .ok_or_else(|| not_found(id))
    }

    async fn add(
        &self,
        owner: &Arc<str>,
        new: NewFile,
        once: bool,
    ) -> Result<FileInfo, FilesError> {
        let now = self.now_ms();
        let NewFile { name, purpose, bytes, expires_after } = new;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > self.file_bytes_max {
            return Err(FilesError::TooLarge(self.file_bytes_max));
        }
        check_purpose(&purpose)?;
        let expires_ms = match expires_after {
            None => None,
            Some(seconds) if EXPIRES_AFTER.contains(&seconds) => Some(now + seconds * 1000),
            Some(_) => {
                let (least, most) = (EXPIRES_AFTER.start(), EXPIRES_AFTER.end());
                let message = format!("seconds must be from {least} to {most}");
                return Err(FilesError::Invalid { param: "expires_after", message });
            }
        };
        let name = name::clean(&name);
        let (sha256, kind) = {
            let (bytes, name) = (bytes.clone(), name.clone());
            // Megabytes take their time: nobody else on this thread should have to wait.
            let looked =
                tokio::task::spawn_blocking(move || (hash(&bytes), kind::of(&bytes, &name)));
            looked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
        };
        let about = About {
            name,
            purpose,
            media_type: kind.media_type.to_owned(),
            is_text: kind.is_text,
            sha256,
        };
        let mut document = Document {
            collection: Collection::File,
            id: new_file_id(now).into(),
            owner: Arc::clone(owner),
            parent: Some(about.sha256.as_str().into()),
            state: ARRIVING.into(),
            created_ms: now,
            expires_ms: Some(now + millis(ARRIVES_WITHIN)),
            holder: None,
            held_until_ms: 0,
            size,
            body: serde_json::to_vec(&about).unwrap_or_default().into(),
            version: 0,
        };
        {
            let edge = usize::from(Sha256::digest(owner.as_bytes())[0]) % EDGES;
            let _one_at_a_time = self.edges[edge].lock().await;
            if once && let Some(found) = self.same(&document, &about.name).await? {
                return Ok(found);
            }
            self.reserve(&mut document).await?;
        }
        match self.bring(&mut document, bytes, expires_ms).await {
            Ok(()) => FileInfo::of(&document).ok_or_else(|| not_found(&document.id)),
            Err(error) => {
                // Where it cannot be removed now, it is once it is past its time.
                if let Err(error) = self.remove(document).await {
                    tracing::debug!(%error, "a file that did not come is still written down");
                }
                Err(error)
            }
        }
    }

    /// Writes down that a file comes, if there is room. Afterwards, so that of two on different nodes
    /// the later one sees both.
    async fn reserve(&self, document: &mut Document) -> Result<(), FilesError> {
        document.version = self.put(document).await?;
        let (count, bytes) = self.documents.total(Collection::File, &document.owner).await?;
        let over = if count > self.quota_files {
            format!("{} files", self.quota_files)
        } else if bytes > self.quota_bytes {
            format!("{} bytes", self.quota_bytes)
        } else {
            return Ok(());
        };
        let remove = vec![(Collection::File, Arc::clone(&document.id))];
        self.documents.write(Batch { remove, ..Batch::default() }).await?;
        Err(FilesError::Full(over))
    }

    /// Brings the bytes of a file where they belong.
    async fn bring(
        &self,
        document: &mut Document,
        bytes: Bytes,
        expires_ms: Option<u64>,
    ) -> Result<(), FilesError> {
        let others = self.of_same_bytes(document).await?;
        let is_there = others.iter().any(|other| *other.state == *KEPT);
        if others.iter().any(|other| *other.state == *LEAVING) {
            // Who removes the same bytes may or may not have seen this file.
            document.parent = document.parent.as_ref().map(|hash| {
                let id = document.id.trim_start_matches(ID_PREFIX);
                format!("{hash}-{id}").into()
            });
            document.version = self.put(document).await?;
            self.store_bytes(document, bytes).await?;
        } else if !is_there {
            self.store_bytes(document, bytes).await?;
        }
        document.state = KEPT.into();
        document.expires_ms = expires_ms;
        document.version = self.put(document).await?;
        Ok(())
    }

    async fn store_bytes(&self, document: &Document, bytes: Bytes) -> Result<(), FilesError> {
        let payload = PutPayload::from(bytes);
        self.store.put(&place_of(document), payload).await.map_err(FilesError::Bytes)?;
        Ok(())
    }

    /// Removes a file; its bytes as well, where no other file has them.
    async fn remove(&self, mut document: Document) -> Result<(), FilesError> {
        document.state = LEAVING.into();
        // Whoever looks for what is past its time goes on where this ends.
        document.expires_ms = Some(self.now_ms());
        self.put(&document).await?;
        let others = self.of_same_bytes(&document).await?;
        if others.iter().all(|other| *other.state == *LEAVING) {
            match self.store.delete(&place_of(&document)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(FilesError::Bytes(error)),
            }
        }
        let remove = vec![(Collection::File, document.id)];
        self.documents.write(Batch { remove, ..Batch::default() }).await?;
        Ok(())
    }

    async fn put(&self, document: &Document) -> Result<u64, StoreError> {
        let batch = Batch { put: vec![document.clone()], ..Batch::default() };
        Ok(self.documents.write(batch).await?.first().copied().unwrap_or_default())
    }

    /// Other files of the same owner with the same bytes, in the same place.
    async fn of_same_bytes(&self, document: &Document) -> Result<Vec<Document>, StoreError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let wanted = Wanted {
                owner: Some(Arc::clone(&document.owner)),
                parent: document.parent.clone(),
                after: after.take(),
                ..Wanted::of(Collection::File, PAGE)
            };
            let found = self.documents.list(wanted).await?;
            let Some(last) = found.last() else { return Ok(all) };
            after = Some((last.created_ms, Arc::clone(&last.id)));
            all.extend(found.into_iter().filter(|found| found.id != document.id));
        }
    }

    /// A file of the same owner that has this name and the same bytes.
    async fn same(&self, document: &Document, name: &str) -> Result<Option<FileInfo>, StoreError> {
        let (others, now) = (self.of_same_bytes(document).await?, self.now_ms());
        let kept = others.iter().filter(|other| *other.state == *KEPT && !is_over(other, now));
        Ok(kept.filter_map(FileInfo::of).find(|file| file.name == name))
    }
}

fn not_found(id: &str) -> FilesError {
    FilesError::NotFound(id.chars().filter(|c| !c.is_control()).take(100).collect())
}

fn is_over(document: &Document, now_ms: u64) -> bool {
    document.expires_ms.is_some_and(|expires| expires <= now_ms)
}

/// Purposes are words.
fn check_purpose(purpose: &str) -> Result<(), FilesError> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !purpose.is_empty() && purpose.len() <= 64 && purpose.bytes().all(is_word) {
        return Ok(());
    }
    let message = "a word such as user_data or assistants is wanted".to_owned();
    Err(FilesError::Invalid { param: "purpose", message })
}

/// Where the bytes of a file are.
fn place_of(document: &Document) -> Path {
    let owner = hash(document.owner.as_bytes());
    let bytes = document.parent.as_deref().unwrap_or_default();
    Path::from_iter([&owner[..32], bytes.get(..2).unwrap_or_default(), bytes])
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Nothing is refused by a string.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// An id that says when it was made, so that a list can go on behind one that is gone, and that nobody
/// can guess.
fn new_file_id(now_ms: u64) -> String {
    let random = new_id("");
    format!("{ID_PREFIX}{now_ms:012x}{}", &random[..20])
}

/// When the file of this id was made.
fn created_of(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(ID_PREFIX)?;
    let is_id = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id { u64::from_str_radix(&digits[..12], 16).ok() } else { None }
}

/// A file that is not there.
#[cfg(test)]
pub(super) fn example() -> FileInfo {
    FileInfo {
        id: "file-tw".into(),
        name: "a.txt".to_owned(),
        purpose: "user_data".to_owned(),
        bytes: 0,
        media_type: "text/plain".to_owned(),
        is_text: true,
        sha256: String::new(),
        created_ms: 0,
        expires_ms: None,
    }
}
