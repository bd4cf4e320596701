//! Landlock: which files, and no network, no signals, no sockets outside.

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use crate::job::Mode;

/// What a guest may read and run: the system's programs and what they need to start.
pub(super) const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];

/// What it may only read. Not every system has them all.
pub(super) fn readable() -> Vec<String> {
    let mut paths: Vec<String> =
        ["/etc/alternatives", "/etc/ld.so.cache"].map(str::to_owned).to_vec();
    // Debian keeps the file that python3 reads at its start here.
    let etc = std::fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = etc.filter_map(|entry| entry.file_name().into_string().ok());
    paths.extend(
        names.filter(|name| name.starts_with("python3")).map(|name| format!("/etc/{name}")),
    );
    paths
}

/// Devices, and whether they may be written.
pub(super) const DEVICES: &[(&str, bool)] = &[
    ("/dev/null", true),
    ("/dev/zero", false),
    ("/dev/full", false),
    ("/dev/random", false),
    ("/dev/urandom", false),
];

/// The newest version first: what we know, and what kernels have.
const VERSIONS: &[ABI] = &[ABI::V6, ABI::V5, ABI::V4, ABI::V3, ABI::V2, ABI::V1];

/// Locks the process in. The working folder is the current one.
pub(super) fn restrict(mode: Mode, forks: bool) -> Result<(), String> {
    // Only the sixth version knows of signals and abstract sockets, which nothing else keeps from
    // the processes of the same user where there is no pid namespace.
    let versions = match mode {
        Mode::Namespaces => VERSIONS,
        Mode::Landlock => &VERSIONS[..1],
    };
    let mut error = String::new();
    for version in versions {
        match ruleset(*version) {
            Ok(created) => return enforce(created, *version, mode, forks),
            Err(refused) => error = refused.to_string(),
        }
    }
    Err(format!("Landlock: {error}"))
}

fn ruleset(version: ABI) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))?;
    if version >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(version))?;
    }
    if version >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(version))?;
    }
    ruleset.create()
}

fn enforce(
    mut ruleset: RulesetCreated,
    version: ABI,
    mode: Mode,
    forks: bool,
) -> Result<(), String> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut paths: Vec<(String, BitFlags<AccessFs>)> = vec![(".".to_owned(), work(version))];
    if forks {
        paths.extend(SYSTEM.iter().map(|path| (path.to_string(), read | AccessFs::Execute)));
        paths.extend(readable().into_iter().map(|path| (path, read)));
        paths.extend(DEVICES.iter().map(|(path, written)| {
            let write = if *written { AccessFs::WriteFile.into() } else { BitFlags::EMPTY };
            (path.to_string(), write | AccessFs::ReadFile)
        }));
        if mode == Mode::Namespaces {
            // Made for the guest: nobody of the system is in them.
            paths.extend(["/etc/passwd", "/etc/group"].map(|path| (path.to_owned(), read)));
        }
        paths.extend(["../program.py", "../program.sh"].map(|path| (path.to_owned(), read)));
    }
    for (path, access) in paths {
        // `PathFd` follows links: what counts is where they lead.
        let opened = match PathFd::new(&path) {
            Ok(opened) => opened,
            Err(PathFdError::OpenCall { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                continue;
            }
            Err(error) => return Err(format!("Landlock: {path}: {error}")),
        };
        let is_file = !std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let access = if is_file { access & AccessFs::from_file(version) } else { access };
        let rule = PathBeneath::new(opened, access);
        ruleset = ruleset.add_rule(rule).map_err(|error| format!("Landlock: {path}: {error}"))?;
    }
    let status = ruleset.restrict_self().map_err(|error| format!("Landlock: {error}"))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced if status.no_new_privs => Ok(()),
        other => Err(format!("Landlock: {other:?}")),
    }
}

/// In the working folder: everything but running what is there, devices, sockets and pipes.
fn work(version: ABI) -> BitFlags<AccessFs> {
    let refused = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeSock
        | AccessFs::MakeFifo;
    AccessFs::from_all(version) & !refused
}
