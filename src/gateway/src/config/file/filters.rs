//! `filters` as written.

use std::fmt;

use super::super::reader::{Fields, Reader};
use super::super::yaml::{Node, Value};

/// One entry of `filters`: its name, and whatever stands beside it.
#[derive(Clone)]
pub(crate) struct FilterEntry {
    /// `filter`: which one.
    pub(crate) name: String,
    /// Where it stands: `filters[2]`. Empty where it comes from no file.
    pub(crate) path: String,
    /// The settings, for the filter to read.
    pub(crate) settings: serde_json::Value,
}

impl FilterEntry {
    pub(in crate::config) fn new(
        name: impl Into<String>,
        path: &str,
        settings: serde_json::Map<String, serde_json::Value>,
    ) -> FilterEntry {
        FilterEntry { name: name.into(), path: path.to_owned(), settings: settings.into() }
    }
}

/// Settings may hold secrets.
impl fmt::Debug for FilterEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilterEntry({} at {:?})", self.name, self.path)
    }
}

pub(super) fn read_filters(fields: &mut Fields<'_>) -> Option<Vec<FilterEntry>> {
    if matches!(fields.take("filters")?.value, Value::Null) {
        return None;
    }
    let mut filters = Vec::new();
    for (node, path) in fields.items("filters") {
        filters.extend(read_filter(fields.reader, node, &path));
    }
    Some(filters)
}

/// `- filter: name` with settings beside it; `- name` alone is one without settings.
fn read_filter(reader: &mut Reader, node: &Node, path: &str) -> Option<FilterEntry> {
    if let Value::Scalar { .. } = node.value {
        let name = reader.text(node, path)?;
        return Some(FilterEntry::new(name, path, serde_json::Map::new()));
    }
    let Value::Map(members) = &node.value else {
        reader.report.mistake(path, "must be a mapping that begins with `filter: name`");
        return None;
    };
    let Some(filter) = members.iter().find(|member| member.name == "filter") else {
        reader.report.mistake(path, "needs a `filter`: its name");
        return None;
    };
    let name = reader.text(&filter.node, &format!("{path}.filter"))?;
    let mut settings = serde_json::Map::new();
    for member in members.iter().filter(|member| member.name != "filter") {
        let at = format!("{path}.{}", member.name);
        settings.insert(member.name.clone(), reader.json(&member.node, &at, true));
    }
    Some(FilterEntry::new(name, path, settings))
}
