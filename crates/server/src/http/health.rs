//! Is it alive, is it ready, what does it offer: asked without a key.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::{ErrorBody, Kind, Problem};

/// Whether the process answers at all.
#[utoipa::path(
    get, path = "/healthz", tag = "server", operation_id = "isAlive",
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether mail is accepted now; 503 with the reason where it is not.
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "isReady",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = ErrorBody),
    ),
)]
pub(crate) async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    let health = api.0.engine.health();
    let why = match health.refusing {
        Some(why) => why,
        None if health.draining || *api.0.stopping.borrow() => "shutting down".to_owned(),
        None => return Ok("ready\n"),
    };
    Err(Problem::new(Kind::Unavailable, why).retry_after(5))
}

/// Counters, levels and latencies as Prometheus reads them (OpenMetrics).
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "getMetrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
)]
pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    let kind = crate::metrics::CONTENT_TYPE;
    ([(CONTENT_TYPE, kind)], api.0.metrics.render()).into_response()
}
