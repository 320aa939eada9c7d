//! DKIM (RFC 6376) with rsa-sha256 and ed25519-sha256 (RFC 8463), relaxed/relaxed.
//!
//! A [`Signer`] holds one identity or several; all sign the same header fields, so the fields are
//! canonicalized once. The body's hash is kept with the body it is of: a run with a constant body
//! pays for SHA-256 once, and for a comparison each time after.
//!
//! Signed are all occurrences of the fields that matter, and once more than they occur (§8.15), so
//! that none can be added afterwards. No `l=`: what is appended to a body breaks its signature.

mod canonical;
mod key;

use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use memchr::memmem;
use smtp::{Content, ContentError, Domain};

pub use key::{Algorithm, KeyError, SigningKey, dns_record};

use canonical::{HeaderFields, body_hash, push_relaxed_field};

/// Fields signed once more than they occur, occurring or not: none of them can be added later.
const OVERSIGNED: &[&str] = &[
    "from",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "list-unsubscribe",
    "list-unsubscribe-post",
];

/// Fields signed, and oversigned, only where they occur: lists and relays add them in good faith.
const SIGNED_IF_PRESENT: &[&str] = &[
    "sender",
    "in-reply-to",
    "references",
    "content-transfer-encoding",
    "content-language",
    "auto-submitted",
    "feedback-id",
    "list-id",
    "list-help",
    "list-post",
    "list-archive",
    "resent-date",
    "resent-from",
    "resent-sender",
    "resent-to",
    "resent-cc",
    "resent-message-id",
];

/// Why an identity cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// An address literal: there is no DNS name to publish the key under.
    #[error("DKIM needs a domain name, not an address literal")]
    Domain,
    /// Not labels of letters, digits, hyphens and underscores, divided by dots (§3.1).
    #[error("{0:?} is not a DKIM selector")]
    Selector(String),
}

/// Why a content cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Not exactly one From (§5.4 wants it signed; RFC 5322 §3.6 wants one).
    #[error("a message to be signed has exactly one From header")]
    From,
    /// The crypto library failed.
    #[error("the signature could not be computed")]
    Crypto,
    /// The signed message is not canonical; cannot happen with content that was.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Who signs: `d=`, `s=` and the key.
#[derive(Debug)]
struct Identity {
    domain: Domain,
    selector: Box<str>,
    key: SigningKey,
}

/// Signs contents; shared between threads as it is.
#[derive(Debug)]
pub struct Signer {
    identities: Vec<Identity>,
    expires_after: Option<Duration>,
    /// The last body and its hash. A run with one body hits it always, other runs never.
    last_body: Mutex<Option<(Bytes, [u8; 32])>>,
}

impl Signer {
    /// A signer with one identity.
    ///
    /// # Errors
    /// A domain or selector that cannot be one.
    pub fn new(domain: Domain, selector: &str, key: SigningKey) -> Result<Self, IdentityError> {
        let signer = Self {
            identities: Vec::new(),
            expires_after: None,
            last_body: Mutex::new(None),
        };
        signer.and(domain, selector, key)
    }

    /// Adds an identity: each adds a signature. RSA and Ed25519 side by side is what RFC 8463 §3
    /// foresees, under two selectors.
    ///
    /// # Errors
    /// A domain or selector that cannot be one.
    pub fn and(
        mut self,
        domain: Domain,
        selector: &str,
        key: SigningKey,
    ) -> Result<Self, IdentityError> {
        check_identity(&domain, selector)?;
        self.identities.push(Identity {
            domain,
            selector: selector.to_ascii_lowercase().into(),
            key,
        });
        Ok(self)
    }

    /// Signatures say that they are void so long after signing (`x=`).
    #[must_use]
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.expires_after = Some(time);
        self
    }

    /// Gives the content with one DKIM-Signature field in front for each identity.
    ///
    /// # Errors
    /// No From or more than one; failures of the crypto library.
    pub fn sign(&self, content: &Content, now: Timestamp) -> Result<Content, SignError> {
        let bytes = content.as_bytes();
        let body_start = body_start(bytes);
        let fields = HeaderFields::of(&bytes[..body_start]);
        if fields.count("from") != 1 {
            return Err(SignError::From);
        }
        let body_hash = STANDARD.encode(self.body_hash(&content.bytes().slice(body_start..)));
        let mut names = String::with_capacity(256);
        let mut signed = Vec::with_capacity(body_start + 512);
        fields.select(OVERSIGNED, SIGNED_IF_PRESENT, &mut names, &mut signed);
        let signed_len = signed.len();
        let mut out = Vec::with_capacity(1024 * self.identities.len());
        for identity in &self.identities {
            let start = out.len();
            self.push_field(identity, &names, &body_hash, now, &mut out);
            signed.truncate(signed_len);
            push_relaxed_field(&out[start..], &mut signed);
            let digest = digest::digest(&digest::SHA256, &signed);
            let signature = identity.key.sign(&digest).map_err(|_| SignError::Crypto)?;
            push_folded(&STANDARD.encode(signature), &mut out);
            out.extend_from_slice(b"\r\n");
        }
        Ok(content.prefixed(&out)?)
    }

    /// The whole field but the value of `b=`, without the line end.
    fn push_field(
        &self,
        identity: &Identity,
        names: &str,
        body_hash: &str,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) {
        let seconds = now.as_second().max(0);
        let mut tags = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed;\r\n d={};\r\n s={}; t={seconds};",
            identity.key.algorithm().tag(),
            identity.domain,
            identity.selector,
        );
        if let Some(time) = self.expires_after {
            let expiry = seconds.saturating_add_unsigned(time.as_secs());
            tags.push_str(&format!(" x={expiry};"));
        }
        out.extend_from_slice(tags.as_bytes());
        push_folded_names(names, out);
        out.extend_from_slice(b";\r\n bh=");
        out.extend_from_slice(body_hash.as_bytes());
        out.extend_from_slice(b";\r\n b=");
    }

    fn body_hash(&self, body: &Bytes) -> [u8; 32] {
        let last = self.lock().clone();
        if let Some((known, hash)) = last
            && known == body
        {
            return hash;
        }
        let hash = body_hash(body);
        *self.lock() = Some((body.clone(), hash));
        hash
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Bytes, [u8; 32])>> {
        // A panic elsewhere cannot leave half a pair behind.
        self.last_body
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether a key of this name can be published: `SELECTOR._domainkey.DOMAIN`.
pub(crate) fn check_identity(domain: &Domain, selector: &str) -> Result<(), IdentityError> {
    if domain.is_literal() {
        return Err(IdentityError::Domain);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let room = Domain::LEN_MAX - "._domainkey.".len();
    if selector.len() + domain.as_str().len() > room || !selector.split('.').all(is_label) {
        return Err(IdentityError::Selector(selector.to_owned()));
    }
    Ok(())
}

/// Where the body begins: after the empty line, or at the end.
fn body_start(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\r\n") {
        return 2;
    }
    memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
}

/// `h=` on lines of at most 78.
fn push_folded_names(names: &str, out: &mut Vec<u8>) {
    const LINE_MAX: usize = 76;
    out.extend_from_slice(b"\r\n h=");
    let mut column = 3;
    for (index, name) in names.split(':').enumerate() {
        if index > 0 {
            out.push(b':');
            column += 1;
            if column + name.len() > LINE_MAX {
                out.extend_from_slice(b"\r\n  ");
                column = 2;
            }
        }
        out.extend_from_slice(name.as_bytes());
        column += name.len();
    }
}

/// Base64 on lines of at most 78; white space within `b=` means nothing (§3.5).
fn push_folded(base64: &str, out: &mut Vec<u8>) {
    for (index, piece) in base64.as_bytes().chunks(74).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n  ");
        }
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests;
