//! The readable text of HTML, as Markdown: what a person would see, and nothing that is hidden.
//!
//! It walks a page's tags once, without a tree: memory is the text, and a stack of bounded depth.
//! Hidden text is left out, because pages that want to talk to models rather than people put it
//! there: `hidden`, `display:none` and their like, scripts, comments, invisible characters.

use std::fmt::Write;

use html5gum::{DefaultEmitter, EndTag, StartTag, Token, Tokenizer};
use url::Url;

/// How deep elements are followed. What is nested deeper has no effect but its text.
const DEPTH_MAX: usize = 256;

/// The longest link that is kept.
const LINK_BYTES_MAX: usize = 1_000;

/// What there is to read on a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What it is called.
    pub title: String,
    /// What it says.
    pub text: String,
    /// It says more, but that was the limit.
    pub is_cut: bool,
}

/// The text of a page at `base`, no longer than `bytes_max`.
pub fn readable(html: &str, base: Option<&Url>, bytes_max: usize) -> Page {
    let mut reader = Reader { base: base.cloned(), bytes_max, ..Reader::default() };
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) => reader.start(&tag),
            Token::EndTag(tag) => reader.end(&tag),
            Token::String(text) => reader.text(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
        if reader.out.len() > bytes_max {
            break;
        }
    }
    reader.finish()
}

/// A piece of HTML as one line of text.
pub fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    for Ok(token) in Tokenizer::new(html) {
        match token {
            Token::String(part) => text.push_str(&String::from_utf8_lossy(&part)),
            Token::StartTag(tag) if !is_inline(&tag.name) => text.push(' '),
            _ => {}
        }
    }
    let text: String = text.chars().filter(|c| !is_invisible(*c)).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a character shows nothing, and is not needed to write a language either.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Elements that have no content.
fn is_void(name: &[u8]) -> bool {
    const VOID: &[&[u8]] = &[
        b"area", b"base", b"br", b"col", b"embed", b"hr", b"img", b"input", b"link", b"meta",
        b"param", b"source", b"track", b"wbr",
    ];
    VOID.contains(&name)
}

/// Elements whose content nobody reads.
fn is_skipped(name: &[u8]) -> bool {
    const SKIPPED: &[&[u8]] = &[
        b"audio",
        b"button",
        b"canvas",
        b"footer",
        b"head",
        b"iframe",
        b"math",
        b"nav",
        b"noembed",
        b"noframes",
        b"noscript",
        b"object",
        b"script",
        b"select",
        b"style",
        b"svg",
        b"template",
        b"textarea",
        b"video",
    ];
    SKIPPED.contains(&name)
}

/// Elements within a line.
fn is_inline(name: &[u8]) -> bool {
    const INLINE: &[&[u8]] = &[
        b"a", b"abbr", b"b", b"bdi", b"bdo", b"big", b"cite", b"code", b"data", b"del", b"dfn",
        b"em", b"font", b"i", b"img", b"ins", b"kbd", b"label", b"mark", b"q", b"s", b"samp",
        b"small", b"span", b"strike", b"strong", b"sub", b"sup", b"time", b"tt", b"u", b"var",
        b"wbr",
    ];
    INLINE.contains(&name)
}

/// Elements that end each other where an end is not written, and within what.
fn ended_by(name: &[u8]) -> (&'static [&'static [u8]], &'static [&'static [u8]]) {
    match name {
        b"li" => (&[b"li"], &[b"ul", b"ol", b"menu"]),
        b"dd" | b"dt" => (&[b"dd", b"dt"], &[b"dl"]),
        b"td" | b"th" => (&[b"td", b"th"], &[b"tr", b"table"]),
        b"tr" => (&[b"tr"], &[b"table"]),
        b"tbody" | b"thead" | b"tfoot" => (&[b"tbody", b"thead", b"tfoot"], &[b"table"]),
        b"body" => (&[b"head"], &[]),
        b"a" => (&[b"a"], &[b"td", b"th", b"button"]),
        name if is_inline(name) => (&[], &[]),
        _ => (&[b"p"], &[b"button", b"table", b"td", b"th", b"li", b"div", b"section", b"article"]),
    }
}

/// Whether attributes hide an element.
fn is_hidden(tag: &StartTag<()>) -> bool {
    let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| -> &[u8] { value });
    if attribute(b"hidden").is_some()
        || attribute(b"aria-hidden").is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
        || &*tag.name == b"dialog" && attribute(b"open").is_none()
    {
        return true;
    }
    let Some(style) = attribute(b"style") else { return false };
    let style: String = String::from_utf8_lossy(style)
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    style.split(';').any(|rule| {
        let rule = rule.trim_end_matches("!important");
        let zero = |property: &str| {
            rule.strip_prefix(property).is_some_and(|value| {
                let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
                number.parse() == Ok(0.0)
            })
        };
        rule == "display:none"
            || rule == "visibility:hidden"
            || rule == "visibility:collapse"
            || zero("opacity:")
            || zero("font-size:")
    })
}

/// An element that has begun.
struct Open {
    name: Vec<u8>,
    is_hidden: bool,
    /// Of a link: where it goes, and where its text begins.
    link: Option<(String, usize)>,
}

#[derive(Default)]
struct Reader {
    base: Option<Url>,
    bytes_max: usize,
    out: String,
    title: String,
    open: Vec<Open>,
    /// How many of `open` are hidden.
    hidden: usize,
    /// How many of `open` keep their white space.
    verbatim: usize,
    /// What comes before the next text.
    gap: Gap,
    /// The lists that are open, with their next number.
    lists: Vec<Option<u32>>,
}

/// What separates two texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Space,
    Line,
    Paragraph,
}

impl Reader {
    fn start(&mut self, tag: &StartTag<()>) {
        let name: &[u8] = &tag.name;
        let (ended, within) = ended_by(name);
        if !ended.is_empty() {
            let at = self
                .open
                .iter()
                .rposition(|open| ended.contains(&&*open.name) || within.contains(&&*open.name));
            if let Some(at) = at.filter(|at| ended.contains(&&*self.open[*at].name)) {
                self.close_from(at);
            }
        }
        if is_void(name) {
            if self.hidden == 0 && !is_hidden(tag) {
                self.void(tag);
            }
            return;
        }
        let is_foreign = matches!(name, b"svg" | b"math");
        let in_foreign = self.open.iter().any(|open| matches!(&*open.name, b"svg" | b"math"));
        if (tag.self_closing && (is_foreign || in_foreign)) || self.open.len() >= DEPTH_MAX {
            return;
        }
        let is_hidden = is_skipped(name) || is_hidden(tag);
        let mut open = Open { name: name.to_vec(), is_hidden, link: None };
        self.hidden += usize::from(is_hidden);
        if self.hidden == 0 {
            self.begin(name);
            if name == b"a" {
                let href = tag.attributes.get(&b"href"[..]);
                let link = href.and_then(|href| self.link(&String::from_utf8_lossy(href)));
                open.link = link.map(|link| (link, self.out.len()));
            }
        }
        self.verbatim += usize::from(name == b"pre");
        self.open.push(open);
    }

    /// What an element begins with.
    fn begin(&mut self, name: &[u8]) {
        match name {
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" => {
                self.widen(Gap::Paragraph);
                let level = usize::from(name[1] - b'0');
                self.mark(&format!("{} ", "#".repeat(level)));
            }
            b"ul" | b"ol" | b"menu" => {
                self.widen(if self.lists.is_empty() { Gap::Paragraph } else { Gap::Line });
                self.lists.push((name == b"ol").then_some(1));
            }
            b"li" => {
                self.widen(Gap::Line);
                let indent = "  ".repeat(self.lists.len().saturating_sub(1));
                let bullet = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number = number.saturating_add(1);
                        format!("{indent}{}. ", *number - 1)
                    }
                    _ => format!("{indent}- "),
                };
                self.mark(&bullet);
            }
            b"pre" => {
                self.widen(Gap::Paragraph);
                self.mark("```\n");
            }
            b"code" if self.verbatim == 0 => self.mark("`"),
            b"td" | b"th" => {
                let is_first = self.out.is_empty() || self.gap >= Gap::Line;
                if !is_first {
                    self.gap = Gap::None;
                    self.out.push_str(" | ");
                }
            }
            name => self.widen(around(name)),
        }
    }

    fn void(&mut self, tag: &StartTag<()>) {
        match tag.name.as_slice() {
            b"br" if self.verbatim > 0 => self.out.push('\n'),
            b"br" => self.widen(Gap::Line),
            b"hr" => {
                self.widen(Gap::Paragraph);
                self.mark("---");
                self.widen(Gap::Paragraph);
            }
            b"img" => {
                let alt = tag.attributes.get(&b"alt"[..]);
                let alt = alt.map(|alt| plain(&String::from_utf8_lossy(alt))).unwrap_or_default();
                if !alt.is_empty() {
                    self.text(&format!(" [image: {alt}] "));
                }
            }
            b"base" if self.base.is_some() => {
                let href = tag.attributes.get(&b"href"[..]);
                let href = href.map(|href| String::from_utf8_lossy(href).into_owned());
                let base =
                    self.base.as_ref().zip(href).and_then(|(base, href)| base.join(&href).ok());
                self.base = base.or(self.base.take());
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: &EndTag<()>) {
        let name: &[u8] = &tag.name;
        // As in browsers, the end of what is within a line does not end the block it is in.
        let is_in_reach =
            |open: &&Open| *open.name == *name || is_inline(name) && !is_inline(&open.name);
        let at = self.open.iter().rposition(|open| is_in_reach(&open));
        if let Some(at) = at.filter(|at| *self.open[*at].name == *name) {
            self.close_from(at);
        }
    }

    /// Ends an element, and those in it that have not ended.
    fn close_from(&mut self, at: usize) {
        while self.open.len() > at {
            let Some(open) = self.open.pop() else { return };
            let was_hidden = self.hidden > 0;
            self.hidden -= usize::from(open.is_hidden);
            self.verbatim -= usize::from(open.name == b"pre");
            if !was_hidden {
                self.finish_element(&open);
            }
        }
    }

    fn finish_element(&mut self, open: &Open) {
        match &*open.name {
            b"a" => {
                if let Some((link, from)) = &open.link {
                    // A link of nothing, such as an image without a text, is nothing.
                    let text = self.out.get(*from..).unwrap_or_default().trim();
                    if !text.is_empty() && text != link {
                        let _ = write!(self.out, " ({link})");
                    }
                }
            }
            b"ul" | b"ol" | b"menu" => {
                self.lists.pop();
                self.widen(if self.lists.is_empty() { Gap::Paragraph } else { Gap::Line });
            }
            b"pre" => {
                let end = self.out.trim_end_matches('\n').len();
                self.out.truncate(end);
                self.out.push_str("\n```");
                self.widen(Gap::Paragraph);
            }
            b"code" if self.verbatim == 0 => self.out.push('`'),
            b"td" | b"th" => {}
            name => self.widen(around(name)),
        }
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    /// Writes what is no text of the page.
    fn mark(&mut self, mark: &str) {
        self.bridge();
        self.out.push_str(mark);
    }

    /// Writes the gap before what comes.
    fn bridge(&mut self) {
        let end = self.out.trim_end_matches(' ').len();
        match self.gap {
            _ if self.out.is_empty() => {}
            Gap::None => {}
            Gap::Space if self.out.ends_with([' ', '\n']) => {}
            Gap::Space => self.out.push(' '),
            Gap::Line => {
                self.out.truncate(end);
                self.out.push('\n');
            }
            Gap::Paragraph => {
                self.out.truncate(end);
                self.out.push_str("\n\n");
            }
        }
        self.gap = Gap::None;
    }

    fn text(&mut self, text: &str) {
        if self.open.last().is_some_and(|open| open.name == b"title") {
            let is_pages = !self.open.iter().any(|open| open.name == b"svg");
            if is_pages && self.title.is_empty() {
                self.title = plain_text(text);
            }
            return;
        }
        if self.hidden > 0 {
            return;
        }
        if self.verbatim > 0 {
            self.bridge();
            self.out.extend(text.chars().filter(|c| !is_invisible(*c) && *c != '\r'));
            return;
        }
        for c in text.chars().filter(|c| !is_invisible(*c)) {
            if c.is_whitespace() {
                self.widen(Gap::Space);
            } else {
                self.bridge();
                self.out.push(c);
            }
        }
    }

    /// Where a link goes, if that is somewhere one could look.
    fn link(&self, href: &str) -> Option<String> {
        let href = href.trim();
        if href.is_empty() || href.starts_with('#') || href.len() > LINK_BYTES_MAX {
            return None;
        }
        let url = match &self.base {
            Some(base) => base.join(href),
            None => Url::parse(href),
        };
        let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        (url.as_str().len() <= LINK_BYTES_MAX).then(|| url.to_string())
    }

    fn finish(mut self) -> Page {
        self.close_from(0);
        let is_cut = self.out.len() > self.bytes_max;
        if is_cut {
            let end = self.out.floor_char_boundary(self.bytes_max);
            self.out.truncate(end);
        }
        let end = self.out.trim_end().len();
        self.out.truncate(end);
        Page { title: self.title, text: self.out, is_cut }
    }
}

/// The gap around an element.
fn around(name: &[u8]) -> Gap {
    match name {
        b"p" | b"blockquote" | b"table" | b"figure" | b"article" | b"section" | b"main" | b"h1"
        | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" => Gap::Paragraph,
        name if is_inline(name) => Gap::None,
        _ => Gap::Line,
    }
}

/// Text as one line, without what is invisible.
fn plain_text(text: &str) -> String {
    let text: String = text.chars().filter(|c| !is_invisible(*c)).take(1_000).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(html: &str, expect: &str) {
        let base = Url::parse("https://example.com/docs/page").unwrap();
        assert_eq!(readable(html, Some(&base), 10_000).text, expect, "{html}");
    }

    #[test]
    fn structure_is_kept() {
        check("<h1>Title</h1><p>One\n  two.<p>Three", "# Title\n\nOne two.\n\nThree");
        check("a<br>b<br/>c", "a\nb\nc");
        check("<ul><li>a<li>b<ol><li>x<li>y</ol><li>c</ul>d", "- a\n- b\n  1. x\n  2. y\n- c\n\nd");
        check("<table><tr><th>a<th>b<tr><td>1</td><td>2</td></tr></table>", "a | b\n1 | 2");
        check("x<pre>a\n  b\n</pre>y", "x\n\n```\na\n  b\n```\n\ny");
        check("use <code>x  y</code> now", "use `x y` now");
        check("<b>a</b>b <i>c</i>", "ab c");
        check("one<hr>two", "one\n\n---\n\ntwo");
        check("<dl><dt>a<dd>b<dt>c<dd>d</dl>", "a\nb\nc\nd");
        check("&lt;b&gt; &amp; &eacute;&#x1F600;", "<b> & é😀");
    }

    #[test]
    fn links_and_images_are_text() {
        check(
            "see <a href='../x?a=1&amp;b=2'>this</a>.",
            "see this (https://example.com/x?a=1&b=2).",
        );
        check("<a href='https://a.example/'>https://a.example/</a>", "https://a.example/");
        check("<a href='javascript:alert(1)'>x</a> <a href='data:text/html,x'>y</a>", "x y");
        check("<a href='#part'>x</a><a href=''>y</a><a>z</a>", "xyz");
        check("<a href='/x'><img src='/i.png'></a>after", "after");
        check("<img src='https://spy.example/?q=secret' alt='A <b>cat</b>'>", "[image: A cat]");
        check("<base href='https://b.example/'><a href=x>y</a>", "y (https://b.example/x)");
    }

    #[test]
    fn what_nobody_sees_is_left_out() {
        for hidden in [
            "<script>x</script>",
            "<script>x<!--<script></script>--></script>",
            "<style>x</style>",
            "<!-- x -->",
            "<noscript>x</noscript>",
            "<template><p>x</template>",
            "<svg><title>x</title><path/><text>x</text></svg>",
            "<svg><style>x</style></svg>",
            "<iframe>x</iframe>",
            "<textarea>x</textarea>",
            "<select><option>x</select>",
            "<nav><ul><li>x</ul></nav>",
            "<div hidden>x<div>x</div></div>",
            "<p hidden>x<b>x",
            "<div aria-hidden='TRUE'>x</div>",
            "<span style='color:red; DISPLAY : none'>x</span>",
            "<span style='display:none!important'>x</span>",
            "<span style='visibility:hidden'>x</span>",
            "<span style='opacity: 0.0'>x</span>",
            "<span style='font-size:0px'>x</span>",
            "<dialog>x</dialog>",
            "<head><meta name=x><title>x</title>x</head>",
            "<img alt=x hidden>",
        ] {
            check(&format!("before {hidden}<p>after</p>"), "before\n\nafter");
        }
        check("a\u{200b}b\u{202e}c\u{e0041}\u{e0042}d\0", "abcd");
        check("<p style='opacity:0.5;font-size:10px'>seen</p>", "seen");
        check("नमस्\u{200d}ते", "नमस्\u{200d}ते");
    }

    #[test]
    fn bad_markup_hides_nothing_else() {
        check("<p hidden>x<p>seen", "seen");
        check("<ul><li hidden>x<li>seen</ul>", "- seen");
        check("</div></p>seen</span>", "seen");
        check("<div hidden>x</div></div>seen", "seen");
        check("<b><p>a</b>b</p>c", "ab\n\nc");
        check("<a href=/1>a<a href=/2>b</a>", "a (https://example.com/1)b (https://example.com/2)");
        check(&format!("{}seen", "<div>".repeat(10_000)), "seen");
        check("a < b and c > d", "a < b and c > d");
    }

    #[test]
    fn titles_are_found() {
        let title = |html: &str| readable(html, None, 100).title;
        assert_eq!(title("<head><title> A &amp;\n B </title></head>x"), "A & B");
        assert_eq!(title("<title>one</title><title>two</title>"), "one");
        assert_eq!(title("<svg><title>icon</title></svg><title>page</title>"), "page");
        assert_eq!(title("none"), "");
    }

    #[test]
    fn text_is_cut_where_it_was_asked_to() {
        let page = readable(&"<p>üü</p>".repeat(1000), None, 15);
        assert_eq!(page.text, "üü\n\nüü\n\nü");
        assert!(page.is_cut);
        assert!(!readable("short", None, 15).is_cut);
    }

    #[test]
    fn pieces_become_one_line() {
        assert_eq!(plain("a <strong>b</strong>c &amp; d<br>e\u{200b}\n f"), "a bc & d e f");
        assert_eq!(plain("3 < 4"), "3 < 4");
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(html: String, limit in 0..200_usize) {
            let page = readable(&html, None, limit);
            prop_assert!(page.text.len() <= limit);
            let _ = plain(&html);
        }

        #[test]
        fn no_markup_breaks_it(
            html in "(<(/)?(p|div|a href=x|ul|ol|li|table|tr|td|pre|code|b|svg|script|title|h1|br|p hidden)(/)?>|[a-z &;]){0,60}",
        ) {
            let page = readable(&html, None, 1000);
            prop_assert!(page.text.len() <= 1000);
            prop_assert_eq!(page.text.trim_end(), &page.text);
        }

        #[test]
        fn hidden_text_never_shows(before in "[a-z<>/]{0,20}", inside in "(<(/)?(p|b|i|li|td)>|[A-Y]){0,20}") {
            // Whatever is inside, short of ending the element that hides it.
            let html = format!("{before}<template>Z{inside}Z</template>");
            if !before.contains('<') {
                prop_assert!(!readable(&html, None, 1000).text.contains('Z'));
            }
        }
    }
}
