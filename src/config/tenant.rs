//! `[[tenant]]`: whose mail it is, how we know, and how much they may send.

use std::num::{NonZeroU16, NonZeroU32};

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
    /// Recipients that may be handed in, and how many of them at once.
    pub(crate) rate: Option<RateLimit>,
    pub(crate) burst: NonZeroU32,
    /// Recipients a day (of UTC).
    pub(crate) daily_max: Option<NonZeroU32>,
    /// Recipients that may wait.
    pub(crate) waiting_max: Option<NonZeroU32>,
    /// Share of a site's turn beside other tenants.
    pub(crate) weight: NonZeroU16,
    /// Messages that leave, to all sites.
    pub(crate) sending_rate: Option<RateLimit>,
    /// Messages on the wire at once.
    pub(crate) in_flight_max: Option<NonZeroU32>,
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
        let burst = section.get("burst", "100");
        let daily_max = section.maybe("daily_max");
        let waiting_max = section.maybe("waiting_max");
        let weight = section.get("weight", "1");
        let sending_rate = section.maybe("sending_rate");
        let in_flight_max = section.maybe("in_flight_max");
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
            burst,
            daily_max,
            waiting_max,
            weight,
            sending_rate,
            in_flight_max,
        })
    }
}
