//! Passwords checked beside the async threads, few at once, and each only once in a while.
//!
//! An argon2 check takes tens of milliseconds and 19 MiB by design. A client with a thousand
//! connections shows the same credentials a thousand times, so results are remembered: under a
//! hash keyed with random octets of this process, so that what is in memory is no stored password
//! and where an entry lies tells nothing. Wrong ones are remembered too, for less long. Checks of
//! the same credentials that come together wait for the first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{KnownBy, PasswordHash, Principal, Scopes, User};

/// How long a good result counts; a changed rule ends it at once.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// How long a bad one does.
const BAD_FOR: Duration = Duration::from_secs(10);
/// Results remembered.
const RESULTS_MAX: usize = 8192;
/// How long a check may wait for its turn.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// A password longer than this is wrong.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a password did not let its user in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// No such user, or not that password.
    #[error("wrong user or password")]
    Wrong,
    /// Too many checks are waiting; it may be right.
    #[error("too many passwords are being checked, try again later")]
    Busy,
}

type Fingerprint = [u8; 32];

/// Checks passwords and remembers results.
pub(super) struct Verifier {
    key: [u8; 32],
    /// Raised by [`Verifier::forget`]: results of checks begun before are not remembered.
    generation: AtomicU64,
    results: Mutex<HashMap<Fingerprint, Remembered>>,
    turns: Semaphore,
}

struct Remembered {
    result: Result<Principal, PasswordError>,
    until: Instant,
}

impl Verifier {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut key = [0; 32];
        fill_random(&mut key);
        Self {
            key,
            generation: AtomicU64::new(0),
            results: Mutex::default(),
            turns: Semaphore::new((cores / 2).max(1)),
        }
    }

    /// Every result is to be found anew.
    pub(super) fn forget(&self) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Relaxed);
        results.clear();
    }

    pub(super) async fn verify(
        &self,
        user: &str,
        password: &str,
        known: Option<&User>,
    ) -> Result<Principal, PasswordError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::Wrong);
        }
        let fingerprint = self.fingerprint(user, password);
        let generation = self.generation.load(Relaxed);
        if let Some(result) = self.recall(&fingerprint) {
            return result;
        }
        let turn = tokio::time::timeout(WAIT_MAX, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(PasswordError::Busy);
        };
        // Somebody with the same credentials may have had a turn meanwhile.
        if let Some(result) = self.recall(&fingerprint) {
            return result;
        }
        let hash = known.map(|user| user.password.clone());
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || match hash {
            Some(hash) => hash.matches(&password),
            None => {
                // So that it takes as long as if there were such a user.
                let _ = PasswordHash::make(&password);
                false
            }
        });
        let is_right = checked.await.map_err(|_| PasswordError::Busy)?;
        let result = match known.filter(|_| is_right) {
            Some(user) => Ok(Principal {
                tenant: Arc::clone(&user.tenant),
                scopes: Scopes::SEND,
                known_by: KnownBy::User((*user.name).into()),
            }),
            None => Err(PasswordError::Wrong),
        };
        self.remember(generation, fingerprint, result.clone());
        result
    }

    /// Keyed SHA-256; the user's length in front keeps `("ab", "c")` and `("a", "bc")` apart.
    fn fingerprint(&self, user: &str, password: &str) -> Fingerprint {
        Sha256::new()
            .chain_update(self.key)
            .chain_update((user.len() as u64).to_le_bytes())
            .chain_update(user)
            .chain_update(password)
            .finalize()
            .into()
    }

    fn recall(&self, fingerprint: &Fingerprint) -> Option<Result<Principal, PasswordError>> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = results.get(fingerprint)?;
        (Instant::now() < remembered.until).then(|| remembered.result.clone())
    }

    fn remember(
        &self,
        generation: u64,
        fingerprint: Fingerprint,
        result: Result<Principal, PasswordError>,
    ) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Relaxed) != generation {
            return;
        }
        let now = Instant::now();
        if results.len() >= RESULTS_MAX {
            results.retain(|_, it| it.result.is_ok() && now < it.until);
        }
        if results.len() >= RESULTS_MAX {
            results.clear();
        }
        let until = now + if result.is_ok() { GOOD_FOR } else { BAD_FOR };
        results.insert(fingerprint, Remembered { result, until });
    }
}

/// Fills `octets` from the system's source.
///
/// # Panics
/// If it has none: then nothing here can be kept secret.
pub(super) fn fill_random(octets: &mut [u8]) {
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(octets)
        .expect("the system has random numbers");
}
