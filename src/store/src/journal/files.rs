//! The files of the journal, as a trait, so that tests can have a disk that is full or broken.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// A file that is written to.
pub trait Writing: Send + Sync {
    /// Writes all of it.
    ///
    /// # Errors
    /// When it cannot, perhaps after a part of it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when all that was written would survive a power failure.
    ///
    /// # Errors
    /// When it might not.
    fn sync(&self) -> io::Result<()>;
}

/// What the journal does with its folder. Reading is not part of it.
pub trait Files: Send + Sync {
    /// Makes an empty file that only its owner can read, or opens the one there is, as it is.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Writing>>;

    /// Gives a file another name, in place of a file that has it.
    ///
    /// # Errors
    /// When it cannot.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// When it cannot.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns when the names in a folder would survive a power failure.
    ///
    /// # Errors
    /// When they might not.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Writing for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Files for Disk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Writing>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        Ok(Arc::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// Makes a folder that only its owner can look into, or makes the one there is such a one.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let is = std::fs::metadata(folder)?.permissions().mode();
    if is & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))
}

/// Replaces a small file as a whole: after a crash there is the old text or the new one.
pub(crate) fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    File::open(folder)?.sync_all()
}
