//! For the fuzz targets, and no interface: what becomes of content on its way in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use smtp::{Content, Recipient, Reply};
use store::{MessageId, Time};

use super::gather::{About, Bounds, Budget, Gatherer};
use super::header::Trace;

/// `Received` fields that are borne.
pub const RECEIVED_MAX: usize = 5;

/// Takes content in pieces from a client that calls itself `name`. Gives it with its
/// idempotency key's fingerprint.
///
/// # Errors
/// What the client would be told.
pub fn take_in<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    name: &str,
) -> Result<(Content, Option<[u8; 32]>), Reply> {
    let budget = Arc::new(Budget::new(1 << 20));
    let bounds = Bounds {
        received_max: RECEIVED_MAX,
        header_bytes_max: 4096,
    };
    let recipients: [Recipient; 0] = [];
    let about = About {
        trace: Trace {
            host: "mx.example.org",
            client: Some((name, IpAddr::V4(Ipv4Addr::LOCALHOST))),
            with: "ESMTP",
            id: MessageId::from_bits(1),
            at: Time::from_secs(1_700_000_000),
        },
        reverse_path: "",
        recipients: &recipients,
    };
    let mut gatherer = Gatherer::new(&budget, bounds, 0);
    for piece in pieces {
        gatherer.take(piece, &about);
    }
    let gathered = gatherer.finish(&about);
    assert_eq!(budget.used_bytes(), 0, "what is done holds nothing");
    gathered.map(|it| (it.content, it.fingerprint))
}
