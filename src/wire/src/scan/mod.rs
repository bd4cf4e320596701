//! Finds the top-level members of a JSON body without parsing it.
//!
//! A gateway reads `model`, `stream` and a few more members of each request and passes the rest on
//! as it came. [`scan`] walks over the body once, checks that all of it is correct JSON, and notes
//! where each top-level member lies; [`splice`](crate::splice) changes members in place.
//!
//! The check is as strict as the strictest reader behind us, because what policy sees here must be
//! what the provider sees there: two members of the same name are refused, also when one of the
//! names is written with escapes, and so is anything that RFC 8259 does not allow.
//!
//! ```
//! use tollway_wire::scan::{Limits, scan};
//!
//! let body = br#"{"model": "gpt-4o-mini", "messages": [], "stream": true}"#;
//! let object = scan(body, &Limits::default())?;
//! assert_eq!(object.str(body, "model").as_deref(), Some("gpt-4o-mini"));
//! assert_eq!(object.bool(body, "stream"), Some(true));
//! # Ok::<(), tollway_wire::scan::ScanError>(())
//! ```

use std::borrow::Cow;
use std::collections::HashSet;

use smallvec::SmallVec;

mod block;
mod error;
mod files;
#[cfg(test)]
mod tests;
mod walk;

pub use error::ScanError;
pub use files::Inline;
use walk::Walker;

/// How many members an [`Object`] holds without allocating.
const MEMBERS_INLINE: usize = 16;

/// How many characters of a key an error message quotes.
const NAME_CHARS_MAX: usize = 64;

/// How large a structure [`scan`] accepts. The size in bytes is for the caller to limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep arrays and objects may nest; the scanned object is the first level. The default is
    /// 128. Parsers that recurse have such a limit, too (`serde_json` refuses the 128th level), so
    /// deeper bodies would fail further on.
    pub depth: u16,
    /// How many members the scanned object itself may have; objects in it may have any number. The
    /// default is 256, several times of what any API knows.
    pub members: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { depth: 128, members: 256 }
    }
}

/// A range of bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The offset of the first byte.
    pub start: u32,
    /// The offset after the last byte.
    pub end: u32,
}

impl Span {
    /// The walk never leaves a body of at most `u32::MAX` bytes, so the offsets fit.
    #[inline(always)]
    fn new(start: usize, end: usize) -> Self {
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes of `body` in this span. `body` must be what was scanned; of a body that is too
    /// short, this is empty.
    #[inline]
    pub fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The number of bytes.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether the span holds no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What a value is, as far as its outside tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number of at most 1024 bytes; it need not fit any machine type.
    Number,
    /// A string.
    String {
        /// Whether it has escape sequences. If not, the bytes between the quotes are the string.
        escaped: bool,
    },
    /// An array.
    Array {
        /// Whether it has no elements.
        empty: bool,
    },
    /// An object.
    Object,
}

/// One name and value of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where the name is, without its quotes.
    pub key: Span,
    /// Whether the name has escape sequences. If not, the bytes in `key` are the name.
    pub key_escaped: bool,
    /// Where the value is, with the quotes if it is a string and without whitespace around it.
    pub value: Span,
    /// What the value is.
    pub kind: Kind,
    /// Files that are written into the value.
    pub inline: Inline,
}

impl Member {
    /// The name, unescaped. `body` must be what was scanned; of any other, this may be empty.
    pub fn name<'a>(&self, body: &'a [u8]) -> Cow<'a, str> {
        unescape(body, self.key, self.key_escaped).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn is_named(&self, body: &[u8], name: &str) -> bool {
        if self.key_escaped {
            // An escape takes at most six bytes for one, so a longer key cannot be meant, and is
            // not worth unescaping again and again.
            self.key.len() <= 6 * name.len() && self.name(body) == name
        } else {
            // Most names differ in length already, and are not looked at.
            self.key.len() == name.len() && self.key.of(body) == name.as_bytes()
        }
    }
}

/// The members of an object, in the order of the body. It holds places, not bytes, so every reader
/// takes the body again; it must be the one that was scanned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    members: SmallVec<[Member; MEMBERS_INLINE]>,
    span: Span,
    names_files: bool,
    /// The [`name_bit`]s of all members, at least: a name without its bit is not there.
    names: u64,
}

/// Most names differ in their length or last letter.
#[inline(always)]
fn name_bit(name: &[u8]) -> u64 {
    let letter = u32::from(name.last().copied().unwrap_or_default());
    1u64.rotate_left(letter.wrapping_add((name.len() as u32).wrapping_mul(7)))
}

impl Object {
    /// Where the object is, from the opening to the closing brace.
    pub fn span(&self) -> Span {
        self.span
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a string anywhere in it names files: images, documents, recordings, or references to
    /// such, in any dialect. Of some texts this is true as well; of a body with files it is never false.
    pub fn names_files(&self) -> bool {
        self.names_files
    }

    /// The members in the order of the body.
    pub fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.members.iter()
    }

    /// The member of this name. Names are unique, and compared after unescaping.
    #[inline]
    pub fn get(&self, body: &[u8], name: &str) -> Option<&Member> {
        // Nearly everything that is looked for is not there.
        if self.names & name_bit(name.as_bytes()) == 0 {
            return None;
        }
        self.members.iter().find(|member| member.is_named(body, name))
    }

    /// The bytes of a member's value as they are in the body. `null` is a value like any other.
    pub fn raw<'a>(&self, body: &'a [u8], name: &str) -> Option<&'a [u8]> {
        self.get(body, name).map(|member| member.value.of(body))
    }

    /// A member that is a string, unescaped; borrowed from the body if there was nothing to do.
    /// `None` if there is no such member or it is something else.
    pub fn str<'a>(&self, body: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
        let member = self.get(body, name)?;
        let Kind::String { escaped } = member.kind else { return None };
        let inside = Span { start: member.value.start + 1, end: member.value.end - 1 };
        unescape(body, inside, escaped)
    }

    /// A member that is `true` or `false`. `None` if there is no such member or it is something
    /// else.
    pub fn bool(&self, body: &[u8], name: &str) -> Option<bool> {
        match self.get(body, name)?.kind {
            Kind::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A member that is an integer from 0 to `u64::MAX`, written without fraction and exponent.
    /// `None` if there is no such member or it is something else.
    pub fn u64(&self, body: &[u8], name: &str) -> Option<u64> {
        self.number(body, name)?.parse().ok()
    }

    /// A member that is a number, rounded to the nearest `f64`. `None` if there is no such member,
    /// it is something else, or it is too large for an `f64`.
    pub fn f64(&self, body: &[u8], name: &str) -> Option<f64> {
        self.number(body, name)?.parse().ok().filter(|value: &f64| value.is_finite())
    }

    fn number<'a>(&self, body: &'a [u8], name: &str) -> Option<&'a str> {
        let member = self.get(body, name)?;
        match member.kind {
            Kind::Number => std::str::from_utf8(member.value.of(body)).ok(),
            _ => None,
        }
    }

    /// Two members of one name mean different things to different readers, so there may be none. What
    /// bits the names have is found by the way.
    fn check_names(&mut self, body: &[u8]) -> Result<(), ScanError> {
        self.names = u64::MAX;
        let duplicate = if self.members.spilled() || self.iter().any(|m| m.key_escaped) {
            // Comparing each with each would take too long if there are many long ones.
            let mut names = HashSet::with_capacity(self.len());
            self.iter().find(|member| !names.insert(member.name(body))).copied()
        } else {
            let mut names = 0;
            let is_known = |(i, member): &(usize, &Member)| {
                let key = member.key.of(body);
                let bit = name_bit(key);
                let maybe = names & bit != 0;
                names |= bit;
                maybe && self.iter().take(*i).any(|earlier| earlier.key.of(body) == key)
            };
            let known = self.members.iter().enumerate().find(is_known).map(|(_, member)| *member);
            self.names = names;
            known
        };
        match duplicate {
            None => Ok(()),
            Some(member) => Err(ScanError::Duplicate {
                at: member.key.start as usize,
                name: member.name(body).chars().take(NAME_CHARS_MAX).collect(),
            }),
        }
    }
}

impl<'a> IntoIterator for &'a Object {
    type Item = &'a Member;
    type IntoIter = std::slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Checks that `body` is one JSON object, all of it, and finds its members.
///
/// Takes one pass, and allocates nothing as long as there are at most 16 members whose names have
/// no escapes.
///
/// # Errors
///
/// Anything that RFC 8259 does not allow, and beyond that: invalid UTF-8, a byte order mark, a root
/// that is not an object, two top-level members of the same name, `\u` escapes of lone surrogates,
/// numbers of more than 1024 bytes, bodies of more than `u32::MAX` bytes, and what `limits` says.
pub fn scan(body: &[u8], limits: &Limits) -> Result<Object, ScanError> {
    scan_from(body, 0, limits)
}

/// The members of an object inside a scanned body, such as the value of `stream_options`. The spans
/// are offsets into `body` as a whole, like those of [`scan`].
///
/// # Errors
///
/// Those of [`scan`], where `span` stands for the body: it must hold an object, which has to keep
/// to `limits` and to have no two members of the same name.
pub fn members(body: &[u8], span: Span, limits: &Limits) -> Result<Object, ScanError> {
    let end = body.len().min(span.end as usize);
    scan_from(&body[..end], span.start as usize, limits)
}

fn scan_from(body: &[u8], start: usize, limits: &Limits) -> Result<Object, ScanError> {
    if u32::try_from(body.len()).is_err() {
        return Err(ScanError::TooLong { len: body.len() });
    }
    let mut walker = Walker::new(body, start, limits.depth);
    if !walker.take(b'{') {
        return Err(ScanError::NotAnObject { at: walker.at() });
    }
    if limits.depth == 0 {
        return Err(ScanError::TooDeep { at: walker.at() - 1, limit: limits.depth });
    }
    let start = walker.at() - 1;
    let mut members = SmallVec::new();
    if !walker.take(b'}') {
        loop {
            if members.len() == usize::from(limits.members) {
                walker.peek();
                let limit = limits.members;
                return Err(ScanError::TooManyMembers { at: walker.at(), limit });
            }
            let (key, key_escaped) = walker.key()?;
            walker.peek();
            let from = walker.at();
            let inline = walker.inline();
            let kind = walker.value()?;
            let value = Span::new(from, walker.at());
            let inline = walker.inline().since(inline);
            members.push(Member { key, key_escaped, value, kind, inline });
            if walker.take(b'}') {
                break;
            }
            if !walker.take(b',') {
                return Err(walker.expected("a comma or a closing brace"));
            }
        }
    }
    let span = Span::new(start, walker.at());
    if walker.peek().is_some() {
        return Err(walker.expected("nothing after the object"));
    }
    walker.check_utf8()?;
    let mut object = Object { members, span, names_files: walker.names_files(), names: 0 };
    object.check_names(body)?;
    Ok(object)
}

/// The text of a string that was scanned; `inside` is without its quotes.
fn unescape(body: &[u8], inside: Span, escaped: bool) -> Option<Cow<'_, str>> {
    if !escaped {
        return std::str::from_utf8(inside.of(body)).ok().map(Cow::Borrowed);
    }
    let quoted = Span { start: inside.start.checked_sub(1)?, end: inside.end.checked_add(1)? };
    serde_json::from_slice(quoted.of(body)).ok().map(Cow::Owned)
}
