//! AWS Signature Version 4: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>,
//! read 2026-11. Pure: the time comes from the caller.
//!
//! Only `host` and our own `x-amz-*` headers are signed; whatever else the exchange sends is none
//! of the signature's business.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tollway_wire::calendar::civil;

/// Who signs, and where.
pub(super) struct Signer<'a> {
    pub(super) access_key: &'a str,
    pub(super) secret_key: &'a str,
    pub(super) session_token: Option<&'a str>,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// What is signed.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// As it goes on the wire, percent-encoded.
    pub(super) path_and_query: &'a str,
    pub(super) body: &'a [u8],
    /// Since the Unix epoch.
    pub(super) now: Duration,
}

/// The headers that carry a signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) authorization: String,
    /// `x-amz-date`.
    pub(super) date: String,
    /// `x-amz-content-sha256`.
    pub(super) content_hash: String,
}

impl Signer<'_> {
    /// Signs a request.
    pub(super) fn sign(&self, request: &Request<'_>) -> Signed {
        let date = timestamp(request.now);
        let content_hash = hex(&Sha256::digest(request.body));
        let mut headers = vec![
            ("host", request.host),
            ("x-amz-content-sha256", &content_hash),
            ("x-amz-date", &date),
        ];
        if let Some(token) = self.session_token {
            headers.push(("x-amz-security-token", token));
        }
        let authorization = self.authorize(request, &headers, &date, &content_hash);
        Signed { authorization, date, content_hash }
    }

    /// The `authorization` header over these headers, which are sorted by name.
    fn authorize(
        &self,
        request: &Request<'_>,
        headers: &[(&str, &str)],
        date: &str,
        content_hash: &str,
    ) -> String {
        let mut canonical = canonical_request_line(request);
        for (name, value) in headers {
            let value: Vec<&str> = value.split_ascii_whitespace().collect();
            let _ = writeln!(canonical, "{name}:{}", value.join(" "));
        }
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let _ = write!(canonical, "\n{names}\n{content_hash}");

        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let hash = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");

        let mut key = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day);
        for part in [self.region, self.service, "aws4_request", &to_sign] {
            key = hmac(&key, part);
        }
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.access_key,
            hex(&key),
        )
    }
}

/// Method, path and query, as they are signed.
fn canonical_request_line(request: &Request<'_>) -> String {
    let (path, query) =
        request.path_and_query.split_once('?').unwrap_or((request.path_and_query, ""));
    let mut line = format!("{}\n", request.method);
    // What is encoded on the wire is encoded once more: only S3 does without.
    if path.is_empty() {
        line.push('/');
    }
    encode(&mut line, path, b'/');
    line.push('\n');
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    for (at, (name, value)) in pairs.into_iter().enumerate() {
        let _ = write!(line, "{}{name}={value}", if at > 0 { "&" } else { "" });
    }
    line.push('\n');
    line
}

/// Percent-encodes everything but RFC 3986's unreserved characters and `also`.
pub(super) fn encode(out: &mut String, text: &str, also: u8) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || byte == also
        {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of HMAC has any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time as AWS writes it: `20150830T123600Z`.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2015-08-30T12:36:00Z, the time of AWS's published test suite.
    const NOW: Duration = Duration::from_secs(1_440_938_160);

    fn suite() -> Signer<'static> {
        Signer {
            access_key: "AKIDEXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session_token: None,
            region: "us-east-1",
            service: "service",
        }
    }

    /// A case of AWS's published suite (`aws-sig-v4-test-suite`), which signs `host` and
    /// `x-amz-date` only.
    fn check(method: &str, path_and_query: &str, more: &[(&str, &str)], body: &str, expect: &str) {
        let request = Request {
            method,
            host: "example.amazonaws.com",
            path_and_query,
            body: body.as_bytes(),
            now: NOW,
        };
        let date = timestamp(NOW);
        assert_eq!(date, "20150830T123600Z");
        let mut headers = vec![("host", request.host), ("x-amz-date", &date)];
        headers.extend_from_slice(more);
        headers.sort_unstable();
        let hash = hex(&Sha256::digest(request.body));
        let authorization = suite().authorize(&request, &headers, &date, &hash);
        let (_, signature) = authorization.split_once("Signature=").expect("it is signed");
        assert_eq!(signature, expect, "{method} {path_and_query}");
    }

    #[test]
    fn aws_own_cases_are_signed_as_published() {
        let unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (path, query) = (format!("/{unreserved}"), format!("/?{unreserved}={unreserved}"));
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let own = [("my-header1", " value1 ")];
        for (method, path_and_query, more, body, expect) in [
            // get-vanilla, post-vanilla
            (
                "GET",
                "/",
                [].as_slice(),
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                "/",
                &[],
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            // get-vanilla-query-order-key-case, -order-value
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                &[],
                "",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "GET",
                "/?Param1=value2&Param1=Value1",
                &[],
                "",
                "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
            ),
            // get-unreserved, get-vanilla-query-unreserved
            (
                "GET",
                &path,
                &[],
                "",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
            (
                "GET",
                &query,
                &[],
                "",
                "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
            ),
            // post-x-www-form-urlencoded, and a header of the caller's own
            (
                "POST",
                "/",
                &form,
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "POST",
                "/",
                &own,
                "",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            // What is encoded is encoded again.
            (
                "GET",
                "/%20/foo",
                &[],
                "",
                "6bdea100bc61b4004194a584c32d99f7b274a719ca7983e93f70ed9d84bfd8e8",
            ),
        ] {
            check(method, path_and_query, more, body, expect);
        }
    }

    #[test]
    fn a_call_of_bedrock_is_signed_as_botocore_signs_it() {
        let mut signer = Signer { service: "bedrock", ..suite() };
        let mut request = Request {
            method: "POST",
            host: "bedrock-runtime.us-east-1.amazonaws.com",
            path_and_query: "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream",
            body: br#"{"messages":[]}"#,
            now: NOW,
        };
        let signed = signer.sign(&request);
        assert_eq!(
            signed.authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
             Signature=92c24b73fe1b04cb735ef0c575a6a94f5feae47fcf8a300d9b177911550b3544"
        );
        assert_eq!(
            signed.content_hash,
            "5e4ce7b36ba37b78a5d5f9fd08e6b7b54ba6879d651aa46ec9e1d6fa24ebe30a"
        );
        signer.session_token = Some("AQoDYXdzEPT//////////wEXAMPLE+token==");
        let signed = signer.sign(&request).authorization;
        let expect = "30c652a7e386b7f961e10db550f1ea6caca9cf29862be51d6b7021a4f4473d67";
        assert!(signed.ends_with(expect), "{signed}");
        // The model by its ARN.
        (signer.session_token, signer.region) = (None, "eu-west-1");
        request.host = "bedrock-runtime.eu-west-1.amazonaws.com";
        request.path_and_query = "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3A\
            inference-profile%2Feu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
        request.body = b"{}";
        let signed = signer.sign(&request).authorization;
        let expect = "aaa2d8583a0d91448f2e2a591f6f752f329b7a8c1ffcc8565a6687bb1e68581e";
        assert!(signed.ends_with(expect), "{signed}");
    }

    #[test]
    fn times_are_written() {
        for (seconds, expect) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_251_199, "20240229T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), expect);
        }
    }
}
