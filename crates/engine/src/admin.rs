//! What an operator asks and does: the queue, sites, suspensions, retries, cancellations.
//!
//! What a filter means is told by [`crate::meant`].
//!
//! Over 500 lines: every lever takes jobs out of the schedule and puts them back by the same few
//! steps.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use schedule::{Job, Limit, Schedule};
use store::history::Latest;
use store::{Event, Heading, Message, MessageId, Slot, Status, Time};

use crate::accept::AcceptError;
use crate::aside::aside;
use crate::batches::Key;
use crate::core::Core;
use crate::intake::{lost, refusal, table_refusal};
use crate::meant::{Meant, One};
use crate::queue::{Place, UNRESOLVED, Waiting, with_domains};
use crate::views::{Filter, MessageView, QueueLine, RecipientView, SiteView};

/// The table's space for suspensions; keys are `site NUL name` or `tenant NUL name`.
const SUSPENDED: u8 = b'p';

/// History is never so far behind.
const HISTORY_LAG_MAX: Time = Time::from_secs(60);

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
        let _ = self.spool.journal().sync();
        self.spool.follow();
    }

    fn status_now(&self, id: MessageId) -> Option<MessageView> {
        let slot = self.spool.find(id);
        let message = slot.and_then(|slot| self.spool.read(slot).ok());
        let message = message.filter(|message| message.id == id);
        let latest = self.history.latest(id).unwrap_or_default();
        match (slot, message) {
            (Some(slot), Some(message)) => Some(self.live_view(slot, message, &latest.events)),
            _ => past_view(id, latest),
        }
    }

    /// Recipients of which history has not heard yet how they ended are shown with a time of zero.
    fn live_view(&self, slot: Slot, message: Message, latest: &[Event]) -> MessageView {
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
            heading: Some(Arc::new(Heading::new(
                &message.envelope,
                message.subject.clone(),
            ))),
            recipients: recipients.collect(),
            message: Some(message),
        }
    }

    /// Waiting mail by site and tenant.
    pub(crate) fn queue(&self, filter: &Filter) -> Vec<QueueLine> {
        let meant = self.meant(filter);
        let mut lines = Lines::default();
        let now = self.clock.now();
        for shard in &self.shards {
            let schedule = shard.schedule();
            let names = Names::of(&schedule);
            let see = |job: &Job| {
                if !names.fit(job, filter) || !meant.touches(&self.batches, Key(job.key)) {
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
            if matches!(meant, Meant::All) {
                names.add_in_flight(&mut lines, filter);
            }
        }
        self.add_held(&mut lines, &meant, filter);
        let mut lines: Vec<_> = lines.into_values().collect();
        lines.sort_by(|a, b| (&a.site, &a.tenant).cmp(&(&b.site, &b.tenant)));
        lines
    }

    /// Adds what is held for a decision to the queue's lines.
    fn add_held(&self, lines: &mut Lines, meant: &Meant, filter: &Filter) {
        for (_, message, held) in self.all_held(meant, filter) {
            for one in held {
                let domain = crate::queue::domain(&message, one.recipient);
                let place = match self.resolver.known(domain, &message.tenant) {
                    Some(Ok(resolved)) => Some(self.place(&resolved, message.id)),
                    _ => None,
                };
                let name = place.as_ref().and_then(Place::name);
                let site = name.map_or_else(|| UNRESOLVED.into(), Arc::clone);
                if filter.site.as_ref().is_none_or(|wanted| *wanted == site) {
                    line(lines, &site, &message.tenant).held += 1;
                }
            }
        }
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

    /// Whether an operator has stopped this tenant's mail.
    pub(crate) fn is_tenant_suspended(&self, name: &str) -> bool {
        let key = format!("tenant\0{name}");
        self.table.get(SUSPENDED, key.as_bytes()).is_some()
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
        // It may have to look at all that waits.
        let meant = aside(|| self.meant_apart(filter));
        let mut recipients = 0;
        for shard in 0..self.shards.len() {
            self.turn(shard, |jobs, now| {
                let mut hasten = |job: &Job| {
                    let is_later = job.due_at > now;
                    recipients += u64::from(is_later) * u64::from(job.cost.max(1));
                    is_later.then_some(now)
                };
                if let Meant::One(one) = &meant {
                    let found = one.jobs(jobs, filter).into_iter();
                    for job in found.filter(|job| meant.has(&self.batches, Key(job.key))) {
                        if let Some(due_at) = hasten(&job) {
                            jobs.reschedule(Key(job.key), due_at, now);
                        }
                    }
                    return;
                }
                let names = Names::of(jobs);
                jobs.reschedule_where(now, |job| {
                    let is_meant = names.fit(job, filter) && meant.has(&self.batches, Key(job.key));
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
        let (mut released, mut last) = (0, None);
        if filter.site.is_some() {
            return Ok(0);
        }
        let now = self.clock.now();
        for (slot, message, held) in self.all_held(meant, filter) {
            let attempts = held[0].attempts;
            let indexes: Vec<u32> = held.iter().map(|one| one.recipient).collect();
            // Those that nobody else has released or taken back since.
            let Ok((indexes, commit)) = self.spool.release(slot, message.id, &indexes, now) else {
                continue;
            };
            self.counters.held.sub(indexes.len() as u64);
            let recipients = with_domains(&message, &indexes);
            self.enqueue(&Waiting::of(slot, &message), &recipients, now, attempts);
            released += indexes.len() as u64;
            last = Some(commit);
        }
        // It stands for all before it.
        if let Some(last) = last {
            last.await.map_err(lost)?;
        }
        Ok(released)
    }

    /// Takes back what is not on the wire; says how many recipients.
    pub(crate) fn cancel(self: &Arc<Self>, filter: &Filter) -> u64 {
        let meant = self.meant_apart(filter);
        let mut canceled = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let mut jobs = shard.schedule();
            let removed = match &meant {
                Meant::One(one) => one
                    .jobs(&jobs, filter)
                    .into_iter()
                    .filter(|job| meant.has(&self.batches, Key(job.key)))
                    .filter_map(|job| jobs.remove(Key(job.key)))
                    .collect(),
                _ => {
                    let names = Names::of(&jobs);
                    jobs.remove_where(|job| {
                        names.fit(job, filter) && meant.has(&self.batches, Key(job.key))
                    })
                }
            };
            drop(jobs);
            for job in removed {
                let key = Key(job.key);
                match self.spool.read(key.slot()) {
                    Ok(message) if key.is_of(message.id) => {
                        let recipients = self.batches.recipients(key);
                        canceled += self.cancel_recipients(key.slot(), &message, &recipients);
                    }
                    // The slot has another message by now, or none.
                    Ok(_) | Err(store::ReadError::Gone) => {}
                    Err(error) => {
                        tracing::error!(%error, "a message cannot be read from the spool, nor taken back");
                        self.note_unreadable(1);
                        self.turn(number, |jobs, now| jobs.insert(job, now));
                        continue;
                    }
                }
                self.batches.forget(key);
            }
        }
        canceled + self.cancel_held(&meant, filter)
    }

    fn cancel_held(self: &Arc<Self>, meant: &Meant, filter: &Filter) -> u64 {
        if filter.site.is_some() {
            return 0;
        }
        let mut canceled = 0;
        for (slot, message, held) in self.all_held(meant, filter) {
            for one in held {
                let event = self.event(&message, one.recipient, Status::Canceled);
                match self.spool.record_if_held(slot, &event) {
                    Ok(true) => {
                        self.recorded(Status::Held, event);
                        canceled += 1;
                    }
                    // Somebody has released it since: it may be on the wire.
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(%error, message = %message.id, "held mail cannot be taken back");
                    }
                }
            }
        }
        canceled
    }

    /// Every message with recipients that are held and meant.
    fn all_held(
        &self,
        meant: &Meant,
        filter: &Filter,
    ) -> impl Iterator<Item = (Slot, Message, Vec<store::Pending>)> {
        let slots = match self.counters.held.get() {
            0 => Vec::new(),
            _ => meant.slots(|| self.spool.slots()),
        };
        slots.into_iter().filter_map(move |slot| {
            let (message, held) = self.held(slot, meant, filter)?;
            Some((slot, message, held))
        })
    }

    /// The recipients of a message that are held and meant; `None` if there are none.
    fn held(
        &self,
        slot: Slot,
        meant: &Meant,
        filter: &Filter,
    ) -> Option<(Message, Vec<store::Pending>)> {
        let mut held = self.spool.pending(slot);
        let these = meant.recipients(slot);
        let is_meant = |index: &u32| these.is_none_or(|these| these.binary_search(index).is_ok());
        held.retain(|one| one.status == Status::Held && is_meant(&one.recipient));
        if held.is_empty() {
            return None;
        }
        let message = self.spool.read(slot).ok()?;
        let tenant = filter.tenant.as_ref();
        let is_of_tenant = tenant.is_none_or(|tenant| *tenant == message.tenant);
        is_of_tenant.then_some((message, held))
    }

    fn cancel_recipients(&self, slot: Slot, message: &Message, recipients: &[u32]) -> u64 {
        let pending = self.spool.pending(slot);
        let is_pending = |index: &&u32| {
            let found = pending.binary_search_by_key(*index, |one| one.recipient);
            found.is_ok()
        };
        let mut canceled = 0;
        for &index in recipients.iter().filter(is_pending) {
            let is_recorded = self.record(slot, self.event(message, index, Status::Canceled));
            canceled += u64::from(is_recorded);
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
        let one = One::new(self, slot, id, &pending, Box::default());
        let mut jobs = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let mut schedule = shard.schedule();
            let removed = one.keys().iter().filter_map(|key| schedule.remove(*key));
            jobs.extend(removed.map(|job| (number, job)));
        }
        let stand_for = |(_, job): &(usize, Job)| self.batches.recipients(Key(job.key)).len();
        let is_whole = jobs.iter().map(stand_for).sum::<usize>() == pending.len();
        // Otherwise a part was granted in between.
        let commit = is_whole.then(|| self.spool.reschedule(slot, id, &[], send_at));
        let is_moved = matches!(commit, Some(Ok(_)));
        for (shard, job) in &jobs {
            let due_at = if is_moved { send_at } else { job.due_at };
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
            Some(Ok(commit)) => commit.await.map_err(lost).map(|()| Some(())),
            Some(Err(store::RecordError::Journal(error))) => Err(refusal(&error)),
            _ => Ok(None),
        }
    }
}

/// The queue by site and tenant.
type Lines = FxHashMap<(Arc<str>, Arc<str>), QueueLine>;

fn line<'a>(lines: &'a mut Lines, site: &Arc<str>, tenant: &Arc<str>) -> &'a mut QueueLine {
    let key = (Arc::clone(site), Arc::clone(tenant));
    lines.entry(key).or_insert_with(|| QueueLine {
        site: Arc::clone(site),
        tenant: Arc::clone(tenant),
        ready: 0,
        waiting: 0,
        in_flight: 0,
        held: 0,
        suspended: false,
    })
}

/// What a site or a tenant is called, and how it is, while a schedule is looked through.
struct Named {
    name: Arc<str>,
    in_flight: u64,
    is_suspended: bool,
}

/// Sites and tenants while a schedule is looked through.
struct Names {
    sites: FxHashMap<schedule::SiteId, Named>,
    tenants: Vec<Named>,
}

impl Names {
    fn of(schedule: &Schedule) -> Self {
        let site = |site: schedule::SiteView| {
            let named = Named {
                name: site.name,
                in_flight: site.inflight.into(),
                is_suspended: site.is_suspended,
            };
            (site.id, named)
        };
        let tenant = |tenant: schedule::TenantView| Named {
            name: tenant.name,
            in_flight: tenant.inflight.into(),
            is_suspended: tenant.is_suspended,
        };
        Self {
            sites: schedule.sites().map(site).collect(),
            tenants: schedule.tenants().map(tenant).collect(),
        }
    }

    fn fit(&self, job: &Job, filter: &Filter) -> bool {
        let tenant = &self.tenants[job.tenant.0 as usize];
        are_meant(&self.sites[&job.site], tenant, filter)
    }

    fn line<'a>(&self, lines: &'a mut Lines, job: &Job) -> &'a mut QueueLine {
        let (site, tenant) = (&self.sites[&job.site], &self.tenants[job.tenant.0 as usize]);
        let line = line(lines, &site.name, &tenant.name);
        line.suspended = site.is_suspended || tenant.is_suspended;
        line
    }

    /// Adds what is on the wire. The schedule counts that by site and by tenant: where several of
    /// each have mail there, a line says how much it may be at most.
    fn add_in_flight(&self, lines: &mut Lines, filter: &Filter) {
        let sites: Vec<_> = self.sites.values().filter(|it| it.in_flight > 0).collect();
        let tenants: Vec<_> = self.tenants.iter().filter(|it| it.in_flight > 0).collect();
        let is_clear = sites.len() <= 1 || tenants.len() <= 1;
        for (site, tenant) in sites
            .iter()
            .flat_map(|site| tenants.iter().map(move |tenant| (*site, *tenant)))
        {
            let key = (Arc::clone(&site.name), Arc::clone(&tenant.name));
            if are_meant(site, tenant, filter) && (is_clear || lines.contains_key(&key)) {
                let line = line(lines, &site.name, &tenant.name);
                line.in_flight = site.in_flight.min(tenant.in_flight);
                line.suspended = site.is_suspended || tenant.is_suspended;
            }
        }
    }
}

fn are_meant(site: &Named, tenant: &Named, filter: &Filter) -> bool {
    let is = |wanted: &Option<Arc<str>>, named: &Named| {
        wanted.as_ref().is_none_or(|wanted| *wanted == named.name)
    };
    is(&filter.site, site) && is(&filter.tenant, tenant)
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
fn past_view(id: MessageId, known: Latest) -> Option<MessageView> {
    let first = known.events.first()?;
    let (tenant, tags) = (Arc::clone(&first.tenant), Arc::clone(&first.tags));
    let accepted_at = known.accepted.as_ref().map_or(id.time(), |event| event.at);
    let due_at = known.accepted.as_ref().and_then(|event| event.due_at);
    let recipients = known.events.into_iter().map(|event| RecipientView {
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
        accepted_at,
        due_at: due_at.unwrap_or(accepted_at),
        tags,
        heading: known.accepted.and_then(|event| event.heading),
        message: None,
        recipients: recipients.collect(),
    })
}

#[cfg(test)]
mod tests;
