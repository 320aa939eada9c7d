//! The schedules of the engine: what enters them, what they let go, and when to look again.
//!
//! A site lives wholly in one shard. Whoever has news for a shard (an accepted message, an attempt
//! that ended, a timer) takes its lock, tells it, polls it, and starts what it grants: no task
//! stands between a message and the wire.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::Wire;
use rustc_hash::{FxHashMap, FxHasher};
use schedule::{Job, Schedule, SiteId, SitePolicy, TenantId};
use store::{Head, MessageId, Priority, Slot, Time};
use tokio::sync::Notify;

use crate::core::Core;
use crate::jobs::Jobs;
use crate::learned::KEPT_FOR;
use crate::route::{Resolved, Route, Source, Via};

/// The name of the site where jobs wait whose domain is not resolved yet.
pub(crate) const UNRESOLVED: &str = "(unresolved)";

/// Lookups at once, for each shard.
const LOOKUPS_MAX: u16 = 200;
/// A site that has had nothing to do for so long is forgotten.
const SITE_IDLE_MAX: Duration = Duration::from_secs(600);

fn unresolved_policy() -> SitePolicy {
    let mut policy = SitePolicy::refusals(LOOKUPS_MAX, LOOKUPS_MAX);
    policy.pace = false;
    policy.breaker_failures = u32::MAX;
    policy
}

/// One schedule and its alarm.
pub(crate) struct Shard {
    jobs: Mutex<Jobs>,
    /// Jobs wait here for DNS, several at once.
    pub(crate) unresolved: SiteId,
    alarm: Mutex<Option<Time>>,
    /// The alarm is earlier than it was.
    pub(crate) alarm_moved: Notify,
}

impl Shard {
    pub(crate) fn new(mut schedule: Schedule) -> Self {
        let policy = unresolved_policy();
        let unresolved = schedule.site(UNRESOLVED, &policy);
        Self {
            jobs: Mutex::new(Jobs::new(schedule)),
            unresolved,
            alarm: Mutex::new(None),
            alarm_moved: Notify::new(),
        }
    }

    /// Forgets sites that have long had nothing to do, and in the end what they taught; never the one
    /// for what is unresolved.
    pub(crate) fn tidy(&self, now: Time) {
        let mut schedule = self.schedule();
        schedule.site(UNRESOLVED, &unresolved_policy());
        schedule.forget_idle(now, SITE_IDLE_MAX);
        schedule.forget_learned(now.saturating_sub(KEPT_FOR));
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to look again.
    pub(crate) fn alarm(&self) -> Option<Time> {
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_alarm(&self, at: Option<Time>) {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let is_earlier = at.is_some_and(|at| alarm.is_none_or(|alarm| at < alarm));
        *alarm = at;
        drop(alarm);
        if is_earlier {
            self.alarm_moved.notify_one();
        }
    }
}

/// Where a job goes: the shard, and how its site is called and treated there.
pub(crate) struct Place {
    pub(crate) shard: usize,
    site: Option<(Arc<str>, SitePolicy)>,
}

impl Place {
    /// What its site is called; `None` while that is not known.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.site.as_ref().map(|(name, _)| name)
    }

    /// Its id in the shard's schedule.
    pub(crate) fn site(&self, shard: &Shard, schedule: &mut Schedule) -> SiteId {
        match &self.site {
            Some((name, policy)) => schedule.site(name, policy),
            None => shard.unresolved,
        }
    }
}

/// What the schedule has to know of a message.
#[derive(Clone, Copy)]
pub(crate) struct Waiting<'a> {
    pub(crate) slot: Slot,
    pub(crate) id: MessageId,
    pub(crate) tenant: &'a Arc<str>,
    pub(crate) priority: Priority,
    pub(crate) expires_at: Time,
}

impl<'a> Waiting<'a> {
    pub(crate) fn of(slot: Slot, message: &'a Head) -> Self {
        Self {
            slot,
            id: message.id,
            tenant: &message.tenant,
            priority: message.priority,
            expires_at: message.expires_at,
        }
    }
}

/// Recipients with their domains.
pub(crate) fn with_domains<'a>(message: &'a Head, recipients: &[u32]) -> Vec<(u32, &'a str)> {
    let with_domain = |&index: &u32| (index, domain(message, index));
    recipients.iter().map(with_domain).collect()
}

/// Several recipients of one message for one place.
struct Group {
    place: Place,
    recipients: Vec<u32>,
}

impl Core {
    /// Changes a shard's schedule, then starts what may start now.
    pub(crate) fn turn<T>(
        self: &Arc<Self>,
        shard: usize,
        change: impl FnOnce(&mut Jobs, Time) -> T,
    ) -> T {
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        let place = &self.shards[shard];
        let now = self.clock.now();
        let result = {
            let mut schedule = place.schedule();
            let result = change(&mut schedule, now);
            let next = if self.gate.is_draining() || self.failure().is_some() {
                None
            } else {
                schedule.poll(now, &mut grants, &mut expired)
            };
            // Under the lock still: who set a later alarm after it would hide an earlier job.
            place.set_alarm(next);
            result
        };
        for job in grants {
            self.launch(shard, job);
        }
        for job in expired {
            self.expire(job);
        }
        result
    }

    /// Lets recipients of a message wait for their turn.
    ///
    /// * `recipients`: index and domain of each.
    /// * `attempts`: made so far.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        waiting: &Waiting<'_>,
        recipients: &[(u32, &str)],
        due_at: Time,
        attempts: u16,
    ) {
        let expires_at = self.age_limit(waiting.expires_at, due_at);
        for group in self.groups(waiting, recipients) {
            let shard = &self.shards[group.place.shard];
            let key = self
                .batches
                .key(waiting.slot, waiting.id, &group.recipients);
            self.turn(group.place.shard, |schedule, now| {
                let job = Job {
                    key: key.0,
                    site: group.place.site(shard, schedule),
                    tenant: self.tenant(schedule, waiting.tenant),
                    priority: waiting.priority as u8,
                    cost: u16::try_from(group.recipients.len()).unwrap_or(u16::MAX),
                    attempts,
                    due_at,
                    expires_at,
                    ..Job::default()
                };
                schedule.insert(job, now);
            });
        }
    }

    /// When what is due then expires. Nothing is made due past its age limit but what its sender has moved
    /// there; its age counts from that.
    pub(crate) fn age_limit(&self, expires_at: Time, due_at: Time) -> Time {
        if due_at < expires_at {
            return expires_at;
        }
        due_at + self.policy.load().max_age
    }

    /// Recipients that travel together: to one site, or to one domain that is to be resolved.
    fn groups(&self, waiting: &Waiting<'_>, recipients: &[(u32, &str)]) -> Vec<Group> {
        if let [(recipient, domain)] = recipients {
            return vec![Group {
                place: self.place_of(waiting, domain),
                recipients: vec![*recipient],
            }];
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut known: FxHashMap<String, usize> = FxHashMap::default();
        for &(recipient, domain) in recipients {
            let place = self.place_of(waiting, domain);
            let name = match place.name() {
                Some(name) => name.to_string(),
                None => format!("@{domain}"),
            };
            let number = *known.entry(name).or_insert(groups.len());
            if let Some(group) = groups.get_mut(number) {
                group.recipients.push(recipient);
                continue;
            }
            groups.push(Group {
                place,
                recipients: vec![recipient],
            });
        }
        groups
    }

    fn place_of(&self, waiting: &Waiting<'_>, domain: &str) -> Place {
        match self.resolver.known(domain, waiting.tenant) {
            Some(Ok(resolved)) => self.place(&resolved, waiting.id),
            _ => Place {
                shard: self.shard_of(domain),
                site: None,
            },
        }
    }

    /// Where mail for what a domain resolved to waits.
    pub(crate) fn place(&self, resolved: &Resolved, id: MessageId) -> Place {
        let route = &resolved.route;
        let source = route.source(id.bits());
        let name = schedule_name(&resolved.site, source);
        let policy = site_policy(route);
        Place {
            shard: self.shard_of(&name),
            site: Some((name, policy)),
        }
    }

    pub(crate) fn shard_of(&self, name: &str) -> usize {
        let mut hasher = FxHasher::default();
        name.hash(&mut hasher);
        (hasher.finish() >> 32) as usize % self.shards.len()
    }

    fn tenant(&self, schedule: &mut Schedule, name: &str) -> TenantId {
        schedule.tenant(name, &self.policy.load().tenant(name).sending)
    }
}

/// What a site is called in a schedule: each egress source finds out for itself what it takes.
pub(crate) fn schedule_name(site: &Arc<str>, source: &Source) -> Arc<str> {
    if source.name.is_empty() {
        Arc::clone(site)
    } else {
        format!("{site} from {}", source.name).into()
    }
}

/// What a route says of its sites.
pub(crate) fn site_policy(route: &Route) -> SitePolicy {
    let connections_max = u16::try_from(route.connections_max).unwrap_or(u16::MAX);
    let messages_max = connections_max.saturating_mul(in_flight_per_connection(route.wire));
    let mut policy = match route.via {
        Via::Smarthosts(_) => SitePolicy::relay(messages_max),
        Via::Mx => SitePolicy::refusals(1, messages_max),
    };
    policy.rate = route.rate;
    policy
}

/// Messages that keep one connection busy: with overlapped transactions, the next stands ready while
/// one is on the wire.
const fn in_flight_per_connection(wire: Wire) -> u16 {
    match wire {
        Wire::Lockstep | Wire::Pipelined => 1,
        Wire::Overlapped => 2,
        Wire::Windowed(window) => window as u16,
    }
}

/// The domain that a recipient is at.
pub(crate) fn domain(message: &Head, recipient: u32) -> &str {
    let recipients = message.envelope.recipients();
    recipients[recipient as usize].address.domain()
}
