//! Is it alive, is it ready, what does it offer: asked without a key.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

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

/// Mail is accepted now.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Readiness {
    /// Always true.
    ready: bool,
    /// What an operator should look at all the same: what is short, what is damaged.
    warnings: Vec<String>,
}

/// Whether mail is accepted now; 503 with the reason where it is not.
///
/// What neither time nor another server mends is no 503 but a warning: a journal of which a part
/// cannot be read takes mail and delivers the rest.
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "isReady",
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = ErrorBody),
    ),
)]
pub(crate) async fn ready(State(api): State<Api>) -> Result<Json<Readiness>, Problem> {
    let health = api.0.engine.health();
    let why = match health.refusing {
        Some(why) => why,
        None if health.draining || *api.0.stopping.borrow() => "shutting down".to_owned(),
        None => {
            return Ok(Json(Readiness {
                ready: true,
                warnings: health.pressures,
            }));
        }
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
