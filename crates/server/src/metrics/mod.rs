//! What Prometheus is told: what the engine counts, what the HTTP edge saw, and how long the
//! stages of deliveries took.
//!
//! Names are `mailrail_<noun>_<unit>[_total]`, in base units. Labels are few and bounded: statuses,
//! stages, routes; never a tenant, a site or an address, which the API is for. Nothing is global:
//! two servers in one process count apart.

mod edge;
mod levels;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Missed};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use store::{Event, StageTimes, Status};

use crate::smtp::Watcher;
use edge::SmtpEdge;
use levels::Levels;

/// What a scrape's answer is declared as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters and histograms of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_times: Family<Route, Histogram>,
    stages: Vec<Histogram>,
    deliveries: Histogram,
    missed: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: Arc<str>,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

impl Metrics {
    /// Of this engine.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        let mut registry = Registry::with_prefix("mailrail");
        registry.register_collector(Box::new(Levels(engine.clone())));
        let requests = Family::default();
        let help = "HTTP requests answered";
        registry.register("http_requests", help, requests.clone());
        // A quarter of a millisecond to half a minute.
        let request = || Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        let request_times = Family::new_with_constructor(request as fn() -> Histogram);
        let help = "Time from a request's header section to its answer's";
        registry.register_with_unit("http_request", help, Unit::Seconds, request_times.clone());
        let stage_times = Family::<Stage, Histogram>::new_with_constructor(stage_histogram);
        let help = "Time that attempts spent in each stage";
        registry.register_with_unit("stage", help, Unit::Seconds, stage_times.clone());
        let stages =
            StageTimes::NAMES.map(|stage| stage_times.get_or_create(&Stage { stage }).clone());
        // A millisecond to four days.
        let deliveries = Histogram::new(exponential_buckets(0.001, 3.0, 18));
        let help = "Time from acceptance to delivery";
        registry.register_with_unit("delivery", help, Unit::Seconds, deliveries.clone());
        let missed = Counter::default();
        let help = "Events that came too fast for the histograms of stages and deliveries";
        registry.register("missed_events", help, missed.clone());
        Self {
            registry,
            requests,
            request_times,
            stages: stages.into(),
            deliveries,
            missed,
        }
    }

    /// Tells of this SMTP edge too.
    pub fn watch(&mut self, edge: Watcher) {
        self.registry.register_collector(Box::new(SmtpEdge(edge)));
    }

    /// The text for a scrape.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }

    /// Takes the stages' times from the engine's events, until the engine ends.
    pub async fn follow(&self, engine: &Engine) {
        let mut events = engine.follow();
        loop {
            match events.next().await {
                Ok(Some(followed)) => self.observe(&followed.event),
                Ok(None) => return,
                Err(Missed(events)) => {
                    self.missed.inc_by(events);
                }
            }
        }
    }

    fn observe(&self, event: &Event) {
        let Some(outcome) = &event.outcome else {
            return;
        };
        for (histogram, us) in self.stages.iter().zip(outcome.times.0) {
            if us > 0 {
                histogram.observe(f64::from(us) / 1e6);
            }
        }
        if event.status == Status::Delivered {
            let taken = event.at.saturating_sub(event.message.time());
            self.deliveries.observe(taken.as_secs_f64());
        }
    }

    /// One HTTP request was answered. `route` is a pattern of ours, never a client's path.
    pub(crate) fn answered(
        &self,
        method: &'static str,
        route: &Arc<str>,
        code: u16,
        taken: Duration,
    ) {
        let route = Arc::clone(route);
        let answered = Answered {
            method,
            route: Arc::clone(&route),
            code,
        };
        self.requests.get_or_create(&answered).inc();
        let times = self.request_times.get_or_create(&Route { route });
        times.observe(taken.as_secs_f64());
    }
}

/// Ten microseconds to five minutes.
fn stage_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 3.0, 16))
}

/// Encodes a metric that has no labels.
fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let at = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
    metric.encode(at)
}
