//! Passwords as argon2 hashes in PHC text (`$argon2id$v=19$m=19456,t=2,p=1$…`).

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier};

/// Memory that one verification may take, in KiB: a hash that asks for more is refused when it is
/// read, not when somebody logs in.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
/// What a hash may ask for in passes over that memory.
const PASSES_MAX: u32 = 16;

/// Why a text cannot be a [`PasswordHash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// It is no argon2 hash in PHC text.
    #[error("a password is kept as an argon2 hash, $argon2id$…; `mailrail key hash` makes one")]
    Form,
    /// To check it would take too much.
    #[error("the argon2 hash asks for more than 256 MiB or 16 passes")]
    Cost,
}

/// The hash of a password.
#[derive(Clone)]
pub struct PasswordHash(Phc);

impl fmt::Debug for PasswordHash {
    /// Without the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let hash = Phc::new(text).map_err(|_| PasswordHashError::Form)?;
        Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| PasswordHashError::Form)?;
        let params = Params::try_from(&hash).map_err(|_| PasswordHashError::Form)?;
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(PasswordHashError::Form);
        }
        if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX {
            return Err(PasswordHashError::Cost);
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for PasswordHash {
    /// The PHC text, for the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl PasswordHash {
    /// Hashes a password with argon2id, 19 MiB and 2 passes, and a salt of its own; takes tens of
    /// milliseconds.
    ///
    /// # Panics
    /// If the system has no random numbers or no memory.
    #[must_use]
    pub fn make(password: &str) -> Self {
        Self::make_with(password, &Argon2::default())
    }

    fn make_with(password: &str, argon2: &Argon2<'_>) -> Self {
        let hash = argon2.hash_password(password.as_bytes());
        Self(hash.expect("a salt was drawn and the parameters are in range"))
    }

    /// The least that argon2 can do, for tests.
    #[cfg(test)]
    pub(crate) fn make_cheap(password: &str) -> Self {
        let params = Params::new(8, 1, 1, None).unwrap();
        Self::make_with(password, &Argon2::from(params))
    }

    /// Whether this is the hash of `password`. Takes as long as the hash asks for.
    #[must_use]
    pub fn matches(&self, password: &str) -> bool {
        Argon2::default()
            .verify_password(password.as_bytes(), &self.0)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_from_its_text_and_matches_its_password_alone() {
        let hash: PasswordHash = PasswordHash::make("päss").to_string().parse().unwrap();
        assert!(hash.matches("päss") && !hash.matches("pass"));
        assert!(
            hash.to_string()
                .starts_with("$argon2id$v=19$m=19456,t=2,p=1$")
        );
    }

    #[test]
    fn what_is_no_usable_hash_is_refused() {
        let dear =
            "$argon2id$v=19$m=1048576,t=2,p=1$c29tZXNhbHRzYWx0$mC4TdlJvnvJbXTjBgnJUxJFpnKmqZbDK";
        assert_eq!(
            dear.parse::<PasswordHash>().unwrap_err(),
            PasswordHashError::Cost
        );
        for text in [
            "",
            "secret",
            "$2b$12$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=8,t=1,p=1",
        ] {
            assert_eq!(
                text.parse::<PasswordHash>().unwrap_err(),
                PasswordHashError::Form
            );
        }
    }
}
