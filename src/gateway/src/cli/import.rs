//! `tollway import`: keys, users, teams and what they have spent, from another gateway.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use tollway_filter_api::Clock;
use tollway_filter_api::accounts::Accounts;
use tollway_filter_api::ledger::StoreError;
use tollway_store::sql::SqlStore;
use tollway_store::sql::litellm::LitellmTables;

use super::say;
use crate::admin::litellm::{Import, Known, NODE, convert};
use crate::config::DataFolder;
use crate::money::DATABASE;
use crate::start::{Place, StartError};

/// How many objects are asked for at once.
const PAGE: u64 = 10_000;
/// Where the URL is looked for that is not on the command line, where others could see it.
const URL: &str = "LITELLM_DATABASE_URL";

/// From which gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum From {
    /// LiteLLM's Postgres
    Litellm(LitellmArgs),
}

/// How to import.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys go on working, because both keep their SHA-256. Users, teams, budgets, end users and tags come
over with their limits, and with what each has spent in its running period. What is here already
stays as it is, so that importing again brings only what is new. LiteLLM's database is only read.

Import before the gateway is started: one that is running sees the new keys within a second, and
what they have spent when it is started again.")]
pub(crate) struct LitellmArgs {
    /// LiteLLM's DATABASE_URL; better in the environment, as LITELLM_DATABASE_URL
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The config file, for its `database_url` and `data`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder, instead of the config's `data` or ./tollway-data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Tells what would come over, and writes nothing
    #[arg(long)]
    dry_run: bool,
}

/// `tollway import`
pub(crate) fn run(from: &From) -> Result<(), StartError> {
    let From::Litellm(args) = from;
    let place = Place::find(args.config.as_deref(), args.data.as_deref())?;
    let url = args.database_url.as_deref().or(place.environment.get(URL));
    let Some(url) = url else {
        return Err(StartError::new(format!("name LiteLLM's database: --database-url, or {URL}")));
    };
    let url = SecretString::from(url.to_owned());
    let import = super::block_on(litellm(&place, &url, args.dry_run))??;
    say(&import.report());
    say(match (args.dry_run, import.change.create.is_empty()) {
        (true, _) => "Nothing was written: this was a dry run.",
        (false, true) => "Nothing was written: all of it is here already.",
        (false, false) => {
            "Done. A gateway that is running knows the keys by now; start it again for it to know \
             what was spent."
        }
    });
    Ok(())
}

async fn litellm(place: &Place, url: &SecretString, dry_run: bool) -> Result<Import, StartError> {
    let refused = |error: StoreError| StartError::new(error.to_string());
    let tables = LitellmTables::read(url).await.map_err(refused)?;
    let store = open(place, dry_run).await?;
    let known = match &store {
        Some(store) => known(store).await.map_err(refused)?,
        None => Known::default(),
    };
    let import = convert(&tables, &known, Clock::system().unix());
    if let Some(store) = store {
        if !dry_run && !import.change.create.is_empty() {
            store.bring_in(&import.change, NODE, &import.entries).await.map_err(refused)?;
        }
        store.close().await;
    }
    Ok(import)
}

/// The gateway's own store. `None` where there is none and nothing is to be made.
async fn open(place: &Place, dry_run: bool) -> Result<Option<SqlStore>, StartError> {
    let file = place.folder.join(DATABASE);
    let opened = match (&place.database_url, dry_run) {
        (Some(url), false) => SqlStore::postgres(url.clone()).await,
        // One that no gateway has used yet is empty.
        (Some(url), true) => match SqlStore::postgres_to_read(url.clone()).await {
            // No gateway has used it yet.
            Err(StoreError::Invalid(_)) => return Ok(None),
            opened => opened,
        },
        (None, true) if !file.exists() => return Ok(None),
        (None, true) => SqlStore::sqlite_to_read(file).await,
        (None, false) => {
            DataFolder::open(&place.folder).map_err(|error| StartError::new(error.to_string()))?;
            SqlStore::sqlite(file).await
        }
    };
    opened.map(Some).map_err(|error| StartError::new(error.to_string()))
}

async fn known(store: &SqlStore) -> Result<Known, StoreError> {
    let mut known = Known::default();
    let mut version = 0;
    loop {
        let page = store.changed_since(version, PAGE).await?;
        let Some(last) = page.last() else { return Ok(known) };
        version = last.version;
        for object in page.into_iter().filter_map(|changed| changed.object) {
            known.ids.insert((object.kind, object.id));
            known.aliases.extend(object.alias.map(|alias| (object.kind, alias)));
        }
    }
}
