//! What goes wrong with a request, and the one place that says how it reads on the wire.
//!
//! Bodies are `{"statusCode", "name", "message", "field"?}`; the names are those that Resend's
//! clients know, so that their error handling works unchanged.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Every kind of failure that a client may be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    BadRequest,
    InvalidIdempotencyKey,
    MissingApiKey,
    RestrictedApiKey,
    InvalidApiKey,
    Suspended,
    NotFound,
    MethodNotAllowed,
    Timeout,
    Conflict,
    IdempotencyMismatch,
    IdempotencyInFlight,
    TooLarge,
    Validation,
    MissingField,
    InvalidAttachment,
    InvalidFrom,
    RateLimit,
    Quota,
    Internal,
    Unavailable,
}

impl Kind {
    /// HTTP status and name of the error.
    pub(crate) const fn wire(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "validation_error"),
            Self::InvalidIdempotencyKey => (400, "invalid_idempotency_key"),
            Self::MissingApiKey => (401, "missing_api_key"),
            Self::RestrictedApiKey => (401, "restricted_api_key"),
            Self::InvalidApiKey => (403, "invalid_api_key"),
            Self::Suspended => (403, "tenant_suspended"),
            Self::NotFound => (404, "not_found"),
            Self::MethodNotAllowed => (405, "method_not_allowed"),
            Self::Timeout => (408, "request_timeout"),
            Self::Conflict => (409, "conflict"),
            Self::IdempotencyMismatch => (409, "invalid_idempotent_request"),
            Self::IdempotencyInFlight => (409, "concurrent_idempotent_requests"),
            Self::TooLarge => (413, "request_too_large"),
            Self::Validation => (422, "validation_error"),
            Self::MissingField => (422, "missing_required_field"),
            Self::InvalidAttachment => (422, "invalid_attachment"),
            Self::InvalidFrom => (422, "invalid_from_address"),
            Self::RateLimit => (429, "rate_limit_exceeded"),
            Self::Quota => (429, "daily_quota_exceeded"),
            Self::Internal => (500, "internal_server_error"),
            Self::Unavailable => (503, "service_unavailable"),
        }
    }
}

/// One failure, ready to be told.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// The field of the request that it is about, as `to[1]` or `attachments[0].content`.
    pub(crate) field: Option<String>,
    /// When to try again, for 429 and 503.
    pub(crate) retry_after_s: Option<u64>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: None,
            retry_after_s: None,
        }
    }

    /// A field with a value that cannot be taken.
    pub(crate) fn invalid(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let field = field.into();
        let problem = Self::new(
            Kind::Validation,
            format!("Invalid `{field}` field: {message}."),
        );
        problem.at(field)
    }

    pub(crate) fn missing(field: &str) -> Self {
        Self::new(Kind::MissingField, format!("Missing `{field}` field.")).at(field)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("{what} not found"))
    }

    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// The same failure as part of a batch: its field begins with the item's place.
    pub(crate) fn in_item(mut self, index: usize) -> Self {
        self.field = Some(match self.field {
            Some(field) => format!("emails[{index}].{field}"),
            None => format!("emails[{index}]"),
        });
        self.message = format!("Email {index}: {}", self.message);
        self
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let (status_code, name) = self.kind.wire();
        ErrorBody {
            status_code,
            name,
            message: self.message.clone(),
            field: self.field.clone(),
        }
    }
}

/// The JSON of every answer that is not a success.
#[derive(Serialize, ToSchema, Debug)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    /// The HTTP status again.
    #[serde(rename = "statusCode")]
    #[schema(example = 422)]
    status_code: u16,
    /// What went wrong, for programs.
    #[schema(example = "validation_error")]
    name: &'static str,
    /// What went wrong, for people.
    message: String,
    /// The field of the request that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "to[0]")]
    field: Option<String>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, _) = self.kind.wire();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        // What is left of the body is not worth reading.
        if matches!(self.kind, Kind::TooLarge | Kind::Timeout) {
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after_s {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
