//! Whether anything is accepted, and whether anything is delivered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::accept::AcceptError;
use crate::pressure::{Pressure, Sample};

/// Asked for every message: two flags and no lock while all is well.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_draining: AtomicBool,
    is_poisoned: AtomicBool,
    is_refusing: AtomicBool,
    state: Mutex<State>,
}

/// Self-protection, and what it was last told.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) pressure: Pressure,
    pub(crate) sample: Sample,
}

impl Gate {
    /// Whether a message may come in.
    pub(crate) fn check(&self) -> Result<(), AcceptError> {
        // It is said to the last: going down is only what follows from it.
        if self.is_poisoned.load(Ordering::Relaxed) {
            return Err(AcceptError::Poisoned);
        }
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(AcceptError::Draining);
        }
        if !self.is_refusing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let state = self.state();
        match state.pressure.refusing() {
            Some(short) => Err(AcceptError::Busy {
                what: short.name(),
                retry_after: state.pressure.retry_after(),
            }),
            None => Ok(()),
        }
    }

    /// Takes a sample; gives the factor for windows.
    pub(crate) fn sample(&self, sample: Sample) -> f64 {
        let mut state = self.state();
        let before = state.pressure.refusing();
        state.pressure.sample(&sample);
        state.sample = sample;
        let refusing = state.pressure.refusing();
        if before != refusing {
            let what = refusing.map(crate::pressure::Short::name);
            let words = crate::pressure::words(&sample);
            tracing::warn!(short_of = what, ?words, "acceptance changes");
        }
        self.is_refusing
            .store(refusing.is_some(), Ordering::Relaxed);
        state.pressure.factor()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal has failed for good. Says whether that is news.
    pub(crate) fn poison(&self) -> bool {
        !self.is_poisoned.swap(true, Ordering::Relaxed)
    }

    /// Nothing more comes in or goes out.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}
