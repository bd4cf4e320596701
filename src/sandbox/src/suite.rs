//! The escape suite: runs in the sandbox as its guest and tries to get out. Every start of the
//! gateway runs it; a mode in which anything is open is not used.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use libc::{c_int, c_long, c_ulong};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::raw::call;

/// What there is outside to be reached: put up by who runs the suite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bait {
    /// The process that the guest must not touch.
    pub(crate) caller: u32,
    /// A TCP listener on 127.0.0.1.
    pub(crate) port: u16,
    /// A file that all may read and write.
    pub(crate) file: PathBuf,
    /// A socket that all may connect to.
    pub(crate) socket: PathBuf,
    /// The same without a path.
    pub(crate) abstract_socket: String,
    /// Whether signals and processes were to be had.
    pub(crate) forks: bool,
}

/// Runs the suite and writes a line for each way out that is open. The exit code says if any is.
pub(crate) fn run(bait: &[u8], out: &mut dyn Write) -> i32 {
    let Ok(bait) = serde_json::from_slice::<Bait>(bait) else { return 2 };
    let mut open = 0;
    let mut report = |name: &str, found: Option<String>| {
        if let Some(found) = found {
            open += 1;
            let _ = writeln!(out, "{name}: {found}");
        }
    };
    files(&bait, &mut report);
    network(&bait, &mut report);
    processes(&bait, &mut report);
    kernel(&bait, &mut report);
    i32::from(open > 0)
}

type Report<'a> = &'a mut dyn FnMut(&str, Option<String>);

/// What must fail, and did not.
fn done<T, E>(result: Result<T, E>) -> Option<String> {
    result.ok().map(|_| "possible".to_owned())
}

fn files(bait: &Bait, report: Report<'_>) {
    report(
        "environment",
        std::env::vars_os()
            .find(|(name, _)| name != ALLOCATOR)
            .map(|(name, _)| format!("{} is set", name.display())),
    );
    let mut read = |name: &str, path: &Path| report(name, done(fs::read(path)));
    read("a file of the caller", &bait.file);
    read("the caller's environment", Path::new(&format!("/proc/{}/environ", bait.caller)));
    read("the environment of process 1", Path::new("/proc/1/environ"));
    read("the memory of itself", Path::new("/proc/self/maps"));
    read("/etc/shadow", Path::new("/etc/shadow"));
    read("/etc/hostname", Path::new("/etc/hostname"));
    read("/sys", Path::new("/sys/kernel/mm/transparent_hugepage/enabled"));
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    report("/etc/passwd", users.contains("root").then_some(users));
    // In namespaces there is nothing in them, but Landlock refuses them nevertheless.
    for path in ["/", "/etc", "/dev", ".."] {
        report("a folder of the system", done(fs::read_dir(path)).map(|_| path.to_owned()));
    }

    if symlink(&bait.file, "link").is_ok() {
        report("a file by a link", done(fs::read("link")));
        let _ = fs::remove_file("link");
    }
    report("a file by a hard link", done(fs::hard_link(&bait.file, "hard")));
    report("a file, renamed", done(fs::rename(&bait.file, "renamed")));
    report("removing a file", done(fs::remove_file(&bait.file)));
    report("writing a file", done(OpenOptions::new().append(true).open(&bait.file)));
    let beside = bait.file.with_file_name("beside");
    for path in ["/usr/x", "/usr/bin/x", "/etc/x", "/var/tmp/x", "/dev/x", "/x", "../x"] {
        report("writing outside", done(File::create(path)).map(|_| path.to_owned()));
    }
    report("writing beside a file", done(File::create(beside)));
    // In namespaces this is a link to the working folder.
    if !fs::symlink_metadata("/tmp").is_ok_and(|metadata| metadata.is_symlink()) {
        report("writing /tmp", done(File::create("/tmp/x")));
    }
    if File::create("own").is_ok() {
        let set_id = fs::Permissions::from_mode(0o4755);
        report("setuid", done(fs::set_permissions("own", set_id)));
        let _ = fs::remove_file("own");
    }
    // Descriptors that nobody gave it. The dup of its control socket is its own.
    let open: Vec<c_ulong> = (3..1024)
        .filter(|fd| {
            call(libc::SYS_fcntl, [*fd, libc::F_GETFD as c_ulong, 0, 0, 0])
                .is_ok_and(|flags| flags & libc::FD_CLOEXEC as c_long == 0)
        })
        .collect();
    report("descriptors", (!open.is_empty()).then(|| format!("{open:?} are open")));
}

/// The only variable that the process inside has; its guest has none of it.
const ALLOCATOR: &str = "MIMALLOC_ARENA_EAGER_COMMIT";

fn network(bait: &Bait, report: Report<'_>) {
    report("TCP", done(TcpStream::connect(("127.0.0.1", bait.port))));
    report("UDP", done(UdpSocket::bind("127.0.0.1:0")));
    report("unix socket", done(UnixStream::connect(&bait.socket)));
    let address = SocketAddr::from_abstract_name(&bait.abstract_socket);
    report(
        "abstract unix socket",
        done(address.and_then(|address| UnixStream::connect_addr(&address))),
    );
    let families = [
        ("unix", libc::AF_UNIX),
        ("inet", libc::AF_INET),
        ("inet6", libc::AF_INET6),
        ("netlink", libc::AF_NETLINK),
        ("packet", libc::AF_PACKET),
        ("vsock", libc::AF_VSOCK),
        ("alg", libc::AF_ALG),
        ("bluetooth", libc::AF_BLUETOOTH),
    ];
    for (name, family) in families {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            let socket = call(libc::SYS_socket, [family as c_ulong, kind as c_ulong, 0, 0, 0]);
            report(&format!("{name} socket {kind}"), refused(socket));
        }
    }
    report("socketpair", refused(call(libc::SYS_socketpair, [1, 1, 0, 0, 0])));
}

/// What must be refused before it is looked at, and was not.
fn refused(result: Result<c_long, Errno>) -> Option<String> {
    match result {
        Err(Errno::EPERM) => None,
        Err(other) => Some(format!("{other}")),
        Ok(_) => Some("possible".to_owned()),
    }
}

fn processes(bait: &Bait, report: Report<'_>) {
    let caller = c_ulong::from(bait.caller);
    let signalled = call(libc::SYS_kill, [caller, 0, 0, 0, 0]);
    // In a pid namespace there is nobody of that number.
    report("kill", signalled.ok().map(|_| "possible".to_owned()));
    let thread = call(libc::SYS_tgkill, [caller, caller, 0, 0, 0]);
    report("tgkill", thread.ok().map(|_| "possible".to_owned()));
    let calls = [
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_SEIZE as c_ulong, caller, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [caller, 0, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [caller, 0, 0, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, [0; 5]),
        ("pidfd_open", libc::SYS_pidfd_open, [caller, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 5]),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [0; 5]),
        ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [caller, 0, 0, 0, 0]),
        ("prlimit", libc::SYS_prlimit64, [caller, libc::RLIMIT_NOFILE.into(), 0, 0, 0]),
        ("setpriority", libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), caller, 19, 0, 0]),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, [caller, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [caller, caller, 0, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        report(name, refused(call(number, arguments)));
    }
}

fn kernel(bait: &Bait, report: Report<'_>) {
    let namespace = |flag: c_int| [flag as c_ulong, 0, 0, 0, 0];
    let calls = [
        ("unshare user", libc::SYS_unshare, namespace(libc::CLONE_NEWUSER)),
        ("unshare mount", libc::SYS_unshare, namespace(libc::CLONE_NEWNS)),
        ("unshare nothing", libc::SYS_unshare, [0; 5]),
        ("clone user", libc::SYS_clone, namespace(libc::CLONE_NEWUSER)),
        ("clone net", libc::SYS_clone, namespace(libc::CLONE_NEWNET)),
        ("setns", libc::SYS_setns, [0; 5]),
        ("mount", libc::SYS_mount, [0; 5]),
        ("umount2", libc::SYS_umount2, [0; 5]),
        ("fsopen", libc::SYS_fsopen, [0; 5]),
        ("open_tree", libc::SYS_open_tree, [0; 5]),
        ("move_mount", libc::SYS_move_mount, [0; 5]),
        ("mount_setattr", libc::SYS_mount_setattr, [0; 5]),
        ("pivot_root", libc::SYS_pivot_root, [0; 5]),
        ("chroot", libc::SYS_chroot, [0; 5]),
        ("mknodat", libc::SYS_mknodat, [0; 5]),
        ("bpf", libc::SYS_bpf, [0; 5]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [0; 5]),
        ("io_uring_register", libc::SYS_io_uring_register, [0; 5]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
        ("keyctl", libc::SYS_keyctl, [0; 5]),
        ("add_key", libc::SYS_add_key, [0; 5]),
        ("request_key", libc::SYS_request_key, [0; 5]),
        ("seccomp", libc::SYS_seccomp, [0; 5]),
        ("memfd_create", libc::SYS_memfd_create, [0; 5]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, [0; 5]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 5]),
        ("fanotify_init", libc::SYS_fanotify_init, [0; 5]),
        ("inotify_init1", libc::SYS_inotify_init1, [0; 5]),
        ("quotactl", libc::SYS_quotactl, [0; 5]),
        ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0; 5]),
        ("finit_module", libc::SYS_finit_module, [0; 5]),
        ("kexec_load", libc::SYS_kexec_load, [0; 5]),
        ("reboot", libc::SYS_reboot, [0; 5]),
        ("swapon", libc::SYS_swapon, [0; 5]),
        ("acct", libc::SYS_acct, [0; 5]),
        ("settimeofday", libc::SYS_settimeofday, [0; 5]),
        ("adjtimex", libc::SYS_adjtimex, [0; 5]),
        ("sethostname", libc::SYS_sethostname, [0; 5]),
        ("personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]),
        ("shmget", libc::SYS_shmget, [0, 4096, 0o1600, 0, 0]),
        ("semget", libc::SYS_semget, [0, 1, 0o1600, 0, 0]),
        ("msgget", libc::SYS_msgget, [0, 0o1600, 0, 0, 0]),
        ("mq_open", libc::SYS_mq_open, [0; 5]),
        ("setuid", libc::SYS_setuid, [0; 5]),
        ("setgroups", libc::SYS_setgroups, [0; 5]),
        ("capset", libc::SYS_capset, [0; 5]),
        ("fcntl F_SETOWN", libc::SYS_fcntl, [1, libc::F_SETOWN as c_ulong, 0, 0, 0]),
        ("ioctl TIOCSTI", libc::SYS_ioctl, [1, libc::TIOCSTI as c_ulong, 0, 0, 0]),
        // A number that no kernel has.
        ("an unknown call", 4095, [0; 5]),
    ];
    for (name, number, arguments) in calls {
        report(name, refused(call(number, arguments)));
    }
    // What has flags behind a pointer, which no filter can look at, must not exist.
    let expected = if bait.forks { Errno::ENOSYS } else { Errno::EPERM };
    for (name, number) in [("clone3", libc::SYS_clone3), ("openat2", libc::SYS_openat2)] {
        let found = call(number, [0; 5]);
        report(name, (found != Err(expected)).then(|| format!("{found:?}")));
    }
    if !bait.forks {
        report("execve", refused(call(libc::SYS_execve, [0; 5])));
        let code = [
            0,
            4096,
            libc::PROT_EXEC as c_ulong,
            libc::MAP_ANONYMOUS as c_ulong | libc::MAP_PRIVATE as c_ulong,
            0,
        ];
        report("code of its own", refused(call(libc::SYS_mmap, code)));
    }
}
