//! How busy this machine's CPUs are.

use std::time::Duration;

/// Reads `/proc/stat` now and then; knows nothing on systems without it.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    last: Option<(Duration, Ticks)>,
}

#[derive(Debug, Clone, Copy)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl CpuMeter {
    /// The share of CPU time, 0 to 1, that was busy since the last answer; `None` before `every`
    /// has passed, or where it cannot be known.
    pub(crate) fn sample(&mut self, now: Duration, every: Duration) -> Option<f64> {
        if self.last.is_some_and(|(at, _)| now < at + every) {
            return None;
        }
        let ticks = parse(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let (_, before) = self.last.replace((now, ticks))?;
        let total = ticks
            .total
            .checked_sub(before.total)
            .filter(|total| *total > 0)?;
        Some(ticks.busy.saturating_sub(before.busy) as f64 / total as f64)
    }
}

/// The first line: `cpu user nice system idle iowait irq softirq steal …`, in ticks.
fn parse(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map_while(|word| word.parse().ok())
        .collect();
    let total = ticks.iter().sum();
    let at_rest = ticks.get(3)? + ticks.get(4)?;
    Some(Ticks {
        busy: total - at_rest,
        total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_read() {
        let ticks = parse("cpu  10 1 5 100 4 0 2 3 9 9\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!((ticks.busy, ticks.total), (21, 125));
        for stat in ["", "cpu0 1 2 3 4 5", "cpu  1 2"] {
            assert!(parse(stat).is_none(), "{stat}");
        }
    }
}
