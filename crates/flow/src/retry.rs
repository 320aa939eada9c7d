//! Which failures are worth another try, when, and how often.
//!
//! The caller sorts each failure into an [`ErrorClass`]; the policy answers. Two classes are never retried, whatever the
//! settings: a permanent refusal, because the answer is known (RFC 5321 §4.2.1), and an unknown outcome, because the
//! message may already have been accepted and another try may deliver it twice (RFC 1047).

use std::time::Duration;

use crate::backoff::Backoff;
use crate::rng::Rng;

/// What kind of failure an attempt ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// No connection: refused, unreachable, timed out.
    Connect,
    /// Connected, but no session: greeting, EHLO, TLS or AUTH failed for now.
    Handshake,
    /// The peer speaks of rate or load: 421, or 4.7.x about the rate.
    Throttled,
    /// Refused for now because this triplet is new (RFC 6647).
    Greylisted,
    /// Mailbox full: X.2.2.
    MailboxFull,
    /// Any other 4yz, and a connection lost before the content was committed to the peer.
    Transient,
    /// 5yz. Never retried.
    Permanent,
    /// The content was sent and the final reply never came. Never retried.
    Unknown,
}

impl ErrorClass {
    /// Every class, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Handshake,
        Self::Throttled,
        Self::Greylisted,
        Self::MailboxFull,
        Self::Transient,
        Self::Permanent,
        Self::Unknown,
    ];
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again, but not before this much time has passed.
    RetryAfter(Duration),
    /// Leave it at this failure.
    GiveUp(GiveUpReason),
}

/// Why there is no further try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GiveUpReason {
    /// The peer refused for good.
    #[error("refused permanently")]
    Permanent,
    /// The peer may have accepted the message, so another try may duplicate it.
    #[error("outcome unknown, another try could deliver twice")]
    OutcomeUnknown,
    /// `attempts_max` attempts were made.
    #[error("all attempts used up")]
    AttemptsExhausted,
    /// The policy was told not to retry this class.
    #[error("not retried by policy")]
    Disabled,
}

/// How often to try, and a backoff for each class of error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    attempts_max: u32,
    /// By `ErrorClass as usize`; `None`: this class is not retried.
    backoffs: [Option<Backoff>; ErrorClass::ALL.len()],
}

impl RetryPolicy {
    /// One backoff for every class that may be retried.
    ///
    /// * `attempts_max`: tries in all, the first included; 0 counts as 1.
    #[must_use]
    pub const fn new(attempts_max: u32, backoff: Backoff) -> Self {
        let mut backoffs = [Some(backoff); ErrorClass::ALL.len()];
        backoffs[ErrorClass::Permanent as usize] = None;
        backoffs[ErrorClass::Unknown as usize] = None;
        Self {
            attempts_max,
            backoffs,
        }
    }

    /// No second try for anything.
    #[must_use]
    pub const fn never() -> Self {
        Self::new(1, Backoff::SEND)
    }

    /// Another number of tries in all, the first included; 0 counts as 1.
    #[must_use]
    pub const fn with_attempts_max(mut self, attempts_max: u32) -> Self {
        self.attempts_max = attempts_max;
        self
    }

    /// Another backoff for one class. Has no effect for [`ErrorClass::Permanent`] and [`ErrorClass::Unknown`].
    #[must_use]
    pub const fn with_backoff(mut self, class: ErrorClass, backoff: Backoff) -> Self {
        self.backoffs[class as usize] = Some(backoff);
        self
    }

    /// Never retries this class.
    #[must_use]
    pub const fn without(mut self, class: ErrorClass) -> Self {
        self.backoffs[class as usize] = None;
        self
    }

    /// What to do after an attempt that failed with `class`.
    ///
    /// * `attempts_made`: attempts so far, the failed one included; 0 counts as 1.
    #[must_use]
    pub fn decide(&self, class: ErrorClass, attempts_made: u32, rng: &mut Rng) -> Decision {
        let backoff = match class {
            ErrorClass::Permanent => return Decision::GiveUp(GiveUpReason::Permanent),
            ErrorClass::Unknown => return Decision::GiveUp(GiveUpReason::OutcomeUnknown),
            class => self.backoffs[class as usize],
        };
        match backoff {
            _ if attempts_made.max(1) >= self.attempts_max => {
                Decision::GiveUp(GiveUpReason::AttemptsExhausted)
            }
            None => Decision::GiveUp(GiveUpReason::Disabled),
            Some(backoff) => Decision::RetryAfter(backoff.delay(attempts_made, rng)),
        }
    }
}

impl Default for RetryPolicy {
    /// Three tries in all, [`Backoff::SEND`] between them for every class. Greylisting too: a caller who can hold a
    /// message for minutes sets [`Backoff::GREYLISTED`] for it, but one that waits in memory should not hang on it.
    fn default() -> Self {
        Self::new(3, Backoff::SEND)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng; // proptest has one of its own

    fn class() -> impl Strategy<Value = ErrorClass> {
        proptest::sample::select(&ErrorClass::ALL)
    }

    #[test]
    fn all_lists_each_class_at_its_own_index() {
        for (index, class) in ErrorClass::ALL.into_iter().enumerate() {
            assert_eq!(index, class as usize);
        }
    }

    #[test]
    fn each_class_gets_its_own_backoff_and_the_others_keep_theirs() {
        let mut rng = Rng::new(3);
        let policy =
            RetryPolicy::default().with_backoff(ErrorClass::Greylisted, Backoff::GREYLISTED);
        let Decision::RetryAfter(greylisted) = policy.decide(ErrorClass::Greylisted, 1, &mut rng)
        else {
            panic!("greylisting is retried");
        };
        let Decision::RetryAfter(connect) = policy.decide(ErrorClass::Connect, 1, &mut rng) else {
            panic!("a refused connection is retried");
        };
        assert!(greylisted >= Duration::from_secs(300));
        assert!(connect <= Duration::from_millis(200));
    }

    #[test]
    fn a_class_taken_out_is_not_retried() {
        let policy = RetryPolicy::default().without(ErrorClass::MailboxFull);
        let decision = policy.decide(ErrorClass::MailboxFull, 1, &mut Rng::new(3));
        assert_eq!(Decision::GiveUp(GiveUpReason::Disabled), decision);
    }

    proptest! {
        #[test]
        fn permanent_and_unknown_are_never_retried(attempts_max: u32, attempts_made: u32, seed: u64) {
            let policy = RetryPolicy::new(attempts_max, Backoff::SEND)
                .with_backoff(ErrorClass::Permanent, Backoff::SEND)
                .with_backoff(ErrorClass::Unknown, Backoff::SEND);
            let mut rng = Rng::new(seed);
            let mut decide = |class| policy.decide(class, attempts_made, &mut rng);
            prop_assert_eq!(Decision::GiveUp(GiveUpReason::Permanent), decide(ErrorClass::Permanent));
            prop_assert_eq!(Decision::GiveUp(GiveUpReason::OutcomeUnknown), decide(ErrorClass::Unknown));
        }

        #[test]
        fn never_more_than_attempts_max_tries(class in class(), attempts_max in 0..50_u32, seed: u64) {
            let policy = RetryPolicy::default().with_attempts_max(attempts_max);
            let mut rng = Rng::new(seed);
            let mut attempts = 1;
            while let Decision::RetryAfter(_) = policy.decide(class, attempts, &mut rng) {
                attempts += 1;
            }
            let retried = !matches!(class, ErrorClass::Permanent | ErrorClass::Unknown);
            prop_assert_eq!(if retried { attempts_max.max(1) } else { 1 }, attempts);
        }
    }
}
