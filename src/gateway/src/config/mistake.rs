//! What is wrong with a config, and where: every mistake at once, each with its path and line.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Something in the config that keeps it from being used.
///
/// Its text never holds a value from the config that could be a secret: neither what a field of a
/// secret holds, nor what a reference to the environment or a file stands for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Mistake {
    /// The name of the config file, empty where there is none.
    pub(crate) file: Arc<str>,
    /// Where in the config: `model_list[0].litellm_params.rpm`; empty for the file as a whole.
    pub(crate) path: String,
    /// The line in the file, counted from 1, where it is known.
    pub(crate) line: Option<usize>,
    /// What is wrong, and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line, &self.path)?;
        f.write_str(&self.message)
    }
}

/// Something in the config that is not as it looks: chiefly a key of LiteLLM's without effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The name of the config file, empty where there is none.
    pub(crate) file: Arc<str>,
    /// Where in the config.
    pub(crate) path: String,
    /// The line in the file, counted from 1, where it is known.
    pub(crate) line: Option<usize>,
    /// What the operator should know.
    pub(crate) message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line, &self.path)?;
        f.write_str(&self.message)
    }
}

fn write_place(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    line: Option<usize>,
    path: &str,
) -> fmt::Result {
    match (file.is_empty(), line) {
        (false, Some(line)) => write!(f, "{file}:{line}: ")?,
        (false, None) => write!(f, "{file}: ")?,
        (true, _) => {}
    }
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    Ok(())
}

/// Collects mistakes and warnings while a config is read and resolved, and knows the lines.
#[derive(Clone, Default)]
pub(super) struct Report {
    file: Arc<str>,
    lines: BTreeMap<String, usize>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Warning>,
}

/// The paths have names in them that may have been meant as values.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("file", &self.file)
            .field("mistakes", &self.mistakes)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Report {
    pub(super) fn new(file: &str) -> Report {
        Report { file: file.into(), ..Report::default() }
    }

    /// Notes that what is at `path` begins on `line`.
    pub(super) fn place(&mut self, path: &str, line: usize) {
        self.lines.insert(path.to_owned(), line);
    }

    /// The line of `path`, or of the nearest thing around it that has one.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Adds a mistake, unless one is known at this very place: the second only follows from the
    /// first.
    pub(super) fn mistake(&mut self, path: &str, message: impl Into<String>) {
        let line = self.line(path);
        self.mistake_at(path, line, message);
    }

    /// As [`Report::mistake`], where the line is known better than by the path.
    pub(super) fn mistake_at(
        &mut self,
        path: &str,
        line: Option<usize>,
        message: impl Into<String>,
    ) {
        if !self.has_mistake(path) {
            let (file, path) = (Arc::clone(&self.file), path.to_owned());
            self.mistakes.push(Mistake { file, path, line, message: message.into() });
        }
    }

    pub(super) fn warning(&mut self, path: &str, message: impl Into<String>) {
        let (file, line) = (Arc::clone(&self.file), self.line(path));
        let message = message.into();
        self.warnings.push(Warning { file, path: path.to_owned(), line, message });
    }

    pub(super) fn has_mistake(&self, path: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.path == path)
    }

    /// A mistake of this file that is found after it was resolved. `at` is where it stands, `path`
    /// what it is called.
    pub(super) fn blame(&self, at: &str, path: String, message: String) -> Mistake {
        Mistake { file: Arc::clone(&self.file), line: self.line(at), path, message }
    }

    /// What was found, in the order of the file: the warnings, or every mistake if there is one.
    pub(super) fn finish(&mut self) -> Result<Vec<Warning>, Vec<Mistake>> {
        if self.mistakes.is_empty() {
            self.warnings.sort_by_key(|warning| warning.line);
            return Ok(std::mem::take(&mut self.warnings));
        }
        self.mistakes.sort_by_key(|mistake| mistake.line);
        Err(std::mem::take(&mut self.mistakes))
    }
}

/// The one of `names` that was probably meant by `written`: close to it in edit distance.
pub(super) fn did_you_mean<'n>(
    written: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    // A third of the letters may be wrong, at least one; longer names are no typing mistakes.
    if written.len() > 64 {
        return None;
    }
    let most = (written.chars().count() / 3).max(1);
    let lower = written.to_ascii_lowercase();
    names
        .into_iter()
        .map(|name| (edit_distance(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// `; did you mean `x`?`, or nothing: what a message about an unknown name ends with.
pub(super) fn hint<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    match did_you_mean(written, names) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

/// Insertions, deletions, replacements, and swaps of neighbours, each counted once.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_names_file_line_path_and_what_is_wrong() {
        let mut report = Report::new("config.yaml");
        report.place("model_list[0].litellm_params", 12);
        report.mistake("model_list[0].litellm_params.rpmm", "unknown key");
        let mistakes = report.finish().unwrap_err();
        assert_eq!(
            mistakes[0].to_string(),
            "config.yaml:12: model_list[0].litellm_params.rpmm: unknown key"
        );
    }

    #[test]
    fn a_mistake_without_a_file_names_the_path_only() {
        let mut report = Report::new("");
        report.mistake("master_key", "is empty");
        assert_eq!(report.finish().unwrap_err()[0].to_string(), "master_key: is empty");
    }

    #[test]
    fn a_second_mistake_at_one_place_is_left_out() {
        let mut report = Report::new("");
        report.mistake("a", "first");
        report.mistake("a", "second");
        assert_eq!(report.finish().unwrap_err().len(), 1);
    }

    #[test]
    fn slips_of_the_hand_are_recognised() {
        let names = ["rpm", "tpm", "timeout", "api_key", "max_parallel_requests"];
        for (written, meant) in [
            ("rpmm", Some("rpm")),
            ("apikey", Some("api_key")),
            ("tiemout", Some("timeout")),
            ("API_KEY", Some("api_key")),
            ("max_paralel_request", Some("max_parallel_requests")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(written, names), meant, "{written}");
        }
    }
}
