//! Ways out, tried from Python and from the shell: not by the suite that runs at start, which would
//! agree with itself.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use serde_json::Value;

use crate::caller::{CANARY, Caller, in_every_way};

in_every_way!(
    every_language_is_locked_in_as_it_should_be,
    files_of_the_system_are_out_of_reach,
    no_process_outside_is_in_reach,
    no_socket_is_to_be_had,
    the_kernel_does_what_programs_need_and_no_more,
    nothing_is_written_outside_the_working_folder,
);

fn every_language_is_locked_in_as_it_should_be(caller: Caller) {
    for language in ["python", "javascript", "shell", "native"] {
        assert_eq!(caller.status[language], caller.level(), "{}", caller.status);
    }
}

/// Python that tries what it is given as `(name, code)` and prints what each came to.
fn attempts(caller: &mut Caller, attempts: &[(&str, &str)]) -> Value {
    let list: Vec<String> =
        attempts.iter().map(|(name, code)| format!("({name:?}, {code:?})")).collect();
    let program = format!(
        r#"
import ctypes, errno, glob, json, os, shutil, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
caller = {process}
found = {{}}
for name, code in [{list}]:
    try:
        found[name] = repr(eval(code))
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))
print(json.dumps(found))
"#,
        process = caller.child.id(),
        list = list.join(", "),
    );
    serde_json::from_str(&caller.stdout_of("python", &program)).expect("JSON")
}

/// Tries all, and wants one of these errors each time.
fn refused(caller: &mut Caller, errors: &[&str], tried: &[(&str, &str)]) {
    let found = attempts(caller, tried);
    for (name, _) in tried {
        let error = found[name].as_str().expect("text");
        assert!(errors.contains(&error), "{name}: {error}");
    }
}

const FILE: &[&str] = &["EACCES", "ENOENT", "EPERM", "EROFS", "ENOTDIR", "EXDEV"];

fn files_of_the_system_are_out_of_reach(mut caller: Caller) {
    let secret = caller.folder.join("secret");
    std::fs::write(&secret, CANARY).expect("a file");
    let path = secret.display();
    let (read, link, hard) = (
        format!("open('{path}').read()"),
        format!("(os.symlink('{path}', 'link'), open('link').read())"),
        format!("(os.link('{path}', 'hard'), open('hard').read())"),
    );
    let tried = [
        ("secret", &read[..]),
        ("link", &link),
        ("hard link", &hard),
        ("shadow", "open('/etc/shadow').read()"),
        ("caller's environment", "open(f'/proc/{caller}/environ').read()"),
        ("environment of 1", "open('/proc/1/environ').read()"),
        ("own environment", "open('/proc/self/environ').read()"),
        ("processes", "os.listdir('/proc')"),
        ("home", "os.listdir('/root')"),
        ("roots of others", "os.listdir('/proc/1/root')"),
        ("disks", "open('/dev/vda', 'rb').read(1)"),
        ("memory", "open('/dev/mem', 'rb').read(1)"),
        ("kernel", "open('/sys/kernel/uevent_helper').read()"),
        ("terminal", "open('/dev/tty').read(1)"),
        ("above", "os.listdir('..')"),
        ("root folder", "os.listdir('/')"),
        ("/etc", "os.listdir('/etc')"),
    ];
    refused(&mut caller, FILE, &tried);
    let environment = caller.stdout_of("python", "import os; print(sorted(os.environ), open('/etc/passwd').read() if os.getcwd() == '/work' else '')");
    assert!(!environment.contains("CANARY") && !environment.contains("root"), "{environment}");
    let text = caller.stdout_of("shell", "env; set; ls -la / /etc 2>&1; true");
    assert!(!text.contains(CANARY) && !text.contains("shadow"), "{text}");
    // Nobody's user, and in no group but its own.
    let ids = caller.stdout_of("python", "import os; print(os.getuid() == os.getgid(), os.getuid() > 0, os.getgroups() in ([], [os.getgid()]))");
    assert_eq!(ids, "True True True\n");
    // Only the three, though the caller has one open that is not marked.
    let open = "
import os
open_ones = []
for fd in range(1024):
    try: os.fstat(fd); open_ones.append(fd)
    except OSError: pass
print(open_ones)";
    assert_eq!(caller.stdout_of("python", open), "[0, 1, 2]\n");
}

fn no_process_outside_is_in_reach(mut caller: Caller) {
    let tried = [
        ("kill", "os.kill(caller, 0)"),
        ("kill hard", "os.kill(caller, signal.SIGKILL)"),
        ("kill 1", "os.kill(1, 0) if os.getppid() != 1 else os.kill(caller, 0)"),
        ("queue", "call(129, caller, 0, 0)"),
        ("thread", "call(234, caller, caller, 0)"),
        ("pidfd", "os.pidfd_open(caller)"),
        ("ptrace", "call(101, 16, caller, 0, 0)"),
        ("seize", "call(101, 0x4206, caller, 0, 0)"),
        ("traced", "call(101, 0, 0, 0, 0)"),
        ("read memory", "call(310, caller, 0, 0, 0, 0, 0)"),
        ("write memory", "call(311, caller, 0, 0, 0, 0, 0)"),
        ("limits", "call(302, caller, 7, 0, 0)"),
        ("priority", "os.setpriority(os.PRIO_PROCESS, caller, 19)"),
        ("processors", "os.sched_setaffinity(caller, [0])"),
    ];
    refused(&mut caller, &["EPERM", "ESRCH"], &tried);
    // It signals all it can, and is itself all that there is; nobody else takes harm.
    let outcome = caller.run(crate::caller::job("shell", "kill -9 -1; echo no"));
    assert!(outcome["refused"].is_null(), "{outcome}");
    assert_eq!(caller.stdout_of("shell", "echo $((6 * 7))"), "42\n");
}

fn no_socket_is_to_be_had(mut caller: Caller) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let path = caller.folder.join("socket");
    let unix = UnixListener::bind(&path).expect("a listener");
    for socket in [tcp.set_nonblocking(true), udp.set_nonblocking(true), unix.set_nonblocking(true)]
    {
        socket.expect("a mode");
    }
    let (tcp_port, udp_port) =
        (tcp.local_addr().expect("a port").port(), udp.local_addr().expect("a port").port());
    let codes = [
        format!("socket.create_connection(('127.0.0.1', {tcp_port}))"),
        format!("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp_port}))"),
        format!("socket.socket(socket.AF_UNIX).connect('{}')", path.display()),
    ];
    let tried = [
        ("tcp", &codes[0][..]),
        ("udp", &codes[1]),
        ("unix", &codes[2]),
        ("tcp6", "socket.socket(socket.AF_INET6)"),
        ("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
        ("packet", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
        ("raw", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
        ("vsock", "socket.socket(socket.AF_VSOCK)"),
        ("alg", "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)"),
        ("pair", "socket.socketpair()"),
        ("io_uring", "call(425, 1, 0)"),
    ];
    refused(&mut caller, &["EPERM"], &tried);
    assert!(tcp.accept().is_err() && unix.accept().is_err());
    assert!(udp.recv(&mut [0; 1]).is_err());
}

fn the_kernel_does_what_programs_need_and_no_more(mut caller: Caller) {
    let tried = [
        ("bpf", "call(321, 0, 0, 0)"),
        ("io_uring", "call(425, 1, 0)"),
        ("userfaultfd", "call(323, 0)"),
        ("userfaultfd for users", "call(323, 1)"),
        ("perf", "call(298, 0, 0, -1, -1, 0)"),
        ("keyctl", "call(250, 0, -3, 0)"),
        ("add_key", "call(248, 0, 0, 0, 0, 0)"),
        ("unshare user", "call(272, 0x10000000)"),
        ("unshare net", "call(272, 0x40000000)"),
        ("clone user", "call(56, 0x10000011, 0, 0, 0, 0)"),
        ("clone pid", "call(56, 0x20000011, 0, 0, 0, 0)"),
        ("setns", "call(308, 0, 0)"),
        ("mount", "call(165, 0, 0, 0, 0, 0)"),
        ("umount", "call(166, 0, 0)"),
        ("pivot_root", "call(155, 0, 0)"),
        ("chroot", "os.chroot('.')"),
        ("mknod", "os.mknod('node', 0o20666, os.makedev(1, 3))"),
        ("fifo", "os.mkfifo('fifo')"),
        ("setuid bit", "(open('own', 'w').close(), os.chmod('own', 0o4755))"),
        ("setuid bit at birth", "os.open('born', os.O_CREAT | os.O_WRONLY, 0o4755)"),
        ("setuid", "os.setuid(0)"),
        ("setgroups", "os.setgroups([0])"),
        ("capabilities", "call(126, 0, 0)"),
        ("memfd", "os.memfd_create('x')"),
        ("shared memory", "call(29, 0, 4096, 0o1600)"),
        ("queues", "call(240, 0, 0, 0, 0)"),
        ("modules", "call(175, 0, 0, 0)"),
        ("clock", "call(164, 0, 0)"),
        ("log", "call(103, 10, 0, 0)"),
        ("personality", "call(135, 0x0040000)"),
        ("terminal input", "__import__('fcntl').ioctl(1, 0x5412, b'x')"),
        ("signals on files", "__import__('fcntl').fcntl(1, 8, caller)"),
        ("larger pipes", "__import__('fcntl').fcntl(1, 1031, 1 << 20)"),
        ("handles", "call(304, 0, 0, 0)"),
        ("x32", "call(0x40000000 + 39)"),
    ];
    refused(&mut caller, &["EPERM"], &tried);
    // Absent, so that libraries take an older call, whose flags can be looked at.
    let absent = [("clone3", "call(435, 0, 0)"), ("openat2", "call(437, 0, 0, 0, 0)")];
    refused(&mut caller, &["ENOSYS"], &absent);
}

fn nothing_is_written_outside_the_working_folder(mut caller: Caller) {
    let folder = caller.folder.join("open");
    std::fs::create_dir(&folder).expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&folder, mode).expect("a mode");
    let beside = format!("open('{}/x', 'w')", folder.display());
    let moved = format!("(open('own', 'w').close(), os.rename('own', '{}/own'))", folder.display());
    let tried = [
        ("open folder", &beside[..]),
        ("moved out", &moved),
        ("/usr", "open('/usr/x', 'w')"),
        ("/usr/bin/python3", "open('/usr/bin/python3', 'r+')"),
        ("/etc", "open('/etc/x', 'w')"),
        ("/", "open('/x', 'w')"),
        ("above", "open('../x', 'w')"),
        ("program", "open('../program.py', 'w')"),
        ("/var/tmp", "open('/var/tmp/x', 'w')"),
        ("/dev", "open('/dev/x', 'w')"),
        ("removed", "os.unlink('../program.py')"),
        ("mode", "os.chmod('/usr', 0o777)"),
        (
            "run from here",
            "(open('run', 'w').write('#!/bin/sh\\n'), os.chmod('run', 0o755), os.execv('run', ['run']))",
        ),
    ];
    refused(&mut caller, FILE, &tried);
    if caller.level() == "landlock" {
        refused(
            &mut caller,
            FILE,
            &[("/tmp", "open('/tmp/x', 'w')"), ("/dev/shm", "open('/dev/shm/x', 'w')")],
        );
    } else {
        // Landlock would refuse it all alone; each mount says so too.
        let flags = "import os
for path in ['/', '/usr', '/work']:
    flags = os.statvfs(path).f_flag
    print(bool(flags & os.ST_RDONLY), bool(flags & os.ST_NOSUID), bool(flags & os.ST_NODEV))";
        let expect = "True True True\nTrue True True\nFalse True True\n";
        assert_eq!(caller.stdout_of("python", flags), expect);
    }
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
}
