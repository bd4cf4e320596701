//! Reads typed values out of the node tree, and goes on after a mistake so that all are found.

use std::time::Duration;

use secrecy::SecretString;
use tollway_filter_api::duration;
use tollway_wire::price::PicoDollars;

use super::env::Environment;
use super::litellm;
use super::mistake::{Report, did_you_mean, hint};
use super::yaml::{self, Member, Node, Value};

/// Reads a tree. What a reference stands for is put in its place here and nowhere else.
pub(super) struct Reader {
    pub(super) report: Report,
    pub(super) environment: Environment,
}

impl Reader {
    /// Parses `text` and notes where everything in it is.
    pub(super) fn open(name: &str, text: &str, environment: Environment) -> (Reader, Option<Node>) {
        let mut reader = Reader { report: Report::new(name), environment };
        match yaml::parse(text) {
            Ok(root) => {
                reader.place(&root, "");
                (reader, Some(root))
            }
            Err(error) => {
                reader.report.mistake_at("", error.line, error.message);
                (reader, None)
            }
        }
    }

    fn place(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::Null | Value::Scalar { .. } => {}
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    self.report.place(&path, item.line);
                    self.place(item, &path);
                }
            }
            Value::Map(members) => {
                for member in members {
                    let path = join(path, &member.name);
                    self.report.place(&path, member.line);
                    self.place(&member.node, &path);
                }
            }
        }
    }

    fn wrong<T>(&mut self, path: &str, message: impl Into<String>) -> Option<T> {
        self.report.mistake(path, message);
        None
    }

    fn not_a<T>(&mut self, node: &Node, path: &str, wanted: &str) -> Option<T> {
        self.wrong(path, format!("must be {wanted}, not {}", node.kind()))
    }

    /// The text of a scalar, references followed; `None` for nothing, and after a mistake.
    pub(super) fn scalar(&mut self, node: &Node, path: &str, wanted: &str) -> Option<String> {
        match &node.value {
            Value::Null => None,
            Value::Scalar { text, .. } => match self.environment.follow(text) {
                None => Some(text.clone()),
                Some(Ok(value)) => Some(value),
                Some(Err(message)) => self.wrong(path, message),
            },
            Value::List(_) | Value::Map(_) => self.not_a(node, path, wanted),
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.scalar(node, path, "text")?;
        if text.trim().is_empty() {
            return self.wrong(path, "is empty");
        }
        Some(text)
    }

    /// A value that its type reads from text.
    pub(super) fn parsed<T>(
        &mut self,
        node: &Node,
        path: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.scalar(node, path, wanted)?;
        match parse(text.trim()) {
            Some(value) => Some(value),
            None => self.wrong(path, format!("must be {wanted}")),
        }
    }

    /// Several texts, or one that stands for a list of one.
    pub(super) fn texts(&mut self, node: &Node, path: &str) -> Vec<String> {
        match &node.value {
            Value::List(items) => {
                let mut texts = Vec::new();
                for (at, item) in items.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    match &item.value {
                        Value::Null => self.report.mistake(&path, "is empty"),
                        _ => texts.extend(self.text(item, &path)),
                    }
                }
                texts
            }
            Value::Map(_) => self.not_a(node, path, "a list").unwrap_or_default(),
            _ => self.text(node, path).into_iter().collect(),
        }
    }

    /// The items of a list with their paths.
    pub(super) fn items<'n>(&mut self, node: &'n Node, path: &str) -> Vec<(&'n Node, String)> {
        match &node.value {
            Value::Null => Vec::new(),
            Value::List(items) => {
                let path = |at: usize| format!("{path}[{at}]");
                items.iter().enumerate().map(|(at, item)| (item, path(at))).collect()
            }
            _ => self.not_a(node, path, "a list").unwrap_or_default(),
        }
    }

    /// The entries of a mapping whose keys are names of the user's, with their paths.
    pub(super) fn entries<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
    ) -> Vec<(&'n str, &'n Node, String)> {
        match &node.value {
            Value::Null => Vec::new(),
            Value::Map(members) => {
                let entry = |member: &'n Member| {
                    (member.name.as_str(), &member.node, join(path, &member.name))
                };
                members.iter().map(entry).collect()
            }
            _ => self.not_a(node, path, "a mapping").unwrap_or_default(),
        }
    }

    /// A mapping whose keys are known. What `read` does not take is a mistake, unless LiteLLM has
    /// it: `ignored` are the keys of this section that it knows and we have nothing for.
    pub(super) fn fields<T>(
        &mut self,
        node: &Node,
        path: &str,
        ignored: &[&str],
        read: impl FnOnce(&mut Fields<'_>) -> T,
    ) -> Option<T> {
        let Value::Map(members) = &node.value else {
            return match node.value {
                Value::Null => None,
                _ => self.not_a(node, path, "a mapping"),
            };
        };
        let taken = vec![false; members.len()];
        let mut fields = Fields { reader: self, path, members, taken, asked: Vec::new() };
        let value = read(&mut fields);
        fields.finish(ignored);
        Some(value)
    }

    /// Anything, as JSON. YAML 1.2 decides what is a number or a boolean. `follow`: references
    /// stand for something else, which is text whatever it looks like.
    pub(super) fn json(&mut self, node: &Node, path: &str, follow: bool) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar { text, plain } => match self.environment.follow(text).filter(|_| follow)
            {
                None if *plain => json_of_plain(text),
                None => text.clone().into(),
                Some(Ok(value)) => value.into(),
                Some(Err(message)) => self.wrong(path, message).unwrap_or_default(),
            },
            Value::List(_) => {
                let items = self.items(node, path);
                items.into_iter().map(|(item, path)| self.json(item, &path, follow)).collect()
            }
            Value::Map(_) => {
                let entries = self.entries(node, path);
                let entries = entries
                    .into_iter()
                    .map(|(name, node, path)| (name.to_owned(), self.json(node, &path, follow)));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Every key that was asked for: the tests compare it with what is documented.
    pub(super) static ASKED: std::cell::RefCell<std::collections::BTreeSet<&'static str>> =
        std::cell::RefCell::default();
}

/// The members of one mapping, taken one by one.
pub(super) struct Fields<'a> {
    pub(super) reader: &'a mut Reader,
    path: &'a str,
    members: &'a [Member],
    taken: Vec<bool>,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The path of a member.
    pub(super) fn path(&self, name: &str) -> String {
        join(self.path, name)
    }

    /// Takes a member. `None` if it is not there.
    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.asked.push(name);
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert(name));
        let at = self.members.iter().position(|member| member.name == name)?;
        self.taken[at] = true;
        Some(&self.members[at].node)
    }

    /// Takes all members whose name `wanted` accepts.
    pub(super) fn take_all(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<&'a Member> {
        let mut found = Vec::new();
        for (member, taken) in self.members.iter().zip(&mut self.taken) {
            if !*taken && wanted(&member.name) {
                *taken = true;
                found.push(member);
            }
        }
        found
    }

    /// Notes a mistake at a member.
    pub(super) fn wrong(&mut self, name: &str, message: impl Into<String>) {
        let path = self.path(name);
        self.reader.report.mistake(&path, message);
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let (node, path) = (self.take(name)?, self.path(name));
        self.reader.text(node, &path)
    }

    pub(super) fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.text(name).map(SecretString::from)
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Vec<String> {
        let Some(node) = self.take(name) else { return Vec::new() };
        let path = self.path(name);
        self.reader.texts(node, &path)
    }

    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (node, path) = (self.take(name)?, self.path(name));
        self.reader.parsed(node, &path, wanted, parse)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let (node, path) = (self.take(name)?, self.path(name));
        let text = self.reader.text(node, &path)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        let hint = hint(&text, choices.iter().map(|(word, _)| *word));
        self.reader.wrong(&path, format!("must be {}{hint}", words.join(" or ")))
    }

    /// A whole number that fits 32 bits.
    pub(super) fn small_number(&mut self, name: &'static str) -> Option<u32> {
        self.parsed(name, "a whole number, such as 3", |text| whole(text)?.try_into().ok())
    }

    /// A whole number above 0.
    pub(super) fn count(&mut self, name: &'static str) -> Option<u64> {
        self.parsed(name, "a whole number above 0", |text| whole(text).filter(|n| *n > 0))
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.parsed(name, "true or false", flag)
    }

    /// A time, which may be 0.
    pub(super) fn duration(&mut self, name: &'static str) -> Option<Duration> {
        self.parsed(name, duration::WANTED, duration::parse)
    }

    /// A time to wait for something, which cannot be 0.
    pub(super) fn timeout(&mut self, name: &'static str) -> Option<Duration> {
        let wanted = format!("{}, more than 0", duration::WANTED);
        self.parsed(name, &wanted, |text| duration::parse(text).filter(|time| !time.is_zero()))
    }

    /// A size in bytes, above 0.
    pub(super) fn bytes(&mut self, name: &'static str) -> Option<u64> {
        let wanted = "a size above 0, such as 65536, 64KiB or 50MiB";
        self.parsed(name, wanted, |text| bytes(text).filter(|size| *size > 0))
    }

    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        ignored: &[&str],
        read: impl FnOnce(&mut Fields<'_>) -> T,
    ) -> Option<T> {
        let (node, path) = (self.take(name)?, self.path(name));
        self.reader.fields(node, &path, ignored, read)
    }

    /// The items of a list of mappings.
    pub(super) fn sections<T>(
        &mut self,
        name: &'static str,
        ignored: &[&str],
        mut read: impl FnMut(&mut Fields<'_>) -> T,
    ) -> Vec<T> {
        let mut sections = Vec::new();
        for (item, path) in self.items(name) {
            if matches!(item.value, Value::Null) {
                self.reader.report.mistake(&path, "is empty");
            }
            sections.extend(self.reader.fields(item, &path, ignored, &mut read));
        }
        sections
    }

    pub(super) fn items(&mut self, name: &'static str) -> Vec<(&'a Node, String)> {
        let Some(node) = self.take(name) else { return Vec::new() };
        let path = self.path(name);
        self.reader.items(node, &path)
    }

    pub(super) fn entries(&mut self, name: &'static str) -> Vec<(&'a str, &'a Node, String)> {
        let Some(node) = self.take(name) else { return Vec::new() };
        let path = self.path(name);
        self.reader.entries(node, &path)
    }

    /// Every price that is stated here, under LiteLLM's keys.
    pub(super) fn prices(&mut self) -> Vec<(String, PicoDollars)> {
        let mut prices = Vec::new();
        for member in self.take_all(tollway_wire::price::Price::is_key) {
            let path = self.path(&member.name);
            let Some(text) = self.reader.scalar(&member.node, &path, "a number") else { continue };
            match PicoDollars::parse_rounding_up(text.trim()) {
                Ok(amount) => prices.push((member.name.clone(), amount)),
                Err(error) => self.reader.report.mistake(&path, format!("is {error}")),
            }
        }
        prices
    }

    /// Takes what is left in a section where LiteLLM lets people note what they like, and says that
    /// nobody reads it. What looks like a slip of the hand is left to be a mistake.
    pub(super) fn anything_else(&mut self, ignored: &[&str]) {
        let asked = self.asked.clone();
        let known = || asked.iter().chain(ignored).copied();
        let own = |name: &str| !known().any(|k| k == name) && did_you_mean(name, known()).is_none();
        for member in self.take_all(own) {
            let path = self.path(&member.name);
            self.reader.report.warning(&path, "nothing reads this yet: it has no effect");
        }
    }

    fn finish(self, ignored: &[&str]) {
        for (member, taken) in self.members.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            let path = join(self.path, &member.name);
            let report = &mut self.reader.report;
            if ignored.contains(&member.name.as_str()) {
                if !is_off(&member.node) {
                    report.warning(&path, litellm::warning(&member.name));
                }
                continue;
            }
            let known = self.asked.iter().chain(ignored).copied();
            let hint = hint(&member.name, known);
            if hint.is_empty() && !is_plainly_a_key(member) {
                let message = "unknown key (not shown, it may be a value); is a space missing \
                               after a colon?";
                report.mistake_at(self.path, Some(member.line), message);
                continue;
            }
            report.mistake_at(&path, Some(member.line), format!("unknown key{hint}"));
        }
        #[cfg(test)]
        for asked in &self.asked {
            assert!(!ignored.contains(asked), "`{asked}` is read and said to be ignored");
        }
    }
}

/// Whether what stands for a key is one. In `{api_key:sk-1234}`, for want of a space, a secret is
/// part of it, and in `{api_key, sk-1234}` all of it.
fn is_plainly_a_key(member: &Member) -> bool {
    let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let has_value = !matches!(member.node.value, Value::Null);
    has_value && member.name.len() <= 40 && member.name.chars().all(in_names)
}

/// Whether a key says that something is off or empty, which is no news where we do not have it.
fn is_off(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Scalar { text, .. } => flag(text) == Some(false),
        Value::List(items) => items.is_empty(),
        Value::Map(members) => members.is_empty(),
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A whole number: `60`, `100_000`, and `1e6` or `60.0`, which other YAML readers make of it.
pub(super) fn whole(text: &str) -> Option<u64> {
    let text = ungrouped(text);
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number: f64 = decimal(&text)?;
    // Up to 2^53 every whole number has a float of its own.
    (number.fract() == 0.0 && number <= 9_007_199_254_740_992.0).then_some(number as u64)
}

/// YAML 1.1 lets digits be grouped: `100_000`.
fn ungrouped(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let grouped = bytes.iter().enumerate().all(|(at, byte)| {
        *byte != b'_' || (at > 0 && digit(bytes.get(at - 1)) && digit(bytes.get(at + 1)))
    });
    if grouped { text.replace('_', "") } else { text.to_owned() }
}

/// A decimal that is not negative. `parse` alone would take `inf` and `nan` as well.
fn decimal(text: &str) -> Option<f64> {
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    let number = text.chars().all(digits).then(|| text.parse::<f64>().ok())??;
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// `true` and `false` in all the ways YAML 1.1, which LiteLLM reads, writes them.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A number of bytes, alone or with a unit: `KB` is 1000 bytes, `KiB` and `K` are 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..unit].trim(), text[unit..].to_ascii_lowercase());
    let unit = match unit.as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "k" | "kib" => 1 << 10,
        "mb" => 1_000_000,
        "m" | "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    whole(number)?.checked_mul(unit)
}

/// What YAML 1.2's core schema makes of text without quotes.
fn json_of_plain(text: &str) -> serde_json::Value {
    use serde_json::Value;
    match text {
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let number = ungrouped(text.strip_prefix('+').unwrap_or(text));
    if let Ok(number) = number.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = number.parse::<u64>() {
        return number.into();
    }
    let sign = number.strip_prefix('-').unwrap_or(&number);
    match (decimal(sign), number.parse::<f64>()) {
        (Some(_), Ok(number)) => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_however_yaml_writes_them() {
        for (text, expect) in [
            ("60", Some(60)),
            ("100_000", Some(100_000)),
            ("1e6", Some(1_000_000)),
            ("60.0", Some(60)),
            ("0", Some(0)),
            ("60.5", None),
            ("-1", None),
            ("inf", None),
            ("_1", None),
            ("1e300", None),
            ("", None),
            ("sixty", None),
        ] {
            assert_eq!(whole(text), expect, "{text}");
        }
    }

    #[test]
    fn sizes_carry_units_or_are_bytes() {
        for (text, expect) in [
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64k", Some(65_536)),
            ("10MB", Some(10_000_000)),
            ("1 GiB", Some(1 << 30)),
            ("1TB", None),
            ("-1", None),
            ("99999999999999GB", None),
        ] {
            assert_eq!(bytes(text), expect, "{text}");
        }
    }

    #[test]
    fn plain_text_becomes_the_json_yaml_means() {
        for (text, expect) in [
            ("5", "5"),
            ("-5", "-5"),
            ("0.5", "0.5"),
            ("2.5e-06", "2.5e-6"),
            ("true", "true"),
            ("yes", "\"yes\""),
            ("1.2.3.4", "\"1.2.3.4\""),
            ("inf", "\"inf\""),
            ("2026-01-01", "\"2026-01-01\""),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(json_of_plain(text).to_string(), expect, "{text}");
        }
    }
}
