//! The working folder: what goes into it before the guest starts, and what is in it afterwards.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, read_dir};
use std::io::{Read, Result, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::job::Limits;

/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 8;

/// What tells whether a file was changed: nobody can set when its inode was.
type Mark = (u64, u64, i64, i64);

/// The files that were there before the guest.
pub(super) struct Before(HashMap<PathBuf, Mark>);

fn mark(metadata: &std::fs::Metadata) -> Mark {
    (metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec())
}

/// Writes a new file into the current folder.
pub(super) fn put(name: &str, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    options.open(name)?.write_all(bytes)
}

/// Remembers the current folder.
pub(super) fn remember() -> Result<Before> {
    let mut marks = HashMap::new();
    for entry in read_dir(".")? {
        let entry = entry?;
        marks.insert(entry.path(), mark(&entry.metadata()?));
    }
    Ok(Before(marks))
}

/// Gives the regular files of the current folder that are new or changed, by name, and says how
/// many it left out. No process of the guest is alive any more.
pub(super) fn collect(
    before: &Before,
    limits: &Limits,
    mut give: impl FnMut(&str, &[u8]) -> Result<()>,
) -> Result<u32> {
    let mut found = Vec::new();
    let mut left_out = 0;
    find(Path::new("."), 0, &mut |path, metadata| {
        if before.0.get(&path) != Some(&mark(metadata)) {
            found.push(path);
        }
    });
    found.sort();
    let mut space = limits.files_bytes;
    let mut count = 0;
    for path in found {
        let name = path.strip_prefix(".").ok().and_then(Path::to_str);
        let read = name
            .filter(|_| count < limits.files)
            .and_then(|name| Some((name, read(&path, space)?)));
        let Some((name, bytes)) = read else {
            left_out += 1;
            continue;
        };
        space -= bytes.len() as u64;
        count += 1;
        give(name, &bytes)?;
    }
    Ok(left_out)
}

/// Reads a regular file of no more than so many bytes.
fn read(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file: File = options.open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > bytes_max {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= bytes_max).then_some(bytes)
}

/// Finds regular files. Links are not followed.
fn find(folder: &Path, depth: usize, found: &mut impl FnMut(PathBuf, &std::fs::Metadata)) {
    for entry in read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            found(entry.path(), &metadata);
        } else if metadata.is_dir() && depth < DEPTH_MAX {
            find(&entry.path(), depth + 1, found);
        }
    }
}
