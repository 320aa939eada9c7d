//! What the engine does when the machine is short: first it narrows the windows, then it slows
//! acceptance, and it recovers by itself.
//!
//! | | windows shrink | acceptance slows | recovers below |
//! |---|---|---|---|
//! | CPU of this process, share of the machine | at the configured most, 80 % | there too, with windows at their least | 7/8 of it |
//! | memory, share of the limit | 80 % | 90 % | 80 % |
//! | journal's sync, smoothed | – | 1 s | 0.5 s |
//! | disk, free | – | at the configured least | 1.25 times that |
//!
//! Delivery frees memory and disk, so these never narrow it to nothing: the factor stops at
//! [`FACTOR_MIN`]. Pure: samples in, verdict out.

use std::time::Duration;

/// Windows are never narrowed below this share.
const FACTOR_MIN: f64 = 0.1;
/// Share of the CPU's limit below which all is well again.
const CPU_CALM: f64 = 0.875;
const MEMORY_NARROW: f64 = 0.80;
const MEMORY_REFUSE: f64 = 0.90;
const SYNC_MAX: Duration = Duration::from_secs(1);
/// What was refused is taken again below this share of its limit.
const CALM: f64 = 0.5;
/// Free disk needed again, as a multiple of the least.
const DISK_CALM: f64 = 1.25;
const NARROW: f64 = 0.8;
const WIDEN: f64 = 1.1;

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// 0 to 1.
    pub(crate) cpu_share: f64,
    /// 0 to 1.
    pub(crate) cpu_share_max: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_max: Option<u64>,
    pub(crate) journal_sync: Duration,
    pub(crate) disk_free_bytes: u64,
    pub(crate) disk_free_bytes_min: u64,
}

impl Sample {
    fn cpu_calm(&self) -> f64 {
        self.cpu_share_max * CPU_CALM
    }
}

/// A resource that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    Cpu,
    Memory,
    Journal,
    Disk,
}

impl Short {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Journal => "journal",
            Self::Disk => "disk",
        }
    }
}

/// The state of self-protection.
#[derive(Clone, Debug)]
pub(crate) struct Pressure {
    factor: f64,
    refusing: Option<Short>,
    /// Samples in a row for which the refusal has held; the wait told to clients grows with it.
    refused_for: u32,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            factor: 1.0,
            refusing: None,
            refused_for: 0,
        }
    }
}

impl Pressure {
    /// Takes a sample, as they come some times a second.
    pub(crate) fn sample(&mut self, sample: &Sample) {
        self.factor = self.next_factor(sample);
        let refusing = self.next_refusal(sample);
        self.refused_for = match refusing {
            Some(_) => self.refused_for.saturating_add(1),
            None => 0,
        };
        self.refusing = refusing;
    }

    /// 1.0 when all is well; windows shrink to this share.
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// Why nothing is accepted now.
    pub(crate) fn refusing(&self) -> Option<Short> {
        self.refusing
    }

    /// What a client that is refused now is told to wait: 1 s, up to 30 s as it lasts.
    pub(crate) fn retry_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.refused_for / 4).clamp(1, 30))
    }

    fn next_factor(&self, sample: &Sample) -> f64 {
        let memory = share(sample.memory_bytes, sample.memory_bytes_max);
        if sample.cpu_share > sample.cpu_share_max || memory > MEMORY_NARROW {
            (self.factor * NARROW).max(FACTOR_MIN)
        } else if sample.cpu_share < sample.cpu_calm() && memory < MEMORY_NARROW {
            (self.factor * WIDEN).min(1.0)
        } else {
            self.factor
        }
    }

    /// Whether this resource refuses: above its limit, or above its calm while it already does.
    fn next_refusal(&self, sample: &Sample) -> Option<Short> {
        let holds = |short: Short| self.refusing == Some(short);
        let memory = share(sample.memory_bytes, sample.memory_bytes_max);
        let memory_max = if holds(Short::Memory) {
            MEMORY_NARROW
        } else {
            MEMORY_REFUSE
        };
        let sync_max = if holds(Short::Journal) {
            SYNC_MAX.mul_f64(CALM)
        } else {
            SYNC_MAX
        };
        let disk_min = if holds(Short::Disk) {
            (sample.disk_free_bytes_min as f64 * DISK_CALM) as u64
        } else {
            sample.disk_free_bytes_min
        };
        let cpu_max = if holds(Short::Cpu) {
            sample.cpu_calm()
        } else {
            sample.cpu_share_max
        };
        let is_narrow = self.factor <= FACTOR_MIN || holds(Short::Cpu);
        if sample.disk_free_bytes < disk_min {
            Some(Short::Disk)
        } else if memory > memory_max {
            Some(Short::Memory)
        } else if sample.journal_sync > sync_max {
            Some(Short::Journal)
        } else if sample.cpu_share > cpu_max && is_narrow {
            Some(Short::Cpu)
        } else {
            None
        }
    }
}

/// What is short, in words, worst first; empty when nothing is.
pub(crate) fn words(sample: &Sample) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |is_short: bool, text: String| {
        if is_short {
            words.push(text);
        }
    };
    say(
        sample.disk_free_bytes < sample.disk_free_bytes_min,
        format!(
            "disk: {} free, {} needed",
            mib(sample.disk_free_bytes),
            mib(sample.disk_free_bytes_min)
        ),
    );
    let memory = share(sample.memory_bytes, sample.memory_bytes_max);
    say(
        memory > MEMORY_NARROW,
        format!(
            "memory: {} of {}",
            mib(sample.memory_bytes),
            mib(sample.memory_bytes_max.unwrap_or_default())
        ),
    );
    say(
        sample.journal_sync > SYNC_MAX,
        format!("journal: a sync takes {:.1?}", sample.journal_sync),
    );
    say(
        sample.cpu_share > sample.cpu_share_max,
        format!(
            "cpu: {:.0} % of {:.0} %",
            sample.cpu_share * 100.0,
            sample.cpu_share_max * 100.0
        ),
    );
    words
}

fn share(used: u64, limit: Option<u64>) -> f64 {
    limit.map_or(0.0, |limit| used as f64 / limit.max(1) as f64)
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Sample = Sample {
        cpu_share: 0.3,
        cpu_share_max: 0.8,
        memory_bytes: 100 << 20,
        memory_bytes_max: Some(1 << 30),
        journal_sync: Duration::from_millis(1),
        disk_free_bytes: 10 << 30,
        disk_free_bytes_min: 1 << 30,
    };

    fn after(pressure: &mut Pressure, sample: Sample, times: usize) -> (f64, Option<Short>) {
        for _ in 0..times {
            pressure.sample(&sample);
        }
        (pressure.factor(), pressure.refusing())
    }

    #[test]
    fn a_calm_machine_is_left_alone() {
        assert_eq!(after(&mut Pressure::default(), CALM, 10), (1.0, None));
        assert!(words(&CALM).is_empty());
    }

    #[test]
    fn cpu_narrows_the_windows_first_and_only_then_slows_acceptance() {
        let busy = Sample {
            cpu_share: 0.9,
            ..CALM
        };
        let mut pressure = Pressure::default();
        let (factor, refusing) = after(&mut pressure, busy, 3);
        assert!(factor < 0.6 && refusing.is_none(), "{factor} {refusing:?}");
        let (factor, refusing) = after(&mut pressure, busy, 20);
        assert_eq!((factor, refusing), (FACTOR_MIN, Some(Short::Cpu)));
        assert_eq!(words(&busy), ["cpu: 90 % of 80 %"]);
    }

    #[test]
    fn the_cpu_limit_is_what_is_configured() {
        let at = |cpu_share, cpu_share_max| Sample {
            cpu_share,
            cpu_share_max,
            ..CALM
        };
        for (cpu_share, cpu_share_max, is_short) in [
            (0.9, 0.95, false),
            (0.9, 1.0, false),
            (0.6, 0.5, true),
            (0.9, 0.8, true),
        ] {
            let mut pressure = Pressure::default();
            let sample = at(cpu_share, cpu_share_max);
            let (_, refusing) = after(&mut pressure, sample, 20);
            assert_eq!(
                refusing.is_some(),
                is_short,
                "{cpu_share} of {cpu_share_max}"
            );
            assert_eq!(words(&sample).len(), usize::from(is_short));
        }
        // Calm is below 7/8 of it, and not before.
        let mut pressure = Pressure::default();
        after(&mut pressure, at(0.6, 0.5), 20);
        assert_eq!(after(&mut pressure, at(0.45, 0.5), 5).1, Some(Short::Cpu));
        assert_eq!(after(&mut pressure, at(0.43, 0.5), 5).1, None);
    }

    #[test]
    fn it_recovers_by_itself_and_does_not_flap() {
        let mut pressure = Pressure::default();
        after(
            &mut pressure,
            Sample {
                cpu_share: 0.9,
                ..CALM
            },
            20,
        );
        let between = Sample {
            cpu_share: 0.75,
            ..CALM
        };
        assert_eq!(
            after(&mut pressure, between, 5),
            (FACTOR_MIN, Some(Short::Cpu))
        );
        assert_eq!(after(&mut pressure, CALM, 40), (1.0, None));
    }

    #[test]
    fn memory_disk_and_a_slow_journal_each_stop_acceptance() {
        for (sample, short) in [
            (
                Sample {
                    memory_bytes: 950 << 20,
                    ..CALM
                },
                Short::Memory,
            ),
            (
                Sample {
                    disk_free_bytes: 1,
                    ..CALM
                },
                Short::Disk,
            ),
            (
                Sample {
                    journal_sync: Duration::from_secs(2),
                    ..CALM
                },
                Short::Journal,
            ),
        ] {
            let mut pressure = Pressure::default();
            assert_eq!(after(&mut pressure, sample, 1).1, Some(short));
            assert_eq!(words(&sample).len(), 1, "{short:?}");
            assert_eq!(after(&mut pressure, CALM, 1).1, None, "{short:?}");
        }
    }

    #[test]
    fn the_wait_grows_while_the_refusal_lasts() {
        let full = Sample {
            disk_free_bytes: 1,
            ..CALM
        };
        let mut pressure = Pressure::default();
        after(&mut pressure, full, 1);
        assert_eq!(pressure.retry_after(), Duration::from_secs(1));
        after(&mut pressure, full, 1000);
        assert_eq!(pressure.retry_after(), Duration::from_secs(30));
    }
}
