//! `files`: what users and agents keep: uploaded, written, read, looked into and deleted.
//!
//! What is known of a file is a document, its bytes are in a folder or a cloud's bucket. Bytes that an
//! owner uploads twice are kept once. Nobody but the owner sees a file, nor learns that there is one.
//!
//! ```yaml
//! tools:
//!   files:
//!     store: s3://bucket/files      # default: a folder in the data folder; also gs:, az:, abfs:
//!     options: { region: eu-central-1 }
//!     file_bytes_max: 33554432
//!     quota_bytes: 1073741824
//!     quota_files: 1000
//! ```

pub mod analyse;
mod kept;
mod kind;
mod name;
mod place;
mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;
use serde::Deserialize;
use tollway_filter_api::documents::Documents;

pub use self::analyse::{Analysis, Wishes};
pub use self::kept::{FileInfo, Files, FilesError, ID_PREFIX, Listed, NewFile};

use self::analyse::{Isolation, NoIsolation};
use super::{Services, Settings, SettingsError};
use crate::tool::Tool;

/// The `files` entry of the tools.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilesSettings {
    /// Where bytes are kept: a folder, or a URL: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`, `abfs://container@account.dfs.core.windows.net/prefix`. Default:
    /// `files` in the data folder. Several gateways need one that they share.
    pub store: Option<String>,
    /// What a cloud wants to be told: `region`, `endpoint`, `access_key_id`, `secret_access_key`,
    /// `service_account`, `account_name`, `account_key` … Default: the variables of the cloud's own
    /// tools (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    pub options: BTreeMap<String, SecretString>,
    /// How large one file may be. It is held in memory while it comes. Default 32 MiB.
    pub file_bytes_max: u64,
    /// What the files of one owner may have together. Default 1 GiB.
    pub quota_bytes: u64,
    /// How many files one owner may have. Default 1,000.
    pub quota_files: u64,
}

impl Default for FilesSettings {
    fn default() -> Self {
        FilesSettings {
            store: None,
            options: BTreeMap::new(),
            file_bytes_max: 32 << 20,
            quota_bytes: 1 << 30,
            quota_files: 1_000,
        }
    }
}

impl Services {
    /// Keeps files as the settings say, if they say so: documents in `documents`, bytes in `folder`
    /// where no other place is named. Parsers run in the sandbox that there is by now.
    ///
    /// # Errors
    /// When the settings make no sense, or the place cannot be used.
    pub fn with_files(
        mut self,
        settings: &Settings,
        documents: Arc<dyn Documents>,
        folder: &Path,
    ) -> Result<Services, SettingsError> {
        let Some(files) = &settings.files else { return Ok(self) };
        let store = place::open(files, folder, &self.outgoing)
            .map_err(|message| SettingsError::Wrong { path: "files.store".to_owned(), message })?;
        let isolation: Arc<dyn Isolation> = match &self.sandbox {
            Some(sandbox) => Arc::new(sandbox.clone()),
            None => Arc::new(NoIsolation),
        };
        let files = Files::new(files, documents, store, self.clock.clone(), isolation);
        self.keeper = Some(Arc::new(files.clone()));
        self.files = Some(files);
        Ok(self)
    }
}

/// The tools; none where files are not kept.
pub(super) fn build(
    _settings: &Settings,
    services: &Services,
) -> Result<Vec<Arc<dyn Tool>>, SettingsError> {
    Ok(services.files.iter().flat_map(tools::all).collect())
}
