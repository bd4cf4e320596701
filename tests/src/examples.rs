//! The example configs in `conf/`.

use crate::gateway::repository;

/// One example config.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its file's name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// All there are.
///
/// # Panics
/// When `conf/` cannot be read.
pub fn examples() -> Vec<Example> {
    let folder = std::fs::read_dir(repository().join("conf")).expect("conf/ is there");
    let mut examples: Vec<Example> = folder
        .map(|file| file.expect("conf/ can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| Example {
            name: path.file_name().expect("a file").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&path).expect("an example can be read"),
        })
        .collect();
    examples.sort_by(|one, other| one.name.cmp(&other.name));
    examples
}

impl Example {
    /// What is not in a comment. Good enough for examples: none has a `#` inside a text.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(|line| line.split('#').next().unwrap_or_default())
    }

    /// A dummy for every environment variable it names, and for the keys providers look for by
    /// themselves.
    pub fn environment(&self) -> Vec<(String, String)> {
        let usual = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"].map(str::to_owned);
        let named = self.lines().flat_map(|line| {
            let starts = ["os.environ/", "env:"].into_iter().flat_map(move |before| {
                line.match_indices(before).map(move |(at, before)| &line[at + before.len()..])
            });
            starts.map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                rest[..end.unwrap_or(rest.len())].to_owned()
            })
        });
        let mut names: Vec<String> = usual.into_iter().chain(named).collect();
        names.sort();
        names.dedup();
        // Each its own, because no two keys may be the same.
        let dummy = |name: String| (name.clone(), format!("sk-dummy-{name}"));
        names.into_iter().map(dummy).collect()
    }

    /// The names of its models, without those that stand for many.
    pub fn models(&self) -> Vec<&str> {
        self.lines()
            .filter_map(|line| line.split_once("model_name:"))
            .map(|(_, name)| name.trim().trim_matches('"'))
            .filter(|name| !name.contains('*'))
            .collect()
    }
}
