//! rlimits: what the kernel itself counts for each process.

use std::io::Result;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::job::Limits;

/// Beside a guest's own memory: what the process inside has when it starts.
const OWN_DATA: u64 = 16 << 20;

/// Beside a guest's own memory: programs, libraries, and addresses that are only reserved.
const ADDRESSES: u64 = 2 << 30;

/// Puts the limits on this process and all that come of it.
pub(super) fn restrict(limits: &Limits, user_processes: u64) -> Result<()> {
    // The watch knows what all processes have had together, and says so; this is for each of them.
    let cpu = limits.cpu.as_secs() + 2;
    let all = [
        (Resource::RLIMIT_CPU, cpu, cpu + 1),
        (Resource::RLIMIT_DATA, limits.memory + OWN_DATA, limits.memory + OWN_DATA),
        (Resource::RLIMIT_AS, limits.memory + ADDRESSES, limits.memory + ADDRESSES),
        (Resource::RLIMIT_STACK, 8 << 20, 8 << 20),
        (Resource::RLIMIT_FSIZE, limits.disk, limits.disk),
        (Resource::RLIMIT_NPROC, user_processes, user_processes),
        (Resource::RLIMIT_NOFILE, 128, 128),
        (Resource::RLIMIT_MEMLOCK, 0, 0),
        (Resource::RLIMIT_MSGQUEUE, 0, 0),
        (Resource::RLIMIT_CORE, 0, 0),
    ];
    for (resource, soft, hard) in all {
        // Whoever started the gateway may have set less, which only root could raise.
        let (_, hard_max) = getrlimit(resource)?;
        setrlimit(resource, soft.min(hard_max), hard.min(hard_max))?;
    }
    Ok(())
}
