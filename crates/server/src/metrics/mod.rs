//! Prometheus text: what the engine counts, and what the edges saw.

use engine::Engine;

/// Counters and histograms of one server.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// The text for a scrape.
    #[must_use]
    pub fn render(&self, _engine: &Engine) -> String {
        String::new()
    }
}
