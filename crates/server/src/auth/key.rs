//! API keys: `mr_`, a public id of 12 hexadecimal digits, `_`, and a secret of 48.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const MARK: &str = "mr_";
const ID_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 48;

/// The public part of a key, to name it by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{:012x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not the id of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key looks like mr_0123456789ab")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digits = text.strip_prefix(MARK).ok_or(KeyIdError)?;
        if digits.len() != ID_DIGITS || !is_hex(digits) {
            return Err(KeyIdError);
        }
        let id = u64::from_str_radix(digits, 16).map_err(|_| KeyIdError)?;
        Ok(Self(id))
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, KeyIdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

fn is_hex(digits: &str) -> bool {
    digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A whole key, as its owner has it.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    secret: [u8; SECRET_DIGITS],
}

impl fmt::Debug for ApiKey {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

impl ApiKey {
    /// A new one: 48 bits of id, 192 of secret.
    ///
    /// # Panics
    /// If the system has no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let mut random = [0; 8 + SECRET_DIGITS / 2];
        super::verifier::fill_random(&mut random);
        let (id, secret) = random.split_at(8);
        let mut digits = [0; SECRET_DIGITS];
        for (pair, octet) in digits.chunks_exact_mut(2).zip(secret) {
            pair[0] = hex_digit(octet >> 4);
            pair[1] = hex_digit(octet & 15);
        }
        let id = id.iter().fold(0, |id, &octet| id << 8 | u64::from(octet));
        Self {
            id: KeyId(id >> 16),
            secret: digits,
        }
    }

    /// From its text; `None` for what cannot be a key of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_at_checked(MARK.len() + ID_DIGITS)?;
        let secret = secret.strip_prefix('_').filter(|digits| is_hex(digits))?;
        Some(Self {
            id: id.parse().ok()?,
            secret: secret.as_bytes().try_into().ok()?,
        })
    }

    /// Its public part.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The text that its owner is shown, once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}_{}", self.id, self.secret.escape_ascii())
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble)]
}

/// What the holder of a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Scopes(u8);

impl Scopes {
    /// Submit messages, and see and take back what was submitted with its id.
    pub const SEND: Self = Self(1);
    /// See the tenant's messages, events and statistics.
    pub const READ: Self = Self(2);
    /// All of it for every tenant, and operate the server.
    pub const ADMIN: Self = Self(4);

    const NAMES: [(Self, &'static str); 3] = [
        (Self::SEND, "send"),
        (Self::READ, "read"),
        (Self::ADMIN, "admin"),
    ];

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `scopes` are in it. Whoever may operate the server may do everything.
    #[must_use]
    pub const fn contains(self, scopes: Self) -> bool {
        self.0 & Self::ADMIN.0 != 0 || self.0 & scopes.0 == scopes.0
    }

    /// The names in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(scope, _)| self.0 & scope.0 != 0)
            .map(|(_, name)| name)
    }

    /// From names; `None` if one is unknown or there are none.
    #[must_use]
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let scopes = names.into_iter().try_fold(0, |scopes, name| {
            let (scope, _) = Self::NAMES.iter().find(|(_, known)| *known == name)?;
            Some(scopes | scope.0)
        })?;
        (scopes != 0).then_some(Self(scopes))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// A list of names is not one of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("scopes are send, read and admin")]
pub struct ScopesError;

impl TryFrom<Vec<String>> for Scopes {
    type Error = ScopesError;

    fn try_from(names: Vec<String>) -> Result<Self, ScopesError> {
        Self::parse(names.iter().map(String::as_str)).ok_or(ScopesError)
    }
}

impl From<Scopes> for Vec<String> {
    fn from(scopes: Scopes) -> Self {
        scopes.names().map(str::to_owned).collect()
    }
}

/// What is kept of a key: all but the secret. Its serialized form is durable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// Its public part.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: Box<str>,
    /// On whose account it acts.
    pub tenant: Arc<str>,
    /// What it lets its holder do.
    pub scopes: Scopes,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// SHA-256 of the secret's digits.
    digest: [u8; 32],
}

impl StoredKey {
    /// What to keep of `key`.
    #[must_use]
    pub fn new(
        key: &ApiKey,
        name: &str,
        tenant: Arc<str>,
        scopes: Scopes,
        created_at_ms: u64,
    ) -> Self {
        Self {
            id: key.id,
            name: name.into(),
            tenant,
            scopes,
            created_at_ms,
            digest: key.digest(),
        }
    }

    /// Whether this is kept of `key`. Takes the same time whatever differs.
    pub(super) fn is_of(&self, key: &ApiKey) -> bool {
        self.id == key.id && bool::from(self.digest.ct_eq(&key.digest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_its_stored_form_does_not_hold_it() {
        let key = ApiKey::generate();
        let text = key.reveal();
        assert_eq!(text.len(), 64);
        assert_eq!(ApiKey::parse(&text).unwrap().reveal(), text);
        assert_ne!(ApiKey::generate().reveal(), text);
        let scopes = Scopes::SEND.and(Scopes::READ);
        let stored = StoredKey::new(&key, "ci", "lab".into(), scopes, 1);
        let json = serde_json::to_string(&stored).unwrap();
        assert!(!json.contains(&text[16..]) && !format!("{key:?}{stored:?}").contains(&text[16..]));
        let back: StoredKey = serde_json::from_str(&json).unwrap();
        assert_eq!(back, stored);
        assert!(back.is_of(&key) && !back.is_of(&ApiKey::generate()));
    }

    #[test]
    fn what_is_no_key_is_no_key() {
        let good = ApiKey::generate().reveal();
        for wrong in [
            "",
            "mr_",
            "re_123",
            &good[1..],
            &good[..63],
            "é".repeat(40).as_str(),
        ] {
            assert!(ApiKey::parse(wrong).is_none(), "{wrong}");
        }
        assert!(ApiKey::parse(&format!("{good}0")).is_none());
        assert!(ApiKey::parse(&good.replacen("_", "-", 2)).is_none());
    }

    #[test]
    fn scopes_are_named_and_admin_may_everything() {
        assert_eq!(
            Scopes::parse(["read", "send"]),
            Some(Scopes::SEND.and(Scopes::READ))
        );
        assert_eq!(Scopes::parse(["root"]), None);
        assert_eq!(Scopes::parse([]), None);
        assert!(Scopes::ADMIN.contains(Scopes::SEND.and(Scopes::READ)));
        assert!(!Scopes::SEND.contains(Scopes::READ));
    }
}
