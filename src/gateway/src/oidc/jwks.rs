//! The public keys of an identity provider, as they stand in its JWKS (RFC 7517, 7518, 8037).
//!
//! What cannot check a signature here (other kinds, other curves, keys for encryption, RSA below
//! 2048 bits) is left out and counted; the rest of the set is used.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

/// How many keys of one set are used.
const KEYS_MAX: usize = 64;
/// The longest name of a key.
pub(crate) const KID_BYTES_MAX: usize = 256;
/// RSA: what `ring` checks, in bytes of the modulus.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token may be signed. Nothing with a shared secret is among them: whoever knows a public
/// key could sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// By the names of RFC 7518 and 8037.
    pub(crate) fn from_name(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }
}

/// One public key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    kid: Option<Box<str>>,
    /// The only algorithm it is for, where the set says so.
    algorithm: Option<Algorithm>,
    numbers: Numbers,
}

#[derive(Clone, PartialEq, Eq)]
enum Numbers {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a JWKS is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKeys {
    /// It is not `{"keys": [...]}`.
    #[error("it is no JWKS")]
    Malformed,
    /// It is, and no key in it is of use.
    #[error("none of its {0} keys can check a signature")]
    Useless(usize),
}

/// The keys of a set that are of use.
///
/// # Errors
/// When there are none.
pub(crate) fn read(text: &[u8]) -> Result<Vec<Key>, NoKeys> {
    let set: Value = serde_json::from_slice(text).map_err(|_| NoKeys::Malformed)?;
    let list = set.get("keys").and_then(Value::as_array).ok_or(NoKeys::Malformed)?;
    let keys: Vec<Key> = list.iter().filter_map(Key::read).take(KEYS_MAX).collect();
    if keys.is_empty() { Err(NoKeys::Useless(list.len())) } else { Ok(keys) }
}

impl Key {
    fn read(jwk: &Value) -> Option<Key> {
        let text = |name| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops").and_then(Value::as_array)
            && !operations.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let kid = text("kid");
        if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return None;
        }
        // A key for an algorithm that is not known here is for no other either.
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::from_name(name)?),
            None => None,
        };
        let numbers = Numbers::read(jwk)?;
        let key = Key { kid: kid.map(Box::from), algorithm: None, numbers };
        algorithm.is_none_or(|algorithm| key.fits(algorithm)).then_some(Key { algorithm, ..key })
    }

    /// Whether a token that names this key, or none, and this algorithm may be checked with it. The
    /// kind of key decides as well as what the set says: a token cannot choose.
    pub(crate) fn is_for(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        (kid.is_none() || kid == self.kid.as_deref())
            && self.algorithm.is_none_or(|own| own == algorithm)
            && self.fits(algorithm)
    }

    /// Whether it has this name.
    pub(crate) fn is_called(&self, kid: &str) -> bool {
        self.kid.as_deref() == Some(kid)
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self.numbers {
            Numbers::Rsa { .. } => {
                matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
            }
            Numbers::P256(_) => algorithm == Es256,
            Numbers::P384(_) => algorithm == Es384,
            Numbers::Ed25519(_) => algorithm == EdDsa,
        }
    }

    /// Whether this key has signed this.
    pub(crate) fn has_signed(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let checked = match (&self.numbers, algorithm) {
            (Numbers::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Numbers::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (Numbers::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
            }
            (Numbers::Ed25519(point), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
            _ => return false,
        };
        checked.is_ok()
    }
}

impl Numbers {
    fn read(jwk: &Value) -> Option<Numbers> {
        let bytes = |name| {
            // Twice the largest modulus is a number no key has.
            let text = jwk.get(name)?.as_str().filter(|text| text.len() <= 2 * 1366)?;
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
        };
        let text = |name| jwk.get(name).and_then(Value::as_str);
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let is_point = x.len() == length && y.len() == length;
            is_point.then(|| [&[4][..], &x, &y].concat())
        };
        match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (n, e) = (unpadded(bytes("n")?), unpadded(bytes("e")?));
                let is_sound = MODULUS_BYTES.contains(&n.len()) && (1..=5).contains(&e.len());
                is_sound.then_some(Numbers::Rsa { n, e })
            }
            ("EC", Some("P-256")) => Some(Numbers::P256(point(32)?)),
            ("EC", Some("P-384")) => Some(Numbers::P384(point(48)?)),
            ("OKP", Some("Ed25519")) => bytes("x").filter(|x| x.len() == 32).map(Numbers::Ed25519),
            _ => None,
        }
    }
}

/// Some write the sign byte of ASN.1 in front, which `ring` does not take.
fn unpadded(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}
