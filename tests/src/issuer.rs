//! An identity provider: serves its configuration and its keys, and signs tokens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What tokens are for.
pub const AUDIENCE: &str = "tollway";

/// A server of keys on a free port.
pub struct Issuer {
    /// Where it is.
    pub address: SocketAddr,
    /// The text of the set of keys.
    keys: Arc<watch::Sender<String>>,
    is_away: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

/// A private key, its name and its algorithm.
pub struct Signer {
    /// `kid`
    pub kid: String,
    /// `alg`
    pub algorithm: &'static str,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    /// With these keys. Discovery is at its usual place, the keys at `/keys`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(signers: &[&Signer]) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it has an address");
        let keys = Arc::new(watch::Sender::new(String::new()));
        let (is_away, asked) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
        let (text, away, count) = (Arc::clone(&keys), Arc::clone(&is_away), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                if away.load(Ordering::SeqCst) {
                    continue;
                }
                let url = format!("http://{address}");
                let body = match head.starts_with(b"GET /keys ") {
                    true => text.borrow().clone(),
                    false => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string(),
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let issuer = Issuer { address, keys, is_away, asked };
        issuer.publish(signers);
        issuer
    }

    /// What tokens have as `iss`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has these keys from now on, and no others.
    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        self.publish_text(json!({"keys": keys}).to_string());
    }

    /// Answers this when it is asked for its keys.
    pub fn publish_text(&self, text: String) {
        self.keys.send_replace(text);
    }

    /// Closes connections without an answer, or does not any more.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// How many requests there were.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The claims of a token that is right, with these besides.
    pub fn claims(&self, more: &Value) -> Value {
        let mut claims =
            json!({"iss": self.url(), "aud": AUDIENCE, "iat": now(), "exp": now() + 600});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    /// A token with these claims besides the usual ones.
    pub fn token(&self, signer: &Signer, more: &Value) -> String {
        signer.token(&self.claims(more))
    }

    /// The settings that believe it.
    pub fn config(&self, more: &str) -> String {
        let url = self.url();
        format!(
            "\ngeneral_settings:\n  master_key: $MASTER\n  enable_jwt_auth: true\n  \
             litellm_jwtauth:\n    issuer: {url}\n    audience: {AUDIENCE}\n{more}\n"
        )
    }
}

impl Signer {
    /// An RSA key, `a` or `b` of `tests/keys`.
    ///
    /// # Panics
    /// When there is no such key.
    pub fn rsa(which: &str, kid: &str, algorithm: &'static str) -> Signer {
        let pem = match which {
            "a" => include_str!("../keys/rsa-a.pem"),
            _ => include_str!("../keys/rsa-b.pem"),
        };
        let inside: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(inside).expect("it is base64");
        let key = RsaKeyPair::from_pkcs8(&der).expect("it is a key");
        Signer { kid: kid.to_owned(), algorithm, key: Key::Rsa(Box::new(key)) }
    }

    /// A new elliptic key: `ES256`, `ES384`.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn ec(kid: &str, algorithm: &'static str) -> Signer {
        let kind = match algorithm {
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("there is randomness");
        let key = EcdsaKeyPair::from_pkcs8(kind, der.as_ref(), &random).expect("it is a key");
        Signer { kid: kid.to_owned(), algorithm, key: Key::Ec(key) }
    }

    /// A new Ed25519 key.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn ed25519(kid: &str) -> Signer {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let key = Ed25519KeyPair::from_pkcs8(der.as_ref()).expect("it is a key");
        Signer { kid: kid.to_owned(), algorithm: "EdDSA", key: Key::Ed(key) }
    }

    /// The public half, as an identity provider shows it.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Key::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(key_half(key));
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Key::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())})
            }
        };
        for (name, value) in [("kid", &*self.kid), ("alg", self.algorithm), ("use", "sig")] {
            jwk[name] = value.into();
        }
        jwk
    }

    /// A token.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm, "typ": "JWT", "kid": self.kid}), claims)
    }

    /// A token with any head.
    pub fn token_with(&self, head: &Value, claims: &Value) -> String {
        let text = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", text(head), text(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match self.algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signed).expect("it signs");
                signed
            }
            Key::Ec(key) => key.sign(&random, message).expect("it signs").as_ref().to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

fn key_half(key: &EcdsaKeyPair) -> usize {
    (key.public_key().as_ref().len() - 1) / 2
}

/// Seconds since 1970.
///
/// # Panics
/// When the clock is before that.
#[expect(clippy::disallowed_methods, reason = "tokens are about the real time")]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs()
}
