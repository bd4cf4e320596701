//! seccomp: the calls a guest may make. All others fail with EPERM.

use libc::{c_long, c_uint};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

use crate::job::Mode;

/// What every guest may do with what it has: compute, read, write, wait, end.
const PLAIN: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What programs of the system need beside: processes, folders, waiting for several things.
const PROCESSES: &[c_long] = &[
    libc::SYS_capget,
    libc::SYS_chdir,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpgid,
    libc::SYS_getpriority,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getsid,
    libc::SYS_getxattr,
    // Landlock keeps signals inside, and the pid namespace does.
    libc::SYS_kill,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_msync,
    libc::SYS_pipe2,
    libc::SYS_pselect6,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sendfile,
    libc::SYS_setitimer,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Older forms of these calls that only some machines have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// What does not exist: libraries then take an older call, whose flags can be looked at. They do not
/// if it is refused.
const ABSENT: &[c_long] = &[libc::SYS_clone3, libc::SYS_openat2];

/// What of `fcntl` there is: nothing that sends signals or makes pipes larger.
const FCNTL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_GETPIPE_SZ,
];

/// What of `ioctl`: is it a terminal, how much is there to read, close on exec.
const IOCTL: &[u64] =
    &[libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];

/// Namespaces, and children of somebody else.
const CLONE_REFUSED: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PARENT;

/// The bits of a file's mode that give its owner's rights away.
const SET_ID: c_uint = libc::S_ISUID | libc::S_ISGID;

/// Puts the filter up, for good and for all children. What it is applied to last is itself.
pub(super) fn restrict(mode: Mode, forks: bool) -> Result<(), String> {
    let apply = || -> Result<(), Box<dyn std::error::Error>> {
        if forks {
            let absent = SeccompAction::Errno(libc::ENOSYS as u32);
            let calls = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
            install(calls, SeccompAction::Allow, absent)?;
        }
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        install(rules(mode, forks)?, refused, SeccompAction::Allow)
    };
    apply().map_err(|error| format!("seccomp: {error}"))
}

fn install(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), Box<dyn std::error::Error>> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, machine)?;
    apply_filter(&seccompiler::BpfProgram::try_from(filter)?)?;
    Ok(())
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules(mode: Mode, forks: bool) -> Result<Rules, BackendError> {
    let mut rules: Rules = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    let any = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| SeccompRule::new(vec![is(argument, *value)?])).collect()
    };
    // The limits of others could be changed otherwise: those of the gateway, where it is our user.
    rules.insert(libc::SYS_prlimit64, any(0, &[0])?);
    rules.insert(libc::SYS_ioctl, any(1, IOCTL)?);
    let fcntl: Vec<u64> = FCNTL.iter().map(|command| *command as u64).collect();
    rules.insert(libc::SYS_fcntl, any(1, &fcntl)?);
    rules.insert(libc::SYS_openat, open(2)?);
    if !forks {
        // Nothing here makes code at run time.
        let not_code = || SeccompRule::new(vec![lacks(2, libc::PROT_EXEC as u64)?]);
        rules.insert(libc::SYS_mmap, vec![not_code()?]);
        rules.insert(libc::SYS_mprotect, vec![not_code()?]);
        return Ok(rules);
    }
    rules.extend(PROCESSES.iter().chain(OLD).map(|call| (*call, Vec::new())));
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![lacks(0, CLONE_REFUSED as u64)?])?]);
    // Of two filters the stricter counts: for these that is the one that says they do not exist.
    rules.extend(ABSENT.iter().map(|call| (*call, Vec::new())));
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_PDEATHSIG];
    rules.insert(libc::SYS_prctl, any(0, &names.map(|name| name as u64))?);
    let mode_of = |argument| SeccompRule::new(vec![lacks(argument, SET_ID.into())?]);
    rules.insert(libc::SYS_fchmod, vec![mode_of(1)?]);
    rules.insert(libc::SYS_fchmodat, vec![mode_of(2)?]);
    #[cfg(target_arch = "x86_64")]
    {
        rules.insert(libc::SYS_fchmodat2, vec![mode_of(2)?]);
        rules.insert(libc::SYS_chmod, vec![mode_of(1)?]);
        rules.insert(libc::SYS_creat, vec![mode_of(1)?]);
        rules.insert(libc::SYS_open, open(1)?);
    }
    if mode == Mode::Namespaces {
        // Elsewhere all of a run is one process group, which is how it is killed.
        rules.extend([libc::SYS_setpgid, libc::SYS_setsid].map(|call| (call, Vec::new())));
    }
    Ok(rules)
}

/// Opening a file, with the flags in this argument and the mode in the next: none that is new has
/// its owner's rights. Where none is made, the mode is whatever was there.
fn open(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let makes = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;
    Ok(vec![
        SeccompRule::new(vec![lacks(flags, makes)?])?,
        SeccompRule::new(vec![lacks(flags + 1, SET_ID.into())?])?,
    ])
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn lacks(argument: u8, bits: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0)
}
