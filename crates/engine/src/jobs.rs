//! A shard's schedule, and where in it the jobs of a message stand: so that what is asked of one
//! message looks at no other's jobs, however many wait.
//!
//! Most jobs are for the only recipient of their message: where those stand is in a table by slot, four
//! octets each, whose entries are never taken out. The schedule checks the key.

use std::ops::{Deref, DerefMut};

use rustc_hash::FxHashMap;
use schedule::{Handle, Job, PutBack, Schedule};
use store::Time;

use crate::batches::Key;

const CHUNK: usize = 1 << 12;

/// What waits in one shard.
#[derive(Debug)]
pub(crate) struct Jobs {
    schedule: Schedule,
    /// Of the first recipient alone, by its message's slot.
    firsts: Vec<Option<Box<[Handle; CHUNK]>>>,
    /// Of other recipients, and of several together.
    others: FxHashMap<Key, Handle>,
}

/// What is asked of the schedule as a whole.
impl Deref for Jobs {
    type Target = Schedule;

    fn deref(&self) -> &Schedule {
        &self.schedule
    }
}

impl DerefMut for Jobs {
    fn deref_mut(&mut self) -> &mut Schedule {
        &mut self.schedule
    }
}

impl Jobs {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            firsts: Vec::new(),
            others: FxHashMap::default(),
        }
    }

    /// As [`Schedule::insert`].
    pub(crate) fn insert(&mut self, job: Job, now: Time) {
        let handle = self.schedule.insert(job, now);
        self.note(Key(job.key), handle);
    }

    /// As [`Schedule::put_back`].
    pub(crate) fn put_back(&mut self, job: Job, now: Time) -> PutBack {
        let put_back = self.schedule.put_back(job, now);
        if let PutBack::Kept(handle) = put_back {
            self.note(Key(job.key), handle);
        }
        put_back
    }

    /// As [`Schedule::poll`]; both are empty before.
    pub(crate) fn poll(
        &mut self,
        now: Time,
        grants: &mut Vec<Job>,
        expired: &mut Vec<Job>,
    ) -> Option<Time> {
        let next = self.schedule.poll(now, grants, expired);
        for job in grants.iter().chain(&*expired) {
            self.forget(Key(job.key));
        }
        next
    }

    /// The job with this key, if it waits.
    pub(crate) fn find(&self, key: Key) -> Option<Job> {
        self.schedule.get(self.handle(key)?, key.0)
    }

    /// Takes a job out, if it waits.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Job> {
        let job = self.schedule.remove(self.handle(key)?, key.0);
        self.forget(key);
        job
    }

    /// Gives a job another time, if it waits.
    pub(crate) fn reschedule(&mut self, key: Key, due_at: Time, now: Time) {
        if let Some(handle) = self.handle(key) {
            self.schedule.reschedule(handle, key.0, due_at, now);
        }
    }

    /// Takes out every job that is meant; looks at all.
    pub(crate) fn remove_where(&mut self, mut is_meant: impl FnMut(&Job) -> bool) -> Vec<Job> {
        let mut removed = Vec::new();
        self.schedule.remove_where(|job| {
            let is_meant = is_meant(job);
            removed.extend(is_meant.then_some(*job));
            is_meant
        });
        for job in &removed {
            self.forget(Key(job.key));
        }
        removed
    }

    fn note(&mut self, key: Key, handle: Handle) {
        if !key.is_first() {
            self.others.insert(key, handle);
            return;
        }
        let (chunk, place) = place(key);
        if self.firsts.len() <= chunk {
            self.firsts.resize_with(chunk + 1, || None);
        }
        let chunk = self.firsts[chunk].get_or_insert_with(|| Box::new([Handle::NONE; CHUNK]));
        chunk[place] = handle;
    }

    fn handle(&self, key: Key) -> Option<Handle> {
        if !key.is_first() {
            return self.others.get(&key).copied();
        }
        let (chunk, place) = place(key);
        Some(self.firsts.get(chunk)?.as_ref()?[place])
    }

    fn forget(&mut self, key: Key) {
        if !key.is_first() {
            self.others.remove(&key);
        }
    }
}

fn place(key: Key) -> (usize, usize) {
    let slot = key.slot().bits() as usize;
    (slot / CHUNK, slot % CHUNK)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schedule::{Config, SitePolicy, TenantPolicy};
    use store::{MessageId, Slot};

    use super::*;
    use crate::batches::Batches;

    const NOW: Time = Time::from_secs(1_790_000_000);

    #[test]
    fn every_job_is_found_by_its_key_until_it_leaves() {
        let mut jobs = Jobs::new(Schedule::new(Config::default(), 1));
        let site = jobs.site("relay", &SitePolicy::relay(100));
        let tenant = jobs.tenant("t", &TenantPolicy::default());
        let (batches, id) = (Batches::default(), MessageId::from_bits(9));
        let keys: Vec<Key> = [0, 5000, 5001]
            .map(Slot::from_bits)
            .into_iter()
            .flat_map(|slot| [&[0][..], &[3], &[1, 2]].map(|one| batches.key(slot, id, one)))
            .collect();
        let job = |key: Key, due_at| Job {
            key: key.0,
            site,
            tenant,
            due_at,
            expires_at: NOW + Duration::from_secs(60),
            ..Job::default()
        };
        for key in &keys {
            jobs.insert(job(*key, NOW + Duration::from_secs(1)), NOW);
        }
        assert!(keys.iter().all(|key| jobs.find(*key).is_some()));
        let other = batches.key(Slot::from_bits(7), id, &[0]);
        assert_eq!(jobs.find(other), None);

        for key in &keys[..3] {
            assert_eq!(jobs.remove(*key).unwrap().key, key.0);
            assert_eq!(jobs.remove(*key), None);
        }
        for key in &keys[3..6] {
            jobs.reschedule(*key, NOW, NOW);
        }
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        jobs.poll(NOW, &mut grants, &mut expired);
        assert_eq!(grants.len(), 3);
        assert!(keys[..6].iter().all(|key| jobs.find(*key).is_none()));
        for job in &grants {
            jobs.settle(NOW, job, schedule::Feedback::RateRefused);
            assert!(matches!(jobs.put_back(*job, NOW), PutBack::Kept(_)));
            assert_eq!(jobs.find(Key(job.key)).unwrap().refusals, 1);
        }
        assert_eq!(jobs.totals().searched, 0);
        assert_eq!(jobs.remove_where(|_| true).len(), 6);
        assert!(jobs.others.is_empty() && jobs.is_empty());
    }
}
