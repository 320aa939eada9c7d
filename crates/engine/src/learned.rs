//! What sites have taught, over a restart: kept in the table.

use std::sync::Arc;

use schedule::Learned;
use store::Time;

use crate::core::Core;

/// The table's space for what was learned; keys are site names.
const SPACE: u8 = b'l';
/// What was learned longer ago is not believed any more.
pub(crate) const KEPT_FOR: Time = Time::from_secs(7 * 24 * 3600);

impl Core {
    /// Writes what was learned; nobody waits for it.
    pub(crate) fn save_learned(&self) {
        let expires = self.clock.now() + KEPT_FOR;
        for shard in &self.shards {
            let learned = shard.schedule().export_learned();
            for (name, learned) in learned {
                let value = encode(&learned);
                if self
                    .table
                    .get(SPACE, name.as_bytes())
                    .is_some_and(|old| old == value[..])
                {
                    continue;
                }
                if let Err(error) = self
                    .table
                    .insert(SPACE, name.as_bytes(), &value, Some(expires))
                {
                    tracing::warn!(%error, "what was learned of sites is not saved");
                    return;
                }
            }
        }
    }

    /// Gives the schedules what earlier ones learned.
    pub(crate) fn restore_learned(&self) {
        // A copy in another shard would never be used, and would be saved in place of what is
        // learned from now on.
        let mut of_shards = vec![Vec::new(); self.shards.len()];
        for (key, value, _) in self.table.entries(SPACE) {
            let name = std::str::from_utf8(&key).ok();
            if let (Some(name), Some(learned)) = (name, decode(&value)) {
                of_shards[self.shard_of(name)].push((Arc::<str>::from(name), learned));
            }
        }
        for (shard, learned) in self.shards.iter().zip(of_shards) {
            shard.schedule().import_learned(learned);
        }
    }
}

/// Pace (8 octets; NaN for none), window (2), microseconds since the epoch (8); big-endian.
fn encode(learned: &Learned) -> [u8; 18] {
    let mut value = [0; 18];
    value[..8].copy_from_slice(&learned.pace_per_s.unwrap_or(f64::NAN).to_be_bytes());
    value[8..10].copy_from_slice(&learned.window.to_be_bytes());
    let at_us = u64::try_from(learned.at.as_micros()).unwrap_or(u64::MAX);
    value[10..].copy_from_slice(&at_us.to_be_bytes());
    value
}

fn decode(value: &[u8]) -> Option<Learned> {
    let (pace, rest) = value.split_first_chunk::<8>()?;
    let (window, at) = rest.split_first_chunk::<2>()?;
    let pace = f64::from_be_bytes(*pace);
    Some(Learned {
        pace_per_s: pace.is_finite().then_some(pace),
        window: u16::from_be_bytes(*window),
        at: Time::from_micros(u64::from_be_bytes(at.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Engine};

    #[test]
    fn what_was_learned_reads_back() {
        for pace_per_s in [None, Some(12.5)] {
            let learned = Learned {
                pace_per_s,
                window: 7,
                at: Time::from_micros(1_700_000_000_000_001),
            };
            assert_eq!(decode(&encode(&learned)), Some(learned));
        }
        assert_eq!(decode(b"short"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_shard_knows_its_own_sites_and_forgets_what_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path(), "mail.example.org".parse().unwrap());
        config.shards = 4;
        let engine = Engine::open(config).await.unwrap();
        let core = &engine.core;
        let learned = |at| Learned {
            pace_per_s: None,
            window: 77,
            at,
        };
        let (now, old) = (core.clock.now(), Time::from_secs(1_000_000));
        for (site, at) in (0..40).map(|site| (site, if site < 10 { old } else { now })) {
            let (name, value) = (format!("mx{site}.example"), encode(&learned(at)));
            let inserted = core.table.insert(SPACE, name.as_bytes(), &value, None);
            inserted.unwrap().await.unwrap();
        }
        core.restore_learned();
        let known = || {
            core.shards
                .iter()
                .map(|shard| shard.schedule().export_learned().len())
        };
        assert_eq!(known().sum::<usize>(), 40);
        assert!(known().all(|sites| sites < 40));
        for shard in &core.shards {
            shard.tidy(now);
        }
        assert_eq!(known().sum::<usize>(), 30);
        engine.drain(std::time::Duration::from_secs(5)).await;
    }
}
