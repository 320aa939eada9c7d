//! How near a server is: the shortest time that it lately took to answer.

use std::time::Duration;

/// A server that answers within this is near: it takes a window of messages, one after the other,
/// in less time than a user notices.
const NEAR: Duration = Duration::from_millis(1);
/// How much of the difference to a longer answer is taken over at each.
const SHARE: u32 = 32;

/// See the module. Nothing is near before it has answered.
#[derive(Debug, Default)]
pub(crate) struct Nearness(Option<Duration>);

impl Nearness {
    /// A transaction was answered after `latency`.
    pub(crate) fn answered(&mut self, latency: Duration) {
        let known = *self.0.get_or_insert(latency);
        let longer = latency.saturating_sub(known) / SHARE;
        self.0 = Some(known.min(latency) + longer);
    }

    pub(crate) fn is_near(&self) -> bool {
        self.0.is_some_and(|shortest| shortest < NEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_among_quick_ones_leaves_a_server_near_and_many_do_not() {
        let mut nearness = Nearness::default();
        assert!(!nearness.is_near());
        for _ in 0..10 {
            nearness.answered(Duration::from_micros(200));
            nearness.answered(Duration::from_millis(10));
            assert!(nearness.is_near());
        }
        for _ in 0..10 {
            nearness.answered(Duration::from_millis(10));
        }
        assert!(!nearness.is_near());
        nearness.answered(Duration::from_micros(200));
        assert!(nearness.is_near());
    }
}
