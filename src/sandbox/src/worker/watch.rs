//! What nothing but looking can tell: how much all processes of a run have together, and, without
//! a file system of its own, how full its folder is.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode as FileMode, OFlags, openat, statat};

use crate::job::{Limits, Why};

/// How often is looked.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Folders within folders, beyond which a path could become too long to look at.
const DEPTH_MAX: usize = 64;

/// Processes that have ended and are not waited for yet, beyond which it is a bomb.
const DEAD_MAX: usize = 64;

/// The processes of the machine, as they were seen before the root was changed.
pub(super) struct Proc(OwnedFd);

impl Proc {
    pub(super) fn open() -> Result<Proc> {
        Ok(Proc(OwnedFd::from(File::open("/proc")?)))
    }

    fn read(&self, path: &str) -> Result<String> {
        let opened = openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())?;
        let mut text = Vec::new();
        File::from(opened).read_to_end(&mut text)?;
        // The name of a program can be any bytes.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = Dir::new(openat(&self.0, path, flags, FileMode::empty())?)?;
        let names =
            folder.filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }

    /// A process and all that come of it, those included that have lost their parents: they become
    /// children of the first process inside, or of the supervisor. A bomb can make them faster than
    /// they are found: there are a few more than `max` at most.
    fn tree(&self, root: u32, max: usize) -> Vec<u32> {
        let mut found = vec![root];
        let mut next = 0;
        while let Some(process) = found.get(next).copied()
            && found.len() <= max
        {
            next += 1;
            for thread in self.list(&format!("{process}/task")).unwrap_or_default() {
                let children = self.read(&format!("{process}/task/{thread}/children"));
                let children = children.unwrap_or_default();
                found.extend(
                    children.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()),
                );
            }
        }
        found
    }

    /// What one process has.
    pub(super) fn usage(&self, process: u32) -> Option<Usage> {
        let text = self.read(&format!("{process}/stat")).ok()?;
        // The name is in brackets and may contain some.
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)? + field(16)? + field(17)?;
        Some(Usage {
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
            memory: field(24)? * rustix::param::page_size() as u64,
            threads: field(20)?,
        })
    }

    /// The memory of one process, of which what it shares counts in part. Takes longer.
    fn share(&self, process: u32) -> Option<u64> {
        let text = self.read(&format!("{process}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }
}

/// What a process has, or several have together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Its own time, and that of its children who have ended.
    cpu: Duration,
    pub(super) memory: u64,
    threads: u64,
}

/// Looks at one run.
pub(super) struct Watch<'a> {
    pub(super) proc: &'a Proc,
    pub(super) limits: &'a Limits,
    /// The supervisor.
    pub(super) own: u32,
    /// What the process inside had before it became the guest.
    pub(super) memory_before: u64,
    /// Whether the working folder, which is the current one, has no file system of its own.
    pub(super) is_folder: bool,
    pub(super) folder_next: Instant,
}

impl Watch<'_> {
    /// Which limit has been reached.
    pub(super) fn look(&mut self) -> Option<Why> {
        // The supervisor is no part of what it watches.
        let tree_max = self.limits.processes as usize + DEAD_MAX;
        let tree = self.proc.tree(self.own, tree_max).split_off(1);
        if tree.len() >= tree_max {
            return Some(Why::Processes);
        }
        let mut sum = Usage::default();
        for usage in tree.iter().filter_map(|process| self.proc.usage(*process)) {
            sum.cpu += usage.cpu;
            sum.memory += usage.memory;
            sum.threads += usage.threads;
        }
        let memory_max = self.limits.memory + self.memory_before;
        // What several share counts for each of them: look again, more closely.
        if sum.memory > memory_max
            && tree.iter().filter_map(|process| self.proc.share(*process)).sum::<u64>() > memory_max
        {
            return Some(Why::Memory);
        }
        if sum.cpu > self.limits.cpu {
            return Some(Why::Cpu);
        }
        // One of them is the process inside.
        if sum.threads > self.limits.processes + 1 {
            return Some(Why::Processes);
        }
        let now = Instant::now();
        if !self.is_folder || now < self.folder_next {
            return None;
        }
        let full = self.is_full(&tree);
        // A large folder must not cost more time than the guest.
        self.folder_next = now + now.elapsed() * 4;
        full.then_some(Why::Disk)
    }

    fn is_full(&self, tree: &[u32]) -> bool {
        let mut space = Space::default();
        let is_hidden = space.walk(Path::new(".")).is_err();
        self.unlinked(tree, &mut space);
        is_hidden || space.bytes > self.limits.disk || space.inodes > self.limits.inodes
    }

    /// Files that are open but have no name any more.
    fn unlinked(&self, tree: &[u32], space: &mut Space) {
        let mut seen = HashSet::new();
        for process in tree {
            let path = format!("{process}/fd");
            for descriptor in self.proc.list(&path).unwrap_or_default() {
                let stat = statat(&self.proc.0, format!("{path}/{descriptor}"), AtFlags::empty());
                if let Ok(stat) = stat
                    && stat.st_nlink == 0
                    && stat.st_mode & libc::S_IFMT == libc::S_IFREG
                    && seen.insert((stat.st_dev, stat.st_ino))
                {
                    space.bytes += stat.st_blocks as u64 * 512;
                    space.inodes += 1;
                }
            }
        }
    }
}

#[derive(Default)]
struct Space {
    bytes: u64,
    inodes: u64,
}

impl Space {
    /// Adds up a folder. An error means that something is hidden from us.
    fn walk(&mut self, folder: &Path) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut folders: Vec<(PathBuf, usize)> = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            if depth > DEPTH_MAX {
                return Err(ErrorKind::InvalidFilename.into());
            }
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                // Gone since it was listed, or something else by now.
                Err(gone) if is_gone(&gone) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Ok(metadata) = entry.metadata() else { continue };
                self.bytes += metadata.blocks() * 512;
                self.inodes += 1;
                if metadata.is_dir() {
                    folders.push((entry.path(), depth + 1));
                }
            }
        }
        Ok(())
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
