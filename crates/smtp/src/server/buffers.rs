//! A driver's read buffers, lent to a connection only while there is something in them: an idle one
//! holds none.

use std::sync::{Mutex, PoisonError};

/// Octets of a buffer: several messages of usual size, so that a window of them is one read.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers kept for the next borrower; more are given back to the allocator.
const KEPT_MAX: usize = 64;

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Box<[u8]>>>);

impl Buffers {
    /// A buffer of [`BUFFER_BYTES`], with anything in it.
    #[must_use]
    pub fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into())
    }

    /// Back for the next borrower.
    pub fn give(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}
