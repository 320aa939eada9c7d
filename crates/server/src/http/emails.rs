//! One message: where it stands, when it goes, taking it back.

use axum::Json;
use axum::extract::State;
use engine::views::{Filter, MessageView};
use serde::Serialize;
use store::MessageId;
use utoipa::ToSchema;

use super::Api;
use super::body::{self, Body, Named};
use super::caller::{MaySend, MayTrace, tenant_of};
use super::compose::scheduled_at;
use super::events::{EventList, all_of};
use super::problem::{ErrorBody, Kind, Problem};
use super::request::UpdateEmail;
use super::views::EmailView;
use crate::auth::Principal;

/// Which message was changed.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Changed {
    /// Always `email`.
    object: &'static str,
    #[schema(format = "uuid")]
    id: String,
}

impl Changed {
    fn new(id: MessageId) -> Json<Self> {
        Json(Self {
            object: "email",
            id: id.to_string(),
        })
    }
}

/// The message, if there is one that they may see.
async fn find(api: &Api, who: &Principal, id: &str) -> Result<MessageView, Problem> {
    let id: MessageId = id.parse().map_err(|error| Problem::invalid("id", error))?;
    let view = api.apart(move |api| Ok(api.0.engine.status(id))).await?;
    view.filter(|view| tenant_of(who).is_none_or(|tenant| tenant == view.tenant))
        .ok_or_else(|| Problem::not_found("Email"))
}

/// A message and where each of its recipients stands.
#[utoipa::path(
    get, path = "/emails/{id}", tag = "emails", operation_id = "getEmail",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = EmailView), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"]), ("key" = ["read"])),
)]
pub(crate) async fn get(
    State(api): State<Api>,
    MayTrace(who): MayTrace,
    Named(id): Named,
) -> Result<Json<EmailView>, Problem> {
    let view = find(&api, &who, &id).await?;
    // To take a large message apart takes long.
    let shown = move |api: &Api| Ok(EmailView::new(&view, api.0.engine.now()));
    api.apart(shown).await.map(Json)
}

/// Moves a scheduled message to another time.
#[utoipa::path(
    patch, path = "/emails/{id}", tag = "emails", operation_id = "updateEmail",
    params(("id" = String, Path, format = "uuid")),
    request_body = UpdateEmail,
    responses((status = 200, body = Changed), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    MaySend(who): MaySend,
    Named(id): Named,
    body: Body,
) -> Result<Json<Changed>, Problem> {
    let update: UpdateEmail = body::json(&body.bytes)?;
    let text = update
        .scheduled_at
        .ok_or(Problem::missing("scheduled_at"))?;
    let at = scheduled_at(&text, api.now(), api.ahead_max())?;
    let view = find(&api, &who, &id).await?;
    match api.0.engine.reschedule(view.id, at).await? {
        Some(()) => Ok(Changed::new(view.id)),
        None => Err(too_late("rescheduled")),
    }
}

/// Takes back what is not on its way yet.
#[utoipa::path(
    post, path = "/emails/{id}/cancel", tag = "emails", operation_id = "cancelEmail",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = Changed), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    MaySend(who): MaySend,
    Named(id): Named,
) -> Result<Json<Changed>, Problem> {
    let view = find(&api, &who, &id).await?;
    let only = Filter {
        message: Some(view.id),
        ..Filter::default()
    };
    match api.0.engine.cancel(&only).await? {
        0 => Err(too_late("canceled")),
        _ => Ok(Changed::new(view.id)),
    }
}

fn too_late(done: &str) -> Problem {
    let message = format!("The email cannot be {done}: it is on its way or settled.");
    Problem::new(Kind::Conflict, message)
}

/// Everything that happened to a message, oldest first.
#[utoipa::path(
    get, path = "/emails/{id}/events", tag = "emails", operation_id = "getEmailEvents",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = EventList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"]), ("key" = ["read"])),
)]
pub(crate) async fn events(
    State(api): State<Api>,
    MayTrace(who): MayTrace,
    Named(id): Named,
) -> Result<Json<EventList>, Problem> {
    let view = find(&api, &who, &id).await?;
    all_of(&api, view.id).await.map(Json)
}
