//! Flags of `mailrail send`, checked: every mistake is found before anything is done.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::PoolBuilder;
use flow::backoff::Backoff;
use flow::retry::{ErrorClass, RetryPolicy};
use jiff::Timestamp;
use message::Mailing;
use sha2::Digest;
use smtp::{Address, Content, Envelope};

use super::args::{Args, BulkArgs};
use crate::cmd::wire::WireSettings;
use crate::mistakes::Mistakes;

/// Most further tries within a run.
const RETRIES_MAX: u32 = 20;

/// How to do it.
pub(super) struct Settings {
    /// `None` in a dry run without a relay.
    pub(super) pool: Option<PoolBuilder>,
    pub(super) wire: WireSettings,
    pub(super) is_dry_run: bool,
    pub(super) is_json: bool,
}

/// One message or many.
pub(super) enum Job {
    One {
        envelope: Envelope,
        content: Content,
    },
    Bulk(Box<Bulk>),
}

/// A mailing.
pub(super) struct Bulk {
    pub(super) list: PathBuf,
    pub(super) from: Address,
    pub(super) mailing: Arc<Mailing>,
    /// The same without signatures, which cost more than all else: to check rows with.
    pub(super) unsigned: Mailing,
    /// Of all that the message is made of but the rows.
    pub(super) message_sha256: String,
    pub(super) record: PathBuf,
    pub(super) start: Start,
    pub(super) limit: u64,
    pub(super) skip_invalid: bool,
    pub(super) skip_duplicates: bool,
}

/// Which rows are taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    Afresh,
    Resume {
        retry_failed: bool,
        resend_unknown: bool,
    },
}

impl Args {
    /// `None` where a mistake was noted.
    pub(super) fn settings(&self, mistakes: &mut Mistakes) -> Option<(Settings, Job)> {
        let job = match (&self.bulk.recipients, &self.message.eml) {
            (Some(_), Some(_)) => {
                mistakes.add("--eml goes to --to or -t, not to a list");
                None
            }
            (Some(list), None) => self
                .bulk_job(list, mistakes)
                .map(|bulk| Job::Bulk(Box::new(bulk))),
            (None, _) => self.single_job(mistakes),
        };
        let wire = self.wire.settings(mistakes);
        let retries = mistakes.parse("--retries", Some(&self.retries));
        if retries.is_some_and(|retries| retries > RETRIES_MAX) {
            mistakes.add(format_args!("--retries: at most {RETRIES_MAX}"));
        }
        // Last, for it may ask for a password.
        let pool = match self.via.as_slice() {
            [] => None,
            urls => Some(self.relay.pool_builder("--via", urls, mistakes)?),
        };
        let (wire, retries) = (wire?, retries?);
        let pool = pool.map(|pool| {
            wire.apply(pool)
                .retry(retry_policy(retries))
                // What is in hand is bounded already; how long it waits is the rate's business.
                .wait_max(Duration::from_secs(u64::from(u32::MAX)))
        });
        let settings = Settings {
            pool,
            wire,
            is_dry_run: self.dry_run,
            is_json: self.json,
        };
        Some((settings, job?))
    }

    fn single_job(&self, mistakes: &mut Mistakes) -> Option<Job> {
        self.bulk.refuse_without_list(mistakes);
        let signer = self.message.signer(mistakes);
        let (envelope, content) = match &self.message.eml {
            Some(path) => self.message.read_eml(path, mistakes)?,
            None => self.message.compose_one(mistakes)?,
        };
        let content = match signer? {
            None => content,
            Some(signer) => mistakes.take_data(signer.sign(&content, Timestamp::now()))?,
        };
        Some(Job::One { envelope, content })
    }

    fn bulk_job(&self, list: &Path, mistakes: &mut Mistakes) -> Option<Bulk> {
        let message = &self.message;
        for (flag, given) in [
            ("--to", &message.to),
            ("--cc", &message.cc),
            ("--bcc", &message.bcc),
        ] {
            if !given.is_empty() {
                mistakes.add(format_args!("{flag} does not go with --recipients"));
            }
        }
        let limit = mistakes.parse("--limit", self.bulk.limit.as_deref());
        let base = message.base(mistakes);
        let templates = message.templates(mistakes);
        let signer = message.signer(mistakes);
        let (base, templates) = (base?, templates?);
        let unsigned = mistakes.take_data(templates.mailing(base.message.clone()))?;
        let signed = mistakes.take_data(templates.mailing(base.message))?;
        let mailing = match signer? {
            None => signed,
            Some(signer) => signed.with_signer(signer),
        };
        let mut hash = base.hash;
        templates.hash(&mut hash);
        Some(Bulk {
            list: list.to_owned(),
            from: base.from.address().clone(),
            mailing: Arc::new(mailing),
            unsigned,
            message_sha256: hex(&hash.finalize()),
            record: self.bulk.record.clone().unwrap_or_else(|| beside(list)),
            start: self.bulk.start(),
            limit: limit.unwrap_or(u64::MAX),
            skip_invalid: self.bulk.skip_invalid,
            skip_duplicates: self.bulk.skip_duplicates,
        })
    }
}

/// Greylisting and full mailboxes take minutes, so that trying within seconds is no use.
fn retry_policy(retries: u32) -> RetryPolicy {
    RetryPolicy::new(retries + 1, Backoff::SEND)
        .without(ErrorClass::Greylisted)
        .without(ErrorClass::MailboxFull)
}

/// `people.csv` → `people.csv.run.jsonl`.
fn beside(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".run.jsonl");
    name.into()
}

impl BulkArgs {
    fn start(&self) -> Start {
        if self.resume || self.retry_failed || self.resend_unknown {
            Start::Resume {
                retry_failed: self.retry_failed,
                resend_unknown: self.resend_unknown,
            }
        } else {
            Start::Afresh
        }
    }

    fn refuse_without_list(&self, mistakes: &mut Mistakes) {
        let given = [
            ("--limit", self.limit.is_some()),
            ("--record", self.record.is_some()),
            ("--resume", self.resume),
            ("--retry-failed", self.retry_failed),
            ("--resend-unknown", self.resend_unknown),
            ("--skip-invalid", self.skip_invalid),
            ("--skip-duplicates", self.skip_duplicates),
        ];
        for (flag, _) in given.iter().filter(|(_, is_given)| *is_given) {
            mistakes.add(format_args!("{flag} goes with --recipients only"));
        }
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
