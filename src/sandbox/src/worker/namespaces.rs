//! Namespaces, and a root in which there is nothing but the system's programs.
//!
//! There is no `/proc`: nothing of ours needs it, it is where sandboxes leak, and in a container it
//! often cannot be mounted.

use std::fs::{create_dir, create_dir_all, read_link, write};
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getgid, getuid, pivot_root, sethostname};

use super::landlock::{DEVICES, SYSTEM, readable};
use crate::job::Limits;

/// Where the new root is put together. Every system has it, and nothing of it is needed meanwhile.
const ROOT: &str = "/tmp";

/// Where a guest works.
pub(super) const WORK: &str = "/work";

/// Who the guest is, as it sees itself.
const UID: u32 = 1000;

/// Leaves the system's namespaces. What is started from now on is in a new pid namespace too.
pub(super) fn unshare_all() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", format!("{UID} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{UID} {gid} 1"))?;
    sethostname("sandbox")?;
    Ok(())
}

/// Puts the new root together. `program` is beside the working folder.
pub(super) fn build(limits: &Limits, program: Option<(&str, &[u8])>) -> Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let within = |path: &str| format!("{ROOT}{path}");
    let size = (1 << 20) + program.map_or(0, |(_, text)| text.len());
    tmpfs(ROOT, &format!("size={size},nr_inodes=256,mode=755"))?;
    for path in ["/etc", "/dev", WORK] {
        create_dir(within(path))?;
    }
    let system = SYSTEM.iter().map(|path| path.to_string());
    for path in system.chain(readable()) {
        let target = within(&path);
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_symlink() {
            symlink(read_link(&path)?, target)?;
        } else if metadata.is_dir() {
            create_dir_all(&target)?;
            bind(&path, &target)?;
        } else {
            write(&target, "")?;
            bind(&path, &target)?;
        }
    }
    for (path, _) in DEVICES {
        if Path::new(path).exists() {
            write(within(path), "")?;
            mount(Some(*path), within(path).as_str(), nothing, MsFlags::MS_BIND, nothing)?;
        }
    }
    for link in ["/tmp", "/dev/shm"] {
        symlink(WORK, within(link))?;
    }
    write(within("/etc/passwd"), format!("guest:x:{UID}:{UID}::{WORK}:/bin/sh\n"))?;
    write(within("/etc/group"), format!("guest:x:{UID}:\n"))?;
    if let Some((name, text)) = program {
        write(format!("{ROOT}/{name}"), text)?;
    }
    // The working folder itself is one of the inodes.
    let (size, inodes) = (limits.disk, limits.inodes + 1);
    tmpfs(&within(WORK), &format!("size={size},nr_inodes={inodes},mode=700"))?;
    read_only(ROOT)
}

/// Makes it the root of every process in these namespaces.
pub(super) fn pivot() -> Result<()> {
    std::env::set_current_dir(ROOT)?;
    // The old root is put over the new one, and taken away from there.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir(WORK)
}

fn tmpfs(target: &str, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))?)
}

fn bind(path: &str, target: &str) -> Result<()> {
    let nothing = None::<&str>;
    mount(Some(path), target, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)?;
    read_only(target)
}

/// What the system refuses on a mount must go on being refused, or the kernel does not let us
/// change it.
fn read_only(target: &str) -> Result<()> {
    let nothing = None::<&str>;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if statvfs(target)?.flags().contains(FsFlags::ST_NOEXEC) {
        flags |= MsFlags::MS_NOEXEC;
    }
    Ok(mount(nothing, target, nothing, flags, nothing)?)
}
