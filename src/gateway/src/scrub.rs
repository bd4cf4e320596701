//! Overwrites our credentials in a body that passes in pieces.

use bytes::Bytes;
use memchr::memmem::Finder;

/// Looks for secrets in the pieces of one body, also where a piece ends within one.
pub(crate) struct Scrub {
    secrets: Vec<Finder<'static>>,
    /// The end of the last piece, where it may be the beginning of a secret.
    held: Vec<u8>,
}

impl Scrub {
    /// For these secrets, which are not empty.
    pub(crate) fn new(secrets: &[Vec<u8>]) -> Scrub {
        let secrets = secrets.iter().map(|secret| Finder::new(secret).into_owned()).collect();
        Scrub { secrets, held: Vec::new() }
    }

    /// The next piece, with secrets overwritten. Its end is held back where it may be the beginning
    /// of one, until the next piece or the `end` of the body.
    pub(crate) fn piece(&mut self, bytes: Bytes, end: bool) -> Bytes {
        let joined = match self.held.is_empty() {
            true => bytes,
            false => {
                self.held.extend_from_slice(&bytes);
                Bytes::from(std::mem::take(&mut self.held))
            }
        };
        let clean = self.secrets.iter().fold(joined, overwrite);
        if end {
            return clean;
        }
        let held = self.secrets.iter().map(|s| beginning_at_end(&clean, s.needle())).max();
        let kept = clean.len() - held.unwrap_or(0);
        self.held.extend_from_slice(&clean[kept..]);
        clean.slice(..kept)
    }
}

/// The same bytes, but for a secret that stands among them.
pub(crate) fn overwrite(bytes: Bytes, secret: &Finder<'_>) -> Bytes {
    if secret.find(&bytes).is_none() {
        return bytes;
    }
    let mut clean = bytes.to_vec();
    let mut from = 0;
    while let Some(at) = secret.find(&clean[from..]) {
        let end = from + at + secret.needle().len();
        clean[from + at..end].fill(b'*');
        from = end;
    }
    clean.into()
}

/// How many bytes at the end of `bytes` are the beginning of `secret`.
fn beginning_at_end(bytes: &[u8], secret: &[u8]) -> usize {
    let longest = bytes.len().min(secret.len() - 1);
    (1..=longest).rev().find(|&n| bytes.ends_with(&secret[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expect: &str) {
        let mut scrub = Scrub::new(&[b"sk-secret".to_vec()]);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&scrub.piece(Bytes::copy_from_slice(piece.as_bytes()), false));
        }
        out.extend_from_slice(&scrub.piece(Bytes::new(), true));
        assert_eq!(String::from_utf8_lossy(&out), expect);
    }

    #[test]
    fn a_secret_is_overwritten() {
        check(&["a sk-secret b sk-secret"], "a ********* b *********");
    }

    #[test]
    fn a_secret_is_found_wherever_it_is_cut() {
        for at in 0.."sk-secret".len() {
            let (first, rest) = "sk-secret".split_at(at);
            check(&[&format!("x{first}"), rest, "y"], "x*********y");
        }
        let letters: Vec<String> = "a sk-secret".chars().map(String::from).collect();
        check(&letters.iter().map(String::as_str).collect::<Vec<_>>(), "a *********");
    }

    #[test]
    fn what_only_begins_like_a_secret_passes() {
        check(&["sk-sec", "tion", " sk-"], "sk-section sk-");
    }
}
