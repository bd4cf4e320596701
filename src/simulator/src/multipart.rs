//! Forms with files (RFC 7578), as uploads come in.

use bytes::Bytes;

use crate::ask::Problem;
use crate::journal::Received;

/// A form may have this many parts.
const PARTS_MAX: usize = 64;

/// One part of a form.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) file_name: Option<String>,
    pub(crate) bytes: Bytes,
}

/// A form's parts in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(pub(crate) Vec<Part>);

impl Form {
    /// Reads the body of a request.
    pub(crate) fn read(received: &Received) -> Result<Form, Problem> {
        let kind = received.header("content-type").unwrap_or_default();
        let boundary = kind
            .to_ascii_lowercase()
            .starts_with("multipart/form-data")
            .then(|| parameter(kind, "boundary"))
            .flatten()
            .filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
            .ok_or_else(|| Problem::invalid("the body must be multipart/form-data"))?;
        parse(&received.body, &boundary)
            .ok_or_else(|| Problem::invalid("the body is not a valid multipart form"))
    }

    /// The text of a field.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let part = self.0.iter().find(|part| part.name == name && part.file_name.is_none())?;
        Some(String::from_utf8_lossy(&part.bytes).into_owned())
    }

    pub(crate) fn required_text(&self, name: &str) -> Result<String, Problem> {
        let text = self.text(name).filter(|text| !text.is_empty());
        text.ok_or_else(|| Problem::invalid(format!("you must provide a {name} parameter")))
    }

    /// The first file under this name; of several files the name may end in `[]`.
    pub(crate) fn file(&self, name: &str) -> Result<&Part, Problem> {
        let mut files = self.0.iter().filter(|part| part.file_name.is_some());
        files
            .find(|part| part.name.strip_suffix("[]").unwrap_or(&part.name) == name)
            .ok_or_else(|| Problem::invalid(format!("you must provide a {name} file")))
    }
}

/// A parameter of a header, such as `boundary`.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let value = value.trim().trim_matches('"');
        key.trim().eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn parse(body: &Bytes, boundary: &str) -> Option<Form> {
    let first = format!("--{boundary}");
    let next = format!("\r\n--{boundary}");
    let mut rest = body.slice(find(body, first.as_bytes())? + first.len()..);
    let mut form = Form::default();
    loop {
        if rest.starts_with(b"--") {
            return Some(form);
        }
        if form.0.len() == PARTS_MAX {
            return None;
        }
        let head_end = find(&rest, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
        let content = rest.slice(head_end + 4..);
        let end = find(&content, next.as_bytes())?;
        let disposition = head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
        })?;
        form.0.push(Part {
            name: parameter(disposition, "name")?,
            file_name: parameter(disposition, "filename"),
            bytes: content.slice(..end),
        });
        rest = content.slice(end + next.len()..);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_and_broken_ones_refused() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x\r\n\
                    content-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                    content-type: audio/wav\r\n\r\n\r\n--y\r\n--x--\r\n";
        let form = parse(&Bytes::from(body), "x").expect("a form");
        assert_eq!(form.text("model").as_deref(), Some("whisper"));
        let file = form.file("file").expect("a file");
        assert_eq!((file.file_name.as_deref(), &file.bytes[..]), (Some("a.wav"), &b"\r\n--y"[..]));
        assert!(form.file("model").is_err());
        for end in 0..body.len() - 4 {
            assert!(parse(&Bytes::from(&body[..end]), "x").is_none(), "{end}");
        }
    }
}
