//! What an operator asks and does: the queue, sites, suspensions, retries, cancellations.
//!
//! Over 500 lines, for every one of these reads a filter in the same way (`Core::meant`, `Names`).

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use schedule::{Job, Limit, Schedule};
use store::{Event, Message, MessageId, Slot, Status, Time};

use crate::accept::AcceptError;
use crate::batches::Key;
use crate::core::Core;
use crate::intake::{lost, refusal, table_refusal};
use crate::jobs::Jobs;
use crate::queue::{Waiting, with_domains};
use crate::views::{Filter, MessageView, QueueLine, RecipientView, SiteView};

/// The table's space for suspensions; keys are `site NUL name` or `tenant NUL name`.
const SUSPENDED: u8 = b'p';

/// History is never so far behind.
const HISTORY_LAG_MAX: Time = Time::from_secs(60);

/// Which messages a filter means; `All` where it says nothing about messages.
enum Meant {
    All,
    These(FxHashSet<Slot>),
    One(One),
}

/// One message, and the keys that its jobs may have.
#[derive(Default)]
struct One {
    /// `None`: it is not there, or is not meant after all.
    slot: Option<Slot>,
    keys: Vec<Key>,
}

impl Meant {
    fn has(&self, slot: Slot) -> bool {
        match self {
            Self::All => true,
            Self::These(slots) => slots.contains(&slot),
            Self::One(one) => one.slot == Some(slot),
        }
    }
}

impl One {
    fn new(core: &Core, slot: Slot, id: MessageId, pending: &[store::Pending]) -> Self {
        let recipients = pending.iter().map(|one| one.recipient);
        Self {
            slot: Some(slot),
            keys: core.batches.keys(slot, id, recipients),
        }
    }

    /// Its jobs that wait in a shard, for the site that a filter may name.
    fn jobs(&self, jobs: &Jobs, filter: &Filter) -> Vec<Job> {
        let site = filter.site.as_ref().map(|site| jobs.find_site(site));
        let is_for = |job: &Job| site.is_none_or(|site| site == Some(job.site));
        let found = self.keys.iter().filter_map(|key| jobs.find(*key));
        found.filter(is_for).collect()
    }
}

impl Core {
    /// A message: from the spool while it lives, then from history.
    pub(crate) fn status(&self, id: MessageId) -> Option<MessageView> {
        let view = self.status_now(id);
        let age = self.clock.now().saturating_sub(id.time());
        // Either way history has not heard yet how a recipient ended that the spool let go.
        let is_settling = |view: &MessageView| {
            let is_gone = view.message.is_none();
            let mut all = view.recipients.iter();
            all.any(|one| one.at.is_zero() || is_gone && !one.status.is_terminal())
        };
        match &view {
            Some(view) if !is_settling(view) => {}
            // What is older, history knows.
            None if age > HISTORY_LAG_MAX => return None,
            _ => {
                self.catch_up();
                return self.status_now(id);
            }
        }
        view
    }

    /// Makes history hear of everything that was recorded before this.
    pub(crate) fn catch_up(&self) {
        // What a journal that fails has not taken, history is not told of either.
        let _ = self.spool.journal().flush().wait();
        self.spool.follow();
    }

    fn status_now(&self, id: MessageId) -> Option<MessageView> {
        let slot = self.spool.find(id);
        let message = slot.and_then(|slot| self.spool.read(slot).ok());
        let message = message.filter(|message| message.id == id);
        let latest = self.history.latest(id).unwrap_or_default();
        match (slot, message) {
            (Some(slot), Some(message)) => Some(self.live_view(slot, message, &latest)),
            _ => past_view(id, latest),
        }
    }

    /// Recipients of which history has not heard yet how they ended are shown with a time of zero.
    fn live_view(&self, slot: Slot, message: Arc<Message>, latest: &[Event]) -> MessageView {
        let pending = self.spool.pending(slot);
        let view = |(index, recipient): (usize, &smtp::Recipient)| {
            let index = index as u32;
            let mut view = RecipientView {
                index,
                address: recipient.address.as_str().into(),
                status: Status::Accepted,
                at: Time::ZERO,
                due_at: None,
                outcome: None,
            };
            let last = latest.iter().find(|event| event.recipient == index);
            if let Some(pending) = pending.iter().find(|pending| pending.recipient == index) {
                (view.status, view.at) = (pending.status, message.accepted_at);
                view.due_at = (pending.status != Status::Held).then_some(pending.due_at);
                if let Ok(Some((at, outcome))) = self.spool.last_outcome(slot, index) {
                    (view.at, view.outcome) = (at, Some(outcome));
                }
            } else if let Some(last) = last.filter(|last| last.status.is_terminal()) {
                (view.status, view.at) = (last.status, last.at);
                view.outcome.clone_from(&last.outcome);
            }
            view
        };
        let recipients = message.envelope.recipients().iter().enumerate().map(view);
        MessageView {
            id: message.id,
            tenant: Arc::clone(&message.tenant),
            accepted_at: message.accepted_at,
            due_at: message.due_at,
            tags: Arc::clone(&message.tags),
            recipients: recipients.collect(),
            message: Some(message),
        }
    }

    /// Waiting mail by site and tenant.
    pub(crate) fn queue(&self, filter: &Filter) -> Vec<QueueLine> {
        let meant = self.meant(filter);
        let mut lines: FxHashMap<(Arc<str>, Arc<str>), QueueLine> = FxHashMap::default();
        let now = self.clock.now();
        for shard in &self.shards {
            let schedule = shard.schedule();
            let names = Names::of(&schedule);
            let see = |job: &Job| {
                if !meant.has(Key(job.key).slot()) || !names.fit(job, filter) {
                    return;
                }
                let line = names.line(&mut lines, job);
                if job.due_at <= now {
                    line.ready += 1;
                } else {
                    line.waiting += 1;
                }
            };
            match &meant {
                Meant::One(one) => one.jobs(&schedule, filter).iter().for_each(see),
                _ => schedule.for_each(see),
            }
        }
        let mut lines: Vec<_> = lines.into_values().collect();
        lines.sort_by(|a, b| (&a.site, &a.tenant).cmp(&(&b.site, &b.tenant)));
        lines
    }

    /// Every site in memory.
    pub(crate) fn sites(&self) -> Vec<SiteView> {
        let pools = self.deliverer.views();
        let mut sites = Vec::new();
        for shard in &self.shards {
            let schedule = shard.schedule();
            for site in schedule.sites() {
                let mine = pools
                    .iter()
                    .filter(|pool| site.name.starts_with(&*pool.site));
                let (open, idle) = mine.fold((0, 0), |(open, idle), pool| {
                    let stats = &pool.stats;
                    (
                        open + stats.connections_open as u64,
                        idle + stats.connections_idle as u64,
                    )
                });
                sites.push(site_view(&site, open, idle));
            }
        }
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        sites
    }

    /// Stops or lets go a site or a tenant, durably.
    pub(crate) async fn set_suspended(
        self: &Arc<Self>,
        filter: &Filter,
        is_suspended: bool,
    ) -> Result<(), AcceptError> {
        let site = filter.site.as_ref().map(|name| ("site", name));
        let tenant = filter.tenant.as_ref().map(|name| ("tenant", name));
        for (what, name) in site.into_iter().chain(tenant) {
            let key = format!("{what}\0{name}");
            let commit = if is_suspended {
                self.table.insert(SUSPENDED, key.as_bytes(), b"", None)
            } else {
                self.table.remove(SUSPENDED, key.as_bytes())
            };
            let commit = commit.map_err(|error| table_refusal(&error))?;
            commit.await.map_err(lost)?;
            self.apply_suspension(what, name, is_suspended);
        }
        Ok(())
    }

    /// Takes over what was suspended before this start.
    pub(crate) fn restore_suspensions(self: &Arc<Self>) {
        for (key, _, _) in self.table.entries(SUSPENDED) {
            let key = String::from_utf8_lossy(&key);
            if let Some((what, name)) = key.split_once('\0') {
                self.apply_suspension(what, name, true);
            }
        }
    }

    fn apply_suspension(self: &Arc<Self>, what: &str, name: &str, is_suspended: bool) {
        for shard in 0..self.shards.len() {
            self.turn(shard, |schedule, _| {
                if what == "tenant" {
                    let policy = self.policy.load().tenant(name).sending.clone();
                    let tenant = schedule.tenant(name, &policy);
                    if is_suspended {
                        schedule.suspend_tenant(tenant);
                    } else {
                        schedule.resume_tenant(tenant);
                    }
                } else if is_suspended {
                    schedule.suspend_site(name);
                } else {
                    schedule.resume_site(name);
                }
            });
        }
    }

    /// Makes what waits due now, held recipients too; says how many recipients.
    pub(crate) async fn retry_now(self: &Arc<Self>, filter: &Filter) -> Result<u64, AcceptError> {
        let meant = self.meant(filter);
        let mut recipients = 0;
        for shard in 0..self.shards.len() {
            self.turn(shard, |jobs, now| {
                let mut hasten = |job: &Job| {
                    let is_later = job.due_at > now;
                    recipients += u64::from(is_later) * u64::from(job.cost.max(1));
                    is_later.then_some(now)
                };
                if let Meant::One(one) = &meant {
                    for job in one.jobs(jobs, filter) {
                        if let Some(due_at) = hasten(&job) {
                            jobs.reschedule(Key(job.key), due_at, now);
                        }
                    }
                    return;
                }
                let names = Names::of(jobs);
                jobs.reschedule_where(now, |job| {
                    let is_meant = meant.has(Key(job.key).slot()) && names.fit(job, filter);
                    is_meant.then(|| hasten(job)).flatten()
                });
            });
        }
        recipients += self.release_held(&meant, filter).await?;
        Ok(recipients)
    }

    /// Held recipients wait for their turn again: the operator takes the risk of a duplicate.
    async fn release_held(
        self: &Arc<Self>,
        meant: &Meant,
        filter: &Filter,
    ) -> Result<u64, AcceptError> {
        let mut released = 0;
        if self.counters.held.get() == 0 || filter.site.is_some() {
            return Ok(0);
        }
        let now = self.clock.now();
        let slots = match meant {
            Meant::All => self.spool.slots(),
            Meant::These(slots) => slots.iter().copied().collect(),
            Meant::One(one) => one.slot.into_iter().collect(),
        };
        for slot in slots {
            let pending = self.spool.pending(slot);
            let held: Vec<_> = pending
                .iter()
                .filter(|one| one.status == Status::Held)
                .collect();
            let Some(first) = held.first() else { continue };
            let Ok(message) = self.spool.read(slot) else {
                continue;
            };
            if filter
                .tenant
                .as_ref()
                .is_some_and(|tenant| *tenant != message.tenant)
            {
                continue;
            }
            let indexes: Vec<u32> = held.iter().map(|one| one.recipient).collect();
            let Ok(commit) = self.spool.reschedule(slot, &indexes, now) else {
                continue;
            };
            commit.await.map_err(lost)?;
            let recipients = with_domains(&message, &indexes);
            self.enqueue(
                &Waiting::of(slot, &message),
                &recipients,
                now,
                first.attempts,
            );
            self.counters.held.sub(indexes.len() as u64);
            released += indexes.len() as u64;
        }
        Ok(released)
    }

    /// Takes back what is not on the wire; says how many recipients.
    pub(crate) fn cancel(self: &Arc<Self>, filter: &Filter) -> u64 {
        let meant = self.meant(filter);
        let mut canceled = 0;
        for shard in &self.shards {
            let mut jobs = shard.schedule();
            let removed = match &meant {
                Meant::One(one) => one
                    .jobs(&jobs, filter)
                    .into_iter()
                    .filter_map(|job| jobs.remove(Key(job.key)))
                    .collect(),
                _ => {
                    let names = Names::of(&jobs);
                    jobs.remove_where(|job| {
                        meant.has(Key(job.key).slot()) && names.fit(job, filter)
                    })
                }
            };
            drop(jobs);
            for key in removed.iter().map(|job| Key(job.key)) {
                let recipients = self.batches.recipients(key);
                self.batches.forget(key);
                canceled += self.cancel_recipients(key.slot(), &recipients);
            }
        }
        canceled + self.cancel_held(&meant, filter)
    }

    fn cancel_held(self: &Arc<Self>, meant: &Meant, filter: &Filter) -> u64 {
        let slots: Vec<Slot> = match meant {
            Meant::All => return 0,
            Meant::These(slots) => slots.iter().copied().collect(),
            Meant::One(one) => one.slot.into_iter().collect(),
        };
        if self.counters.held.get() == 0 || filter.site.is_some() {
            return 0;
        }
        let mut canceled = 0;
        for slot in slots {
            let pending = self.spool.pending(slot);
            let held = pending.iter().filter(|one| one.status == Status::Held);
            let held: Vec<u32> = held.map(|one| one.recipient).collect();
            self.counters.held.sub(held.len() as u64);
            canceled += self.cancel_recipients(slot, &held);
        }
        canceled
    }

    fn cancel_recipients(&self, slot: Slot, recipients: &[u32]) -> u64 {
        let Ok(message) = self.spool.read(slot) else {
            return 0;
        };
        let pending = self.spool.pending(slot);
        let is_pending = |index: &&u32| {
            let found = pending.binary_search_by_key(*index, |one| one.recipient);
            found.is_ok()
        };
        let mut canceled = 0;
        for &index in recipients.iter().filter(is_pending) {
            self.record(slot, self.event(&message, index, Status::Canceled));
            canceled += 1;
        }
        canceled
    }

    /// Moves a message that has not been tried yet to another time; `None` if there is none such.
    pub(crate) async fn reschedule(
        self: &Arc<Self>,
        id: MessageId,
        send_at: Time,
    ) -> Result<Option<()>, AcceptError> {
        let now = self.clock.now();
        let ahead_max = self.policy.load().limits.ahead_max;
        if send_at > now + ahead_max {
            return Err(AcceptError::TooFarAhead { ahead_max });
        }
        let Some(slot) = self.spool.find(id) else {
            return Ok(None);
        };
        let pending = self.spool.pending(slot);
        let is_untried = |one: &store::Pending| one.status == Status::Accepted && one.due_at > now;
        if pending.is_empty() || !pending.iter().all(is_untried) {
            return Ok(None);
        }
        // Out of the schedule first: what is out cannot be granted meanwhile.
        let one = One::new(self, slot, id, &pending);
        let mut jobs = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let mut schedule = shard.schedule();
            let removed = one.keys.iter().filter_map(|key| schedule.remove(*key));
            jobs.extend(removed.map(|job| (number, job)));
        }
        let commit = self.spool.reschedule(slot, &[], send_at);
        for (shard, job) in &jobs {
            let due_at = if commit.is_ok() { send_at } else { job.due_at };
            self.turn(*shard, |schedule, now| {
                let lifetime = job.expires_at.saturating_sub(job.due_at);
                let expires_at = due_at + lifetime;
                schedule.insert(
                    Job {
                        due_at,
                        expires_at,
                        ..*job
                    },
                    now,
                );
            });
        }
        match commit {
            Ok(commit) => commit.await.map_err(lost).map(|()| Some(())),
            Err(store::RecordError::Journal(error)) => Err(refusal(&error)),
            Err(_) => Ok(None),
        }
    }

    /// The messages that a filter means by message, domain, recipient or label.
    fn meant(&self, filter: &Filter) -> Meant {
        if let Some(id) = filter.message {
            let found = self.spool.find(id);
            let slot = found.filter(|slot| self.is_meant(*slot, id, filter));
            let one = slot.map(|slot| One::new(self, slot, id, &self.spool.pending(slot)));
            return Meant::One(one.unwrap_or_default());
        }
        if filter.domain.is_none() && filter.recipient.is_none() && filter.tag.is_none() {
            return Meant::All;
        }
        let is_meant = |slot: &Slot| {
            let message = self.spool.read(*slot);
            message.is_ok_and(|message| fits(&message, filter))
        };
        Meant::These(self.spool.slots().into_iter().filter(is_meant).collect())
    }

    /// Whether all else that a filter says of messages is true of one.
    fn is_meant(&self, slot: Slot, id: MessageId, filter: &Filter) -> bool {
        let message = self.spool.read(slot);
        message.is_ok_and(|message| {
            let tenant = filter.tenant.as_ref();
            let is_of_tenant = tenant.is_none_or(|tenant| *tenant == message.tenant);
            message.id == id && is_of_tenant && fits(&message, filter)
        })
    }
}

/// Whether a filter's labels and recipients mean it.
pub(crate) fn fits(message: &Message, filter: &Filter) -> bool {
    let mut recipients = message.envelope.recipients().iter();
    let has_tag = |wanted: &(Box<str>, Box<str>)| message.tags.contains(wanted);
    let is_to = |one: &smtp::Recipient| {
        let domain = filter.domain.as_deref();
        let address = filter.recipient.as_deref();
        domain.is_none_or(|domain| one.address.domain().eq_ignore_ascii_case(domain))
            && address.is_none_or(|address| one.address.as_str().eq_ignore_ascii_case(address))
    };
    filter.tag.as_ref().is_none_or(has_tag) && recipients.any(is_to)
}

/// Names of sites and tenants while a schedule is looked through.
struct Names {
    sites: FxHashMap<schedule::SiteId, (Arc<str>, u64, bool)>,
    tenants: Vec<(Arc<str>, bool)>,
}

impl Names {
    fn of(schedule: &Schedule) -> Self {
        let site = |site: schedule::SiteView| {
            (
                site.id,
                (site.name, u64::from(site.inflight), site.is_suspended),
            )
        };
        Self {
            sites: schedule.sites().map(site).collect(),
            tenants: schedule
                .tenants()
                .map(|tenant| (tenant.name, tenant.is_suspended))
                .collect(),
        }
    }

    fn site(&self, job: &Job) -> &Arc<str> {
        &self.sites[&job.site].0
    }

    fn fit(&self, job: &Job, filter: &Filter) -> bool {
        let site = filter.site.as_ref();
        let tenant = filter.tenant.as_ref();
        site.is_none_or(|site| site == self.site(job))
            && tenant.is_none_or(|tenant| *tenant == self.tenants[job.tenant.0 as usize].0)
    }

    fn line<'a>(
        &self,
        lines: &'a mut FxHashMap<(Arc<str>, Arc<str>), QueueLine>,
        job: &Job,
    ) -> &'a mut QueueLine {
        let (site, in_flight, is_site_suspended) = &self.sites[&job.site];
        let (tenant, is_tenant_suspended) = &self.tenants[job.tenant.0 as usize];
        let key = (Arc::clone(site), Arc::clone(tenant));
        lines.entry(key).or_insert_with(|| QueueLine {
            site: Arc::clone(site),
            tenant: Arc::clone(tenant),
            ready: 0,
            waiting: 0,
            in_flight: *in_flight,
            held: 0,
            suspended: *is_site_suspended || *is_tenant_suspended,
        })
    }
}

fn site_view(site: &schedule::SiteView, open: u64, idle: u64) -> SiteView {
    let (binding, why) = binding(site);
    let (breaker, breaker_until) = match site.breaker {
        flow::breaker::State::Closed { .. } => ("closed", None),
        flow::breaker::State::Open { until } => ("open", Some(until)),
        flow::breaker::State::HalfOpen => ("half-open", None),
    };
    SiteView {
        name: Arc::clone(&site.name),
        ready: site.ready.into(),
        waiting: site.waiting.into(),
        in_flight: site.inflight.into(),
        window: site.window.into(),
        pace_per_s: site.pace_per_s,
        rate_per_s: site.rate.map(flow::rate::RateLimit::per_second),
        breaker,
        breaker_until,
        suspended: site.is_suspended,
        binding,
        why,
        connections_open: open,
        connections_idle: idle,
    }
}

/// What keeps a site from going faster: one word, and a sentence.
fn binding(site: &schedule::SiteView) -> (&'static str, String) {
    let inflight = site.inflight;
    match site.binding {
        Limit::NothingToSend => ("nothing", "nothing is ready to be sent".to_owned()),
        Limit::None => ("none", "no limit binds".to_owned()),
        Limit::Suspended => ("suspended", "an operator has stopped it".to_owned()),
        Limit::Breaker { .. } => (
            "breaker",
            "judged down after repeated connect or handshake failures".to_owned(),
        ),
        Limit::Probe => ("breaker", "judged down, and a probe is out".to_owned()),
        Limit::Window => (
            "window",
            format!("{inflight} messages are in flight, as many as the window allows"),
        ),
        Limit::Pressure => (
            "pressure",
            "this machine is short of CPU or memory, so windows are narrowed".to_owned(),
        ),
        Limit::Rate { .. } => ("rate", "the configured rate is reached".to_owned()),
        Limit::Pace { .. } => {
            let pace = site.pace_per_s.unwrap_or_default();
            let why = format!("the site has refused more than about {pace:.1} messages a second");
            ("pace", why)
        }
        Limit::Tenant => (
            "tenant",
            "all that is ready is of tenants that are suspended or at their limits".to_owned(),
        ),
        Limit::Engine => (
            "engine",
            "as much as the whole engine may send is in flight".to_owned(),
        ),
        _ => ("other", String::new()),
    }
}

/// What history alone knows.
fn past_view(id: MessageId, latest: Vec<Event>) -> Option<MessageView> {
    let first = latest.first()?;
    let (tenant, tags) = (Arc::clone(&first.tenant), Arc::clone(&first.tags));
    let recipients = latest.into_iter().map(|event| RecipientView {
        index: event.recipient,
        address: event.address,
        status: event.status,
        at: event.at,
        due_at: event.due_at,
        outcome: event.outcome,
    });
    Some(MessageView {
        id,
        tenant,
        accepted_at: id.time(),
        due_at: id.time(),
        tags,
        message: None,
        recipients: recipients.collect(),
    })
}

#[cfg(test)]
mod tests;
