//! YAML text as a tree of nodes that know their lines.
//!
//! Scalars keep their literal text, so that a price of `2.5e-06` stays an exact decimal. What YAML
//! has beyond that is kept on a short leash: one document, names as keys, no key twice, bounded
//! depth and size also after aliases are expanded.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// How large a config file may be.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// How deep lists and mappings may be nested.
const DEPTH_MAX: usize = 64;
/// How many nodes a file may have once aliases are expanded.
const NODES_MAX: usize = 200_000;
/// How much text a file may have once aliases are expanded.
const TEXT_BYTES_MAX: usize = 4 * FILE_BYTES_MAX;

/// One value of a config file.
#[derive(Clone, PartialEq)]
pub(super) struct Node {
    /// Where it begins, counted from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Null,
    /// Text as it stands in the file. `plain` says that it stands there without quotes, so that
    /// YAML would read `5` as a number and `true` as a boolean.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One entry of a mapping.
#[derive(Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// The line of the name, which is where people look for it.
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Node {
    /// What it is, for messages: values are not quoted there because they may be secrets.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Why a text is no config at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct SyntaxError {
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

fn error(line: usize, message: impl Into<String>) -> SyntaxError {
    SyntaxError { line: Some(line), message: message.into() }
}

/// Reads one YAML document. Nothing but comments is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("is larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(SyntaxError { line: None, message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.take(event, span)?,
            Err(scan) => {
                return Err(error(scan.marker().line(), format!("is not YAML: {}", scan.info())));
            }
        }
    }
    let empty = Node { line: 1, value: Value::Map(Vec::new()) };
    Ok(match builder.root {
        None | Some(Node { value: Value::Null, .. }) => empty,
        Some(root) => root,
    })
}

/// A list or mapping that is still open.
struct Open {
    line: usize,
    anchor: usize,
    what: Opened,
}

enum Opened {
    List(Vec<Node>),
    Map(Box<OpenMap>),
}

#[derive(Default)]
struct OpenMap {
    members: Vec<Member>,
    names: HashMap<String, usize>,
    merged: Vec<Member>,
    key: Option<Key>,
}

/// A key that waits for its value.
struct Key {
    name: String,
    line: usize,
    /// `<<`, whose value is put into the mapping around it.
    merge: bool,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text_bytes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(text.into_owned(), style, tag.as_deref(), line)?;
                self.count(line, extent(&node))?;
                self.keep(anchor, &node)?;
                self.put(node)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(error(line, "an alias stands inside of what it stands for"));
                };
                let (node, extent) = (node.clone(), extent(node));
                if self.open.len() + extent.depth > DEPTH_MAX {
                    return Err(too_deep(line));
                }
                self.count(line, extent)?;
                self.put(node)
            }
            Event::SequenceStart(anchor, tag) => {
                core_tag(tag.as_deref(), line)?;
                self.push(Open { line, anchor, what: Opened::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                core_tag(tag.as_deref(), line)?;
                self.push(Open { line, anchor, what: Opened::Map(Box::default()) })
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(line),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(error(line, "a second document begins here; a config is one document"))
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Nothing => Ok(()),
        }
    }

    fn push(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(open.line));
        }
        self.count(open.line, Extent { nodes: 1, ..Extent::default() })?;
        self.open.push(open);
        Ok(())
    }

    fn pop(&mut self, line: usize) -> Result<(), SyntaxError> {
        // The parser balances its events; should it not, that is its bug and not a panic of ours.
        let Some(open) = self.open.pop() else {
            return Err(error(line, "a list or mapping ends that did not begin"));
        };
        let value = match open.what {
            Opened::List(items) => Value::List(items),
            Opened::Map(map) => Value::Map(map.close()),
        };
        let node = Node { line: open.line, value };
        self.keep(open.anchor, &node)?;
        self.put(node)
    }

    fn keep(&mut self, anchor: usize, node: &Node) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.count(node.line, extent(node))?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn count(&mut self, line: usize, more: Extent) -> Result<(), SyntaxError> {
        self.nodes += more.nodes;
        self.text_bytes += more.text_bytes;
        if self.nodes > NODES_MAX || self.text_bytes > TEXT_BYTES_MAX {
            return Err(error(line, "is too large once its aliases are expanded"));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs: into what is open, or at the top.
    fn put(&mut self, node: Node) -> Result<(), SyntaxError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.what {
            Opened::List(items) => items.push(node),
            Opened::Map(map) => return map.put(node),
        }
        Ok(())
    }
}

impl OpenMap {
    fn put(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.key.take() {
            None => self.key = Some(name(node)?),
            Some(key) if key.merge => merge(key.line, node, &mut self.merged)?,
            Some(Key { name, line, .. }) => {
                // What looks like `{key:value}` has a key and no value: `key:value`.
                if node.value == Value::Null && name.contains(':') {
                    return Err(error(line, "a space is missing after a colon"));
                }
                // Not named: it may be a value that slipped out of its place.
                if let Some(first) = self.names.insert(name.clone(), line) {
                    let message = format!("this key stands here twice, first on line {first}");
                    return Err(error(line, message));
                }
                self.members.push(Member { name, line, node });
            }
        }
        Ok(())
    }

    /// What was written wins over what was merged, and what was merged first over the rest.
    fn close(self) -> Vec<Member> {
        let OpenMap { mut members, mut names, merged, .. } = self;
        for member in merged {
            if names.insert(member.name.clone(), member.line).is_none() {
                members.push(member);
            }
        }
        members
    }
}

fn name(node: Node) -> Result<Key, SyntaxError> {
    let line = node.line;
    match node.value {
        Value::Scalar { text, plain } => Ok(Key { merge: plain && text == "<<", name: text, line }),
        Value::Null => Err(error(line, "a key is missing before the colon")),
        Value::List(_) | Value::Map(_) => Err(error(line, "a list or mapping cannot be a key")),
    }
}

/// `<<: *defaults` or `<<: [*first, *second]`.
fn merge(line: usize, node: Node, merged: &mut Vec<Member>) -> Result<(), SyntaxError> {
    let maps = match node.value {
        Value::List(items) => items,
        value => vec![Node { line: node.line, value }],
    };
    for map in maps {
        match map.value {
            Value::Map(members) => merged.extend(members),
            _ => return Err(error(line, "`<<` takes a mapping or a list of mappings")),
        }
    }
    Ok(())
}

fn scalar(
    text: String,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Node, SyntaxError> {
    let tagged_text = core_tag(tag, line)? == Some("str");
    let plain = style == ScalarStyle::Plain && !tagged_text;
    let value = match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
        _ => Value::Scalar { text, plain },
    };
    Ok(Node { line, value })
}

/// The name of a tag of YAML's own (`!!str`). Others mean something to one program only, and
/// ignoring them would read the file wrongly.
fn core_tag(tag: Option<&Tag>, line: usize) -> Result<Option<&str>, SyntaxError> {
    match tag {
        None => Ok(None),
        Some(tag) if tag.is_yaml_core_schema() => Ok(Some(&tag.suffix)),
        Some(_) => Err(error(line, "tags (`!name`) are not supported")),
    }
}

fn too_deep(line: usize) -> SyntaxError {
    error(line, format!("is nested deeper than {DEPTH_MAX} levels"))
}

/// How much there is of a tree.
#[derive(Clone, Copy, Default)]
struct Extent {
    nodes: usize,
    text_bytes: usize,
    depth: usize,
}

/// The depth of a tree is bounded before it gets here, so that this may recurse.
fn extent(node: &Node) -> Extent {
    let around = |mut whole: Extent, part: Extent| {
        whole.nodes += part.nodes;
        whole.text_bytes += part.text_bytes;
        whole.depth = whole.depth.max(part.depth + 1);
        whole
    };
    let one = Extent { nodes: 1, ..Extent::default() };
    match &node.value {
        Value::Null => one,
        Value::Scalar { text, .. } => Extent { text_bytes: text.len(), ..one },
        Value::List(items) => items.iter().map(extent).fold(one, around),
        Value::Map(members) => members.iter().fold(one, |whole, member| {
            let mut part = extent(&member.node);
            part.text_bytes += member.name.len();
            around(whole, part)
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree in one line: what was parsed, without the line numbers.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Scalar { text, plain: true } => text.clone(),
            Value::Scalar { text, plain: false } => format!("{text:?}"),
            Value::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
            }
            Value::Map(members) => {
                let show = |m: &Member| format!("{}: {}", m.name, show(&m.node));
                format!("{{{}}}", members.iter().map(show).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn check(text: &str, expect: &str) {
        assert_eq!(parse(text).map(|node| show(&node)).unwrap_or_else(|e| e.to_string()), expect);
    }

    fn refused(text: &str, line: usize, message: &str) {
        let error = parse(text).map(|node| show(&node)).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.line, Some(line), "{error}");
    }

    #[test]
    fn block_and_flow_style_mean_the_same() {
        check("a:\n  - b: 1\n    c: x\n", "{a: [{b: 1, c: x}]}");
        check("{a: [{b: 1, c: x}]}", "{a: [{b: 1, c: x}]}");
    }

    #[test]
    fn numbers_keep_their_text() {
        check("[2.5e-06, 0.10, 0x1F, 1_000]", "[2.5e-06, 0.10, 0x1F, 1_000]");
    }

    #[test]
    fn quotes_and_the_str_tag_make_text() {
        check("['5', \"true\", !!str 5, 5]", "[\"5\", \"true\", \"5\", 5]");
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        check("", "{}");
        check("# only a comment\n", "{}");
        check("---\n", "{}");
    }

    #[test]
    fn absent_values_are_nothing() {
        check("a:\nb: ~\nc: null\nd: ''", "{a: null, b: null, c: null, d: \"\"}");
    }

    #[test]
    fn aliases_stand_for_their_anchors() {
        check("a: &x {k: 1}\nb: *x\n", "{a: {k: 1}, b: {k: 1}}");
        check("a: &x 1\nb: [*x, *x]\n", "{a: 1, b: [1, 1]}");
    }

    #[test]
    fn merged_keys_give_way_to_written_ones() {
        check("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\n", "{a: {k: 1, l: 2}, b: {k: 3, l: 2}}");
        check(
            "a: &x {k: 1}\nb: &y {k: 2, l: 2}\nc: {<<: [*x, *y]}",
            "{a: {k: 1}, b: {k: 2, l: 2}, c: {k: 1, l: 2}}",
        );
        check("a: {'<<': 1}", "{a: {<<: 1}}");
        refused("a: {<<: 1}", 1, "`<<` takes a mapping");
    }

    #[test]
    fn a_key_given_twice_is_refused_with_both_lines() {
        refused("a: 1\nb: 2\na: 3\n", 3, "this key stands here twice, first on line 1");
    }

    #[test]
    fn a_missing_space_is_told() {
        refused("{api_key:sk-1234}", 1, "a space is missing after a colon");
        check("{llama3:8b: [x]}", "{llama3:8b: [x]}");
    }

    #[test]
    fn keys_are_names() {
        refused("{[a]: 1}", 1, "cannot be a key");
        refused("? {a: 1}\n: 2", 1, "cannot be a key");
        refused(": 1", 1, "a key is missing");
    }

    #[test]
    fn lines_are_those_of_the_names() {
        let node = parse("\n# comment\na:\n  b: 1\n\n  c:\n    - 2\n").unwrap();
        let Value::Map(top) = &node.value else { panic!() };
        let Value::Map(inner) = &top[0].node.value else { panic!() };
        assert_eq!((top[0].line, inner[0].line, inner[1].line), (3, 4, 6));
        let Value::List(items) = &inner[1].node.value else { panic!() };
        assert_eq!(items[0].line, 7);
    }

    #[test]
    fn a_second_document_is_refused() {
        refused("a: 1\n---\nb: 2\n", 2, "a second document");
    }

    #[test]
    fn other_peoples_tags_are_refused() {
        refused("a: !ENV x", 1, "tags");
    }

    #[test]
    fn broken_yaml_is_refused_with_its_line() {
        refused("a: 1\nb: [1, 2\n", 3, "is not YAML");
        refused("a: 1\n b: 2\n", 2, "is not YAML");
        refused("a: *nowhere\n", 1, "is not YAML");
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_refused() {
        refused("a: &x [1, *x]", 1, "an alias stands inside");
    }

    #[test]
    fn depth_is_bounded_for_every_way_to_nest() {
        for text in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
        ] {
            assert!(parse(&text).is_err());
        }
        let level = |name: &str, inner: &str| {
            format!("{name}: &{name} {}{inner}{}\n", "[".repeat(40), "]".repeat(40))
        };
        refused(&(level("a", "1") + &level("b", "*a")), 2, "nested deeper");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let alias = format!("*a{}", level - 1);
            let items = vec![alias; 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{items}]\n");
        }
        assert!(parse(&bomb).map(|_| ()).unwrap_err().message.contains("too large"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
        assert!(parse(&long).map(|_| ()).unwrap_err().message.contains("too large"));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        assert!(parse(&"#".repeat(FILE_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_of_yaml_signs_panics(text in "[-a1:?,&*!|>'\"%@`#{}\\[\\]~<. \n\t]{0,60}") {
            let _ = parse(&text);
        }
    }
}
