//! Who a journal belongs to.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::Salt;
use super::files::{private_folder, replace};

/// Calls and records of one start of the process have this many numbers. What follows is the number
/// of the start, so that numbers grow even where the end of the journal was lost with the power.
const NUMBER_BITS: u32 = 40;
/// How often a node can start: numbers stay below 2^63, which is what databases hold.
const STARTS_MAX: u64 = 1 << (63 - NUMBER_BITS);

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("{0} is in use by another process: every gateway needs a data folder of its own")]
    InUse(PathBuf),
    /// The ledger has records that this node cannot have written.
    #[error(
        "the ledger has records of node {node} that are later than all this folder ({folder}) knows \
         of: another gateway runs with a copy of the folder, or it was restored from a backup. Stop \
         the other one; or empty this folder, and this gateway gets a name of its own"
    )]
    SameNode {
        /// The node.
        node: Arc<str>,
        /// The folder.
        folder: PathBuf,
    },
    /// The file that says what the node is called cannot be understood.
    #[error(
        "{0} is damaged or missing, and the journal beside it cannot be read without: restore it, or \
         empty the folder, and with it what the ledger does not have yet"
    )]
    Damaged(PathBuf),
    /// It cannot be used.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A node, for as long as its process runs.
#[derive(Debug)]
pub struct Identity {
    /// What it is called in the ledger.
    pub node: Arc<str>,
    /// What checksums begin with.
    pub salt: Salt,
    /// How often it has started.
    pub start: u64,
    /// The ledger has had everything up to here, as far as is known.
    pub place: u64,
    /// Locked until it is dropped.
    _lock: File,
}

impl Identity {
    /// Takes a folder, and makes it if it is not there.
    ///
    /// # Errors
    /// When another process has it, or it cannot be used.
    pub fn take(folder: &Path) -> Result<Identity, IdentityError> {
        let failed = |source| IdentityError::Folder { path: folder.to_owned(), source };
        private_folder(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let read = |name| match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(IdentityError::Damaged(folder.join(name)))
            }
            Err(error) => Err(failed(error)),
        };
        let (node, salt, start) = match read("node")? {
            Some(text) => {
                parse(&text).ok_or_else(|| IdentityError::Damaged(folder.join("node")))?
            }
            None if has_segments(folder).map_err(failed)? => {
                return Err(IdentityError::Damaged(folder.join("node")));
            }
            None => new_name().map_err(failed)?,
        };
        let start = start + 1;
        if start >= STARTS_MAX {
            return Err(IdentityError::Damaged(folder.join("node")));
        }
        // Before a number of this start is used.
        let text = format!("node {node}\nsalt {:08x}\nstart {start}\n", salt.0);
        let replaced = replace(folder, "node", &text).or_else(|error| {
            // On a full disk, from what is kept for that. It is filled again when there is room.
            std::fs::remove_file(folder.join("reserve")).map_err(|_| error)?;
            replace(folder, "node", &text)
        });
        replaced.map_err(failed)?;
        // Only a help: the ledger knows better.
        let place = read("place").unwrap_or_default();
        let place = place.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        Ok(Identity { node, salt, start, place, _lock: lock })
    }

    /// The first number of this start.
    pub(crate) fn first(&self) -> u64 {
        self.start << NUMBER_BITS
    }
}

fn has_segments(folder: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        if entry?.path().extension().is_some_and(|extension| extension == "seg") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse(text: &str) -> Option<(Arc<str>, Salt, u64)> {
    let said = |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let node = said("node").filter(|node| !node.is_empty() && node.len() <= 200)?;
    let salt = u32::from_str_radix(said("salt")?, 16).ok()?;
    let start = said("start")?.parse().ok().filter(|start| *start < STARTS_MAX)?;
    Some((node.into(), Salt(salt), start))
}

fn new_name() -> io::Result<(Arc<str>, Salt, u64)> {
    let drawn = getrandom::u64().and_then(|name| Ok((name, getrandom::u32()?)));
    let (name, salt) = drawn.map_err(io::Error::other)?;
    Ok((format!("node-{name:016x}").into(), Salt(salt), 0))
}

/// Notes how far the ledger has it. Nothing depends on it but what is read again after a start.
pub(crate) fn save_place(folder: &Path, place: u64) -> io::Result<()> {
    let new = folder.join("place.new");
    std::fs::write(&new, format!("{place}\n"))?;
    std::fs::rename(new, folder.join("place"))
}
