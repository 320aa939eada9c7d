//! Who takes responsibility for a message: the engine, or a stand-in.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use engine::idempotency::{ClaimError, Fingerprint};
use engine::{Engine, Submission};
use smtp::{Address, Reply};
use store::{MessageId, Time};

/// Takes responsibility for messages. What it refuses, it refuses in the words that the client
/// reads.
pub trait Acceptor: Send + Sync + 'static {
    /// A message on its way to the disk. Resolves to its id once it is durable (RFC 5321 §6.1).
    /// Dropped, it may have been accepted or not.
    type Pending: Future<Output = Result<MessageId, Reply>> + Send + Unpin;

    /// The time since the Unix epoch.
    fn now(&self) -> Time;

    /// An id for a message to come.
    fn next_id(&self) -> MessageId;

    /// Whether mail of this tenant would be taken now.
    ///
    /// # Errors
    /// A final reply of 4yz or 5yz.
    fn check_tenant(&self, tenant: &str) -> Result<(), Reply>;

    /// Whether mail to this recipient would be.
    ///
    /// # Errors
    /// A final reply of 4yz or 5yz.
    fn check_recipient(&self, tenant: &str, recipient: &Address) -> Result<(), Reply>;

    /// Begins to take a message.
    ///
    /// * `once`: the key and the fingerprint under which it is taken once, however often it comes.
    ///
    /// # Errors
    /// A final reply of 4yz or 5yz, not 421.
    fn begin(&self, submission: Submission, once: Option<Once>) -> Result<Self::Pending, Reply>;
}

/// Under what a message is taken once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    /// The application's key.
    pub key: String,
    /// What makes it the same message.
    pub fingerprint: Fingerprint,
}

/// What the engine has begun.
pub struct EnginePending(Begun);

enum Begun {
    Message(engine::Pending),
    /// Its key is to be claimed first.
    Once(Pin<Box<dyn Future<Output = Result<MessageId, Reply>> + Send>>),
}

impl Future for EnginePending {
    type Output = Result<MessageId, Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Begun::Once(claiming) => claiming.as_mut().poll(context),
            Begun::Message(pending) => Pin::new(pending)
                .poll(context)
                .map(|result| result.map(|it| it.id).map_err(|error| error.reply())),
        }
    }
}

impl std::fmt::Debug for EnginePending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnginePending")
    }
}

impl Acceptor for Engine {
    type Pending = EnginePending;

    fn now(&self) -> Time {
        Self::now(self)
    }

    fn next_id(&self) -> MessageId {
        Self::next_id(self)
    }

    fn check_tenant(&self, tenant: &str) -> Result<(), Reply> {
        Self::check_tenant(self, tenant).map_err(|error| error.reply())
    }

    fn check_recipient(&self, tenant: &str, recipient: &Address) -> Result<(), Reply> {
        Self::check_recipient(self, tenant, recipient).map_err(|error| error.reply())
    }

    fn begin(&self, submission: Submission, once: Option<Once>) -> Result<EnginePending, Reply> {
        let Some(once) = once else {
            let pending = self
                .begin_accept(submission)
                .map_err(|error| error.reply())?;
            return Ok(EnginePending(Begun::Message(pending)));
        };
        let engine = self.clone();
        let claiming = async move { accept_once(&engine, submission, once).await };
        Ok(EnginePending(Begun::Once(Box::pin(claiming))))
    }
}

async fn accept_once(
    engine: &Engine,
    submission: Submission,
    once: Once,
) -> Result<MessageId, Reply> {
    let accepted = engine.accept_once(&once.key, once.fingerprint, submission);
    match accepted.await {
        Ok(accepted) => Ok(accepted.id),
        Err(error) => Err(claim_refusal(&error)),
    }
}

fn claim_refusal(error: &ClaimError) -> Reply {
    let (code, enhanced) = match error {
        ClaimError::Accept(error) => return error.reply(),
        ClaimError::InFlight => (451, (4, 3, 0)),
        _ => (554, (5, 6, 0)),
    };
    Reply::fixed(code, Some(enhanced), &error.to_string())
}
