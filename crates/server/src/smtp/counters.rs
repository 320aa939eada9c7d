//! What an SMTP edge has seen, for whoever watches: plain counters, read without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The counters themselves; connections add to them.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Octets of content that are coming in at this moment.
            pub content_bytes: u64,
        }

        impl Counters {
            pub(crate) fn snapshot(&self, content_bytes: usize) -> Snapshot {
                Snapshot {
                    $($name: self.$name.load(Relaxed),)+
                    content_bytes: content_bytes as u64,
                }
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections_open,
    /// Of them, strangers'.
    strangers_open,
    /// Connections taken since the start.
    connections,
    /// Connections turned away: too many.
    connections_refused,
    /// Connections ended because the client was silent or too slow.
    connections_timed_out,
    /// TLS handshakes done.
    handshakes,
    /// TLS handshakes that failed.
    handshakes_failed,
    /// AUTH commands that let somebody in.
    auths,
    /// AUTH commands that did not.
    auths_failed,
    /// Messages taken, durably.
    messages,
    /// Their recipients.
    recipients,
    /// Octets of their content.
    bytes,
    /// Messages refused for now, at any stage (4yz).
    messages_deferred,
    /// Messages refused for good, at any stage (5yz).
    messages_refused,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn uncount(counter: &AtomicU64) {
    counter.fetch_sub(1, Relaxed);
}
