//! What one life of the engine stands on: disks that outlive it, a network card that does not, and a
//! wall clock that jumps between lives.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::Network;
use engine::World;
use engine::route::{Dns, DnsError, Found, Mx};
use flow::rng::Rng;
use futures_util::future::BoxFuture;
use journal::files::{Cut, Fault};
use journal::{Files, MemoryFiles};
use smtp::Domain;
use store::{StoreOptions, Time};
use tokio::time::Instant;

use crate::net::{Net, Nic};

const FOLDERS: [&str; 5] = ["journal", "digests", "history", "state", "failed"];
/// Longest time that a write and sync take.
pub(crate) const SYNC_MAX: Duration = Duration::from_millis(40);

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk([MemoryFiles; FOLDERS.len()]);

impl Disk {
    fn folder(&self, name: &str) -> &MemoryFiles {
        let place = FOLDERS.iter().position(|folder| *folder == name);
        &self.0[place.expect("a folder that is known")]
    }

    /// The power fails, and comes back.
    pub(crate) fn cut(&self, mut how: impl FnMut() -> Cut) {
        self.0.iter().for_each(|files| files.restart(how()));
    }

    /// Lets the power fail at the journal's n-th call from now.
    pub(crate) fn cut_at_call(&self, calls: u64) {
        let journal = self.folder("journal");
        journal.fail(journal.calls() + calls, Fault::PowerCut);
    }

    /// Lets the journal's n-th call from now fail, and a few more: some call is no write.
    pub(crate) fn fail_at_call(&self, calls: u64) {
        let journal = self.folder("journal");
        let first = journal.calls() + calls;
        for call in first..first + 8 {
            journal.fail(call, Fault::Half(io::ErrorKind::Other));
        }
    }

    /// Leaves room for so much more in each folder; `None`: for all there is.
    pub(crate) fn set_room(&self, bytes: Option<u64>) {
        for files in &self.0 {
            files.set_capacity(bytes.map(|bytes| files.used_bytes() + bytes));
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.folder("journal").is_off()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) net: Net,
    pub(crate) life: u32,
    pub(crate) disk: Disk,
    /// What the wall clock shows, and when that was read.
    pub(crate) wall: (Time, Instant),
    pub(crate) rng: Mutex<Rng>,
}

impl Ground {
    /// What a clock that was set at this life's start shows then.
    pub(crate) fn time(&self, at: Instant) -> Time {
        let (shown, read) = self.wall;
        shown + (at - read)
    }
}

impl World for Ground {
    fn network(&self) -> Arc<dyn Network> {
        let (net, life) = (self.net.clone(), self.life);
        Arc::new(Nic { net, life })
    }

    fn folder(&self, name: &'static str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(self.disk.folder(name).clone()))
    }

    fn wall_clock(&self) -> Time {
        self.time(Instant::now())
    }

    fn sync_time(&self) -> Duration {
        self.rng.lock().unwrap().duration_up_to(SYNC_MAX)
    }

    fn cpu_share(&self) -> f64 {
        // Now and then the machine is busy.
        let mut rng = self.rng.lock().unwrap();
        if rng.chance(0.05) { 0.95 } else { 0.3 }
    }

    fn set_up(&self, options: &mut StoreOptions) {
        // So small that segments are sealed, compacted and removed within minutes.
        options.segment_bytes_max = 16 << 10;
        options.slack_bytes = 32 << 10;
        options.history.block_events = 16;
        options.history.file_events = 64;
        options.cache_bytes_max = 8 << 10;
    }
}

/// Names of the storm, and a resolver that fails now and then.
pub(crate) struct Names {
    pub(crate) mx: Vec<(&'static str, Vec<(&'static str, &'static str)>)>,
    pub(crate) rng: Mutex<Rng>,
    /// How often there is no answer.
    pub(crate) fails: Arc<Mutex<f64>>,
}

const TTL: Duration = Duration::from_secs(60);

impl Names {
    fn answer<T: Send + 'static>(
        &self,
        found: Result<Vec<T>, DnsError>,
    ) -> BoxFuture<'static, Result<Found<T>, DnsError>> {
        let mut rng = self.rng.lock().unwrap();
        let takes = rng.duration_up_to(Duration::from_millis(300));
        let fails = rng.chance(*self.fails.lock().unwrap());
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            if fails {
                return Err(DnsError::Failed("SERVFAIL".into()));
            }
            found.map(|records| Found { records, ttl: TTL })
        })
    }
}

impl Dns for Names {
    fn mx(&self, name: &Domain) -> BoxFuture<'static, Result<Found<Mx>, DnsError>> {
        let found = self.mx.iter().find(|(domain, _)| *domain == name.as_str());
        let records = found
            .ok_or(DnsError::NoName { ttl: TTL })
            .map(|(_, hosts)| {
                let record = |(host, _): &(&str, &str)| Mx {
                    preference: 10,
                    host: Some(host.parse().unwrap()),
                };
                hosts.iter().map(record).collect()
            });
        self.answer(records)
    }

    fn addresses(
        &self,
        name: &Domain,
        is_v6: bool,
    ) -> BoxFuture<'static, Result<Found<std::net::IpAddr>, DnsError>> {
        let mut hosts = self.mx.iter().flat_map(|(_, hosts)| hosts);
        let found = hosts.find(|(host, _)| *host == name.as_str());
        let records = match found {
            None => Err(DnsError::NoName { ttl: TTL }),
            Some(_) if is_v6 => Err(DnsError::NoRecord { ttl: TTL }),
            Some((_, ip)) => Ok(vec![ip.parse().unwrap()]),
        };
        self.answer(records)
    }
}
