//! What a worker gives up first: descriptors, root, capabilities.

use std::io::Result;

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, close, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set};

/// Closes all descriptors but the three. Those that the gateway forgot to mark are inherited.
pub(super) fn close_descriptors() -> Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one that listed them is closed already.
        let _ = close(descriptor);
    }
    Ok(())
}

/// Becomes a user that owns nothing, for good.
pub(super) fn become_user(uid: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    Ok(())
}

/// Gives up all capabilities. Those of a service that was given some survive an exec otherwise.
pub(super) fn drop_capabilities() -> Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Lets a process that changed its user have its own `/proc/self` again.
pub(super) fn own_proc() -> Result<()> {
    Ok(prctl::set_dumpable(true)?)
}
