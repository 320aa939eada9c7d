//! What this process and its machine have and use: CPU, memory, disk.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// CPU time used by this process, user and system.
fn cpu_time() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(usage.tv_sec).unwrap_or_default(),
        u32::try_from(usage.tv_nsec).unwrap_or_default(),
    )
}

/// The share of the machine's CPU that this process used between two looks.
#[derive(Debug)]
pub(crate) struct CpuMeter {
    cores: f64,
    used: Duration,
    at: Instant,
}

impl CpuMeter {
    pub(crate) fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cores: cores as f64,
            used: cpu_time(),
            at: Instant::now(),
        }
    }

    /// Since the last look; 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        let (used, at) = (cpu_time(), Instant::now());
        let wall = (at - self.at).as_secs_f64() * self.cores;
        let spent = used.saturating_sub(self.used).as_secs_f64();
        (self.used, self.at) = (used, at);
        if wall > 0.0 {
            (spent / wall).min(1.0)
        } else {
            0.0
        }
    }
}

/// What a sync of the journal takes, as of late.
#[derive(Debug, Default)]
pub(crate) struct SyncMeter {
    syncs: u64,
    sum: Duration,
    time: Duration,
}

impl SyncMeter {
    /// The mean of those since the last look. Without any, what was last seen holds while records wait
    /// for a sync; where none waits, nothing is slow: who is refused for a slow sync brings no next one
    /// that could end the refusal.
    ///
    /// * `syncs`, `sum`: how many there have been, and what they took.
    pub(crate) fn look(&mut self, syncs: u64, sum: Duration, is_idle: bool) -> Duration {
        let new = u32::try_from(syncs - self.syncs).unwrap_or(u32::MAX);
        self.time = match sum.saturating_sub(self.sum).checked_div(new) {
            Some(mean) => mean,
            None if is_idle => Duration::ZERO,
            None => self.time,
        };
        (self.syncs, self.sum) = (syncs, sum);
        self.time
    }
}

/// Resident memory of this process in octets; 0 where it cannot be known.
pub(crate) fn memory_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// The memory limit of this process's cgroup (version 2), if one is set.
pub(crate) fn cgroup_memory_bytes_max() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut folder = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let mut limit = None;
    // A limit higher up holds as well.
    while folder.starts_with("/sys/fs/cgroup") {
        let text = std::fs::read_to_string(folder.join("memory.max")).unwrap_or_default();
        if let Ok(bytes) = text.trim().parse::<u64>() {
            limit = Some(limit.map_or(bytes, |limit: u64| limit.min(bytes)));
        }
        if !folder.pop() {
            break;
        }
    }
    limit
}

/// Free octets on the disk of `path` for us; `u64::MAX` where it cannot be known.
pub(crate) fn disk_free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sync_is_forgotten_once_nothing_waits_for_another() {
        let seconds = Duration::from_secs;
        let mut meter = SyncMeter::default();
        assert_eq!(meter.look(0, Duration::ZERO, true), Duration::ZERO);
        assert_eq!(meter.look(2, seconds(6), false), seconds(3));
        assert_eq!(meter.look(2, seconds(6), false), seconds(3));
        assert_eq!(meter.look(2, seconds(6), true), Duration::ZERO);
        assert_eq!(meter.look(3, seconds(7), true), seconds(1));
    }
}
