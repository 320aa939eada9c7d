//! Who may submit, and as which tenant: by API key, by user and password, or by network.
//!
//! Both edges ask here. API keys are random, so a SHA-256 of one is as good as the key to compare
//! with and costs a microsecond; passwords are people's, so they are kept as argon2 hashes, and
//! what was verified once is remembered for a while (`verifier`). Nothing here writes: keys made
//! while the server runs are the caller's to store, and given back with [`Access::put_key`] after
//! a restart.
//!
//! Invariants: no secret is kept in the clear, printed or logged; whether a user exists cannot be
//! told from how long an answer takes; nobody is let in whom no rule names.

mod key;
mod network;
mod password;
mod verifier;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

pub use key::{ApiKey, KeyId, Scopes, StoredKey};
pub use network::{Network, NetworkError};
pub use password::{PasswordHash, PasswordHashError};
pub use verifier::PasswordError;
use verifier::Verifier;

/// Somebody whom a rule names, and what they may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// On whose account.
    pub tenant: Arc<str>,
    /// What they may do.
    pub scopes: Scopes,
    /// How they are known.
    pub known_by: KnownBy,
}

/// How somebody is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KnownBy {
    /// An API key.
    Key(KeyId),
    /// User and password.
    User(Arc<str>),
    /// The network that they come from.
    Network(Network),
    /// This machine.
    Loopback,
}

/// A user and what the password's hash is.
#[derive(Clone, Debug)]
pub struct User {
    /// The name given in AUTH; compared octet by octet.
    pub name: Box<str>,
    /// On whose account.
    pub tenant: Arc<str>,
    /// The password's hash.
    pub password: PasswordHash,
}

/// Rules as they stand in the configuration. The default lets nobody in.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Users of SMTP. Of two with one name the last counts.
    pub users: Vec<User>,
    /// Networks whose clients need no credentials; the narrowest that holds an address counts.
    pub networks: Vec<(Network, Arc<str>)>,
    /// The tenant of clients on this machine that give no credentials; `None`: they must.
    pub loopback: Option<Arc<str>>,
}

impl Rules {
    /// What a server has that nobody configured: this machine may submit as tenant `default`.
    #[must_use]
    pub fn loopback_only() -> Self {
        Self {
            loopback: Some("default".into()),
            ..Self::default()
        }
    }
}

/// The rules in force and the keys that are valid. Clones are one.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    rules: ArcSwap<Rules>,
    keys: ArcSwap<HashMap<KeyId, Arc<StoredKey>>>,
    /// Held while `keys` is replaced.
    writing: Mutex<()>,
    verifier: Verifier,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// These rules, and no key yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(Inner {
            rules: ArcSwap::from_pointee(rules),
            keys: ArcSwap::default(),
            writing: Mutex::default(),
            verifier: Verifier::new(),
        }))
    }

    /// Other rules from now on. Whoever is in stays in; verified passwords are forgotten.
    pub fn replace_rules(&self, rules: Rules) {
        self.0.rules.store(Arc::new(rules));
        self.0.verifier.forget();
    }

    /// Lets a key in; one with the same id is replaced.
    pub fn put_key(&self, key: StoredKey) {
        self.change_keys(|keys| keys.insert(key.id, Arc::new(key)));
    }

    /// Revokes a key; `None` if there is none such.
    #[expect(clippy::must_use_candidate, reason = "revoking is the point")]
    pub fn remove_key(&self, id: KeyId) -> Option<Arc<StoredKey>> {
        self.change_keys(|keys| keys.remove(&id))
    }

    /// The valid keys, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<Arc<StoredKey>> {
        let mut keys: Vec<_> = self.0.keys.load().values().cloned().collect();
        keys.sort_by_key(|key| (key.created_at_ms, key.id));
        keys
    }

    /// Whether anybody could come in as this tenant.
    #[must_use]
    pub fn knows_tenant(&self, name: &str) -> bool {
        let rules = self.0.rules.load();
        let of_users = rules.users.iter().map(|user| &user.tenant);
        let of_networks = rules.networks.iter().map(|(_, tenant)| tenant);
        let mut of_rules = of_users.chain(of_networks).chain(&rules.loopback);
        let keys = self.0.keys.load();
        let mut of_keys = keys.values().map(|key| &key.tenant);
        of_rules.any(|it| **it == *name) || of_keys.any(|it| **it == *name)
    }

    fn change_keys<T>(&self, change: impl FnOnce(&mut HashMap<KeyId, Arc<StoredKey>>) -> T) -> T {
        let _writing = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut keys = HashMap::clone(&self.0.keys.load());
        let changed = change(&mut keys);
        self.0.keys.store(Arc::new(keys));
        changed
    }

    /// Whose key this is; `None` unless it is valid now.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<Principal> {
        let key = ApiKey::parse(key)?;
        let keys = self.0.keys.load();
        let stored = keys.get(&key.id()).filter(|stored| stored.is_of(&key))?;
        Some(Principal {
            tenant: Arc::clone(&stored.tenant),
            scopes: stored.scopes,
            known_by: KnownBy::Key(stored.id),
        })
    }

    /// Who comes from this address without credentials; `None`: nobody that may.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<Principal> {
        let address = address.to_canonical();
        let rules = self.0.rules.load();
        let of = |tenant: &Arc<str>, known_by| Principal {
            tenant: Arc::clone(tenant),
            scopes: Scopes::SEND,
            known_by,
        };
        let narrowest = rules
            .networks
            .iter()
            .filter(|(network, _)| network.contains(address))
            .max_by_key(|(network, _)| network.prefix_bits());
        if let Some((network, tenant)) = narrowest {
            return Some(of(tenant, KnownBy::Network(*network)));
        }
        let tenant = rules.loopback.as_ref().filter(|_| address.is_loopback())?;
        Some(of(tenant, KnownBy::Loopback))
    }

    /// Whether anybody could be let in by [`Access::by_password`], so that AUTH is worth offering.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.0.rules.load().users.is_empty() || !self.0.keys.load().is_empty()
    }

    /// Whether a user of this name is configured.
    #[must_use]
    pub fn has_user(&self, name: &str) -> bool {
        self.0
            .rules
            .load()
            .users
            .iter()
            .any(|user| &*user.name == name)
    }

    /// Who has this name and password. An API key that may send is a password too, whatever the
    /// user's name. Takes tens of milliseconds of a blocking thread the first time, then next to
    /// nothing for some minutes. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`PasswordError`]; an unknown name is as wrong as a wrong password and takes as long.
    pub async fn by_password(
        &self,
        user: &str,
        password: &str,
    ) -> Result<Principal, PasswordError> {
        if ApiKey::parse(password).is_some() {
            let may_send = |who: &Principal| who.scopes.contains(Scopes::SEND);
            return self
                .by_key(password)
                .filter(may_send)
                .ok_or(PasswordError::Wrong);
        }
        let rules = self.0.rules.load_full();
        let known = rules.users.iter().rfind(|it| &*it.name == user);
        self.0.verifier.verify(user, password, known).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new(Rules {
            users: vec![User {
                name: "shop".into(),
                tenant: "shop".into(),
                password: PasswordHash::make_cheap("secret"),
            }],
            networks: vec![
                ("10.0.0.0/8".parse().unwrap(), "inside".into()),
                ("10.1.0.0/16".parse().unwrap(), "lab".into()),
            ],
            ..Rules::loopback_only()
        })
    }

    #[test]
    fn a_client_without_credentials_is_known_by_its_narrowest_network_or_not_at_all() {
        let access = access();
        for (address, tenant) in [
            ("10.2.3.4", Some("inside")),
            ("10.1.3.4", Some("lab")),
            ("::ffff:10.1.3.4", Some("lab")),
            ("127.0.0.1", Some("default")),
            ("::1", Some("default")),
            ("::ffff:127.0.0.1", Some("default")),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
        ] {
            let found = access.by_address(address.parse().unwrap());
            assert_eq!(found.as_ref().map(|it| &*it.tenant), tenant, "{address}");
            assert!(found.is_none_or(|it| !it.scopes.contains(Scopes::ADMIN)));
        }
        access.replace_rules(Rules::default());
        assert_eq!(access.by_address("127.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn a_key_is_valid_from_when_it_is_put_until_it_is_removed() {
        let access = access();
        assert!(access.has_credentials());
        let key = ApiKey::generate();
        assert_eq!(access.by_key(&key.reveal()), None);
        access.put_key(StoredKey::new(&key, "ci", "lab".into(), Scopes::READ, 7));
        let who = access.by_key(&key.reveal()).unwrap();
        assert_eq!((&*who.tenant, who.scopes), ("lab", Scopes::READ));
        let other = ApiKey::generate().reveal();
        let (id, secret) = (&key.reveal()[..15], &other[15..]);
        assert_eq!(access.by_key(&format!("{id}{secret}")), None);
        assert_eq!(access.keys().len(), 1);
        assert!(access.remove_key(key.id()).is_some());
        assert_eq!(access.by_key(&key.reveal()), None);
        assert!(access.remove_key(key.id()).is_none());
    }

    #[tokio::test]
    async fn a_password_lets_in_only_its_user() {
        let access = access();
        let who = access.by_password("shop", "secret").await.unwrap();
        assert_eq!(&*who.tenant, "shop");
        assert_eq!(access.by_password("shop", "secret").await, Ok(who));
        for (user, password) in [
            ("shop", "Secret"),
            ("shop", ""),
            ("", "secret"),
            ("shopsecret", ""),
            ("other", "secret"),
        ] {
            for _ in 0..2 {
                let result = access.by_password(user, password).await;
                assert_eq!(result, Err(PasswordError::Wrong), "{user:?} {password:?}");
            }
        }
        access.replace_rules(Rules::default());
        let result = access.by_password("shop", "secret").await;
        assert_eq!(result, Err(PasswordError::Wrong));
    }

    #[tokio::test]
    async fn a_key_that_may_send_is_a_password_for_any_user() {
        let access = access();
        let (send, read) = (ApiKey::generate(), ApiKey::generate());
        access.put_key(StoredKey::new(&send, "a", "lab".into(), Scopes::SEND, 0));
        access.put_key(StoredKey::new(&read, "b", "lab".into(), Scopes::READ, 0));
        let who = access.by_password("resend", &send.reveal()).await.unwrap();
        assert_eq!(&*who.tenant, "lab");
        let result = access.by_password("resend", &read.reveal()).await;
        assert_eq!(result, Err(PasswordError::Wrong));
    }
}
