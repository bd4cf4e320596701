//! Values that stand elsewhere: `os.environ/NAME`, `env:NAME`, `file:/path`, and the `.env` file.
//!
//! The environment is a value that is passed around. Nothing is ever written to the process's own.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// How large a file behind `file:` may be.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Variables by name: the process's, then those of `.env`, then the config's
/// `environment_variables`. Its `Debug` shows no values.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// The environment this process was started with. Variables that are not UTF-8 are left out.
    pub(crate) fn of_process() -> Environment {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment { variables: std::env::vars_os().filter_map(utf8).collect() }
    }

    /// Adds what a `.env` file in `folder` sets. What is set already stays as it is.
    ///
    /// # Errors
    /// When there is a file and it cannot be read or understood.
    pub(crate) fn add_dotenv(&mut self, folder: &Path) -> Result<(), EnvironmentError> {
        let path = folder.join(".env");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(EnvironmentError::Unreadable(error.to_string())),
        };
        for (name, value) in dotenv(&text)? {
            self.add(name, value);
        }
        Ok(())
    }

    /// Sets a variable unless it is set already.
    pub(super) fn add(&mut self, name: String, value: String) {
        self.variables.entry(name).or_insert(value);
    }

    /// The value of a variable. One that is set to nothing counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What a reference stands for; `None` where the text is no reference but the value itself.
    pub(super) fn follow(&self, text: &str) -> Option<Result<String, String>> {
        match Reference::parse(text)? {
            Reference::Variable(name) => Some(match self.variables.get(name) {
                None => Err(format!("the environment variable {name} is not set")),
                Some(value) if value.is_empty() => {
                    Err(format!("the environment variable {name} is empty"))
                }
                Some(value) => Ok(value.clone()),
            }),
            Reference::File(path) => Some(read_secret(path)),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Environment {
        let own = |(name, value): (N, V)| (name.into(), value.into());
        Environment { variables: variables.into_iter().map(own).collect() }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

/// What a text in the config can be instead of a value.
#[derive(Debug, PartialEq, Eq)]
enum Reference<'a> {
    Variable(&'a str),
    File(&'a str),
}

impl Reference<'_> {
    fn parse(text: &str) -> Option<Reference<'_>> {
        if let Some(name) = text.strip_prefix("os.environ/") {
            return Some(Reference::Variable(name));
        }
        if let Some(name) = text.strip_prefix("env:") {
            return is_name(name).then_some(Reference::Variable(name));
        }
        let path = text.strip_prefix("file:")?;
        (path.starts_with('/') || path.starts_with("./")).then_some(Reference::File(path))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn read_secret(path: &str) -> Result<String, String> {
    let failed = |why: String| format!("the file {path} {why}");
    let metadata =
        std::fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    // A pipe or a terminal would make start-up wait for ever.
    if !metadata.is_file() {
        return Err(failed("is not a regular file".into()));
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(failed(format!("is larger than {} KiB", SECRET_BYTES_MAX >> 10)));
    }
    // Editors and `echo` end files with a line feed, which is no part of a secret.
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    if text.is_empty() {
        return Err(failed("is empty".into()));
    }
    Ok(text)
}

/// Why the `.env` file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// The file is there but cannot be read.
    #[error(".env: cannot be read: {0}")]
    Unreadable(String),
    /// A line that sets nothing.
    #[error(".env:{line}: {message}")]
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it. Holds no value.
        message: &'static str,
    },
}

/// Reads `NAME=value` lines as docker, systemd and python-dotenv do: `export` in front, comments,
/// single quotes for text as it stands, double quotes with `\n`, `\t`, `\"`, `\\`, both
/// across lines. There is no `${NAME}`.
fn dotenv(text: &str) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut variables = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    while !rest.is_empty() {
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let malformed = |message| EnvironmentError::Malformed { line, message };
        let end = rest.find('\n').unwrap_or(rest.len());
        let assignment = rest[..end].trim();
        if assignment.is_empty() || assignment.starts_with('#') {
            rest = rest.get(end + 1..).unwrap_or("");
            continue;
        }
        let equals = rest[..end].find('=').ok_or(malformed("a line has the form NAME=value"))?;
        let name = rest[..equals].trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if !is_name(name) {
            return Err(malformed("what stands before the `=` is not a variable's name"));
        }
        let value = rest[equals + 1..].trim_start_matches([' ', '\t']);
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (value, after) =
                    quoted(&value[1..], quote).ok_or(malformed("a quote is not closed"))?;
                let end = after.find('\n').unwrap_or(after.len());
                let behind = after[..end].trim();
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err(malformed("something stands behind the closing quote"));
                }
                (value, &after[end..])
            }
            _ => {
                let end = value.find('\n').unwrap_or(value.len());
                (bare(&value[..end]).to_owned(), &value[end..])
            }
        };
        variables.push((name.to_owned(), value));
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    Ok(variables)
}

/// A value without quotes, up to a comment. A `#` inside of a word belongs to it.
fn bare(value: &str) -> &str {
    let comment = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
    let comment = if value.starts_with('#') { 0 } else { comment };
    value[..comment].trim()
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Some((value, &text[at + 1..])),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$' | '\'') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expect: &[(&str, &str)]) {
        let expect: Vec<_> = expect.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        assert_eq!(dotenv(text), Ok(expect), "{text:?}");
    }

    fn refused(text: &str, line: usize) {
        match dotenv(text) {
            Err(EnvironmentError::Malformed { line: at, .. }) => assert_eq!(at, line, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn dotenv_reads_what_people_write() {
        check("A=1\nB = two words \n", &[("A", "1"), ("B", "two words")]);
        check("export A=1\r\n", &[("A", "1")]);
        check("# comment\n\nA=x # comment\nB=x#y\nC=#z", &[("A", "x"), ("B", "x#y"), ("C", "")]);
        check("A='a # \\n b' # c", &[("A", "a # \\n b")]);
        check(r#"A="a\n\"b\" \d""#, &[("A", "a\n\"b\" \\d")]);
        check(
            "A=\"-----BEGIN\nx\n-----END\"\nB=1",
            &[("A", "-----BEGIN\nx\n-----END"), ("B", "1")],
        );
        check("A=\nB=''", &[("A", ""), ("B", "")]);
        check("A=b=c", &[("A", "b=c")]);
        check("\u{feff}A=1", &[("A", "1")]);
    }

    #[test]
    fn dotenv_refuses_what_it_cannot_read() {
        refused("A=1\nnonsense\n", 2);
        refused("A B=1", 1);
        refused("1A=1", 1);
        refused("A=1\n\nB='open\n", 3);
        refused("A='x' y", 1);
    }

    #[test]
    fn what_is_set_already_wins() {
        let mut environment: Environment = [("A", "process")].into_iter().collect();
        environment.add("A".into(), "later".into());
        environment.add("B".into(), "later".into());
        assert_eq!((environment.get("A"), environment.get("B")), (Some("process"), Some("later")));
    }

    #[test]
    fn references_are_told_from_values() {
        for (text, expect) in [
            ("os.environ/KEY", Some(Reference::Variable("KEY"))),
            ("env:KEY", Some(Reference::Variable("KEY"))),
            ("file:/run/secrets/key", Some(Reference::File("/run/secrets/key"))),
            ("file:./key", Some(Reference::File("./key"))),
            ("env: prod", None),
            ("env:prod/1", None),
            ("file:name", None),
            ("sk-1234", None),
            ("", None),
        ] {
            assert_eq!(Reference::parse(text), expect, "{text}");
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        let environment: Environment = [("EMPTY", "")].into_iter().collect();
        let message = |text: &str| environment.follow(text).unwrap().unwrap_err();
        assert_eq!(message("os.environ/KEY"), "the environment variable KEY is not set");
        assert_eq!(message("env:EMPTY"), "the environment variable EMPTY is empty");
        assert!(message("file:/no/such/file").contains("/no/such/file cannot be read"));
        assert!(message("file:/dev/zero").contains("not a regular file"));
    }

    #[test]
    fn a_secret_file_loses_its_last_line_feed() {
        let path = std::env::temp_dir().join(format!("tollway-env-{}", std::process::id()));
        std::fs::write(&path, "sk-secret\n").unwrap();
        let value = Environment::default().follow(&format!("file:{}", path.display()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(value, Some(Ok("sk-secret".to_owned())));
    }

    #[test]
    fn debug_shows_no_values() {
        let environment: Environment = [("KEY", "sk-secret")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), "Environment(1 variables)");
    }

    proptest! {
        #[test]
        fn no_dotenv_panics(text in "[A-Z=\"'#\\\\ \n\t\r\u{e9}x]{0,40}") {
            let _ = dotenv(&text);
        }
    }
}
