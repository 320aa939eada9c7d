//! Greylisting: who comes for the first time shall come again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use smtp::Address;

/// Triplets remembered; when there are more, all are forgotten.
const TRIPLETS_MAX: usize = 1 << 20;

type Triplet = (IpAddr, Option<Address>, Address);

/// When each triplet of client, sender and recipient first came.
#[derive(Debug)]
pub(crate) struct Greylist {
    /// `None`: nobody is deferred.
    time: Option<Duration>,
    first_seen: Mutex<HashMap<Triplet, Instant>>,
}

impl Greylist {
    pub(crate) fn new(time: Option<Duration>) -> Self {
        Self {
            time,
            first_seen: Mutex::default(),
        }
    }

    /// Whether this one shall come again later.
    pub(crate) fn defers(&self, client: IpAddr, from: Option<&Address>, to: &Address) -> bool {
        let Some(time) = self.time else {
            return false;
        };
        let mut first_seen = self
            .first_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if first_seen.len() >= TRIPLETS_MAX {
            first_seen.clear();
        }
        let now = Instant::now();
        let triplet = (client, from.cloned(), to.clone());
        now.duration_since(*first_seen.entry(triplet).or_insert(now)) < time
    }
}
