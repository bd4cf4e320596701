//! What reviewers forget: the floor plan's arrows, filters that are nowhere named, licences, paths
//! of one machine, files that have grown too long. Reads the tree and asks cargo about it; no
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tollway_tests::examples::examples;
use tollway_tests::gateway::{Folder, repository, run};

/// The crates of the workspace, and which of the others each may name: the code map of ARCHITECTURE.md.
/// There are no other arrows, in tests neither, but for [`TEST_ARROWS`].
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("providers", &["wire"]),
    ("simulator", &["wire"]),
    ("filter-api", &["wire"]),
    ("filters", &["filter-api", "wire"]),
    ("store", &["filter-api", "wire"]),
    ("sandbox", &[]),
    ("allocator", &[]),
    ("agent", &["filter-api", "sandbox", "wire"]),
    (
        "gateway",
        &[
            "agent",
            "allocator",
            "filter-api",
            "filters",
            "providers",
            "sandbox",
            "simulator",
            "store",
            "wire",
        ],
    ),
    ("tests", &["simulator"]),
    ("bench", &["filter-api", "simulator", "store", "tests"]),
];

/// What tests of a crate may name besides.
const TEST_ARROWS: &[(&str, &str)] = &[("store", "tests")];

/// The crates that may name Pingora: the gateway, and the baseline it is measured against.
const PINGORA: &[&str] = &["gateway", "bench"];

/// The crates that do no I/O of their own, and what would be a sign of it.
const PURE: &[&str] = &["wire", "providers", "filter-api", "filters"];
const IO: &[&str] = &["async-std", "hyper", "mio", "redis", "reqwest", "socket2", "tokio", "ureq"];

/// More lines of code than this are two files. Comments, empty lines and tests do not count.
const CODE_LINES_MAX: usize = 700;

/// What is not ours, or not in the repository. In a worktree, `.git` is a file.
const SKIPPED: &[&str] =
    &[".git", ".tools", "artifacts", "corpus", "node_modules", "target", "tollway-data"];

// -------------------------------------------------------------------------------------- the crates

/// What `cargo metadata` says.
fn metadata(arguments: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(arguments)
        .current_dir(repository())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().expect("cargo lists packages")
}

fn name(value: &Value) -> &str {
    value["name"].as_str().expect("it has a name")
}

/// Our own crates by the names of the floor plan, and the names of what each depends on. What only
/// its tests need is marked by `true`.
fn own_crates() -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let own = |package: &Value| name(package).strip_prefix("tollway-").map(str::to_owned);
    let depends = |package: &Value| {
        let list = package["dependencies"].as_array().expect("a list");
        list.iter().map(|on| (name(on).to_owned(), on["kind"] == "dev")).collect()
    };
    packages(&metadata(&["--no-deps"]))
        .iter()
        .map(|package| (own(package).expect("our crates are called tollway-…"), depends(package)))
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_the_floor_plan_says() {
    let crates = own_crates();
    let planned: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let there: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    assert_eq!(there, planned, "a crate that is not on the floor plan, or the other way round");
    for (from, allowed) in ARROWS {
        for (on, only_in_tests) in &crates[*from] {
            let Some(on) = on.strip_prefix("tollway-") else { continue };
            let is_tests = *only_in_tests && TEST_ARROWS.contains(&(*from, on));
            assert!(is_tests || allowed.contains(&on), "{from} must not depend on {on}");
        }
    }
}

#[test]
fn pingora_is_named_by_the_gateway_alone() {
    for (from, on) in own_crates() {
        let named = on.iter().find(|(on, _)| on.starts_with("pingora"));
        let may = PINGORA.contains(&from.as_str());
        assert!(may || named.is_none(), "{from} must not depend on {named:?}");
    }
}

#[test]
fn pure_crates_have_no_means_of_io() {
    let crates = own_crates();
    for from in PURE {
        for (on, only_in_tests) in &crates[*from] {
            let is_io = IO.contains(&on.as_str());
            assert!(*only_in_tests || !is_io, "{from} must not depend on {on}");
        }
    }
}

// ------------------------------------------------------------------------------------- the filters

/// The filters there are, by the files in `filters/`. A folder beside a file of the same name
/// belongs to it.
fn filters() -> BTreeSet<String> {
    let folder = std::fs::read_dir(repository().join("filters")).expect("filters/ is there");
    folder
        .map(|entry| entry.expect("filters/ can be read").path())
        .filter(|path| path.join("mod.rs").exists() || path.extension().is_some_and(|e| e == "rs"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .filter(|name| name != "lib")
        .collect()
}

#[test]
fn every_filter_is_listed_and_documented() {
    let read = |path| std::fs::read_to_string(repository().join(path)).expect(path);
    let (lib, readme, manual) = (read("filters/lib.rs"), read("README.md"), read("conf/full.yaml"));
    let between = |start, end: &str| {
        let (_, rest) = lib.split_once(start).expect(start);
        rest.split_once(end).expect(end).0
    };
    let (builtin, table) =
        (between("BUILTIN: &[Builtin] = &[", "];"), between("//! |---", "//!\n"));
    let listed = |text: &str, before: &str, after: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(before));
        lines.filter_map(|line| Some(line.split_once(after)?.0.to_owned())).collect()
    };
    let modules = listed(&lib, "pub mod ", ";");
    let built_in = listed(builtin, "Builtin::of::<", "::");
    let described = listed(table, "//! | [`", "`]");

    let filters = filters();
    assert!(filters.len() >= 8, "filters/ is not where it was: {filters:?}");
    for (what, list) in [("pub mod", &modules), ("BUILTIN", &built_in), ("the table", &described)] {
        let names: BTreeSet<String> = list.iter().cloned().collect();
        assert_eq!(names, filters, "{what} in filters/lib.rs and the files in filters/");
        assert_eq!(list.len(), filters.len(), "{what} has something twice");
    }
    assert_eq!(described, built_in, "the table is in the order of BUILTIN");
    for filter in &filters {
        let documented = [&readme, &manual].iter().any(|text| {
            text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == filter)
        });
        assert!(documented, "{filter} is in neither README.md nor conf/full.yaml");
        let file = repository().join("filters").join(format!("{filter}.rs"));
        let file = if file.exists() { file } else { file.with_extension("").join("mod.rs") };
        let text = std::fs::read_to_string(&file).expect("the filter's file");
        let opens = text.starts_with(&format!("//! `{filter}` "));
        assert!(opens, "{} does not begin by saying what `{filter}` does", file.display());
        assert!(text.contains("//! ```yaml"), "{} has no example", file.display());
    }
}

// ------------------------------------------------------------------------------------- the configs

#[tokio::test]
async fn every_example_config_passes_the_check() {
    let folder = Folder::fresh();
    for example in examples() {
        let file = folder.write(&example.name, &example.text);
        let env = example.environment();
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let file = file.to_string_lossy();
        let printed = run(&folder.0, &env, &["check", "-c", &file]).await;
        assert!(printed.success, "{}:\n{}{}", example.name, printed.stdout, printed.stderr);
        for model in example.models() {
            let printed = run(&folder.0, &env, &["check", "-c", &file, "--model", model]).await;
            assert!(printed.success, "{}: {model}: {}", example.name, printed.stderr);
            assert!(printed.stdout.contains(model), "{}: {}", example.name, printed.stdout);
        }
        // The variables are what makes it pass: they are not just ignored.
        let printed = run(&folder.0, &[], &["check", "-c", &file]).await;
        assert!(!printed.success, "{} passes without its secrets", example.name);
    }
}

// ------------------------------------------------------------------- what comes from somewhere else

/// The lines of a list in `.deny.toml`.
fn deny_list(key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(".deny.toml")).expect(".deny.toml");
    let (_, list) = text.split_once(&format!("\n{key} = [\n")).expect(key);
    let (list, _) = list.split_once("\n]").expect("the list ends");
    list.lines().map(str::to_owned).filter(|line| line.contains('"')).collect()
}

/// The texts in quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

#[test]
fn licences_of_all_dependencies_are_on_the_list() {
    let allowed = deny_list("allow");
    let is_allowed = |licence: &str| allowed.iter().any(|line| quoted(line).eq([licence]));
    // Crates for other systems are not on this disk; `make deny` looks at those as well.
    let host = host();
    let metadata = metadata(&["--filter-platform", &host]);
    let packages = packages(&metadata);
    assert!(packages.len() > 200, "cargo lists {} packages only", packages.len());
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        let verdict = Spdx::allows(licence, &is_allowed);
        assert_eq!(verdict, Some(true), "{}: {licence}", name(package));
    }
}

/// The triple of this machine.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc says where it runs").to_owned()
}

/// The packages in a `Cargo.lock`, those for other systems too, and what each depends on.
fn locked(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let lock = std::fs::read_to_string(repository().join(lock)).expect(lock);
    let mut locked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let name = package.strip_prefix("name = ").and_then(|rest| quoted(rest).next());
        let depends = package.split_once("dependencies = [").map_or("", |(_, list)| list);
        // Where there are several versions of a crate, the name is followed by which.
        let names = quoted(depends).filter_map(|on| on.split(' ').next()).map(str::to_owned);
        locked.entry(name.expect("a package has a name").to_owned()).or_default().extend(names);
        let source = package.lines().find_map(|line| line.strip_prefix("source = "));
        let registry = "\"registry+https://github.com/rust-lang/crates.io-index\"";
        assert!(source.is_none_or(|source| source == registry), "{source:?}");
    }
    locked
}

#[test]
fn denied_crates_are_not_locked_and_all_others_come_from_the_registry() {
    let locked = locked("Cargo.lock");
    assert!(locked["tollway-gateway"].contains("pingora-core"), "Cargo.lock is not what it was");
    let denied = deny_list("deny");
    assert!(!denied.is_empty());
    for line in &denied {
        let (line, wrappers) = line.split_once("wrappers").unwrap_or((line, ""));
        let denied = quoted(line).next().expect("a crate is denied");
        let excused: Vec<&str> = quoted(wrappers.split(']').next().unwrap_or_default()).collect();
        for (package, _) in locked.iter().filter(|(_, on)| on.contains(denied)) {
            let is_excused = excused.contains(&package.as_str());
            assert!(is_excused, "{package} brings {denied}, which .deny.toml denies");
        }
        let nobodys = locked.contains_key(denied) && excused.is_empty();
        assert!(!nobodys, "{denied} is in Cargo.lock");
    }
}

/// A licence expression. The old form with `/` means `OR`.
struct Spdx<'a, F> {
    words: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
    is_allowed: &'a F,
}

impl<'a, F: Fn(&str) -> bool> Spdx<'a, F> {
    /// Whether the expression can be met by allowed licences. `None` if it makes no sense.
    fn allows(expression: &'a str, is_allowed: &'a F) -> Option<bool> {
        let mut words = Vec::new();
        for word in expression.split_whitespace() {
            let mut rest = word;
            while let Some(at) = rest.find(['(', ')', '/']) {
                words.extend([&rest[..at], &rest[at..=at]]);
                rest = &rest[at + 1..];
            }
            words.push(rest);
        }
        words.retain(|word| !word.is_empty());
        let mut parser = Spdx { words: words.into_iter().peekable(), is_allowed };
        let verdict = parser.any()?;
        parser.words.next().is_none().then_some(verdict)
    }

    fn any(&mut self) -> Option<bool> {
        let mut verdict = self.all()?;
        while self.words.next_if(|word| matches!(*word, "OR" | "/")).is_some() {
            verdict |= self.all()?;
        }
        Some(verdict)
    }

    fn all(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.words.next_if_eq(&"AND").is_some() {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        match self.words.next()? {
            "(" => {
                let verdict = self.any()?;
                self.words.next_if_eq(&")")?;
                Some(verdict)
            }
            ")" | "/" | "OR" | "AND" | "WITH" => None,
            licence => Some(match self.words.next_if_eq(&"WITH") {
                Some(_) => (self.is_allowed)(&format!("{licence} WITH {}", self.words.next()?)),
                None => (self.is_allowed)(licence),
            }),
        }
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let is_allowed = |licence: &str| matches!(licence, "MIT" | "ISC" | "Apache-2.0 WITH LLVM");
    let check = |expression, expect| {
        assert_eq!(Spdx::allows(expression, &is_allowed), expect, "{expression}");
    };
    check("MIT", Some(true));
    check("GPL-3.0", Some(false));
    check("GPL-3.0 OR MIT", Some(true));
    check("GPL-3.0/MIT", Some(true));
    check("GPL-3.0 / MIT", Some(true));
    check("MIT AND ISC", Some(true));
    check("MIT AND GPL-3.0", Some(false));
    check("(MIT OR GPL-3.0) AND ISC", Some(true));
    check("(MIT OR ISC) AND GPL-3.0", Some(false));
    // AND binds more tightly than OR.
    check("MIT OR ISC AND GPL-3.0", Some(true));
    check("GPL-3.0 AND MIT OR ISC", Some(true));
    check("Apache-2.0", Some(false));
    check("Apache-2.0 WITH LLVM", Some(true));
    check("Apache-2.0 WITH Other OR MIT", Some(true));
    check("none", Some(false));
    for nonsense in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH", "()"] {
        check(nonsense, None);
    }
}

// ---------------------------------------------------------------------------------------- the files

/// Every file of the repository, by its path from the root.
fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder can be read") {
            let entry = entry.expect("a folder can be read");
            let kind = entry.file_type().expect("a file has a kind");
            let path = entry.path();
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_file() {
                found.push(path);
            } else if kind.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&repository(), &mut found);
    let relative = |path: PathBuf| path.strip_prefix(repository()).expect("below it").to_owned();
    let mut found: Vec<PathBuf> = found.into_iter().map(relative).collect();
    found.sort();
    assert!(found.len() > 100, "this is not the repository: {found:?}");
    found
}

/// The files that are text, with it.
fn texts() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        Some((path.clone(), std::fs::read_to_string(repository().join(path)).ok()?))
    };
    files().into_iter().filter_map(read).collect()
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Where a text has one of these words, with a reason against each.
fn refuse(texts: &[(PathBuf, String)], refused: &[(String, &str)]) {
    let mut found = Vec::new();
    for (path, text) in texts {
        for (at, line) in text.lines().enumerate() {
            for (word, reason) in refused {
                if line.contains(word.as_str()) {
                    found.push(format!("{}:{}: `{word}`: {reason}", path.display(), at + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // Written so that this file does not have them.
    let refused = ["root", "work"].map(|folder| (format!("/{folder}/"), "a path of one machine"));
    refuse(&texts(), &refused);
}

#[test]
fn rust_files_have_nothing_that_was_meant_for_later() {
    let refused = [
        (["#[", "ignore"].concat(), "a test that does not run is no test"),
        (["todo", "!("].concat(), "do it"),
        (["unimplemented", "!("].concat(), "do it, or return an error"),
        (
            ["[", "allow("].concat(),
            "`expect` says so when it is no longer needed, and wants a reason",
        ),
    ];
    let rust: Vec<_> = texts().into_iter().filter(|(path, _)| is_rust(path)).collect();
    refuse(&rust, &refused);
}

#[test]
fn no_file_is_too_long() {
    for (path, text) in texts() {
        let is_test = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
        if !is_rust(&path) || path.iter().any(is_test) {
            continue;
        }
        let code = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
            .count();
        let path = path.display();
        assert!(code <= CODE_LINES_MAX, "{path} has {code} lines of code: make it two files");
    }
}

#[test]
fn scripts_can_be_executed() {
    let mut scripts = 0;
    for (path, text) in texts() {
        if text.starts_with("#!/") {
            let metadata = std::fs::metadata(repository().join(&path)).expect("it is there");
            let mode = metadata.permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{} is not executable", path.display());
            scripts += 1;
        } else {
            assert!(path.extension().is_none_or(|e| e != "sh"), "{} has no #!", path.display());
        }
    }
    assert!(scripts >= 5, "only {scripts} scripts were found");
}

#[test]
fn changelog_has_a_place_for_what_is_new() {
    let text = std::fs::read_to_string(repository().join("CHANGELOG.md")).expect("CHANGELOG.md");
    let heading = text.lines().find_map(|line| line.strip_prefix("## ")).expect("a heading");
    let heading = heading.trim_start_matches('[');
    let is_version = heading.starts_with(|c: char| c.is_ascii_digit());
    assert!(is_version || heading.starts_with("Unreleased"), "{heading}");
}

#[test]
fn every_fuzz_target_is_declared() {
    let fuzz = repository().join("tests/fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("its Cargo.toml");
    let declared = |line: &str| {
        let path = line.strip_prefix("path = \"fuzz_targets/")?;
        Some(path.strip_suffix(".rs\"")?.to_owned())
    };
    let declared: BTreeSet<String> = manifest.lines().filter_map(declared).collect();
    let there: BTreeSet<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .expect("fuzz_targets/ is there")
        .map(|file| file.expect("it can be read").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(declared, there);
    // It is a workspace of its own, or else it would be built by every `cargo test`.
    assert!(manifest.contains("\n[workspace]\n"));
}

#[test]
fn fuzz_targets_are_locked_to_what_the_crates_need() {
    let crates = own_crates();
    let locked = locked("tests/fuzz/Cargo.lock");
    let mut seen = 0;
    for (name, locked) in &locked {
        let Some(needs) = name.strip_prefix("tollway-").and_then(|own| crates.get(own)) else {
            continue;
        };
        seen += 1;
        for (on, is_dev) in needs {
            assert!(*is_dev || locked.contains(on), "{name}: run cargo check in tests/fuzz ({on})");
        }
    }
    assert!(seen >= 3, "only {seen} of our crates are in it");
}
