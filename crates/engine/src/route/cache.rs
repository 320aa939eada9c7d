//! Answers kept as long as they hold, each asked for once however many want it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

/// A bounded cache. Keys may come from strangers, so the map's hashing is keyed.
#[derive(Debug)]
pub(super) struct Cache<K, V: Clone> {
    inner: Arc<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V: Clone> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    entries_max: usize,
}

#[derive(Debug, Clone)]
enum Entry<V: Clone> {
    Ready(V, Instant),
    /// Driven by whoever waits for it.
    Asked(Shared<BoxFuture<'static, V>>),
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                entries: Mutex::default(),
                entries_max: entries_max.max(1),
            }),
        }
    }

    /// What is known and holds.
    pub(super) fn get<Q>(&self, key: &Q, now: Instant) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        match self.inner.lock().get(key) {
            Some(Entry::Ready(value, until)) if *until > now => Some(value.clone()),
            _ => None,
        }
    }

    /// What is known, or what `ask` finds; `ask` also says how long that holds. It gets what was
    /// known before, if that is still there. Who comes while it is being asked waits for the same
    /// answer.
    pub(super) async fn get_or<A>(&self, key: &K, ask: impl FnOnce(Option<V>) -> A) -> V
    where
        A: Future<Output = (V, Duration)> + Send + 'static,
    {
        let asked = {
            let mut entries = self.inner.lock();
            let before = match entries.get(key) {
                Some(Entry::Ready(value, until)) if *until > Instant::now() => {
                    return value.clone();
                }
                Some(Entry::Ready(value, _)) => Ok(Some(value.clone())),
                Some(Entry::Asked(asked)) => Err(asked.clone()),
                None => Ok(None),
            };
            match before {
                Err(asked) => asked,
                Ok(before) => {
                    make_room(&mut entries, self.inner.entries_max);
                    let asked = self.ask(key.clone(), ask(before));
                    entries.insert(key.clone(), Entry::Asked(asked.clone()));
                    asked
                }
            }
        };
        asked.await
    }

    fn ask<A>(&self, key: K, answer: A) -> Shared<BoxFuture<'static, V>>
    where
        A: Future<Output = (V, Duration)> + Send + 'static,
    {
        let inner = Arc::downgrade(&self.inner);
        let asked = async move {
            let (value, ttl) = answer.await;
            if let Some(inner) = inner.upgrade() {
                let entry = Entry::Ready(value.clone(), Instant::now() + ttl);
                inner.lock().insert(key, entry);
            }
            value
        };
        asked.boxed().shared()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.inner.lock().len()
    }
}

impl<K, V: Clone> Inner<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it is full, an eighth goes: those that end first. What is being asked stays.
fn make_room<K: Hash + Eq, V: Clone>(entries: &mut HashMap<K, Entry<V>>, entries_max: usize) {
    if entries.len() < entries_max {
        return;
    }
    let ends = entries.values().filter_map(|entry| match entry {
        Entry::Ready(_, until) => Some(*until),
        Entry::Asked(_) => None,
    });
    let mut ends: Vec<Instant> = ends.collect();
    if ends.is_empty() {
        return;
    }
    let place = ends.len() / 8;
    let (_, end, _) = ends.select_nth_unstable(place);
    let end = *end;
    entries.retain(|_, entry| !matches!(entry, Entry::Ready(_, until) if *until <= end));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_one_question_and_the_answer_ends_with_its_time() {
        let cache = Cache::<u32, u32>::new(10);
        let asked = Arc::new(AtomicU32::new(0));
        let ask = || {
            let asked = Arc::clone(&asked);
            cache.get_or(&7, move |_| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let count = asked.fetch_add(1, Ordering::Relaxed);
                (count, Duration::from_secs(60))
            })
        };
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert_eq!((a, b, c), (0, 0, 0));
        assert_eq!(cache.get(&7, Instant::now()), Some(0));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(ask().await, 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(cache.get(&7, Instant::now()), None);
        assert_eq!(ask().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_away_does_not_take_the_answer_with_him() {
        let cache = Cache::<u32, u32>::new(10);
        let slow = |_| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            (1, Duration::from_secs(60))
        };
        let impatient = tokio::time::timeout(Duration::from_secs(1), cache.get_or(&7, slow));
        assert!(impatient.await.is_err());
        assert_eq!(cache.get_or(&7, |_| async { unreachable!() }).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_holds_more_than_it_may() {
        let cache = Cache::<u32, u32>::new(64);
        for key in 0..1000 {
            let ttl = Duration::from_secs(u64::from(key) + 1);
            cache.get_or(&key, |_| async move { (key, ttl) }).await;
            assert!(cache.len() <= 64);
        }
        assert_eq!(cache.get(&999, Instant::now()), Some(999));
        assert_eq!(cache.get(&0, Instant::now()), None);
    }
}
