//! API keys: made, listed, revoked. The engine keeps their hashes; nobody keeps the keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use store::Time;
use utoipa::ToSchema;

use super::Api;
use super::body::{self, Body, Named};
use super::caller::MayOperate;
use super::problem::{ErrorBody, Kind, Problem};
use super::views::moment;
use crate::auth::{Access, ApiKey, KeyId, Scopes, StoredKey};

/// What engine keys of API keys begin with.
const PREFIX: &str = "api-key/";
const NAME_LEN_MAX: usize = 100;

/// A key to be made.
#[derive(Deserialize, ToSchema, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// What its owner calls it.
    #[schema(example = "shop")]
    name: String,
    /// On whose account it acts; the caller's own unless said.
    tenant: Option<String>,
    /// `send`, `read`, `admin`; `send` alone unless said.
    scopes: Option<Vec<String>>,
}

/// A key, without its secret.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct KeyView {
    #[schema(example = "mr_0123456789ab")]
    id: String,
    name: String,
    tenant: String,
    scopes: Vec<&'static str>,
    #[serde(serialize_with = "moment")]
    #[schema(value_type = String, format = "date-time")]
    created_at: Time,
}

/// A key that was just made; its token is shown this once.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct MadeKey {
    /// What goes into `Authorization: Bearer`.
    token: String,
    #[serde(flatten)]
    key: KeyView,
}

/// Every valid key.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct KeyList {
    /// Always `list`.
    object: &'static str,
    data: Vec<KeyView>,
}

/// A thing was removed.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Removed {
    /// Always true.
    pub(crate) deleted: bool,
}

impl From<&StoredKey> for KeyView {
    fn from(key: &StoredKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name.to_string(),
            tenant: key.tenant.to_string(),
            scopes: key.scopes.names().collect(),
            created_at: Time::from_millis(key.created_at_ms),
        }
    }
}

/// Lets in the keys that were made before the engine's last start.
pub fn load(engine: &engine::Engine, access: &Access) {
    for (key, value) in engine.kept(PREFIX) {
        match serde_json::from_slice(&value) {
            Ok(stored) => access.put_key(stored),
            Err(error) => tracing::error!(key, %error, "an API key cannot be read"),
        }
    }
}

/// Makes a key that is valid from now on, and is kept.
///
/// # Errors
/// It could not be made durable.
pub async fn make(
    engine: &engine::Engine,
    access: &Access,
    name: &str,
    tenant: Arc<str>,
    scopes: Scopes,
) -> Result<ApiKey, engine::AcceptError> {
    let key = ApiKey::generate();
    let created_at_ms = u64::try_from(engine.now().as_millis()).unwrap_or(u64::MAX);
    let stored = StoredKey::new(&key, name, tenant, scopes, created_at_ms);
    let value = serde_json::to_vec(&stored).expect("a key's record is plain JSON");
    let kept_as = format!("{PREFIX}{}", stored.id);
    engine.keep(&kept_as, &value).await?;
    access.put_key(stored);
    Ok(key)
}

/// Every valid key, oldest first.
#[utoipa::path(
    get, path = "/keys", tag = "keys", operation_id = "getKeys",
    responses((status = 200, body = KeyList), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn list(State(api): State<Api>, _: MayOperate) -> Json<KeyList> {
    let keys = api.0.access.keys();
    Json(KeyList {
        object: "list",
        data: keys.iter().map(|key| KeyView::from(&**key)).collect(),
    })
}

/// Makes a key.
#[utoipa::path(
    post, path = "/keys", tag = "keys", operation_id = "makeKey",
    request_body = NewKey,
    responses((status = 201, body = MadeKey), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    MayOperate(who): MayOperate,
    body: Body,
) -> Result<(axum::http::StatusCode, Json<MadeKey>), Problem> {
    let wanted: NewKey = body::json(&body.bytes)?;
    let is_name = |text: &str| {
        (1..=NAME_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    if !is_name(&wanted.name) {
        return Err(Problem::invalid("name", "1 to 100 printable characters"));
    }
    let tenant = match wanted.tenant {
        None => Arc::clone(&who.tenant),
        Some(tenant) if is_name(&tenant) => tenant.into(),
        Some(_) => return Err(Problem::invalid("tenant", "1 to 100 printable characters")),
    };
    let scopes = match &wanted.scopes {
        None => Scopes::SEND,
        Some(names) => Scopes::parse(names.iter().map(String::as_str))
            .ok_or_else(|| Problem::invalid("scopes", "some of send, read, admin"))?,
    };
    let (engine, access) = (&api.0.engine, &api.0.access);
    let key = make(engine, access, &wanted.name, tenant, scopes).await?;
    let stored = access
        .keys()
        .into_iter()
        .find(|stored| stored.id == key.id());
    let stored = stored.ok_or_else(|| Problem::new(Kind::Conflict, "The key is gone again."))?;
    let made = MadeKey {
        token: key.reveal(),
        key: KeyView::from(&*stored),
    };
    Ok((axum::http::StatusCode::CREATED, Json(made)))
}

/// Revokes a key, from the next request on.
#[utoipa::path(
    delete, path = "/keys/{id}", tag = "keys", operation_id = "revokeKey",
    params(("id" = String, Path)),
    responses((status = 200, body = Removed), (status = "4XX", body = ErrorBody)),
    security(("key" = ["admin"])),
)]
pub(crate) async fn revoke(
    State(api): State<Api>,
    _: MayOperate,
    Named(id): Named,
) -> Result<Json<Removed>, Problem> {
    let id: KeyId = id.parse().map_err(|error| Problem::invalid("id", error))?;
    api.0.engine.forget(&format!("{PREFIX}{id}")).await?;
    match api.0.access.remove_key(id) {
        Some(_) => Ok(Json(Removed { deleted: true })),
        None => Err(Problem::not_found("Key")),
    }
}
