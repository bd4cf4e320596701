//! The folder of a run that has no file system of its own.

use std::fs::{self, Permissions};
use std::io::Result;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder with a working folder in it. Goes when this is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder for all of them, and removes what gateways left that were killed.
    pub(crate) fn prepare(all: &Path) -> Result<()> {
        fs::create_dir_all(all)?;
        fs::set_permissions(all, Permissions::from_mode(0o711))?;
        for entry in fs::read_dir(all)? {
            let entry = entry?;
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix("run-")?.split_once('-'));
            if process.is_some_and(|(process, _)| !Path::new("/proc").join(process).exists()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes one that belongs to this user, or to us.
    pub(crate) fn make(all: &Path, user: Option<u32>) -> Result<Scratch> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let scratch = Scratch(all.join(format!("run-{}-{next}", std::process::id())));
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        for folder in [scratch.0.clone(), scratch.0.join("work")] {
            builder.create(&folder)?;
            chown(&folder, user, user)?;
        }
        Ok(scratch)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is tried again at the next start.
        let _ = remove(&self.0);
    }
}

/// Removes a folder with all that a guest made in it, however deep: folders within folders are
/// moved up, so that no path becomes long. Nobody else has a hand in it any more.
fn remove(folder: &Path) -> Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut is_empty = true;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            is_empty = false;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            // A guest may have closed it to itself.
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    fs::set_permissions(inner.path(), Permissions::from_mode(0o700))?;
                }
                moved += 1;
                fs::rename(inner.path(), folder.join(format!(".moved-{moved}")))?;
            }
            fs::remove_dir(entry.path())?;
        }
        if is_empty {
            return fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_however_deep_and_closed_it_is() {
        let all = std::env::temp_dir().join(format!("tollway-scratch-{}", std::process::id()));
        Scratch::prepare(&all).unwrap();
        let scratch = Scratch::make(&all, None).unwrap();
        let mut path = scratch.path().join("work");
        // Deeper than a path can be long.
        for _ in 0..10 {
            let deep: PathBuf = (0..5).map(|_| "d".repeat(100)).collect();
            fs::create_dir_all(path.join(&deep)).unwrap();
            let next = scratch.path().join("next");
            fs::rename(scratch.path().join("work"), &next).unwrap();
            fs::create_dir(scratch.path().join("work")).unwrap();
            fs::rename(next, scratch.path().join("work/inner")).unwrap();
            path = scratch.path().join("work");
        }
        fs::write(path.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/usr", path.join("link")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        let gone = scratch.path().to_owned();
        drop(scratch);
        assert!(!gone.exists());
        fs::remove_dir(&all).unwrap();
    }

    #[test]
    fn what_a_killed_gateway_left_is_removed_and_nothing_else() {
        let all = std::env::temp_dir().join(format!("tollway-left-{}", std::process::id()));
        Scratch::prepare(&all).unwrap();
        // No process has this number.
        for name in ["run-99999999-0", "other"] {
            fs::create_dir_all(all.join(name).join("work")).unwrap();
        }
        let alive = Scratch::make(&all, None).unwrap();
        Scratch::prepare(&all).unwrap();
        assert!(alive.path().exists() && all.join("other").exists());
        assert!(!all.join("run-99999999-0").exists());
        drop(alive);
        fs::remove_dir_all(&all).unwrap();
    }
}
