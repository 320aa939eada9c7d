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

/// The memory limit of this process's cgroup, of either version, if one is set.
pub(crate) fn cgroup_memory_bytes_max() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_bytes_max(&groups, Path::new("/sys/fs/cgroup"))
}

/// * `groups`: lines of `/proc/self/cgroup`: `0::PATH` of version 2, `N:memory:PATH` of version 1.
/// * `root`: where version 2 is mounted, and version 1 in a folder for each controller.
fn memory_bytes_max(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, group) = line.split_once(':')?;
        match controllers {
            "" => lowest(root, group, "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                lowest(&root.join("memory"), group, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min()
}

/// The lowest limit from a group up to the root: one higher up holds as well, and within a container
/// the group's own folder is often not to be seen.
fn lowest(root: &Path, group: &str, file: &str) -> Option<u64> {
    let folder = root.join(group.trim_start_matches('/'));
    let folders = folder.ancestors().take_while(|it| it.starts_with(root));
    let limits = folders.filter_map(|folder| {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        // No limit is `max`, or a number that no machine has.
        let bytes = text.trim().parse::<u64>().ok();
        bytes.filter(|bytes| *bytes < i64::MAX as u64 - (1 << 20))
    });
    limits.min()
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

    #[test]
    fn the_lowest_limit_of_a_cgroup_and_those_above_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let max = |groups: &str| memory_bytes_max(groups, dir.path());
        let (two, one) = ("0::/a/b\n", "5:cpu:/x\n4:memory,pids:/docker/c\n0::/\n");
        assert_eq!((max(two), max(one), max("")), (None, None, None));
        set("a/b/memory.max", "max\n");
        assert_eq!(max(two), None);
        set("a/memory.max", "7000\n");
        assert_eq!(max(two), Some(7000));
        set("a/b/memory.max", "5000\n");
        assert_eq!((max(two), max(one)), (Some(5000), None));

        set("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(max(one), None);
        // As a container sees it: its own limit at the root, under a path that is not there.
        set("memory/memory.limit_in_bytes", "4000\n");
        assert_eq!(max(one), Some(4000));
        set("memory/docker/c/memory.limit_in_bytes", "3000\n");
        assert_eq!(max(one), Some(3000));
        set("memory.max", "2000\n");
        assert_eq!((max(two), max(one)), (Some(2000), Some(2000)));
    }
}
