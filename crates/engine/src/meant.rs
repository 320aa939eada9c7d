//! Which of the mail that waits a filter means: recipients, and the jobs that stand for them.
//!
//! A filter that names an address or a domain means those recipients alone, whoever else the same
//! message goes to. A job may stand for several recipients; before one of them is acted upon, it is
//! taken apart ([`Core::meant_apart`]).

use std::sync::Arc;

use rustc_hash::FxHashMap;
use schedule::Job;
use store::{Head, MessageId, Slot};

use crate::batches::{Batches, Key};
use crate::core::Core;
use crate::jobs::Jobs;
use crate::views::Filter;

/// What a filter means.
pub(crate) enum Meant {
    /// Whatever is of its tenant and site; it says nothing of messages.
    All,
    /// These recipients of these messages, in order.
    These(FxHashMap<Slot, Box<[u32]>>),
    /// One message.
    One(One),
}

/// One message, and the keys that its jobs may have.
#[derive(Default)]
pub(crate) struct One {
    /// `None`: it is not there, or is not meant after all.
    pub(crate) slot: Option<Slot>,
    recipients: Box<[u32]>,
    keys: Vec<Key>,
}

impl Meant {
    /// Which recipients of a message; `None` where that makes no difference.
    pub(crate) fn recipients(&self, slot: Slot) -> Option<&[u32]> {
        match self {
            Self::All => None,
            Self::These(these) => Some(these.get(&slot).map_or(&[], |it| it)),
            Self::One(one) if one.slot == Some(slot) => Some(&one.recipients),
            Self::One(_) => Some(&[]),
        }
    }

    /// Whether all that a job stands for is meant.
    pub(crate) fn has(&self, batches: &Batches, key: Key) -> bool {
        self.recipients(key.slot()).is_none_or(|meant| {
            let all = batches.recipients(key);
            !meant.is_empty() && all.iter().all(|one| meant.binary_search(one).is_ok())
        })
    }

    /// Whether any of it is.
    pub(crate) fn touches(&self, batches: &Batches, key: Key) -> bool {
        self.recipients(key.slot()).is_none_or(|meant| {
            let all = batches.recipients(key);
            !meant.is_empty() && all.iter().any(|one| meant.binary_search(one).is_ok())
        })
    }

    /// The messages that are meant, or `all`.
    pub(crate) fn slots(&self, all: impl FnOnce() -> Vec<Slot>) -> Vec<Slot> {
        match self {
            Self::All => all(),
            Self::These(these) => these.keys().copied().collect(),
            Self::One(one) => one.slot.into_iter().collect(),
        }
    }
}

impl One {
    pub(crate) fn new(
        core: &Core,
        slot: Slot,
        id: MessageId,
        pending: &[store::Pending],
        recipients: Box<[u32]>,
    ) -> Self {
        let all = pending.iter().map(|one| one.recipient);
        Self {
            slot: Some(slot),
            recipients,
            keys: core.batches.keys(slot, id, all),
        }
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Its jobs that wait in a shard, for the site that a filter may name.
    pub(crate) fn jobs(&self, jobs: &Jobs, filter: &Filter) -> Vec<Job> {
        let site = filter.site.as_ref().map(|site| jobs.find_site(site));
        let is_for = |job: &Job| site.is_none_or(|site| site == Some(job.site));
        let found = self.keys.iter().filter_map(|key| jobs.find(*key));
        found.filter(is_for).collect()
    }
}

impl Core {
    /// What a filter means.
    pub(crate) fn meant(&self, filter: &Filter) -> Meant {
        if let Some(id) = filter.message {
            let slot = self.spool.find(id);
            let one = slot.and_then(|slot| {
                let recipients = self.meant_of(slot, Some(id), filter)?;
                let pending = self.spool.pending(slot);
                Some(One::new(self, slot, id, &pending, recipients))
            });
            return Meant::One(one.unwrap_or_default());
        }
        if filter.domain.is_none() && filter.recipient.is_none() && filter.tag.is_none() {
            return Meant::All;
        }
        let slots = self.spool.slots().into_iter();
        let with_recipients = slots.filter_map(|slot| {
            let recipients = self.meant_of(slot, None, filter)?;
            Some((slot, recipients))
        });
        Meant::These(with_recipients.collect())
    }

    /// The same, where no job stands both for recipients that are meant and for others.
    pub(crate) fn meant_apart(self: &Arc<Self>, filter: &Filter) -> Meant {
        let meant = self.meant(filter);
        if filter.domain.is_none() && filter.recipient.is_none() {
            return meant;
        }
        for slot in meant.slots(Vec::new) {
            self.take_apart(slot, meant.recipients(slot).unwrap_or_default());
        }
        // Of one message, the keys are others now.
        match meant {
            Meant::One(_) => self.meant(filter),
            meant => meant,
        }
    }

    fn take_apart(self: &Arc<Self>, slot: Slot, meant: &[u32]) {
        let Some(id) = self.spool.id(slot) else {
            return;
        };
        for key in self.batches.keys(slot, id, std::iter::empty()) {
            let all = self.batches.recipients(key);
            let is_meant = |one: &&u32| meant.binary_search(one).is_ok();
            let (ours, others): (Vec<u32>, Vec<u32>) = all.iter().partition(is_meant);
            if ours.is_empty() || others.is_empty() {
                continue;
            }
            for shard in 0..self.shards.len() {
                self.turn(shard, |jobs, now| {
                    let Some(job) = jobs.remove(key) else { return };
                    // Before it was out, its number may have become another's.
                    if self.batches.recipients(key)[..] != all[..] {
                        jobs.insert(job, now);
                        return;
                    }
                    self.batches.forget(key);
                    for part in [&ours, &others] {
                        let part = Job {
                            key: self.batches.key(slot, id, part).0,
                            cost: u16::try_from(part.len()).unwrap_or(u16::MAX),
                            ..job
                        };
                        jobs.insert(part, now);
                    }
                });
            }
        }
    }

    /// The recipients of a message that a filter means; `None` where it means none.
    fn meant_of(&self, slot: Slot, id: Option<MessageId>, filter: &Filter) -> Option<Box<[u32]>> {
        let message = self.spool.read(slot).ok()?;
        let tenant = filter.tenant.as_ref();
        if tenant.is_some_and(|tenant| *tenant != message.tenant)
            || id.is_some_and(|id| id != message.id)
            || !is_tagged(&message, filter)
        {
            return None;
        }
        let all = message.envelope.recipients().iter().zip(0_u32..);
        let meant = all.filter(|(one, _)| is_to(one, filter));
        let meant: Box<[u32]> = meant.map(|(_, index)| index).collect();
        (!meant.is_empty()).then_some(meant)
    }
}

/// Whether a message has the label that a filter names.
pub(crate) fn is_tagged(message: &Head, filter: &Filter) -> bool {
    let has_tag = |wanted: &(Box<str>, Box<str>)| message.tags.contains(wanted);
    filter.tag.as_ref().is_none_or(has_tag)
}

/// Whether a recipient is one that a filter names.
pub(crate) fn is_to(recipient: &smtp::Recipient, filter: &Filter) -> bool {
    let address = &recipient.address;
    let domain = filter.domain.as_deref();
    let whole = filter.recipient.as_deref();
    domain.is_none_or(|domain| address.domain().eq_ignore_ascii_case(domain))
        && whole.is_none_or(|whole| address.as_str().eq_ignore_ascii_case(whole))
}
