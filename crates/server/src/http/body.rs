//! Bodies under limits: their octets, their pace, and the octets of all of them together.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::Api;
use super::problem::{Kind, Problem};

/// A body up to this has room of its own, so that large ones keep no operator from the levers.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Octets a second that a body must come with once its pause is used up.
const BYTES_PER_S_MIN: u64 = 32 << 10;

/// A whole body, and the room that it holds until it is dropped.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl FromRequest<Api> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let most = api.0.config.body_bytes_max;
        let declared = request.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > most) {
            return Err(too_large(most));
        }
        let room = room(api, declared.unwrap_or(most)).await?;
        let bytes = read(request, api, declared.unwrap_or(0), most).await?;
        Ok(Self { bytes, _room: room })
    }
}

/// Waits a while for room; a client that finds none comes again.
async fn room(api: &Api, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let config = &api.0.config;
    let (room, most) = match bytes <= SMALL_BYTES_MAX {
        true => (&api.0.small_body_room, config.small_bodies_bytes_max),
        false => (&api.0.body_room, config.bodies_bytes_max),
    };
    let most = (most >> 10).max(1);
    let kib = u32::try_from(bytes.div_ceil(1024).clamp(1, most)).unwrap_or(u32::MAX);
    let waiting = std::sync::Arc::clone(room).acquire_many_owned(kib);
    match timeout(api.0.config.body_timeout, waiting).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(Problem::new(
            Kind::RateLimit,
            "Too many requests are being read; try again later.",
        )
        .retry_after(5)),
    }
}

async fn read(request: Request, api: &Api, declared: usize, most: usize) -> Result<Bytes, Problem> {
    let mut stream = request.into_body().into_data_stream();
    let pause = api.0.config.body_timeout;
    let expected = if declared > 0 { declared } else { most } as u64;
    let latest = Instant::now() + pause + Duration::from_secs(expected / BYTES_PER_S_MIN);
    let mut next =
        async || match timeout_at(latest.min(Instant::now() + pause), stream.next()).await {
            Err(_) => Err(Problem::new(
                Kind::Timeout,
                "The body did not come in time.",
            )),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => {
                let message = format!("The body could not be read: {error}.");
                Err(Problem::new(Kind::BadRequest, message))
            }
        };
    let Some(first) = next().await? else {
        return Ok(Bytes::new());
    };
    if first.len() == declared {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(declared.max(first.len()));
    let mut chunk = Some(first);
    while let Some(bytes) = chunk {
        if whole.len() + bytes.len() > most {
            return Err(too_large(most));
        }
        whole.extend_from_slice(&bytes);
        chunk = next().await?;
    }
    Ok(whole.into())
}

fn too_large(most: usize) -> Problem {
    let message = format!("The request is too large: at most {most} octets are taken.");
    Problem::new(Kind::TooLarge, message)
}

/// Reads JSON; what is wrong is told with the field's path.
///
/// # Errors
/// 400 for what is no JSON, 422 for JSON of another shape.
pub(crate) fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if !error.is_data() {
        let message = format!("The body is not valid JSON: {error}.");
        return Err(Problem::new(Kind::BadRequest, message));
    }
    // Again, this time with account of where we are, which costs more.
    let mut again = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut again) {
        Ok(value) => Ok(value),
        Err(error) => {
            let what = plain(error.inner());
            Err(match error.path().to_string() {
                path if path == "." => Problem::new(Kind::Validation, format!("{what}.")),
                path => Problem::invalid(path, what),
            })
        }
    }
}

/// Without the place, which in an item of a batch would be a wrong one.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

/// A query string.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, api).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(Problem::new(Kind::Validation, error.body_text())),
        }
    }
}

/// What a path names, its escapes read.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) String);

impl FromRequestParts<Api> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match extract::Path::from_request_parts(parts, api).await {
            Ok(extract::Path(name)) => Ok(Self(name)),
            Err(error) => Err(Problem::new(Kind::BadRequest, error.body_text())),
        }
    }
}
