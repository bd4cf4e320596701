//! The walk over the bytes: checks the grammar of RFC 8259 and says where each value ends.

use smallvec::SmallVec;

use super::files::{self, Inline};
use super::{Kind, ScanError, Span, block};

/// More digits than any number needs, and few enough that whoever parses it later need not worry.
const NUMBER_BYTES_MAX: usize = 1024;

/// A position in a text that is correct JSON up to there.
///
/// The functions that are called for each value are inlined into the loop of `container`, and those
/// that are not take positions and return them, so that `at` lives in a register all the time.
#[derive(Clone, Copy)]
pub(super) struct Walker<'a> {
    body: &'a [u8],
    /// The next byte to look at; never more than `body.len()`.
    at: usize,
    /// The deepest nesting allowed, counting the object that is being scanned.
    depth: u16,
    /// Not zero once a byte of 0x80 or above was passed, which is allowed in strings only.
    non_ascii: u64,
    names_files: bool,
    inline: Inline,
}

impl<'a> Walker<'a> {
    pub(super) fn new(body: &'a [u8], at: usize, depth: u16) -> Self {
        let (at, inline) = (at.min(body.len()), Inline::default());
        Walker { body, at, depth, non_ascii: 0, names_files: false, inline }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether a string so far names files.
    pub(super) fn names_files(&self) -> bool {
        self.names_files
    }

    /// Files so far.
    pub(super) fn inline(&self) -> Inline {
        self.inline
    }

    /// Skips whitespace and tells the byte after it, `None` at the end of the body.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> Option<u8> {
        let byte = *self.body.get(self.at)?;
        if byte > b' ' {
            return Some(byte);
        }
        // One space after a comma or a colon is the usual case.
        if byte == b' '
            && let Some(&next) = self.body.get(self.at + 1)
            && next > b' '
        {
            self.at += 1;
            return Some(next);
        }
        self.at = skip_blanks(self.body, self.at);
        self.body.get(self.at).copied()
    }

    /// Skips whitespace and `byte`, if `byte` is what follows.
    #[inline(always)]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The error for finding something else than `expected` here.
    #[inline(always)]
    pub(super) fn expected(&self, expected: &'static str) -> ScanError {
        unexpected(self.body, self.at, expected)
    }

    /// Walks over a key and its colon. Answers with the key's place inside the quotes and whether
    /// it has escapes.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<(Span, bool), ScanError> {
        if !self.take(b'"') {
            return Err(self.expected("a key in double quotes"));
        }
        let start = self.at;
        let escaped = self.string()?;
        let key = Span::new(start, self.at - 1);
        if !self.take(b':') {
            return Err(self.expected("a colon"));
        }
        Ok((key, escaped))
    }

    /// Walks over a member's value. The walker must not stand on whitespace.
    pub(super) fn value(&mut self) -> Result<Kind, ScanError> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Kind::String { escaped: self.string()? })
            }
            Some(b'{') => {
                *self = self.container()?;
                Ok(Kind::Object)
            }
            Some(b'[') => {
                *self = self.container()?;
                let first = self.body.get(skip_blanks(self.body, start + 1));
                Ok(Kind::Array { empty: first == Some(&b']') })
            }
            other => self.scalar(other),
        }
    }

    /// Refuses bodies that are not UTF-8. To be called last: only strings can still hide bad bytes
    /// then, and a body that had none but ASCII bytes needs no second look.
    pub(super) fn check_utf8(&self) -> Result<(), ScanError> {
        if self.non_ascii == 0 {
            return Ok(());
        }
        simdutf8::basic::from_utf8(self.body).map(|_| ()).map_err(|_| {
            let at = std::str::from_utf8(self.body).map_or_else(|e| e.valid_up_to(), str::len);
            ScanError::Utf8 { at }
        })
    }

    /// Walks over an array or an object with all that is in it.
    fn container(mut self) -> Result<Self, ScanError> {
        let mut nesting = Nesting::default();
        'value: loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(b'{') => {
                    self.open(&mut nesting, true)?;
                    if !self.take(b'}') {
                        self.key()?;
                        continue 'value;
                    }
                    nesting.close();
                }
                Some(b'[') => {
                    self.open(&mut nesting, false)?;
                    if !self.take(b']') {
                        continue 'value;
                    }
                    nesting.close();
                }
                other => {
                    self.scalar(other)?;
                    if !nesting.in_object() {
                        self.skip_integers();
                    }
                }
            }
            while nesting.depth > 0 {
                match (self.peek(), nesting.in_object()) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.key()?;
                        continue 'value;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        continue 'value;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        nesting.close();
                    }
                    (_, true) => return Err(self.expected("a comma or a closing brace")),
                    (_, false) => return Err(self.expected("a comma or a closing bracket")),
                }
            }
            return Ok(self);
        }
    }

    #[inline(always)]
    fn open(&mut self, nesting: &mut Nesting, object: bool) -> Result<(), ScanError> {
        nesting.open(object);
        // The object that is being scanned is a level, too.
        if nesting.depth >= u32::from(self.depth) {
            return Err(ScanError::TooDeep { at: self.at, limit: self.depth });
        }
        self.at += 1;
        Ok(())
    }

    /// Walks over a number, `true`, `false` or `null`, whose first byte is `first`.
    #[inline(always)]
    fn scalar(&mut self, first: Option<u8>) -> Result<Kind, ScanError> {
        match first {
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            Some(b't') => self.word(b"true").map(|()| Kind::Bool(true)),
            Some(b'f') => self.word(b"false").map(|()| Kind::Bool(false)),
            Some(b'n') => self.word(b"null").map(|()| Kind::Null),
            _ => Err(self.expected("a value")),
        }
    }

    /// Called at the comma after an element of an array. If integers follow, moves to the comma
    /// after the last of them that the blocks show, for the sake of the long arrays of tokens that
    /// some clients send to be embedded. Where other elements follow, nothing is gained, so that
    /// must be found out quickly.
    #[inline(always)]
    fn skip_integers(&mut self) {
        match self.chunk::<3>(self.at) {
            Some([b',', b'0'..=b'9', after]) if *after != b'.' => {}
            _ => return,
        }
        while let Some(block) = self.chunk::<64>(self.at + 1) {
            match block::integers_run(block) {
                0 => break,
                run => self.at += run,
            }
        }
    }

    #[inline(always)]
    fn word<const N: usize>(&mut self, word: &[u8; N]) -> Result<(), ScanError> {
        if self.chunk::<N>(self.at) != Some(word) {
            return Err(self.expected("a value"));
        }
        self.at += N;
        Ok(())
    }

    #[inline(always)]
    fn number(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        self.at += usize::from(self.body[start] == b'-');
        if self.body.get(self.at) == Some(&b'0') {
            self.at += 1;
            if self.body.get(self.at).is_some_and(u8::is_ascii_digit) {
                return Err(self.expected("no digit after a leading zero"));
            }
        } else if self.digits() == 0 {
            return Err(self.expected("a digit"));
        }
        if self.body.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.expected("a digit"));
            }
        }
        if let Some(b'e' | b'E') = self.body.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.body.get(self.at), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(self.expected("a digit"));
            }
        }
        if self.at - start > NUMBER_BYTES_MAX {
            return Err(ScanError::NumberTooLong { at: start });
        }
        Ok(())
    }

    /// Walks over digits and tells how many there were.
    #[inline(always)]
    fn digits(&mut self) -> usize {
        let start = self.at;
        // One look is enough for most numbers; the loop is for the others.
        while let Some(block) = self.chunk(self.at) {
            let run = block::digit_run(block);
            self.at += run;
            if run < 16 {
                return self.at - start;
            }
        }
        while self.body.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    /// Walks over the rest of a string, closing quote included. Says whether it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, ScanError> {
        let start = self.at;
        if files::may_be_name(self.chunk(start)) {
            self.names_files |= files::is_name(&self.body[start..]);
        }
        // Keys and roles fit in one small block, where setting up for a long text would be a waste.
        if let Some(block) = self.chunk::<16>(self.at) {
            let end = block::plain_run(block);
            if block.get(end) == Some(&b'"') {
                self.at += end + 1;
                return Ok(false);
            }
        }
        let text = text(self.body, start)?;
        self.at = text.end;
        self.non_ascii |= text.non_ascii;
        let inside = Span::new(start, text.end - 1);
        if text.escaped {
            self.names_files |= files::is_escaped_name(self.body, inside);
        }
        if inside.len() >= files::INLINE_BYTES_MIN && files::is_inline(self.body, inside) {
            self.inline.files += 1;
            self.inline.bytes += inside.len() as u32;
        }
        Ok(text.escaped)
    }

    #[inline(always)]
    fn chunk<const N: usize>(&self, at: usize) -> Option<&'a [u8; N]> {
        chunk(self.body, at)
    }
}

/// The end of the whitespace at `at`. Indentation comes in long runs.
#[inline(never)]
fn skip_blanks(body: &[u8], mut at: usize) -> usize {
    while let Some(block) = chunk(body, at) {
        let run = block::blank_run(block);
        at += run;
        if run < 16 {
            return at;
        }
    }
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = body.get(at) {
        at += 1;
    }
    at
}

/// The rest of a string.
struct Text {
    /// The position after the closing quote.
    end: usize,
    escaped: bool,
    /// Not zero if there is a byte of 0x80 or above, or one follows close by.
    non_ascii: u64,
}

/// Walks over a string of any length, from after its opening quote.
#[inline(never)]
fn text(body: &[u8], mut at: usize) -> Result<Text, ScanError> {
    let mut escaped = false;
    let mut non_ascii = 0;
    let mut was_plain = true;
    let mut padded;
    'blocks: loop {
        let block = match chunk::<64>(body, at) {
            // Where one block has escapes or foreign letters, the next will have some, too.
            Some(block) if was_plain && block::is_plain(block) => {
                at += 64;
                continue 'blocks;
            }
            Some(block) => block,
            None => {
                // The quotes that fill the block end the loop when the body does not.
                let rest = body.get(at..).unwrap_or_default();
                padded = [b'"'; 64];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        let look = block::look(block);
        non_ascii |= look.non_ascii;
        was_plain = look.non_ascii | look.stops == 0;
        let mut stops = look.stops;
        while stops != 0 {
            let stop = stops.trailing_zeros() as usize;
            match block[stop & 63] {
                b'"' if at + stop < body.len() => {
                    return Ok(Text { end: at + stop + 1, escaped, non_ascii });
                }
                b'\\' => {
                    escaped = true;
                    let past = stop + escape(body, at + stop)?;
                    if past >= 64 {
                        at += past;
                        continue 'blocks;
                    }
                    stops &= !0 << past;
                }
                b'"' => return Err(unexpected(body, body.len(), "the end of a string")),
                _ => return Err(unexpected(body, at + stop, "an escaped control character")),
            }
        }
        at += 64;
    }
}

/// The length of the escape sequence that starts with the backslash at `at`. Two `\u` that together
/// make one character count as one.
#[inline(always)]
fn escape(body: &[u8], at: usize) -> Result<usize, ScanError> {
    match body.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') => unicode_escape(body, at),
        _ => Err(unexpected(body, at + 1, "a valid escape sequence")),
    }
}

/// `escape` for `\u`, which is all that some clients write beyond ASCII.
#[inline(always)]
fn unicode_escape(body: &[u8], at: usize) -> Result<usize, ScanError> {
    let unit = |at: usize| match chunk::<6>(body, at)? {
        [b'\\', b'u', hex @ ..] => hex4(hex),
        _ => None,
    };
    match unit(at) {
        // A character beyond the Basic Multilingual Plane takes a high and a low surrogate; one
        // without the other is no character at all.
        Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => Ok(12),
        None | Some(0xD800..=0xDFFF) => {
            Err(unexpected(body, at, "a \\u escape of a Unicode character"))
        }
        Some(_) => Ok(6),
    }
}

#[inline(always)]
fn chunk<const N: usize>(body: &[u8], at: usize) -> Option<&[u8; N]> {
    body.get(at..)?.first_chunk()
}

/// The error for finding something else than `expected` at `at`.
#[cold]
fn unexpected(body: &[u8], at: usize, expected: &'static str) -> ScanError {
    if at < body.len() {
        ScanError::Syntax { at, expected }
    } else {
        ScanError::Truncated { at: body.len(), expected }
    }
}

/// The value of four hexadecimal digits.
#[inline(always)]
fn hex4(digits: &[u8; 4]) -> Option<u32> {
    let [a, b, c, d] = digits.map(|digit| u32::from(HEX[usize::from(digit)]));
    if (a | b | c | d) > 15 { None } else { Some(a << 12 | b << 8 | c << 4 | d) }
}

/// The value of each byte as a hexadecimal digit, 16 for those that are none.
static HEX: [u8; 256] = {
    let mut table = [16; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// The arrays and objects that are open, innermost last: a bit each, set for an object. The first
/// 64 levels need no memory but a word.
#[derive(Default)]
struct Nesting {
    innermost: u64,
    depth: u32,
    outer: SmallVec<[u64; 2]>,
}

impl Nesting {
    #[inline(always)]
    fn open(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(object);
        self.depth += 1;
    }

    #[inline(always)]
    fn close(&mut self) {
        self.innermost >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(64)
            && let Some(outer) = self.outer.pop()
        {
            self.innermost = outer;
        }
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.innermost & 1 == 1
    }
}
