//! What this process costs the machine.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads since the start.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Threads that run tasks: all CPUs but one, which is left to the threads of the journal and the
/// history and to the kernel's share of the work. `TOKIO_WORKER_THREADS` says otherwise.
pub(crate) fn workers() -> usize {
    let told = std::env::var("TOKIO_WORKER_THREADS").ok();
    let told = told.and_then(|told| told.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    told.unwrap_or(cpus - 1).max(1)
}

/// Resident memory in bytes, now; `None` where the system does not say.
pub(crate) fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Lets this process open as many files, and thus connections, as the system lets anybody.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it fails, connections beyond the limit are refused one by one.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// How busy all CPUs of this machine are, with whatever it is.
#[derive(Debug)]
pub(crate) struct CpuMeter(Option<Ticks>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl CpuMeter {
    /// From now on.
    pub(crate) fn start() -> Self {
        Self(Ticks::now())
    }

    /// The share that was busy since the start, 0 to 1; `None` where the system does not say.
    pub(crate) fn share_since(&self) -> Option<f64> {
        let (before, now) = (self.0?, Ticks::now()?);
        let total = now.total.checked_sub(before.total).filter(|&t| t > 0)?;
        Some(now.busy.saturating_sub(before.busy) as f64 / total as f64)
    }
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Reads `cpu user nice system idle iowait irq softirq steal …`.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let words = line.split_ascii_whitespace().take(8);
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let total: u64 = ticks.iter().sum();
        let at_rest = ticks.get(3)? + ticks.get(4)?;
        Some(Self {
            busy: total - at_rest,
            total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_for_disks_are_not_busy() {
        let ticks = Ticks::parse("cpu  10 1 5 100 4 0 2 3 9 9\ncpu0 1 2\n").unwrap();
        assert_eq!((ticks.busy, ticks.total), (21, 125));
        for stat in ["", "cpu0 1 2 3 4 5", "cpu  1 2"] {
            assert!(Ticks::parse(stat).is_none(), "{stat}");
        }
    }
}
