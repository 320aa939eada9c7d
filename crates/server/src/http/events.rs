//! What happened: pages of history, and a stream that can be resumed.
//!
//! The stream reads history from a cursor on whenever something happened, so it misses nothing:
//! a reader that was away goes on from `Last-Event-ID`. What a slow reader has not taken waits in
//! history, not in memory; one that takes nothing for a while is cut off by its connection.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event as Sent, KeepAlive};
use futures_util::Stream;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use store::history::{Cursor, Order, Page, Query, QueryError};
use store::{MessageId, Status, Time};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::Params;
use super::caller::{MayRead, tenant_asked};
use super::problem::{ErrorBody, Kind, Problem};
use super::views::EventView;
use crate::auth::Principal;

/// Events of one page of the stream.
const STREAM_PAGE: usize = 500;
/// How often a stream looks again for events that are not durable yet, at the least.
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// Some of the events asked for.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct EventList {
    /// Always `list`.
    object: &'static str,
    data: Vec<EventView>,
    has_more: bool,
    /// Where the next page begins.
    cursor: String,
}

impl From<Page> for EventList {
    fn from(page: Page) -> Self {
        Self {
            object: "list",
            data: page.events.iter().map(EventView::from).collect(),
            has_more: page.more,
            cursor: page.cursor.to_string(),
        }
    }
}

/// Which events are asked for; all conditions hold together.
#[derive(Deserialize, IntoParams, Debug, Clone, Default)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Of this message.
    email_id: Option<String>,
    /// To this address.
    recipient: Option<String>,
    /// Of this tenant; one's own unless an operator says otherwise.
    tenant: Option<String>,
    /// With this label, as `name:value`.
    tag: Option<String>,
    /// Of attempts at this site.
    site: Option<String>,
    /// That led to this status: `accepted`, `deferred`, `held`, `delivered`, `bounced`, `expired`,
    /// `suppressed` or `canceled`.
    status: Option<String>,
    /// That happened then or later: ISO 8601, or so long ago, as `24h`.
    from: Option<String>,
    /// That happened before: ISO 8601, or so long ago.
    to: Option<String>,
    /// `newest` (the default) or `oldest` first.
    order: Option<String>,
    /// Where the page before this one ended.
    cursor: Option<String>,
    /// Events on a page, at most 1000; 100 unless said.
    limit: Option<usize>,
}

impl EventParams {
    async fn query(&self, api: &Api, who: &Principal) -> Result<Query, Problem> {
        let now = api.now();
        let moment = |field: &'static str, text: &Option<String>| {
            text.as_deref()
                .map(|text| ago(field, text, now))
                .transpose()
        };
        let tenant = tenant_asked(api, who, self.tenant.as_deref()).await?;
        Ok(Query {
            message: parsed("email_id", &self.email_id)?,
            recipient: self.recipient.as_deref().map(Box::from),
            tenant: tenant.as_deref().map(Box::from),
            tag: self.tag.as_deref().map(tag).transpose()?,
            site: self.site.as_deref().map(Box::from),
            status: self.status.as_deref().map(status).transpose()?,
            from: moment("from", &self.from)?,
            to: moment("to", &self.to)?,
            order: match self.order.as_deref() {
                None | Some("newest") => Order::Newest,
                Some("oldest") => Order::Oldest,
                Some(_) => return Err(Problem::invalid("order", "one of newest, oldest")),
            },
            cursor: parsed::<Cursor>("cursor", &self.cursor)?,
            limit: self
                .limit
                .unwrap_or(100)
                .clamp(1, store::history::LIMIT_MAX),
        })
    }
}

fn parsed<T: std::str::FromStr>(field: &str, text: &Option<String>) -> Result<Option<T>, Problem>
where
    T::Err: std::fmt::Display,
{
    let read = |text: &String| text.parse().map_err(|error| Problem::invalid(field, error));
    text.as_ref().map(read).transpose()
}

/// `name:value`, or the name alone for a label without a value.
pub(crate) fn tag(text: &str) -> Result<(Box<str>, Box<str>), Problem> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    match name {
        "" => Err(Problem::invalid("tag", "it is of the form name:value")),
        name => Ok((name.into(), value.into())),
    }
}

fn status(text: &str) -> Result<Status, Problem> {
    let known = || Status::ALL.map(Status::name).join(", ");
    Status::parse(text).ok_or_else(|| Problem::invalid("status", format!("one of {}", known())))
}

/// A moment, or a span before now.
pub(crate) fn ago(field: &str, text: &str, now: Timestamp) -> Result<Time, Problem> {
    let invalid = || Problem::invalid(field, "a date as 2026-08-05T11:52:01Z, or a span as 24h");
    let at = match text.parse::<Span>() {
        Ok(span) => now
            .to_zoned(jiff::tz::TimeZone::UTC)
            .checked_sub(span)
            .map_err(|_| invalid())?
            .timestamp(),
        Err(_) => text.parse().map_err(|_| invalid())?,
    };
    Ok(Time::try_from(at.as_duration()).unwrap_or_default())
}

/// Asks history.
async fn ask(api: &Api, query: Query) -> Result<Page, Problem> {
    api.apart(move |api| {
        api.0.engine.events(&query).map_err(|error| match error {
            QueryError::CursorOrder => Problem::invalid("cursor", error),
            error => Problem::new(Kind::Internal, format!("{error}.")),
        })
    })
    .await
}

/// A message's whole timeline.
pub(crate) async fn all_of(api: &Api, id: MessageId) -> Result<EventList, Problem> {
    let mut query = Query {
        message: Some(id),
        order: Order::Oldest,
        limit: store::history::LIMIT_MAX,
        ..Query::default()
    };
    let mut all = EventList::from(ask(api, query.clone()).await?);
    while all.has_more && all.data.len() < 10_000 {
        query.cursor = all.cursor.parse().ok();
        let page = EventList::from(ask(api, query.clone()).await?);
        all.data.extend(page.data);
        (all.cursor, all.has_more) = (page.cursor, page.has_more);
    }
    Ok(all)
}

/// What happened, by any condition, a page at a time.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "getEvents",
    params(EventParams),
    responses((status = 200, body = EventList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["read"])),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    MayRead(who): MayRead,
    Params(params): Params<EventParams>,
) -> Result<Json<EventList>, Problem> {
    let query = params.query(&api, &who).await?;
    ask(&api, query).await.map(|page| Json(page.into()))
}

/// What happens, as it happens (server-sent events).
///
/// Each event has the status as its name and a cursor as its id. With `Last-Event-ID` or `cursor`
/// the stream goes on from there; otherwise it begins now, or at `from`.
#[utoipa::path(
    get, path = "/events/stream", tag = "events", operation_id = "streamEvents",
    params(EventParams, ("Last-Event-ID" = Option<String>, Header, description = "a cursor")),
    responses(
        (status = 200, body = EventView, content_type = "text/event-stream"),
        (status = "4XX", body = ErrorBody),
    ),
    security(("key" = ["read"])),
)]
pub(crate) async fn stream(
    State(api): State<Api>,
    MayRead(who): MayRead,
    Params(mut params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Problem> {
    let Ok(room) = std::sync::Arc::clone(&api.0.stream_room).try_acquire_owned() else {
        let message = "There are as many streams as this server has room for.";
        return Err(Problem::new(Kind::RateLimit, message).retry_after(30));
    };
    if let Some(last) = headers.get("last-event-id").and_then(|id| id.to_str().ok()) {
        params.cursor = Some(last.to_owned());
    }
    params.order = Some("oldest".to_owned());
    let now = api.now();
    if params.cursor.is_none() && params.from.is_none() {
        params.from = Some(now.to_string());
    }
    let query = Query {
        limit: STREAM_PAGE,
        ..params.query(&api, &who).await?
    };
    let heartbeat = api.0.config.heartbeat;
    let reader = Reader::new(api, query);
    let stream = futures_util::stream::unfold((reader, room), async |(mut reader, room)| {
        let next = reader.next().await?;
        Some((Ok(next), (reader, room)))
    });
    let alive = KeepAlive::new().interval(heartbeat).text("alive");
    Ok(Sse::new(stream).keep_alive(alive))
}

/// One reader of the stream and how far it has come.
struct Reader {
    api: Api,
    query: Query,
    follower: engine::Follower,
    stopping: tokio::sync::watch::Receiver<bool>,
    /// Read, not sent yet; the last one first.
    page: Vec<Sent>,
    has_more: bool,
    /// What was told of may not have been there to be read; when to look again.
    again: Option<Duration>,
    has_ended: bool,
}

impl Reader {
    fn new(api: Api, query: Query) -> Self {
        Self {
            follower: api.0.engine.follow(),
            stopping: api.0.stopping.subscribe(),
            api,
            query,
            page: Vec::new(),
            has_more: true,
            again: None,
            has_ended: false,
        }
    }

    /// What to send next; `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(sent) = self.page.pop() {
                return Some(sent);
            }
            if self.has_ended {
                return None;
            }
            if !self.has_more && !self.something_happened().await {
                self.has_ended = true;
                return Some(said("closing", "the server is stopping"));
            }
            if let Err(problem) = self.read().await {
                self.has_ended = true;
                return Some(said("error", &problem.message));
            }
        }
    }

    /// Waits for the next event, and a little for those that come with it; false at the end.
    async fn something_happened(&mut self) -> bool {
        let again = self.again;
        let again = async move {
            match again {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            _ = self.stopping.wait_for(|stopping| *stopping) => return false,
            () = again => return true,
            followed = self.follower.next() => !matches!(followed, Ok(None)),
        };
        tokio::time::sleep(self.api.0.config.gather).await;
        happened
    }

    async fn read(&mut self) -> Result<(), Problem> {
        // Asked before it is read: what is recorded after this is told of after it.
        let has_all = self.api.0.engine.has_read_up();
        let page = ask(&self.api, self.query.clone()).await?;
        let id = page.cursor.to_string();
        let last = page.events.len().saturating_sub(1);
        let sent = page.events.iter().enumerate().map(|(index, event)| {
            let json = serde_json::to_string(&EventView::from(event)).unwrap_or_default();
            let sent = Sent::default().event(event.status.name()).data(json);
            // Whoever resumes in the middle of a page sees its start again, never less.
            if index == last { sent.id(&id) } else { sent }
        });
        self.page = sent.rev().collect();
        let sooner = self.again.filter(|_| self.page.is_empty());
        let pause = sooner.map_or(self.api.0.config.gather, |pause| 2 * pause);
        self.again = (!has_all).then_some(pause.clamp(Duration::from_millis(1), AGAIN_MAX));
        self.has_more = page.more;
        self.query.cursor = Some(page.cursor);
        Ok(())
    }
}

fn said(name: &str, message: &str) -> Sent {
    Sent::default().event(name).data(message)
}
