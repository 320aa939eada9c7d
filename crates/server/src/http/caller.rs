//! Who asks, and whether they may: bearer keys and their scopes, as extractors.
//!
//! A handler names what it needs by the type of its argument, so a route without a check does not
//! come about by forgetting.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use std::sync::Arc;

use super::Api;
use super::problem::{Kind, Problem};
use crate::auth::{Principal, Scopes};

fn principal(parts: &Parts, api: &Api) -> Result<Principal, Problem> {
    let missing = || {
        Problem::new(
            Kind::MissingApiKey,
            "Missing API key in the authorization header. Send `Authorization: Bearer KEY`.",
        )
    };
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let header = header.to_str().map_err(|_| missing())?;
    let (scheme, key) = header.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") || key.trim().is_empty() {
        return Err(missing());
    }
    let invalid = || Problem::new(Kind::InvalidApiKey, "API key is invalid.");
    api.0.access.by_key(key.trim()).ok_or_else(invalid)
}

/// Whether they may, by any one of the scopes.
fn allowed(parts: &Parts, api: &Api, any_of: &[Scopes]) -> Result<Principal, Problem> {
    let who = principal(parts, api)?;
    if any_of.iter().any(|scopes| who.scopes.contains(*scopes)) {
        return Ok(who);
    }
    let names: Vec<_> = any_of.iter().flat_map(|scopes| scopes.names()).collect();
    Err(Problem::new(
        Kind::RestrictedApiKey,
        format!("This API key lacks the scope `{}`.", names.join("` or `")),
    ))
}

macro_rules! extractor {
    ($(#[$doc:meta])* $name:ident, $($scope:ident),+) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Principal);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                allowed(parts, api, &[$(Scopes::$scope),+]).map(Self)
            }
        }
    };
}

extractor!(
    /// May submit.
    MaySend,
    SEND
);
extractor!(
    /// May see the tenant's mail and events.
    MayRead,
    READ
);
extractor!(
    /// May see what they have the id of.
    MayTrace,
    READ,
    SEND
);
extractor!(
    /// May operate the server.
    MayOperate,
    ADMIN
);

/// The only tenant whose mail they see; `None`: all.
pub(crate) fn tenant_of(who: &Principal) -> Option<Arc<str>> {
    let is_admin = who.scopes.contains(Scopes::ADMIN);
    (!is_admin).then(|| Arc::clone(&who.tenant))
}

/// The tenant meant: the caller's own, or for an operator the one that is named.
///
/// # Errors
/// Another tenant than one's own, whether there is such a one or not; for an operator, one that
/// nobody knows.
pub(crate) async fn tenant_named(
    api: &Api,
    who: &Principal,
    named: Option<&str>,
) -> Result<Arc<str>, Problem> {
    let name = match named {
        Some(name) if *name != *who.tenant => name,
        _ => return Ok(Arc::clone(&who.tenant)),
    };
    if !who.scopes.contains(Scopes::ADMIN) {
        let message = "This API key sees its own tenant only.";
        return Err(Problem::new(Kind::RestrictedApiKey, message).at("tenant"));
    }
    let name: Arc<str> = name.into();
    let asked = Arc::clone(&name);
    let is_known = api.0.access.knows_tenant(&name)
        || api
            .apart(move |api| Ok(api.0.engine.knows_tenant(&asked)))
            .await?;
    let unknown = "neither the configuration, nor a key, nor history has such a tenant";
    is_known
        .then_some(name)
        .ok_or_else(|| Problem::invalid("tenant", unknown))
}

/// The tenant whose mail is asked for: the one that is named, as [`tenant_named`] has it; else one's
/// own, and for an operator all (`None`).
pub(crate) async fn tenant_asked(
    api: &Api,
    who: &Principal,
    named: Option<&str>,
) -> Result<Option<Arc<str>>, Problem> {
    match named {
        None => Ok(tenant_of(who)),
        named => tenant_named(api, who, named).await.map(Some),
    }
}
