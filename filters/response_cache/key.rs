//! Under which name an answer is kept: two requests share an answer exactly when all that can
//! change it is the same.
//!
//! The key is the HighwayHash (256 bits) over
//!
//! 1. whose answer it is (see [`Scope`]) and which end user the request is for,
//! 2. the operation, the name of the model group, and the namespace,
//! 3. the members of the body except those of [`does_not_matter`], sorted by name, each as it
//!    stands in the body but for white space outside of strings (see [`KeyedHash::put_json`]).
//!
//! So neither the order of the top-level members nor the layout matters, nor by which of the group's
//! names the model was asked for, nor whether the answer is to be streamed. What does matter, though
//! it means the same: the order of members further in, `1.0` instead of `1`, `"\u00e9"` instead of
//! `"é"`, a default that is spelled out. Such requests miss where they might have hit; no two
//! requests that differ in meaning share a key.
//!
//! HighwayHash is as good as its key is secret: callers see hashes, but nobody without
//! [`tollway_filter_api::Deps::secret`] can look for two requests that share one. For that it takes
//! a sixth of BLAKE3's time for a kilobyte, and half of it for a megabyte. Its authors know of no
//! attack (<https://arxiv.org/abs/1612.06257>, 2026-11).

use highway::{HighwayHash, HighwayHasher, Key};
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tollway_filter_api::cache::CacheKey;
use tollway_filter_api::{Plan, RequestCtx, RequestHead, RequestView, VirtualKey};
use tollway_wire::operation::{Dialect, Operation};

use super::Scope;

/// The first bytes that are hashed: changed when the rest is hashed in another way, because a
/// Redis outlives the gateway.
const VERSION: &[u8] = b"tollway response_cache 2\0";

/// Members that say how to carry a request, not what to answer.
///
/// `stream` is here because one entry serves both forms, and `fallbacks` because answers of another
/// group are not kept. `user` is replaced by the end user the gateway has found, which a header can
/// name as well. `guardrails`, `mock_response`, `drop_params` and whatever is not known here can
/// change the answer, and stay in the key.
fn does_not_matter(name: &[u8]) -> bool {
    matches!(
        name,
        b"model"
            | b"stream"
            | b"stream_options"
            | b"user"
            | b"metadata"
            | b"litellm_metadata"
            | b"cache"
            | b"caching"
            | b"tags"
            | b"fallbacks"
            | b"context_window_fallbacks"
            | b"content_policy_fallbacks"
            | b"num_retries"
            | b"max_retries"
            | b"timeout"
            | b"stream_timeout"
            | b"request_timeout"
            | b"litellm_call_id"
            | b"litellm_trace_id"
            | b"litellm_session_id"
    )
}

/// What the key depends on besides the request.
pub(super) struct KeyRules {
    /// Who shares answers.
    pub(super) scope: Scope,
    /// Whether end users are told apart.
    pub(super) per_end_user: bool,
    pub(super) hash: KeyedHash,
}

/// HighwayHash with a key that only the gateways have that find each other's answers.
pub(super) struct KeyedHash(Key);

impl KeyedHash {
    pub(super) fn new(secret: &SecretBox<[u8; 32]>) -> KeyedHash {
        let own = Sha256::new().chain_update(secret.expose_secret()).chain_update(VERSION);
        let own: [u8; 32] = own.finalize().into();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(own.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        KeyedHash(Key(words))
    }

    fn of(&self, text: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        let words = HighwayHasher::new(self.0).hash256(text);
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        hash
    }

    /// Adds JSON without the white space outside of its strings, if there is some at its beginning:
    /// writers of JSON put it everywhere or nowhere.
    ///
    /// A value that is laid out otherwise only further on is taken as it is. What is taken is in any
    /// case the value but for white space, so that nothing is ever taken for something else.
    fn put_json(&self, text: &mut Vec<u8>, json: &[u8]) {
        let sample = &json[..json.len().min(LAYOUT_SAMPLE_BYTES)];
        let compact = (next_space(sample, 0) < sample.len()).then(|| compact(json));
        let json = compact.as_deref().unwrap_or(json);
        if json.len() < LARGE_BYTES {
            text.extend_from_slice(json);
        } else {
            // No JSON text begins with this byte.
            text.push(1);
            text.extend_from_slice(&self.of(json));
        }
    }
}

impl KeyRules {
    /// The key of a request.
    pub(super) fn key(
        &self,
        ctx: &RequestCtx,
        view: &RequestView,
        plan: &Plan,
        namespace: &str,
        head: &RequestHead,
    ) -> CacheKey {
        // Put together first: hashing many small pieces costs more than copying them.
        let mut text = Vec::with_capacity(TEXT_BYTES + view.body.len().min(TEXT_BYTES));
        text.extend_from_slice(VERSION);
        self.put_tenant(&mut text, ctx.identity.as_deref());
        let end_user = ctx.end_user.as_deref().filter(|_| self.per_end_user);
        let group = &*plan.group.name;
        for part in [end_user.unwrap_or_default(), view.operation.name(), group, namespace] {
            put_apart(&mut text, part.as_bytes());
        }
        if is_kept_as_it_is(view) {
            let form = if view.stream { "stream" } else { "whole" };
            for part in [view.dialect.name(), form, &plan.requested] {
                put_apart(&mut text, part.as_bytes());
            }
            // The features that Anthropic's clients ask for by header.
            for betas in head.headers.get_all("anthropic-beta") {
                put_apart(&mut text, betas.as_bytes());
            }
        }
        self.put_members(&mut text, view);
        CacheKey(self.hash.of(&text))
    }

    /// A caller who has no team (or user) to share with keeps to the next smaller circle, so that
    /// nobody shares with everybody who happens to have none either.
    fn put_tenant(&self, text: &mut Vec<u8>, identity: Option<&VirtualKey>) {
        let key = identity.map(|key| (b'k', key.hash.0.as_slice()));
        let user = identity.and_then(|key| key.user.as_ref()).map(|name| (b'u', name.as_bytes()));
        let team = identity.and_then(|key| key.team.as_ref()).map(|name| (b't', name.as_bytes()));
        let circle = match self.scope {
            Scope::Key => key,
            Scope::User => user.or(key),
            Scope::Team => team.or(user).or(key),
            Scope::Global => Some((b'g', &[][..])),
        };
        let (kind, name) = circle.unwrap_or((b'a', &[]));
        text.push(kind);
        put_apart(text, name);
    }

    fn put_members(&self, text: &mut Vec<u8>, view: &RequestView) {
        let body: &[u8] = &view.body;
        let mut members: SmallVec<[_; 24]> = view
            .object
            .iter()
            .map(|member| (member.key.of(body), member))
            .filter(|(name, _)| !does_not_matter(name))
            .collect();
        members.sort_unstable_by_key(|&(name, _)| name);
        for (name, member) in members {
            // No JSON text has a zero byte in it, so it can stand between names and values.
            text.extend_from_slice(name);
            text.push(0);
            self.hash.put_json(text, member.value.of(body));
            text.push(0);
        }
    }
}

/// Whether answers are given out just as they came: to requests in the same dialect for the same
/// form under the same name. Those of OpenAI's chat can be put into another form and name.
pub(super) fn is_kept_as_it_is(view: &RequestView) -> bool {
    view.dialect != Dialect::OpenAi || view.operation == Operation::Rerank
}

/// Adds something so that it cannot be taken for a part of its neighbours.
fn put_apart(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    text.extend_from_slice(bytes);
}

/// Room for what is hashed of a usual request besides its body, and of its body.
const TEXT_BYTES: usize = 4096;

/// How much of a value is looked at to see how its writer lays out JSON.
const LAYOUT_SAMPLE_BYTES: usize = 64;

/// From how many bytes on a value is hashed by itself and takes part by its hash, instead of being
/// copied.
const LARGE_BYTES: usize = 4096;

fn compact(json: &[u8]) -> Vec<u8> {
    let mut compact = Vec::with_capacity(json.len());
    let mut at = 0;
    while at < json.len() {
        let end = next_space(json, at);
        compact.extend_from_slice(&json[at..end]);
        at = end + 1;
    }
    compact
}

/// Where the next white space outside of a string is, or else the end. `at` is outside of strings.
fn next_space(json: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at = string_end(json, at + 1),
            b' ' | b'\n' | b'\r' | b'\t' => break,
            _ => at += 1,
        }
    }
    at.min(json.len())
}

/// Where the string that began before `at` is over.
fn string_end(json: &[u8], mut at: usize) -> usize {
    loop {
        // Eight bytes at a time; a search function costs more than it saves in text that has an
        // escape every few words.
        while let Some(word) = json.get(at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_le_bytes(*word);
            let special = bytes_equal(word, b'"') | bytes_equal(word, b'\\');
            if special != 0 {
                at += special.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match json.get(at) {
            None => return json.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Sets the highest bit of each byte of `word` that is `byte`, and maybe of some after the first
/// such one.
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let different = word ^ (ONES * u64::from(byte));
    different.wrapping_sub(ONES) & !different & (ONES << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyed() -> KeyedHash {
        KeyedHash::new(&SecretBox::default())
    }

    fn hash(json: &[u8]) -> [u8; 32] {
        let mut text = Vec::new();
        keyed().put_json(&mut text, json);
        keyed().of(&text)
    }

    /// Checks that `json` is hashed as if `expect` stood there.
    fn check(json: &str, expect: &str) {
        assert_eq!(hash(json.as_bytes()), keyed().of(expect.as_bytes()), "{json}");
    }

    #[test]
    fn white_space_counts_only_inside_of_strings() {
        check(r#"[]"#, r#"[]"#);
        check("[ 1,\r\n\t2 ]", "[1,2]");
        check(r#"{ "a b" : " c  d " }"#, r#"{"a b":" c  d "}"#);
        check(r#"[ "a\" b", "\\", " c" ]"#, r#"["a\" b","\\"," c"]"#);
        check(r#"[ "\\\" x" , "" ]"#, r#"["\\\" x",""]"#);
    }

    #[test]
    fn what_is_not_json_is_hashed_all_the_same() {
        check(r#"["a"#, r#"["a"#);
        check(r#"["a\"#, r#"["a\"#);
        check(r#"[ "a\"#, r#"["a\"#);
    }

    #[test]
    fn what_is_laid_out_otherwise_further_on_is_hashed_as_it_is() {
        let odd = format!(r#"["{}", 1]"#, "x".repeat(LAYOUT_SAMPLE_BYTES));
        check(&odd, &odd);
        let even = format!("[ {}", &odd[1..]);
        check(&even, &odd.replace(", ", ","));
    }

    #[test]
    fn large_values_differ_where_they_differ() {
        let large = |last: char| format!(r#"["{}{last}"]"#, "x".repeat(LARGE_BYTES));
        let spaced = large('a').replace('[', "[ ");
        assert_eq!(hash(large('a').as_bytes()), hash(spaced.as_bytes()));
        assert_ne!(hash(large('a').as_bytes()), hash(large('b').as_bytes()));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(Into::into),
            "[ \"\\\\a-c\n\té]{0,40}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::vec(("[ \"a]{0,4}", inner), 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn pretty_and_compact_json_hash_alike(value in any_json()) {
            let pretty = serde_json::to_vec_pretty(&value).expect("a value can be written");
            let plain = serde_json::to_vec(&value).expect("a value can be written");
            prop_assert_eq!(hash(&pretty), hash(&plain));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            hash(&bytes);
        }
    }
}
