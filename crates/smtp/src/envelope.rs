//! The envelope: reverse-path, recipients and their parameters (RFC 5321 §2.3.1, RFC 3461).

use crate::address::{Address, ReversePath};
use crate::content::Content;

/// Why parts do not make an [`Envelope`] or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Nobody to deliver to.
    #[error("the envelope has no recipient")]
    NoRecipient,
    /// NOTIFY=NEVER together with another value (RFC 3461 §4.1).
    #[error("NOTIFY=NEVER stands alone")]
    NotifyNever,
    /// An ENVID that is empty, over 100 octets, or has control characters (RFC 3461 §4.4).
    #[error("an envelope id is 1 to 100 printable characters")]
    EnvelopeId,
}

/// Who sends to whom, for one transaction or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    reverse_path: ReversePath,
    recipients: Vec<Recipient>,
    ret: Option<Ret>,
    id: Option<EnvelopeId>,
}

impl Envelope {
    /// An envelope without DSN parameters.
    ///
    /// # Errors
    /// [`EnvelopeError::NoRecipient`].
    pub fn new(
        reverse_path: impl Into<ReversePath>,
        recipients: Vec<Recipient>,
    ) -> Result<Self, EnvelopeError> {
        if recipients.is_empty() {
            return Err(EnvelopeError::NoRecipient);
        }
        Ok(Self {
            reverse_path: reverse_path.into(),
            recipients,
            ret: None,
            id: None,
        })
    }

    /// One sender, one recipient: it cannot fail.
    #[must_use]
    pub fn single(reverse_path: impl Into<ReversePath>, recipient: impl Into<Recipient>) -> Self {
        Self {
            reverse_path: reverse_path.into(),
            recipients: vec![recipient.into()],
            ret: None,
            id: None,
        }
    }

    /// How much of the message a failure notice shall return (RFC 3461 §4.3).
    #[must_use]
    pub fn with_ret(mut self, ret: Ret) -> Self {
        self.ret = Some(ret);
        self
    }

    /// The sender's own name for this envelope, echoed in notices (RFC 3461 §4.4).
    #[must_use]
    pub fn with_id(mut self, id: EnvelopeId) -> Self {
        self.id = Some(id);
        self
    }

    /// Where failure notices go.
    #[must_use]
    pub fn reverse_path(&self) -> &ReversePath {
        &self.reverse_path
    }

    /// At least one, in the order given.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// RET=, if any.
    #[must_use]
    pub fn ret(&self) -> Option<Ret> {
        self.ret
    }

    /// ENVID=, if any.
    #[must_use]
    pub fn id(&self) -> Option<&EnvelopeId> {
        self.id.as_ref()
    }

    /// The same envelope for those recipients at `indexes` only; `None` if there are none.
    /// Indexes out of range are passed over.
    #[must_use]
    pub fn narrowed(&self, indexes: &[usize]) -> Option<Self> {
        let recipients: Vec<_> = indexes
            .iter()
            .filter_map(|&index| self.recipients.get(index).cloned())
            .collect();
        (!recipients.is_empty()).then(|| Self {
            recipients,
            ..self.clone_without_recipients()
        })
    }

    fn clone_without_recipients(&self) -> Self {
        Self {
            reverse_path: self.reverse_path.clone(),
            recipients: Vec::new(),
            ret: self.ret,
            id: self.id.clone(),
        }
    }

    /// Whether an address of it, or the header section, needs SMTPUTF8 (RFC 6531 §3.4).
    #[must_use]
    pub fn needs_smtputf8(&self, content: &Content) -> bool {
        content.header_needs_smtputf8()
            || self
                .reverse_path
                .address()
                .is_some_and(Address::needs_smtputf8)
            || self
                .recipients
                .iter()
                .any(|recipient| recipient.address.needs_smtputf8())
    }
}

/// One forward-path with its DSN options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// To whom.
    pub address: Address,
    /// When a notice is wanted; `None` leaves it to the server (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT: the address as the sender first had it, of type rfc822 (RFC 3461 §4.2).
    pub original: Option<Address>,
}

impl From<Address> for Recipient {
    fn from(address: Address) -> Self {
        Self {
            address,
            notify: None,
            original: None,
        }
    }
}

/// NOTIFY=: never, or on any of three events (RFC 3461 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify(u8);

impl Notify {
    /// No notice whatever happens.
    pub const NEVER: Self = Self(0);
    /// On delivery.
    pub const SUCCESS: Self = Self(1);
    /// On failure.
    pub const FAILURE: Self = Self(2);
    /// On delay.
    pub const DELAY: Self = Self(4);

    const NAMES: [(Self, &'static str); 3] = [
        (Self::SUCCESS, "SUCCESS"),
        (Self::FAILURE, "FAILURE"),
        (Self::DELAY, "DELAY"),
    ];

    /// Both, unless either is never.
    ///
    /// # Errors
    /// [`EnvelopeError::NotifyNever`].
    pub const fn and(self, other: Self) -> Result<Self, EnvelopeError> {
        if self.0 == 0 || other.0 == 0 {
            return Err(EnvelopeError::NotifyNever);
        }
        Ok(Self(self.0 | other.0))
    }

    /// Whether a notice is wanted on `event`, one of the three constants.
    #[must_use]
    pub const fn wants(self, event: Self) -> bool {
        self.0 & event.0 != 0
    }

    /// Reads `NEVER` or a comma-separated list; case does not matter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(Self::NEVER);
        }
        text.split(',').try_fold(Self(0), |sum, word| {
            let (event, _) = Self::NAMES
                .iter()
                .find(|(_, name)| word.eq_ignore_ascii_case(name))?;
            Some(Self(sum.0 | event.0))
        })
    }
}

impl std::fmt::Display for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("NEVER");
        }
        let mut first = true;
        for (_, name) in Self::NAMES.iter().filter(|(event, _)| self.wants(*event)) {
            f.write_str(if first { "" } else { "," })?;
            f.write_str(name)?;
            first = false;
        }
        Ok(())
    }
}

/// RET=: what a failure notice returns (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// The whole message.
    Full,
    /// The header section only.
    Headers,
}

/// ENVID=: 1 to 100 printable characters (RFC 3461 §4.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvelopeId(Box<str>);

impl EnvelopeId {
    /// Takes the meant text, not its xtext.
    ///
    /// # Errors
    /// [`EnvelopeError::EnvelopeId`].
    pub fn new(text: &str) -> Result<Self, EnvelopeError> {
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if text.is_empty() || text.len() > 100 || !printable {
            return Err(EnvelopeError::EnvelopeId);
        }
        Ok(Self(text.into()))
    }

    /// The meant text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn an_envelope_has_a_recipient() {
        assert_eq!(
            Envelope::new(ReversePath::Null, vec![]),
            Err(EnvelopeError::NoRecipient)
        );
        let envelope = Envelope::single(ReversePath::Null, address("a@b.example"));
        assert_eq!(envelope.narrowed(&[]), None);
        assert_eq!(envelope.narrowed(&[1]), None);
        assert_eq!(envelope.narrowed(&[0]), Some(envelope));
    }

    #[test]
    fn notify_never_stands_alone() {
        assert_eq!(
            Notify::NEVER.and(Notify::DELAY),
            Err(EnvelopeError::NotifyNever)
        );
        let both = Notify::FAILURE.and(Notify::DELAY).unwrap();
        assert_eq!(both.to_string(), "FAILURE,DELAY");
        assert_eq!(Notify::parse("delay,failure"), Some(both));
        assert_eq!(Notify::parse("NEVER"), Some(Notify::NEVER));
        for text in ["", "NEVER,DELAY", "DELAY,", "x"] {
            assert_eq!(Notify::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_envelope_id_is_short_and_printable() {
        assert!(EnvelopeId::new("QQ314159").is_ok());
        for text in ["", "a\r\nb", "\0", &"a".repeat(101)] {
            assert_eq!(
                EnvelopeId::new(text),
                Err(EnvelopeError::EnvelopeId),
                "{text:?}"
            );
        }
    }
}
