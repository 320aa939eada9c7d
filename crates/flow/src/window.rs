//! How many at once to a stranger: a window that follows what the other side refuses.
//!
//! For sites whose latency says nothing about load (it may be a scanner or a tarpit), refusals are the only sign there is. The window
//! opens low, grows by one for each *cohort* of clean deliveries (as many as the window: so each delivery adds 1/N), and
//! shrinks with **reverse hysteresis**: the first refusal shrinks it at once, the next ones only once a cohort of them has come,
//! for those that were in flight together say the same thing once. Postfix found 1/N feedback to defer 16.5 % where
//! steps of one deferred 49.7 % (its SCHEDULER_README).
//!
//! What 1/N alone gets wrong is the standing limit: at a site that takes ten connections it tries an eleventh after every tenth
//! delivery, for ever. So the window remembers where it was refused (its *ceiling*), and each time that it is refused there again, it
//! waits for twice as many cohorts before it tries to pass, up to 1,024.
//!
//! | | grows | shrinks |
//! |---|---|---|
//! | [`Law::PerWindow`] | 1/N a delivery, patiently at the ceiling | 1 a cohort |
//! | [`Law::Aimd`] | the same | by half a cohort |
//! | [`Law::Steps`] | 1 a delivery | 1 a refusal |
//! | [`Law::Fixed`] | – | – |
//!
//! Steps and Fixed are there to be compared with, and for those who know the limit.

/// Cohorts to wait for at the ceiling: two to this power, at most.
const PATIENCE_MAX: u8 = 10;

/// How a [`Window`] moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Law {
    /// 1/N up, one a cohort down.
    #[default]
    PerWindow,
    /// 1/N up, half a cohort down.
    Aimd,
    /// One up, one down.
    Steps,
    /// Stays as it opened.
    Fixed,
}

/// The bounds of a [`Window`] and its law; shared by all windows of a kind, so that each of them is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowLimits {
    /// What it opens with, 1..=`max`.
    pub open: u16,
    /// What it grows to.
    pub max: u16,
    /// How it moves.
    pub law: Law,
}

/// A number of places that follows refusals: 1 at least; see the module for its law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    size: u16,
    /// The size at which it was last refused; 0 if never.
    ceiling: u16,
    /// Growth over the ceiling takes two to this power cohorts.
    patience: u8,
    /// Share of what growth takes that has been delivered.
    grown: f32,
    /// Refusals, in shares of a cohort, that shrink nothing any more.
    forgiven: f32,
}

impl Window {
    /// Opens.
    #[must_use]
    pub const fn new(limits: &WindowLimits) -> Self {
        Self::at(limits.open, limits)
    }

    /// Goes on from a size that was learned before.
    #[must_use]
    pub const fn at(size: u16, limits: &WindowLimits) -> Self {
        let size = if size > limits.max { limits.max } else { size };
        Self {
            size: if size == 0 { 1 } else { size },
            ceiling: 0,
            patience: 0,
            grown: 0.0,
            forgiven: 0.0,
        }
    }

    /// How many may be in flight: 1..=`max`.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// One was delivered while `inflight` were in flight, itself included. A window that is not used does not grow.
    pub fn delivered(&mut self, inflight: u32, limits: &WindowLimits) {
        if inflight < u32::from(self.size) || self.size >= limits.max {
            return;
        }
        match limits.law {
            Law::Fixed => return,
            Law::Steps => self.grown = 1.0,
            Law::PerWindow | Law::Aimd => {
                let cohorts = 1_u32
                    << if self.is_at_ceiling() {
                        self.patience
                    } else {
                        0
                    };
                self.grown += 1.0 / (f32::from(self.size) * cohorts as f32);
            }
        }
        // A little less than one: N times 1/N may come out under it.
        if self.grown > 0.999 {
            self.size += 1;
            self.grown = 0.0;
            self.forgiven = 0.0;
        }
    }

    /// One was refused for load.
    pub fn refused(&mut self, limits: &WindowLimits) {
        match limits.law {
            Law::Fixed => return,
            Law::Steps => return self.shrink_to(self.size - 1),
            Law::PerWindow | Law::Aimd if self.forgiven > 0.001 => {
                self.forgiven -= 1.0 / f32::from(self.size);
                return;
            }
            Law::PerWindow => self.shrink_to(self.size - 1),
            Law::Aimd => self.shrink_to(self.size / 2),
        }
        self.forgiven = 1.0;
    }

    /// One connection too many was refused while `others` were open: the limit itself was said.
    pub fn refused_beyond(&mut self, others: u32, limits: &WindowLimits) {
        if limits.law != Law::Fixed && others < u32::from(self.size) {
            self.shrink_to(others as u16);
        }
    }

    const fn is_at_ceiling(&self) -> bool {
        self.ceiling > 0 && self.size + 1 >= self.ceiling
    }

    fn shrink_to(&mut self, size: u16) {
        let again = self.ceiling > 0 && self.size.abs_diff(self.ceiling) <= 1;
        self.patience = match again {
            true => (self.patience + 1).min(PATIENCE_MAX),
            false => 1,
        };
        self.ceiling = self.size;
        self.size = size.max(1);
        self.grown = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: WindowLimits = WindowLimits {
        open: 5,
        max: 20,
        law: Law::PerWindow,
    };

    fn with(law: Law) -> WindowLimits {
        WindowLimits { law, ..LIMITS }
    }

    fn deliver(window: &mut Window, times: u32, limits: &WindowLimits) {
        for _ in 0..times {
            window.delivered(u32::from(window.size()), limits);
        }
    }

    #[test]
    fn a_cohort_of_deliveries_adds_one() {
        let mut window = Window::new(&LIMITS);
        deliver(&mut window, 4, &LIMITS);
        assert_eq!(window.size(), 5);
        deliver(&mut window, 1, &LIMITS);
        assert_eq!(window.size(), 6);
        deliver(&mut window, 6, &LIMITS);
        assert_eq!(window.size(), 7);
    }

    #[test]
    fn a_window_that_is_not_full_does_not_grow() {
        let mut window = Window::new(&LIMITS);
        for _ in 0..1000 {
            window.delivered(4, &LIMITS);
        }
        assert_eq!(window.size(), 5);
    }

    #[test]
    fn the_first_refusal_shrinks_at_once_and_its_cohort_no_more() {
        let mut window = Window::at(10, &LIMITS);
        for _ in 0..10 {
            window.refused(&LIMITS);
        }
        assert_eq!(window.size(), 9);
        window.refused(&LIMITS);
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn halving_and_steps_do_as_their_names_say() {
        let (aimd, steps) = (with(Law::Aimd), with(Law::Steps));
        let (mut halved, mut stepped) = (Window::at(10, &aimd), Window::at(10, &steps));
        for _ in 0..5 {
            halved.refused(&aimd);
            stepped.refused(&steps);
        }
        assert_eq!((halved.size(), stepped.size()), (5, 5));
        deliver(&mut stepped, 5, &steps);
        assert_eq!(stepped.size(), 10);
    }

    #[test]
    fn at_a_standing_limit_refusals_become_rare() {
        let (mut window, mut refusals, mut deliveries) = (Window::new(&LIMITS), 0, 0);
        while deliveries < 10_000 {
            if window.size() > 10 {
                refusals += 1;
                window.refused_beyond(10, &LIMITS);
            }
            deliver(&mut window, 1, &LIMITS);
            deliveries += 1;
        }
        // A plain 1/N would have been refused about 900 times.
        assert!((5..=15).contains(&refusals), "{refusals}");
    }

    #[test]
    fn a_limit_that_was_raised_is_found() {
        let mut window = Window::new(&LIMITS);
        deliver(&mut window, 100, &LIMITS);
        window.refused_beyond(10, &LIMITS);
        deliver(&mut window, 500, &LIMITS);
        assert_eq!(window.size(), 20);
    }

    #[test]
    fn a_refused_connection_tells_the_limit() {
        let mut window = Window::at(20, &LIMITS);
        window.refused_beyond(7, &LIMITS);
        assert_eq!(window.size(), 7);
        window.refused_beyond(9, &LIMITS);
        assert_eq!(window.size(), 7);
        window.refused_beyond(0, &LIMITS);
        assert_eq!(window.size(), 1);
    }

    proptest! {
        #[test]
        fn a_window_stays_within_its_bounds(
            events in proptest::collection::vec((0..3_u8, 0..30_u32), 1..500),
            law in proptest::sample::select(vec![Law::PerWindow, Law::Aimd, Law::Steps, Law::Fixed]),
        ) {
            let limits = with(law);
            let mut window = Window::new(&limits);
            for (event, inflight) in events {
                match event {
                    0 => window.delivered(inflight, &limits),
                    1 => window.refused(&limits),
                    _ => window.refused_beyond(inflight, &limits),
                }
                prop_assert!((1..=20).contains(&window.size()));
                prop_assert!(law != Law::Fixed || window.size() == 5);
            }
        }
    }
}
