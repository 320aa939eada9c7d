//! How much happened when: counted minutes, by time, by tenant or by site.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use engine::statistics::{Of, Statistics, StatisticsLine, StatisticsQuery};
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};
use store::history::Counts;
use store::{StageTimes, Status, Time};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::Params;
use super::caller::{MayRead, tenant_asked};
use super::events::ago;
use super::problem::{ErrorBody, Kind, Problem};
use super::views::moment;
use crate::auth::{Principal, Scopes};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Which minutes are counted, and whose events.
#[derive(Deserialize, IntoParams, Debug)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatisticsParams {
    /// Minutes that begin then or later: ISO 8601, or so long ago, as `24h`; an hour ago unless said.
    from: Option<String>,
    /// Minutes that begin before: ISO 8601, or so long ago; all unless said.
    to: Option<String>,
    /// The time of one line, in whole minutes, as `5m`, `1h` or `1d`; `1m` unless said. Days are those
    /// of UTC.
    step: Option<String>,
    /// A line for each `tenant` or each `site`.
    by: Option<String>,
    /// Of this tenant; one's own unless an operator says otherwise.
    tenant: Option<String>,
    /// Of attempts at this site; operators only.
    site: Option<String>,
}

/// Lines, the oldest first; where nothing happened there is none.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct StatisticsList {
    /// Always `list`.
    object: &'static str,
    data: Vec<StatisticsItem>,
    /// False: a minute had over 256 tenants or sites, and those over are counted under the empty name.
    is_complete: bool,
}

/// What happened in one span of time.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct StatisticsItem {
    /// When it begins.
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    at: Time,
    /// Whose; left out where it is everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Where; left out where it is everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    counts: StatusCounts,
    /// Attempts that ended; left out where lines are of tenants or sites, as what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u64>,
    /// Microseconds from acceptance to delivery, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_us: Option<u64>,
    /// Microseconds that an attempt spent in each stage that took any, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_us: Option<BTreeMap<&'static str, u64>>,
}

/// How often a recipient came to each status.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct StatusCounts {
    accepted: u64,
    /// Each failure for now: one recipient may be here often.
    deferred: u64,
    held: u64,
    delivered: u64,
    bounced: u64,
    expired: u64,
    suppressed: u64,
    canceled: u64,
}

impl From<Counts> for StatusCounts {
    fn from(counts: Counts) -> Self {
        Self {
            accepted: counts.of(Status::Accepted),
            deferred: counts.of(Status::Deferred),
            held: counts.of(Status::Held),
            delivered: counts.of(Status::Delivered),
            bounced: counts.of(Status::Bounced),
            expired: counts.of(Status::Expired),
            suppressed: counts.of(Status::Suppressed),
            canceled: counts.of(Status::Canceled),
        }
    }
}

impl StatisticsItem {
    fn new(of: &Of, line: &StatisticsLine) -> Self {
        let name = || Some(line.name.to_string());
        let (tenant, site) = match of {
            Of::All => (None, None),
            Of::Tenants(_) => (name(), None),
            Of::Sites(_) => (None, name()),
        };
        let times_us = line.stage_us_means().map(|means| {
            let stages = StageTimes::NAMES.into_iter().zip(means);
            stages.filter(|(_, us)| *us > 0).collect()
        });
        Self {
            at: line.at,
            tenant,
            site,
            counts: line.counts.into(),
            attempts: line.times.map(|times| times.attempts),
            delivery_us: line.delivery_us_mean(),
            times_us,
        }
    }
}

impl StatisticsParams {
    async fn query(&self, api: &Api, who: &Principal) -> Result<StatisticsQuery, Problem> {
        let now = api.now();
        let moment = |field: &str, text: &Option<String>| {
            let read = |text: &String| ago(field, text, now);
            text.as_ref().map(read).transpose()
        };
        let an_hour_ago = api.0.engine.now().saturating_sub(HOUR);
        Ok(StatisticsQuery {
            from: moment("from", &self.from)?.unwrap_or(an_hour_ago),
            to: moment("to", &self.to)?.unwrap_or(Time::MAX),
            step: self.step.as_deref().map_or(Ok(MINUTE), step)?,
            of: self.of(api, who).await?,
        })
    }

    /// Whose events, as far as who asks may see them: what a site saw is of all tenants.
    async fn of(&self, api: &Api, who: &Principal) -> Result<Of, Problem> {
        let is_by_site = match self.by.as_deref() {
            Some("site") => true,
            Some("tenant") | None => self.site.is_some(),
            Some(_) => return Err(Problem::invalid("by", "one of tenant, site")),
        };
        let tenant = tenant_asked(api, who, self.tenant.as_deref()).await?;
        if is_by_site && !who.scopes.contains(Scopes::ADMIN) {
            let message = "This API key sees its own tenant only, and what a site saw is of all.";
            let field = self.site.as_ref().map_or("by", |_| "site");
            return Err(Problem::new(Kind::RestrictedApiKey, message).at(field));
        }
        let is_by_tenant = tenant.is_some() || self.by.as_deref() == Some("tenant");
        match (is_by_site, is_by_tenant) {
            (true, true) => {
                let what = "it is counted by tenant or by site, not by both";
                Err(Problem::invalid("site", what))
            }
            (true, false) => Ok(Of::Sites(self.site.as_deref().map(Arc::from))),
            (false, true) => Ok(Of::Tenants(tenant)),
            (false, false) => Ok(Of::All),
        }
    }
}

/// A span of whole minutes.
fn step(text: &str) -> Result<Duration, Problem> {
    let span = text.parse::<Span>().ok();
    let length = span.and_then(|it| it.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let length = length.and_then(|it| Duration::try_from(it).ok());
    let is_whole =
        |it: &Duration| *it >= MINUTE && it.as_secs().is_multiple_of(60) && it.subsec_nanos() == 0;
    let invalid = || Problem::invalid("step", "whole minutes, as 5m, 1h or 1d");
    length.filter(is_whole).ok_or_else(invalid)
}

/// How much happened when, by minute or a longer step; of one tenant or site, or of each.
///
/// Operators see all, other keys their own tenant. Labels are not counted: ask for the events.
#[utoipa::path(
    get, path = "/statistics", tag = "events", operation_id = "getStatistics",
    params(StatisticsParams),
    responses((status = 200, body = StatisticsList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["read"])),
)]
pub(crate) async fn statistics(
    State(api): State<Api>,
    MayRead(who): MayRead,
    Params(params): Params<StatisticsParams>,
) -> Result<Json<StatisticsList>, Problem> {
    let query = params.query(&api, &who).await?;
    let ask = move |api: &Api| {
        let found = api.0.engine.statistics(&query);
        let Statistics { lines, is_complete } =
            found.map_err(|error| Problem::invalid("step", error))?;
        let items = lines
            .iter()
            .map(|line| StatisticsItem::new(&query.of, line));
        Ok(StatisticsList {
            object: "list",
            data: items.collect(),
            is_complete,
        })
    };
    api.apart(ask).await.map(Json)
}
