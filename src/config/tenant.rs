//! `[[tenant]]`: whose mail it is, how we know, and how much they may send.

use std::num::NonZeroU32;

use client::Secret;
use flow::rate::RateLimit;
use toml::de::DeValue;

use super::read::{Section, Setting};
use super::settings::Network;

/// The tenant of clients on loopback, there whether it is in the file or not.
pub(crate) const DEFAULT: &str = "default";

/// Longest name of a tenant, in octets: it is in every record.
const NAME_BYTES_MAX: usize = 64;

/// One `[[tenant]]`.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    /// Clients from there need no credentials.
    pub(crate) networks: Vec<Network>,
    /// Who may submit over SMTP as this tenant.
    pub(crate) users: Vec<User>,
    /// Recipients a second and the like.
    pub(crate) rate: Option<RateLimit>,
    /// Recipients a day and the like, all at once if they want.
    pub(crate) quota: Option<RateLimit>,
    /// Share of a site's turn beside other tenants.
    pub(crate) weight: NonZeroU32,
}

/// A user of SMTP AUTH.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Argon2 in PHC form.
    pub(crate) password_hash: Secret,
}

/// The hash, checked for its form.
struct Hash(Secret);

impl Setting for Hash {
    /// The text is not repeated: it is a secret, or a password put there by mistake.
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let is_hash = |text: &&str| {
            let parts: Vec<&str> = text.split('$').collect();
            matches!(parts.as_slice(), ["", kind, _, _, salt, hash]
                if kind.starts_with("argon2") && !salt.is_empty() && !hash.is_empty())
        };
        let hash = value.as_str().filter(is_hash);
        hash.map(|text| Self(Secret::new(text)))
            .ok_or_else(|| "is no argon2 hash; `mailrail config hash` makes one".to_owned())
    }
}

impl Tenant {
    pub(super) fn read_all(root: &mut Section<'_>) -> Vec<Self> {
        let mut tenants: Vec<Self> = Vec::new();
        for section in root.list("tenant") {
            let read = Self::read(section, &tenants);
            tenants.extend(read);
        }
        tenants
    }

    fn read(mut section: Section<'_>, others: &[Self]) -> Option<Self> {
        let name = section.must::<String>("name");
        if let Some(name) = &name {
            if others.iter().any(|tenant| tenant.name == *name) {
                section.wrong("name", format_args!("there are two tenants {name:?}"));
            }
            if name.len() > NAME_BYTES_MAX {
                section.wrong("name", format_args!("is over {NAME_BYTES_MAX} octets"));
            }
        }
        let networks = section.get("networks", "[]");
        let rate = section.maybe("rate");
        let quota = section.maybe("quota");
        let weight = section.get("weight", "1");
        let mut users: Vec<User> = Vec::new();
        for mut section in section.list("user") {
            let name = section.must::<String>("name");
            let hash = section.must_secret("password_hash");
            if let Some((name, Hash(password_hash))) = name.zip(hash) {
                let of_others = others.iter().flat_map(|tenant| &tenant.users);
                if of_others.chain(&users).any(|user| user.name == name) {
                    section.wrong("name", format_args!("there are two users {name:?}"));
                }
                users.push(User {
                    name,
                    password_hash,
                });
            }
            section.end();
        }
        section.end();
        Some(Self {
            name: name?,
            networks,
            users,
            rate,
            quota,
            weight,
        })
    }
}
