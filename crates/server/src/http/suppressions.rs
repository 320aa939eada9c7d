//! The suppression list of a tenant: addresses that get no mail of it.

use axum::Json;
use axum::extract::State;
use engine::views::Suppression;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use smtp::Address;
use store::Time;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::{self, Body, Named, Params};
use super::caller::{MayRead, MaySend, tenant_named};
use super::keys::Removed;
use super::problem::{ErrorBody, Problem};
use super::views::moment;

const LIMIT_MAX: usize = 1000;
/// Addresses of one request.
const ADDRESSES_MAX: usize = 1000;
const REASON_LEN_MAX: usize = 500;

/// Whose list, and which part of it.
#[derive(Deserialize, IntoParams, Debug)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// The caller's own unless an operator says otherwise.
    tenant: Option<String>,
    /// Addresses after this one.
    after: Option<String>,
    /// At most 1000; 100 unless said.
    limit: Option<usize>,
}

/// Whose list.
#[derive(Deserialize, IntoParams, Debug)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantParams {
    /// The caller's own unless an operator says otherwise.
    tenant: Option<String>,
}

/// Addresses, in order.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct SuppressionList {
    /// Always `list`.
    object: &'static str,
    data: Vec<SuppressionItem>,
    has_more: bool,
}

/// One address.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct SuppressionItem {
    email: String,
    /// The reply that bounced, or an operator's words.
    reason: String,
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    created_at: Time,
}

impl From<Suppression> for SuppressionItem {
    fn from(suppression: Suppression) -> Self {
        Self {
            email: suppression.address.into(),
            reason: suppression.reason.into(),
            created_at: suppression.since,
        }
    }
}

/// Addresses to put on the list.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suppress {
    /// One address.
    email: Option<String>,
    /// Several.
    emails: Option<Vec<String>>,
    /// Why, for whoever reads the list.
    reason: Option<String>,
    /// The caller's own unless an operator says otherwise.
    tenant: Option<String>,
}

/// How many are on the list now that were named.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Suppressed {
    suppressed: usize,
}

/// A tenant's suppression list.
#[utoipa::path(
    get, path = "/suppressions", tag = "suppressions", operation_id = "getSuppressions",
    params(ListParams),
    responses((status = 200, body = SuppressionList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["read"])),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    MayRead(who): MayRead,
    Params(params): Params<ListParams>,
) -> Result<Json<SuppressionList>, Problem> {
    let tenant = tenant_named(&api, &who, params.tenant.as_deref()).await?;
    let all = api
        .apart(move |api| Ok(api.0.engine.suppressions(&tenant)))
        .await?;
    let limit = params.limit.unwrap_or(100).clamp(1, LIMIT_MAX);
    let after = params.after.as_deref();
    let mut rest = all
        .into_iter()
        .filter(|it| after.is_none_or(|after| *it.address > *after));
    let data = rest
        .by_ref()
        .take(limit)
        .map(SuppressionItem::from)
        .collect();
    Ok(Json(SuppressionList {
        object: "list",
        data,
        has_more: rest.next().is_some(),
    }))
}

/// Puts addresses on a tenant's list.
#[utoipa::path(
    post, path = "/suppressions", tag = "suppressions", operation_id = "suppress",
    request_body = Suppress,
    responses((status = 200, body = Suppressed), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    MaySend(who): MaySend,
    body: Body,
) -> Result<Json<Suppressed>, Problem> {
    let wanted: Suppress = body::json(&body.bytes)?;
    let tenant = tenant_named(&api, &who, wanted.tenant.as_deref()).await?;
    let mut texts = wanted.emails.unwrap_or_default();
    texts.extend(wanted.email);
    if texts.is_empty() {
        return Err(Problem::missing("email"));
    }
    let reason = wanted.reason.as_deref().unwrap_or("by request");
    if texts.len() > ADDRESSES_MAX || reason.len() > REASON_LEN_MAX {
        let most =
            format!("at most {ADDRESSES_MAX} addresses and {REASON_LEN_MAX} octets of reason");
        return Err(Problem::invalid("emails", most));
    }
    let addresses = texts.iter().map(|text| address(text));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    // Together, so that they share a sync.
    let suppress = |address| api.0.engine.suppress(&tenant, address, reason);
    try_join_all(addresses.iter().map(suppress)).await?;
    Ok(Json(Suppressed {
        suppressed: addresses.len(),
    }))
}

/// Takes an address off a tenant's list.
#[utoipa::path(
    delete, path = "/suppressions/{email}", tag = "suppressions", operation_id = "unsuppress",
    params(("email" = String, Path), TenantParams),
    responses((status = 200, body = Removed), (status = "4XX", body = ErrorBody)),
    security(("key" = ["send"])),
)]
pub(crate) async fn remove(
    State(api): State<Api>,
    MaySend(who): MaySend,
    Params(params): Params<TenantParams>,
    Named(email): Named,
) -> Result<Json<Removed>, Problem> {
    let tenant = tenant_named(&api, &who, params.tenant.as_deref()).await?;
    let address = address(&email)?;
    match api.0.engine.unsuppress(&tenant, &address).await? {
        true => Ok(Json(Removed { deleted: true })),
        false => Err(Problem::not_found("Suppression")),
    }
}

fn address(text: &str) -> Result<Address, Problem> {
    text.trim()
        .parse()
        .map_err(|error| Problem::invalid("email", format!("{error}: {text:?}")))
}
