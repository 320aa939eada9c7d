//! `[[tenant]]`: whose mail it is, how we know, and how much they may send.

use std::num::NonZeroU32;

use flow::rate::RateLimit;
use server::auth::{Network, PasswordHash};

use super::read::Section;

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
    pub(crate) password_hash: PasswordHash,
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
            let hash = section.must_secret::<PasswordHash>("password_hash");
            if let Some((name, password_hash)) = name.zip(hash) {
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
