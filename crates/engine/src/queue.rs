//! The schedules of the engine: what enters them, what they let go, and when to look again.
//!
//! A site lives wholly in one shard. Whoever has news for a shard (an accepted message, an attempt
//! that ended, a timer) takes its lock, tells it, polls it, and starts what it grants: no task
//! stands between a message and the wire.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHasher;
use schedule::{Job, Schedule, SiteId, SitePolicy, TenantId};
use store::{Message, Slot, Time};
use tokio::sync::Notify;

use crate::core::Core;
use crate::route::{Resolved, Via};

/// The name of the site where jobs wait whose domain is not resolved yet.
pub(crate) const UNRESOLVED: &str = "";

/// One schedule and its alarm.
pub(crate) struct Shard {
    schedule: Mutex<Schedule>,
    /// Jobs wait here for DNS, several at once.
    pub(crate) unresolved: SiteId,
    alarm: Mutex<Option<Time>>,
    /// The alarm is earlier than it was.
    pub(crate) alarm_moved: Notify,
}

impl Shard {
    pub(crate) fn new(mut schedule: Schedule, lookups_max: u16) -> Self {
        let mut policy = SitePolicy::refusals(lookups_max, lookups_max);
        policy.pace = false;
        policy.breaker_failures = u32::MAX;
        let unresolved = schedule.site(UNRESOLVED, policy);
        Self {
            schedule: Mutex::new(schedule),
            unresolved,
            alarm: Mutex::new(None),
            alarm_moved: Notify::new(),
        }
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Its id in the shard's schedule.
    pub(crate) fn site(&self, shard: &Shard, schedule: &mut Schedule) -> SiteId {
        match &self.site {
            Some((name, policy)) => schedule.site(name, policy.clone()),
            None => shard.unresolved,
        }
    }
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
        change: impl FnOnce(&mut Schedule, Time) -> T,
    ) -> T {
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        let place = &self.shards[shard];
        let now = self.clock.now();
        let (result, next) = {
            let mut schedule = place.schedule();
            let result = change(&mut schedule, now);
            let next = if self.gate.is_stopped() {
                None
            } else {
                schedule.poll(now, &mut grants, &mut expired)
            };
            (result, next)
        };
        place.set_alarm(next);
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
    /// * `attempts`: made so far.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        slot: Slot,
        message: &Message,
        recipients: &[u32],
        due_at: Time,
        attempts: u16,
    ) {
        for group in self.groups(message, recipients) {
            let shard = &self.shards[group.place.shard];
            let key = self.batches.key(slot, message.id, &group.recipients);
            self.turn(group.place.shard, |schedule, now| {
                let job = Job {
                    key: key.0,
                    site: group.place.site(shard, schedule),
                    tenant: self.tenant(schedule, &message.tenant),
                    priority: message.priority as u8,
                    cost: u16::try_from(group.recipients.len()).unwrap_or(u16::MAX),
                    attempts,
                    due_at,
                    expires_at: message.expires_at,
                    ..Job::default()
                };
                schedule.insert(job, now);
            });
        }
    }

    /// Recipients that travel together: to one site, or to one domain that is to be resolved.
    fn groups(&self, message: &Message, recipients: &[u32]) -> Vec<Group> {
        if let [recipient] = recipients {
            let place = self.place_of(message, *recipient);
            return vec![Group {
                place,
                recipients: vec![*recipient],
            }];
        }
        let mut groups: Vec<(String, Group)> = Vec::new();
        for &recipient in recipients {
            let place = self.place_of(message, recipient);
            let name = match &place.site {
                Some((name, _)) => name.to_string(),
                None => format!("@{}", domain(message, recipient)),
            };
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, group)) => group.recipients.push(recipient),
                None => groups.push((
                    name,
                    Group {
                        place,
                        recipients: vec![recipient],
                    },
                )),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    fn place_of(&self, message: &Message, recipient: u32) -> Place {
        let domain = domain(message, recipient);
        match self.resolver.known(domain, &message.tenant) {
            Some(Ok(resolved)) => self.place(&resolved, message),
            _ => Place {
                shard: self.shard_of(domain),
                site: None,
            },
        }
    }

    /// Where mail for what a domain resolved to waits.
    pub(crate) fn place(&self, resolved: &Resolved, message: &Message) -> Place {
        let route = &resolved.route;
        let source = route.source(message.id.bits());
        let name: Arc<str> = if source.name.is_empty() {
            Arc::clone(&resolved.site)
        } else {
            format!("{} from {}", resolved.site, source.name).into()
        };
        let connections_max = u16::try_from(route.connections_max).unwrap_or(u16::MAX);
        let mut policy = match route.via {
            Via::Smarthosts(_) => SitePolicy::relay(connections_max.saturating_mul(self.in_flight_per_connection(route))),
            Via::Mx => SitePolicy::refusals(1, connections_max),
        };
        policy.rate = route.rate;
        Place {
            shard: self.shard_of(&name),
            site: Some((name, policy)),
        }
    }

    fn shard_of(&self, name: &str) -> usize {
        let mut hasher = FxHasher::default();
        name.hash(&mut hasher);
        (hasher.finish() >> 32) as usize % self.shards.len()
    }

    fn tenant(&self, schedule: &mut Schedule, name: &str) -> TenantId {
        let policy = self.policy.load().tenant(name);
        schedule.tenant(name, policy)
    }
}

/// The domain that a recipient is at.
pub(crate) fn domain(message: &Message, recipient: u32) -> &str {
    let recipients = message.envelope.recipients();
    recipients[recipient as usize].address().domain()
}
