//! The operator's view and levers: queue, sites, suspensions, and how the engine is.
//!
//! Over 500 lines: each route stands with the shape of its answer, which the API's document is
//! made from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use engine::views::{Filter, Health, QueueLine, SiteView, Stats};
use serde::{Deserialize, Serialize};
use store::Time;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::{self, Body, Named, Params};
use super::caller::{MayOperate, MayRead, MaySend, tenant_asked};
use super::events::{ago, tag};
use super::problem::{ErrorBody, Kind, Problem};
use super::views::moment_option;
use crate::auth::Principal;

/// How often a recipient that failed is taken up again over its life, unless told so.
const RETRIED_MAX: u16 = 3;

/// Which of the waiting mail is shown.
#[derive(Deserialize, IntoParams, Debug)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct QueueParams {
    /// For this site.
    site: Option<String>,
    /// Of this tenant.
    tenant: Option<String>,
    /// Only lines with mail in this state: `ready`, `waiting`, `in_flight`, `held` or `suspended`.
    state: Option<String>,
}

/// Waiting mail by site and tenant.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct QueueList {
    /// Always `list`.
    object: &'static str,
    data: Vec<QueueItem>,
}

/// Waiting mail of one tenant for one site.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct QueueItem {
    site: String,
    tenant: String,
    /// Could go now.
    ready: u64,
    /// Its time has not come.
    waiting: u64,
    /// On the wire.
    in_flight: u64,
    /// Outcome unknown, held for a decision.
    held: u64,
    /// Stopped by the operator.
    suspended: bool,
}

impl From<QueueLine> for QueueItem {
    fn from(line: QueueLine) -> Self {
        Self {
            site: line.site.to_string(),
            tenant: line.tenant.to_string(),
            ready: line.ready,
            waiting: line.waiting,
            in_flight: line.in_flight,
            held: line.held,
            suspended: line.suspended,
        }
    }
}

/// What waits, by site and tenant.
#[utoipa::path(
    get, path = "/queue", tag = "queue", operation_id = "getQueue",
    params(QueueParams),
    responses((status = 200, body = QueueList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["read"])),
)]
pub(crate) async fn queue(
    State(api): State<Api>,
    MayRead(who): MayRead,
    Params(params): Params<QueueParams>,
) -> Result<Json<QueueList>, Problem> {
    let has = match params.state.as_deref() {
        None => |_: &QueueLine| true,
        Some("ready") => |line: &QueueLine| line.ready > 0,
        Some("waiting") => |line: &QueueLine| line.waiting > 0,
        Some("in_flight") => |line: &QueueLine| line.in_flight > 0,
        Some("held") => |line: &QueueLine| line.held > 0,
        Some("suspended") => |line: &QueueLine| line.suspended,
        Some(_) => {
            let known = "one of ready, waiting, in_flight, held, suspended";
            return Err(Problem::invalid("state", known));
        }
    };
    let filter = Filter {
        tenant: tenant_asked(&api, &who, params.tenant.as_deref()).await?,
        site: params.site.map(Arc::from),
        ..Filter::default()
    };
    let lines = api
        .apart(move |api| Ok(api.0.engine.queue(&filter)))
        .await?;
    Ok(Json(QueueList {
        object: "list",
        data: lines.into_iter().filter(has).map(QueueItem::from).collect(),
    }))
}

/// Which of the waiting mail is meant; all conditions hold together.
#[derive(Deserialize, ToSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    /// Of this tenant; one's own unless an operator says otherwise.
    tenant: Option<String>,
    /// For this site.
    site: Option<String>,
    /// This message.
    email_id: Option<String>,
    /// To this domain.
    domain: Option<String>,
    /// To this address.
    recipient: Option<String>,
    /// With this label, as `name:value`.
    tag: Option<String>,
    /// Needs to be true where no condition is given.
    #[serde(default)]
    all: bool,
}

impl Selection {
    /// # Errors
    /// A condition that cannot be read, another's tenant or one that nobody knows, or no condition where `all` is not said.
    async fn filter(self, api: &Api, who: &Principal) -> Result<Filter, Problem> {
        let has_condition = [
            &self.tenant,
            &self.site,
            &self.email_id,
            &self.domain,
            &self.recipient,
            &self.tag,
        ]
        .iter()
        .any(|condition| condition.is_some());
        if !has_condition && !self.all {
            let message = "Give a condition, or `\"all\": true` to mean everything.";
            return Err(Problem::new(Kind::MissingField, message));
        }
        let id = self.email_id.as_deref().map(str::parse).transpose();
        Ok(Filter {
            tenant: tenant_asked(api, who, self.tenant.as_deref()).await?,
            site: self.site.map(Arc::from),
            message: id.map_err(|error| Problem::invalid("email_id", error))?,
            domain: self.domain.map(|it| it.to_ascii_lowercase().into()),
            recipient: self.recipient.map(Box::from),
            tag: self.tag.as_deref().map(tag).transpose()?,
        })
    }
}

/// How much was changed.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Affected {
    /// Recipients.
    recipients: u64,
}

/// It is so from now on.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Done {
    /// Always true.
    done: bool,
}

/// Stops deliveries to a site, of a tenant, or both; survives a restart.
#[utoipa::path(
    post, path = "/queue/suspend", tag = "queue", operation_id = "suspend",
    request_body = Selection,
    responses((status = 200, body = Done), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn suspend(
    State(api): State<Api>,
    MayOperate(who): MayOperate,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let filter = site_or_tenant(body::json(&body.bytes)?, &api, &who).await?;
    api.0.engine.suspend(&filter).await?;
    Ok(Json(Done { done: true }))
}

/// Takes a suspension back.
#[utoipa::path(
    post, path = "/queue/resume", tag = "queue", operation_id = "resume",
    request_body = Selection,
    responses((status = 200, body = Done), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn resume(
    State(api): State<Api>,
    MayOperate(who): MayOperate,
    body: Body,
) -> Result<Json<Done>, Problem> {
    let filter = site_or_tenant(body::json(&body.bytes)?, &api, &who).await?;
    api.0.engine.resume(&filter).await?;
    Ok(Json(Done { done: true }))
}

/// Suspensions are of sites and tenants alone.
async fn site_or_tenant(
    selection: Selection,
    api: &Api,
    who: &Principal,
) -> Result<Filter, Problem> {
    let others = [
        ("email_id", &selection.email_id),
        ("domain", &selection.domain),
        ("recipient", &selection.recipient),
        ("tag", &selection.tag),
    ];
    if let Some((field, _)) = others.iter().find(|(_, condition)| condition.is_some()) {
        return Err(Problem::invalid(
            *field,
            "only a site or a tenant is suspended",
        ));
    }
    selection.filter(api, who).await
}

/// Makes what waits due now, held recipients too.
#[utoipa::path(
    post, path = "/queue/retry", tag = "queue", operation_id = "retry",
    request_body = Selection,
    responses((status = 200, body = Affected), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn retry(
    State(api): State<Api>,
    MaySend(who): MaySend,
    body: Body,
) -> Result<Json<Affected>, Problem> {
    let filter = body::json::<Selection>(&body.bytes)?
        .filter(&api, &who)
        .await?;
    let recipients = api.0.engine.retry(&filter).await?;
    Ok(Json(Affected { recipients }))
}

/// What failed and is to be tried again.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failed {
    /// What bounced or expired then or later: ISO 8601, or so long ago, as `24h`.
    #[schema(example = "24h")]
    since: String,
    /// How often one recipient may be taken up over its life; 3 unless said.
    times_max: Option<u16>,
    /// Which of it; all unless said.
    #[serde(rename = "where")]
    selection: Option<Selection>,
}

/// Takes up recipients that bounced or expired.
#[utoipa::path(
    post, path = "/retry", tag = "queue", operation_id = "retryFailed",
    request_body = Failed,
    responses((status = 200, body = Affected), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn retry_failed(
    State(api): State<Api>,
    MaySend(who): MaySend,
    body: Body,
) -> Result<Json<Affected>, Problem> {
    let failed: Failed = body::json(&body.bytes)?;
    let since = ago("since", &failed.since, api.now())?;
    let all = Selection {
        all: true,
        ..Selection::default()
    };
    let filter = failed.selection.unwrap_or(all).filter(&api, &who).await?;
    let times_max = failed.times_max.unwrap_or(RETRIED_MAX);
    let recipients = api.0.engine.retry_failed(&filter, since, times_max).await?;
    Ok(Json(Affected { recipients }))
}

/// Takes back what is not on the wire and not settled.
#[utoipa::path(
    post, path = "/queue/cancel", tag = "queue", operation_id = "cancel",
    request_body = Selection,
    responses((status = 200, body = Affected), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    MaySend(who): MaySend,
    body: Body,
) -> Result<Json<Affected>, Problem> {
    let filter = body::json::<Selection>(&body.bytes)?
        .filter(&api, &who)
        .await?;
    let recipients = api.0.engine.cancel(&filter).await?;
    Ok(Json(Affected { recipients }))
}

/// One site: the limits in force and which one binds.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct SiteState {
    name: String,
    ready: u64,
    waiting: u64,
    in_flight: u64,
    /// Messages that may be on the wire at once, now.
    window: f64,
    /// Messages a second, learned.
    pace_per_s: Option<f64>,
    /// Messages a second, configured.
    rate_per_s: Option<f64>,
    /// `closed`, `half-open` or `open`.
    breaker: &'static str,
    /// When an open breaker lets a probe out.
    #[serde(serialize_with = "moment_option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    breaker_until: Option<Time>,
    suspended: bool,
    /// What keeps it from going faster, in one word.
    binding: &'static str,
    /// The same in a sentence.
    why: String,
    connections_open: u64,
    connections_idle: u64,
}

impl From<SiteView> for SiteState {
    fn from(view: SiteView) -> Self {
        Self {
            name: view.name.to_string(),
            ready: view.ready,
            waiting: view.waiting,
            in_flight: view.in_flight,
            window: view.window,
            pace_per_s: view.pace_per_s,
            rate_per_s: view.rate_per_s,
            breaker: view.breaker,
            breaker_until: view.breaker_until,
            suspended: view.suspended,
            binding: view.binding,
            why: view.why,
            connections_open: view.connections_open,
            connections_idle: view.connections_idle,
        }
    }
}

/// Every site that has mail or is remembered.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct SiteList {
    /// Always `list`.
    object: &'static str,
    data: Vec<SiteState>,
}

/// Every site that has mail or is remembered.
#[utoipa::path(
    get, path = "/sites", tag = "sites", operation_id = "getSites",
    responses((status = 200, body = SiteList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn sites(
    State(api): State<Api>,
    _: MayOperate,
) -> Result<Json<SiteList>, Problem> {
    let sites = api.apart(|api| Ok(api.0.engine.sites())).await?;
    Ok(Json(SiteList {
        object: "list",
        data: sites.into_iter().map(SiteState::from).collect(),
    }))
}

/// One site: the limits in force and which one binds.
#[utoipa::path(
    get, path = "/sites/{site}", tag = "sites", operation_id = "getSite",
    params(("site" = String, Path)),
    responses((status = 200, body = SiteState), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn site(
    State(api): State<Api>,
    _: MayOperate,
    Named(name): Named,
) -> Result<Json<SiteState>, Problem> {
    let view = api.apart(move |api| Ok(api.0.engine.site(&name))).await?;
    view.map(|view| Json(view.into()))
        .ok_or_else(|| Problem::not_found("Site"))
}

/// How the engine is, what it does about it and why, and what it has done since the start.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct EngineState {
    /// Why nothing is accepted; null while mail is.
    refusing: Option<String>,
    /// 1: windows are as wide as they may be; less: the machine is short.
    window_factor: f64,
    /// What binds, in words, worst first; then what is damaged.
    pressures: Vec<String>,
    /// Places of the journal that cannot be read; the mail in them is not delivered.
    journal_damaged: u64,
    /// Places of the history that cannot be read.
    history_damaged: u64,
    /// Share of the machine's CPU, 0 to 1.
    cpu_share: f64,
    memory_bytes: u64,
    memory_bytes_max: Option<u64>,
    disk_free_bytes: u64,
    /// The last syncs of the journal, smoothed.
    journal_sync_us: u64,
    recovering: bool,
    draining: bool,
    /// Since the start, or now where it is a level.
    counts: Counts,
}

/// Counters since the start and levels now.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Counts {
    messages_accepted: u64,
    submissions_refused: u64,
    recipients_delivered: u64,
    attempts_deferred: u64,
    recipients_bounced: u64,
    recipients_expired: u64,
    recipients_suppressed: u64,
    recipients_canceled: u64,
    outcomes_unknown: u64,
    grants_rate_refused: u64,
    notices_written: u64,
    /// Unsettled now.
    messages: u64,
    /// Unsettled now.
    recipients: u64,
    /// Held now.
    recipients_held: u64,
    /// Jobs that could go now; a job is one message's recipients for one site.
    ready: u64,
    /// Jobs whose time has not come.
    waiting: u64,
    /// Jobs on the wire now.
    in_flight: u64,
    live_bytes: u64,
    used_bytes: u64,
    history_bytes: u64,
    connections_open: u64,
}

impl EngineState {
    fn new(health: Health, stats: &Stats) -> Self {
        Self {
            refusing: health.refusing,
            window_factor: health.window_factor,
            pressures: health.pressures,
            journal_damaged: health.journal_damaged,
            history_damaged: health.history_damaged,
            cpu_share: health.cpu_share,
            memory_bytes: health.memory_bytes,
            memory_bytes_max: health.memory_bytes_max,
            disk_free_bytes: health.disk_free_bytes,
            journal_sync_us: u64::try_from(health.journal_sync.as_micros()).unwrap_or(u64::MAX),
            recovering: health.recovering,
            draining: health.draining,
            counts: Counts {
                messages_accepted: stats.accepted,
                submissions_refused: stats.refused,
                recipients_delivered: stats.delivered,
                attempts_deferred: stats.deferred,
                recipients_bounced: stats.bounced,
                recipients_expired: stats.expired,
                recipients_suppressed: stats.suppressed,
                recipients_canceled: stats.canceled,
                outcomes_unknown: stats.unknown,
                grants_rate_refused: stats.rate_refused,
                notices_written: stats.notices,
                messages: stats.messages,
                recipients: stats.recipients,
                recipients_held: stats.held,
                ready: stats.ready,
                waiting: stats.waiting,
                in_flight: stats.in_flight,
                live_bytes: stats.live_bytes,
                used_bytes: stats.used_bytes,
                history_bytes: stats.history_bytes,
                connections_open: stats.connections_open,
            },
        }
    }
}

/// How the engine is, what it does about it, and why.
#[utoipa::path(
    get, path = "/status", tag = "server", operation_id = "getStatus",
    responses((status = 200, body = EngineState), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn status(State(api): State<Api>, _: MayOperate) -> Json<EngineState> {
    let engine = &api.0.engine;
    Json(EngineState::new(engine.health(), &engine.stats()))
}
