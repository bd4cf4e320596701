//! Where the bytes of files are: a folder, or a bucket of a cloud.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use secrecy::ExposeSecret;
use url::Url;

use super::FilesSettings;
use crate::outgoing::Outgoing;

/// How long a cloud that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(20);
const RETRIES_MAX: usize = 3;

/// Hands every store of a cloud the same HTTP client, which is ours.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Opens the place that the settings name; `folder` where they name none.
///
/// # Errors
/// What is wrong with the settings, in words.
pub(super) fn open(
    settings: &FilesSettings,
    folder: &Path,
    outgoing: &Outgoing,
) -> Result<Arc<dyn ObjectStore>, String> {
    let Some(store) = settings.store.as_deref().filter(|store| !store.is_empty()) else {
        return local(folder);
    };
    if !store.contains("://") {
        return local(Path::new(store));
    }
    let url = Url::parse(store).map_err(|error| format!("not a URL: {error}"))?;
    let unknown = "wanted: a folder, or a URL with s3:, gs:, az: or abfs:";
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| unknown.to_owned())?;
    let connector = Connector(outgoing.of_stores().map_err(|error| error.to_string())?);
    let retry =
        RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY, ..RetryConfig::default() };
    macro_rules! cloud {
        ($builder:ty, $key:ty) => {{
            let mut builder = <$builder>::from_env()
                .with_url(url.as_str())
                .with_http_connector(connector)
                .with_retry(retry);
            for (name, value) in &settings.options {
                let key = <$key>::from_str(&name.to_ascii_lowercase())
                    .map_err(|_| format!("there is no option {name:?} for this store"))?;
                builder = builder.with_config(key, value.expose_secret());
            }
            let store = builder.build().map_err(|error| error.to_string())?;
            Ok(Arc::new(PrefixStore::new(store, prefix)) as Arc<dyn ObjectStore>)
        }};
    }
    match scheme {
        ObjectStoreScheme::AmazonS3 => cloud!(AmazonS3Builder, AmazonS3ConfigKey),
        ObjectStoreScheme::GoogleCloudStorage => cloud!(GoogleCloudStorageBuilder, GoogleConfigKey),
        ObjectStoreScheme::MicrosoftAzure => cloud!(MicrosoftAzureBuilder, AzureConfigKey),
        ObjectStoreScheme::Local => match url.to_file_path() {
            Ok(folder) => local(&folder),
            Err(()) => Err(unknown.to_owned()),
        },
        _ => Err(unknown.to_owned()),
    }
}

/// A folder that nobody else may enter. What is written is on the disk when it is said to be.
fn local(folder: &Path) -> Result<Arc<dyn ObjectStore>, String> {
    let shown = folder.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| format!("{shown}: cannot be made: {error}"))?;
    let store = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| format!("{shown}: cannot be used: {error}"))?;
    Ok(Arc::new(store.with_fsync(true)))
}
