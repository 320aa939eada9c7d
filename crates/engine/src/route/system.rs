//! The name servers of this machine, whenever it has some.
//!
//! Nothing is read before the first question: who sends to relays only needs no name server. While
//! there is none, every question goes unanswered, and mail waits. The file is read again once it has
//! changed, as when a network comes up later; what it said is kept while it is missing or no use.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use smtp::Domain;

use super::dns::{Dns, DnsError, Found, Mx};
use super::hickory::HickoryDns;

/// Asks the servers that `/etc/resolv.conf` names at the time. Needs a tokio runtime.
#[derive(Debug)]
pub struct SystemDns {
    path: PathBuf,
    read: Mutex<Read>,
}

/// What the file said the last time that it was of use.
#[derive(Debug, Default)]
struct Read {
    /// When the file had been changed, if it was there; `None`: nobody has looked yet.
    seen: Option<Option<SystemTime>>,
    dns: Option<HickoryDns>,
}

impl Default for SystemDns {
    fn default() -> Self {
        Self::of("/etc/resolv.conf")
    }
}

impl SystemDns {
    fn of(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read: Mutex::default(),
        }
    }

    /// The resolver as the file is now. Looking costs a microsecond, a question many.
    fn now(&self) -> Result<HickoryDns, DnsError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let modified_at = std::fs::metadata(&self.path).and_then(|file| file.modified());
        let seen = Some(modified_at.ok());
        if read.seen != seen {
            read.seen = seen;
            match self.read() {
                Ok(dns) => read.dns = Some(dns),
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "the name servers of this machine are not known");
                }
            }
        }
        let unknown = || DnsError::Failed("this machine knows no name servers".into());
        read.dns.clone().ok_or_else(unknown)
    }

    fn read(&self) -> io::Result<HickoryDns> {
        let text = std::fs::read(&self.path)?;
        HickoryDns::of_resolv_conf(&text).map_err(io::Error::other)
    }
}

impl Dns for SystemDns {
    fn mx(&self, name: &Domain) -> BoxFuture<'static, Result<Found<Mx>, DnsError>> {
        match self.now() {
            Ok(dns) => dns.mx(name),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn addresses(
        &self,
        name: &Domain,
        is_v6: bool,
    ) -> BoxFuture<'static, Result<Found<IpAddr>, DnsError>> {
        match self.now() {
            Ok(dns) => dns.addresses(name, is_v6),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn name_servers_are_known_once_the_file_names_some_and_stay_so_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let dns = SystemDns::of(&path);
        let name: Domain = "example.org".parse().unwrap();
        let unknown = || DnsError::Failed("this machine knows no name servers".into());
        assert_eq!(dns.mx(&name).await, Err(unknown()));
        assert_eq!(dns.addresses(&name, true).await, Err(unknown()));
        std::fs::write(&path, "search example.org\n").unwrap();
        assert_eq!(dns.mx(&name).await, Err(unknown()));
        let at = |seconds| {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = std::fs::File::options().write(true).open(&path);
            file.unwrap().set_modified(time).unwrap();
        };
        std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
        at(1);
        assert!(dns.now().is_ok());
        std::fs::write(&path, "nonsense\n").unwrap();
        at(2);
        assert!(dns.now().is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(dns.now().is_ok());
    }
}
