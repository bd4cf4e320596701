//! Tool names. Anthropic takes 128 characters, and clients that name a tool after its MCP server use
//! them; OpenAI, Bedrock and Gemini take 64. A longer name is shortened on its way to the model and
//! restored in the answer, by the client's own list of tools.

use std::borrow::Cow;

use memchr::memmem;

use crate::openai::usage::{skip_space, string_end};

/// What everybody takes.
const NAME_MAX: usize = 64;

/// The name as the model sees it: its beginning, and a hash of the whole.
pub(crate) fn short(name: &str) -> Cow<'_, str> {
    if name.len() <= NAME_MAX {
        return Cow::Borrowed(name);
    }
    // FNV-1a: the same in every process, so that histories stay the same for prompt caches.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut end = NAME_MAX - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}_{hash:016x}", &name[..end]))
}

/// The long names of a request, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    long: Vec<(String, String)>,
}

/// More long names than this are no tools of a client's.
const LONG_MAX: usize = 512;

impl Names {
    /// Finds the long names in a client's request. A raw quote inside a JSON string is escaped, so
    /// `"name"` before a colon is always a key; one of something else than a tool does no harm.
    pub(crate) fn of_request(body: &[u8]) -> Names {
        let mut names = Names::default();
        for at in memmem::find_iter(body, b"\"name\"") {
            let colon = skip_space(body, at + 6);
            if body.get(colon) != Some(&b':') {
                continue;
            }
            let start = skip_space(body, colon + 1);
            let Some(rest) = body.get(start..).filter(|rest| rest.first() == Some(&b'"')) else {
                continue;
            };
            let Some(end) = string_end(rest).filter(|end| *end > NAME_MAX + 2) else { continue };
            let Ok(name) = serde_json::from_slice::<String>(&rest[..end]) else { continue };
            let short = short(&name).into_owned();
            if short != name && names.long.len() < LONG_MAX && names.restore(&short) == short {
                names.long.push((short, name));
            }
        }
        names
    }

    /// The client's own name for a tool.
    pub(crate) fn restore<'a>(&'a self, name: &'a str) -> &'a str {
        self.long.iter().find(|(short, _)| short == name).map_or(name, |(_, long)| long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_and_restored() {
        assert_eq!(short("f"), "f");
        let long = "mcp__a_server_with_a_long_name__".repeat(3);
        let sent = short(&long).into_owned();
        assert_eq!(sent.len(), 64);
        assert_ne!(sent, short(&format!("{long}x")));
        let body = format!(r#"{{"tools":[{{"name":"f"}},{{"name" : "{long}"}}],"x":"\"name\":"}}"#);
        let names = Names::of_request(body.as_bytes());
        assert_eq!(names.restore(&sent), long);
        assert_eq!(names.restore("f"), "f");
        assert_eq!(short(&"é".repeat(50)).len(), 63);
    }

    #[test]
    fn damage_does_no_harm() {
        for body in ["\"name\"", "\"name\":", "\"name\":\"", "\"name\":\"\\", "\"name\" : 1"] {
            assert_eq!(Names::of_request(body.as_bytes()).restore("x"), "x");
        }
    }
}
