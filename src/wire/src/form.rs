//! Reads a `multipart/form-data` body without copying its files.
//!
//! Image edits and transcriptions come as forms. [`scan`] walks over the whole body once, finds
//! where the value of `model` lies, so that it can be replaced in place, and writes what filters
//! need to see as a JSON object: text fields as text, files as what is known of them.
//!
//! Framing is RFC 2046, 5.1.1, fields are RFC 7578. As with JSON bodies, what policy sees here must
//! be what the provider sees there, and readers of forms differ in what they forgive. So nothing is
//! forgiven that any of them reads differently: a boundary inside a part, bare line feeds around a
//! boundary, text before the first part, escaped quotes in names, transfer encodings, two fields of
//! one name.

use std::ops::Range;

use memchr::memmem::Finder;
use serde_json::{Map, Number, Value, json};

/// How large a form [`scan`] accepts. The size of the whole is for the caller to limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many parts there may be. The default is 128: OpenAI takes 16 images, and no call has
    /// twenty other fields.
    pub parts: usize,
    /// How many bytes the headers of one part may have. The default is 4 KiB.
    pub header_bytes: usize,
    /// How many bytes the value of one text field may have. The default is 1 MiB; a prompt has at
    /// most 32,000 characters.
    pub field_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { parts: 128, header_bytes: 4 << 10, field_bytes: 1 << 20 }
    }
}

/// What is known of a form.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The fields as one JSON object. A file is `{"filename", "content_type", "size"}`; a name that
    /// ends in `[]`, and a file's name that is there several times, is an array.
    pub fields: Vec<u8>,
    /// Where the value of the field `model` is in the body.
    pub model: Option<Range<usize>>,
    /// Where the contents of the files are in the body, each with the name of its field.
    pub files: Vec<(String, Range<usize>)>,
}

/// Why a body is no form we pass on. The fault is the client's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The content type is not `multipart/form-data` with a proper boundary.
    #[error("the content type must be multipart/form-data with a boundary")]
    ContentType,
    /// The parts are not framed as RFC 2046 says.
    #[error("the form is malformed: {0}")]
    Malformed(&'static str),
    /// A part's headers are not those of a field.
    #[error("the headers of a part are malformed: {0}")]
    Headers(&'static str),
    /// A field that must be text is not UTF-8, or is a file.
    #[error("the field {0} is not text")]
    NotText(String),
    /// Two fields have the same name.
    #[error("the field {0} is there twice")]
    Duplicate(String),
    /// Something is larger than the limits say.
    #[error("the form has {0}")]
    TooLarge(&'static str),
}

/// Whether a content type says that the body is a form with files.
pub fn is_form(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("multipart/form-data")
}

/// Fields that are numbers, so that filters find them as they are in JSON bodies.
const NUMBERS: &[&str] = &["n", "output_compression", "partial_images", "temperature"];

/// Fields that are `true` or `false`.
const SWITCHES: &[&str] = &["stream"];

/// Longer names are no names of fields.
const NAME_BYTES_MAX: usize = 256;

/// Checks that `body` is one form, all of it, and finds its fields.
///
/// # Errors
/// Anything that readers of forms do not agree on; see the module's documentation.
pub fn scan(content_type: &str, body: &[u8], limits: &Limits) -> Result<View, FormError> {
    let boundary = boundary(content_type).ok_or(FormError::ContentType)?;
    let delimiter = format!("--{boundary}");
    let mut fields = Fields::default();
    // A line end before the first boundary belongs to it (RFC 2046, 5.1.1).
    let start = if body.starts_with(b"\r\n") { 2 } else { 0 };
    let mut part: Option<usize> = None;
    for at in Finder::new(&delimiter).find_iter(body) {
        let after = at + delimiter.len();
        match part {
            None if at != start => {
                return Err(FormError::Malformed("there is text before the first boundary"));
            }
            None => {}
            Some(from) => {
                // The line end before a boundary belongs to the boundary.
                let to = at.checked_sub(2).filter(|to| *to >= from && body[*to..at] == *b"\r\n");
                let to = to.ok_or(FormError::Malformed("the boundary occurs inside a part"))?;
                fields.add(body, from..to, limits)?;
            }
        }
        match body.get(after..).unwrap_or_default() {
            [b'\r', b'\n', ..] => part = Some(after + 2),
            [b'-', b'-', rest @ ..] if part.is_some() => {
                return match rest {
                    b"" | b"\r\n" => Ok(fields.view()),
                    _ => Err(FormError::Malformed("there is something after the last boundary")),
                };
            }
            _ => return Err(FormError::Malformed("a boundary is not followed by a line end")),
        }
    }
    Err(FormError::Malformed("the last boundary is missing"))
}

/// Finds the text fields of a form that is still coming, so that it need not be there whole before
/// something can be decided. What it finds is not checked: [`scan`] does that.
pub struct Early {
    delimiter: Finder<'static>,
    /// Up to where there is no delimiter that is not known.
    at: usize,
    /// Where the last part that was found begins.
    part: Option<usize>,
}

impl Early {
    /// For a body of this content type; none, if it is no form.
    pub fn new(content_type: &str) -> Option<Early> {
        let delimiter = format!("--{}", boundary(content_type)?);
        Some(Early { delimiter: Finder::new(&delimiter).into_owned(), at: 0, part: None })
    }

    /// The next text field that is whole in `body`, which is what was given before and more.
    pub fn next(&mut self, body: &[u8], limits: &Limits) -> Option<(String, String)> {
        loop {
            let len = self.delimiter.needle().len();
            let Some(found) = self.delimiter.find(body.get(self.at..)?) else {
                // What may be the beginning of one is looked at again.
                self.at = self.at.max(body.len().saturating_sub(len - 1));
                return None;
            };
            let at = self.at + found;
            self.at = at + len;
            let part = self.part.replace(self.at + 2);
            let field = part.and_then(|from| body.get(from..at.checked_sub(2)?));
            if let Some(field) = field.and_then(|bytes| text_field(bytes, limits)) {
                return Some(field);
            }
        }
    }
}

/// The name and the value of a part that is text.
fn text_field(part: &[u8], limits: &Limits) -> Option<(String, String)> {
    let head = &part[..part.len().min(limits.header_bytes)];
    let end = memchr::memmem::find(head, b"\r\n\r\n")?;
    let head = PartHead::read(&part[..end]).ok().filter(|head| head.filename.is_none())?;
    let value = part.get(end + 4..).filter(|value| value.len() <= limits.field_bytes)?;
    Some((head.name, std::str::from_utf8(value).ok()?.to_owned()))
}

/// The boundary a content type names.
fn boundary(content_type: &str) -> Option<String> {
    if !is_form(content_type) {
        return None;
    }
    let (_, rest) = content_type.split_once(';')?;
    let mut found = None;
    for (name, value) in parameters(rest).ok()? {
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return None;
        }
    }
    let boundary = found?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    let fits = (1..=70).contains(&boundary.len()) && !boundary.ends_with(' ');
    (fits && boundary.bytes().all(allowed)).then_some(boundary)
}

/// The parameters of a header value: `; name="value"; name=value`. The first semicolon may be
/// missing.
fn parameters(text: &str) -> Result<Vec<(&str, String)>, FormError> {
    const BAD: FormError = FormError::Headers("a parameter is malformed");
    let mut list = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ';']);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(BAD)?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(BAD);
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"').ok_or(BAD)?;
                // Some readers take `\"` for a quote and some for the end.
                if value.ends_with('\\') {
                    return Err(FormError::Headers("a quote is escaped with a backslash"));
                }
                (value, after)
            }
            None => {
                let end = after.find([';', ' ', '\t']).unwrap_or(after.len());
                if !after[..end].bytes().all(|b| is_token(b) || b"/:=?@()<>[],".contains(&b)) {
                    return Err(BAD);
                }
                after.split_at(end)
            }
        };
        list.push((name, value.to_owned()));
        let after = after.trim_start_matches([' ', '\t']);
        rest = match after.strip_prefix(';') {
            Some(next) => next.trim_start_matches([' ', '\t']),
            None if after.is_empty() => after,
            None => return Err(BAD),
        };
    }
    Ok(list)
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// The fields found so far.
#[derive(Default)]
struct Fields {
    fields: Map<String, Value>,
    parts: usize,
    model: Option<Range<usize>>,
    files: Vec<(String, Range<usize>)>,
}

impl Fields {
    fn view(self) -> View {
        let fields = Value::Object(self.fields).to_string().into_bytes();
        View { fields, model: self.model, files: self.files }
    }

    /// Takes one part: `part` is what is between two boundaries.
    fn add(&mut self, body: &[u8], part: Range<usize>, limits: &Limits) -> Result<(), FormError> {
        self.parts += 1;
        if self.parts > limits.parts {
            return Err(FormError::TooLarge("too many parts"));
        }
        let bytes = &body[part.clone()];
        let head = &bytes[..bytes.len().min(limits.header_bytes)];
        let Some(head_end) = memchr::memmem::find(head, b"\r\n\r\n") else {
            return Err(if head.len() < bytes.len() {
                FormError::TooLarge("a part with too many headers")
            } else {
                FormError::Headers("the empty line after them is missing")
            });
        };
        let head = PartHead::read(&bytes[..head_end])?;
        let value = part.start + head_end + 4..part.end;
        let (name, is_list) = match head.name.strip_suffix("[]") {
            Some(name) => (name.to_owned(), true),
            None => (head.name, false),
        };
        let is_file = head.filename.is_some();
        if name == "model" && (is_list || is_file) {
            return Err(FormError::NotText(name));
        }
        let json = match head.filename {
            Some(filename) => json!({
                "filename": filename,
                "content_type": head.content_type,
                "size": value.len(),
            }),
            None => {
                if value.len() > limits.field_bytes {
                    return Err(FormError::TooLarge("a text field that is too long"));
                }
                let text = std::str::from_utf8(&body[value.clone()])
                    .map_err(|_| FormError::NotText(name.clone()))?;
                typed(&name, text)
            }
        };
        if name == "model" {
            self.model = Some(value);
        } else if is_file {
            self.files.push((name.clone(), value));
        }
        self.put(name, json, is_list, is_file)
    }

    fn put(
        &mut self,
        name: String,
        value: Value,
        is_list: bool,
        is_file: bool,
    ) -> Result<(), FormError> {
        // Several files under one name without brackets are what curl's users send.
        match self.fields.get_mut(&name) {
            None if is_list => {
                self.fields.insert(name, Value::Array(vec![value]));
            }
            None => {
                self.fields.insert(name, value);
            }
            Some(Value::Array(list)) if is_list || is_file => list.push(value),
            Some(first @ Value::Object(_)) if is_file && !is_list => {
                *first = Value::Array(vec![first.take(), value]);
            }
            Some(_) => return Err(FormError::Duplicate(name)),
        }
        Ok(())
    }
}

/// A field's text as the JSON it would be.
fn typed(name: &str, text: &str) -> Value {
    if SWITCHES.contains(&name)
        && let Ok(switch) = text.parse::<bool>()
    {
        return switch.into();
    }
    if NUMBERS.contains(&name)
        && let Ok(number) = text.parse::<Number>()
    {
        return number.into();
    }
    text.into()
}

/// What a part's headers say.
struct PartHead {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
}

impl PartHead {
    fn read(head: &[u8]) -> Result<PartHead, FormError> {
        let head =
            std::str::from_utf8(head).map_err(|_| FormError::Headers("they are not UTF-8"))?;
        let mut disposition = None;
        let mut content_type = None;
        for line in head.split("\r\n") {
            // Bare line ends, and lines that go on after a line end, are read in more than one way.
            if line.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(FormError::Headers("they hold control characters"));
            }
            let (name, value) =
                line.split_once(':').ok_or(FormError::Headers("a line has no colon"))?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(FormError::Headers("a name is malformed"));
            }
            let value = value.trim_matches([' ', '\t']);
            let known = if name.eq_ignore_ascii_case("content-disposition") {
                disposition.replace(value)
            } else if name.eq_ignore_ascii_case("content-type") {
                content_type.replace(value)
            } else if name.eq_ignore_ascii_case("content-transfer-encoding")
                && !["7bit", "8bit", "binary"].iter().any(|is| value.eq_ignore_ascii_case(is))
            {
                // RFC 7578, 4.7: deprecated, and few readers decode it.
                return Err(FormError::Headers("a transfer encoding is not supported"));
            } else {
                None
            };
            if known.is_some() {
                return Err(FormError::Headers("one is there twice"));
            }
        }
        let disposition =
            disposition.ok_or(FormError::Headers("content-disposition is missing"))?;
        let (kind, rest) = disposition.split_once(';').unwrap_or((disposition, ""));
        if !kind.trim_end().eq_ignore_ascii_case("form-data") {
            return Err(FormError::Headers("the disposition is not form-data"));
        }
        let (mut name, mut filename) = (None, None);
        for (key, value) in parameters(rest)? {
            let known = match key.to_ascii_lowercase().as_str() {
                "name" => name.replace(value),
                // RFC 7578, 4.2, forbids the second, and Python's requests sends it.
                "filename" => filename.replace(value),
                "filename*" => {
                    filename.get_or_insert(value);
                    None
                }
                "name*" => return Err(FormError::Headers("the name is encoded")),
                _ => None,
            };
            if known.is_some() {
                return Err(FormError::Headers("a parameter is there twice"));
            }
        }
        let name = name.ok_or(FormError::Headers("the field has no name"))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\\') {
            return Err(FormError::Headers("the name of the field is malformed"));
        }
        Ok(PartHead { name, filename, content_type: content_type.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=AaB03x";

    fn part(headers: &str, value: &str) -> String {
        format!("--AaB03x\r\n{headers}\r\n\r\n{value}\r\n")
    }

    fn field(name: &str, value: &str) -> String {
        part(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
    }

    fn file(name: &str, filename: &str, value: &str) -> String {
        let headers = format!(
            "Content-Disposition: form-data; name=\"{name}\"; filename=\"{filename}\"\r\nContent-Type: audio/mpeg"
        );
        part(&headers, value)
    }

    fn form(parts: &[String]) -> String {
        format!("{}--AaB03x--\r\n", parts.concat())
    }

    fn read(body: &str) -> Result<(Value, Option<String>), FormError> {
        let view = scan(TYPE, body.as_bytes(), &Limits::default())?;
        let fields = serde_json::from_slice(&view.fields).expect("JSON");
        Ok((fields, view.model.map(|range| body[range].to_owned())))
    }

    #[track_caller]
    fn check(parts: &[String], fields: Value, model: Option<&str>) {
        assert_eq!(read(&form(parts)), Ok((fields, model.map(str::to_owned))));
    }

    #[track_caller]
    fn refused(body: &str, because: &str) {
        let error = read(body).expect_err("refused").to_string();
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn text_files_and_the_model_are_found() {
        check(
            &[
                field("model", "whisper-1"),
                file("file", "a.mp3", "ID3\r\n--\r\n\u{0}bytes"),
                field("language", "de"),
                field("temperature", "0.5"),
                field("stream", "true"),
                field("prompt", ""),
            ],
            json!({"model": "whisper-1", "language": "de", "temperature": 0.5, "stream": true, "prompt": "",
                "file": {"filename": "a.mp3", "content_type": "audio/mpeg", "size": 15}}),
            Some("whisper-1"),
        );
        check(
            &[field("stream", "yes"), field("n", "two")],
            json!({"stream": "yes", "n": "two"}),
            None,
        );
    }

    #[test]
    fn files_are_found() {
        let body = form(&[file("file", "a", "one"), field("x", "y"), file("b[]", "c", "")]);
        let view = scan(TYPE, body.as_bytes(), &Limits::default()).expect("a form");
        let files: Vec<_> =
            view.files.iter().map(|(name, at)| (name.as_str(), &body[at.clone()])).collect();
        assert_eq!(files, [("file", "one"), ("b", "")]);
    }

    #[test]
    fn fields_are_found_before_the_form_is_whole() {
        let parts = [field("purpose", "batch"), file("file", "a", "bytes"), field("x", "y\r\nz")];
        let body = form(&parts).into_bytes();
        for step in [1, 7, body.len()] {
            let mut early = Early::new(TYPE).expect("a form");
            let mut found = Vec::new();
            for end in (1..=body.len()).filter(|end| end % step == 0 || *end == body.len()) {
                while let Some((name, value)) = early.next(&body[..end], &Limits::default()) {
                    found.push((end, name, value));
                }
            }
            let names: Vec<_> = found.iter().map(|(_, name, value)| (&**name, &**value)).collect();
            assert_eq!(names, [("purpose", "batch"), ("x", "y\r\nz")]);
            let next = parts[0].len() + "--AaB03x".len();
            assert!(step != 1 || found[0].0 == next, "{}", found[0].0);
        }
        assert!(Early::new("application/json").is_none());
    }

    #[test]
    fn lists_are_arrays() {
        check(
            &[
                field("include[]", "logprobs"),
                field("timestamp_granularities[]", "word"),
                field("include[]", "x"),
            ],
            json!({"include": ["logprobs", "x"], "timestamp_granularities": ["word"]}),
            None,
        );
        let image =
            |size: u64| json!({"filename": "a", "content_type": "audio/mpeg", "size": size});
        check(
            &[file("image[]", "a", "1"), file("image[]", "a", "22"), file("mask", "a", "")],
            json!({"image": [image(1), image(2)], "mask": image(0)}),
            None,
        );
        check(
            &[file("image", "a", "1"), file("image", "a", "22"), file("image", "a", "333")],
            json!({"image": [image(1), image(2), image(3)]}),
            None,
        );
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        for parts in [
            [field("model", "a"), field("model", "b")],
            [field("stream", "a"), field("stream", "b")],
            [field("x", "a"), field("x[]", "b")],
            [field("x[]", "a"), field("x", "b")],
            [file("x", "f", "a"), field("x", "b")],
        ] {
            refused(&form(&parts), "twice");
        }
        refused(&form(&[field("model[]", "a")]), "not text");
        refused(&form(&[file("model", "f", "a")]), "not text");
    }

    #[test]
    fn what_readers_do_not_agree_on_is_refused() {
        let one = field("model", "a");
        refused(&one, "last boundary is missing");
        refused("", "last boundary is missing");
        refused("--AaB03x--\r\n", "not followed");
        refused(&format!("hello\r\n{}", form(std::slice::from_ref(&one))), "before the first");
        refused(&format!("{}x", form(std::slice::from_ref(&one))), "after the last");
        refused(&form(&[field("model", "a\n--AaB03x\nb")]), "inside a part");
        refused(&form(&[field("x", "a\r\n--AaB03xy")]), "not followed");
        refused(&form(&[part("Content-Disposition: form-data; name=a\nX: b", "")]), "control");
        refused(&form(&[part("Content-Disposition: form-data;\r\n name=a", "")]), "colon");
        refused(&form(&[part("X: y", "")]), "missing");
        refused(&form(&[part("Content-Disposition: attachment; name=a", "")]), "not form-data");
        refused(&form(&[part("Content-Disposition: form-data", "")]), "no name");
        let tricky = "Content-Disposition: form-data; filename=\"\\\"; name=\"model";
        refused(&form(&[part(&format!("{tricky}\""), "")]), "backslash");
        let twice = "Content-Disposition: form-data; name=a; NAME=b";
        refused(&form(&[part(twice, "")]), "twice");
        let encoded = "Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64";
        refused(&form(&[part(encoded, "")]), "transfer encoding");
    }

    #[test]
    fn everything_has_a_limit() {
        let limits = Limits { parts: 2, header_bytes: 100, field_bytes: 4 };
        let error = |body: String| scan(TYPE, body.as_bytes(), &limits).expect_err("too large");
        let many = form(&[field("a", ""), field("b", ""), field("c", "")]);
        assert_eq!(error(many), FormError::TooLarge("too many parts"));
        assert_eq!(
            error(form(&[field("a", "12345")])),
            FormError::TooLarge("a text field that is too long")
        );
        let long = part(&format!("Content-Disposition: form-data; name={}", "a".repeat(200)), "");
        assert_eq!(error(form(&[long])), FormError::TooLarge("a part with too many headers"));
    }

    #[test]
    fn boundaries_are_read_as_the_rfc_says() {
        for (content_type, expect) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data;boundary=\"a b:c\"", Some("a b:c")),
            ("multipart/form-data; charset=utf-8; BOUNDARY=abc", Some("abc")),
            ("multipart/form-data", None),
            ("multipart/mixed; boundary=abc", None),
            ("multipart/form-data; boundary=\"\"", None),
            ("multipart/form-data; boundary=\"a \"", None),
            ("multipart/form-data; boundary=a; boundary=b", None),
            ("multipart/form-data; boundary=\"a\"b", None),
            ("application/json", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), expect, "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "a".repeat(71))), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            values in prop::collection::vec(("[a-z]{1,6}", "[ -~\u{e9}]{0,20}"), 0..6),
            content in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut expect = Map::new();
            let mut body = Vec::new();
            for (name, value) in &values {
                if expect.insert(name.clone(), typed(name, value)).is_none() && name != "f" {
                    body.extend(field(name, value).into_bytes());
                } else {
                    return Ok(());
                }
            }
            body.extend(b"--AaB03x\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n");
            body.extend(&content);
            body.extend(b"\r\n--AaB03x--");
            let view = scan(TYPE, &body, &Limits::default()).expect("a form");
            expect.insert("f".into(), json!({"filename": "x", "content_type": null, "size": content.len()}));
            prop_assert_eq!(serde_json::from_slice::<Value>(&view.fields).expect("JSON"), Value::Object(expect));
        }

        #[test]
        fn no_bytes_make_it_panic(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "--AaB03x", "\r\n", "--", "\n", ";", "=", "\"", "name", "Content-Disposition: form-data",
                "; name=model", "; filename=\"a\"", ":", " ", "\\", "\u{0}", "x[]", "\u{e9}",
            ]), 0..40),
            content_type in "(multipart/form-data; ?boundary=)?[\"AaB03x; =]{0,12}",
        ) {
            let body = pieces.concat();
            let _ = scan(TYPE, body.as_bytes(), &Limits::default());
            let mut early = Early::new(TYPE).expect("a form");
            for end in 0..=body.len() {
                while early.next(&body.as_bytes()[..end], &Limits::default()).is_some() {}
            }
            if let Ok(view) = scan(&content_type, body.as_bytes(), &Limits::default()) {
                prop_assert!(serde_json::from_slice::<Value>(&view.fields).is_ok());
            }
        }
    }
}
