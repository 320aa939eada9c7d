//! Mail in: one message, a batch, or a message that somebody else composed.
//!
//! All messages of a batch go into one commit group and are awaited together; no message costs a
//! task of its own. Work on large bodies is done on a thread that may take its time.
//!
//! Over 500 lines: each route stands with the shapes of its request and answer, which the API's
//! document is made from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use engine::{AcceptError, Accepted, Claim, ClaimError, Options, Submission};
use memchr::memmem;
use message::{Eml, STACK_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use smtp::{Address, Content, Envelope, Recipient};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::body::{self, Body, Params};
use super::caller::MaySend;
use super::compose::{Composer, scheduled_at};
use super::problem::{ErrorBody, Kind, Problem};
use super::request::{Few, SendRequest};

/// Items of a batch that are looked at, whatever the configuration.
const ITEMS_MAX: usize = 100_000;
/// A body above this is not worked on between other clients' requests.
const INLINE_BYTES_MAX: usize = 512 << 10;

/// The message is durable.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct Sent {
    /// To ask after it by.
    #[schema(format = "uuid")]
    id: String,
    /// Recipients that get nothing, for they are on the suppression list; left out where there are
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suppressed: Vec<String>,
}

impl From<Accepted> for Sent {
    fn from(accepted: Accepted) -> Self {
        let suppressed = accepted.suppressed.iter();
        Self {
            id: accepted.id.to_string(),
            suppressed: suppressed.map(ToString::to_string).collect(),
        }
    }
}

/// What became of the messages of a batch.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct BatchSent {
    /// Ids of those that were taken, in the order given.
    data: Vec<Sent>,
    /// Those that were not; with `x-batch-validation: permissive`, or where the server could not
    /// take all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<BatchError>,
}

/// Why one message of a batch was not taken.
#[derive(Serialize, ToSchema, Debug)]
pub(crate) struct BatchError {
    /// Its place in the batch, from 0.
    index: usize,
    #[serde(flatten)]
    error: ErrorBody,
}

/// Sends one message.
///
/// Durable when it returns. With `Idempotency-Key`, the same request again within 24 hours gets
/// the same answer and sends nothing.
#[utoipa::path(
    post, path = "/emails", tag = "emails", operation_id = "sendEmail",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 256 characters")),
    request_body = SendRequest,
    responses(
        (status = 200, body = Sent),
        (status = "4XX", body = ErrorBody),
        (status = "5XX", body = ErrorBody),
    ),
    security(("key" = ["send"])),
)]
pub(crate) async fn send(
    State(api): State<Api>,
    MaySend(who): MaySend,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Sent>, Problem> {
    let key = Key::read(&headers, "/emails", &body)?;
    let tenant = Arc::clone(&who.tenant);
    let bytes = body.bytes.clone();
    let submission = worked(&api, may_take_long(&bytes), move |api| {
        let request: SendRequest<'_> = body::json(&bytes)?;
        composer(api, &tenant, false).submission(&request)
    })
    .await?;
    key.accept(&api, submission).await
}

/// Sends up to a thousand messages.
///
/// By default nothing is sent when a message of it is invalid; with `x-batch-validation:
/// permissive` the others are, and `errors` says which were not.
#[utoipa::path(
    post, path = "/emails/batch", tag = "emails", operation_id = "sendBatch",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 256 characters"),
        ("x-batch-validation" = Option<String>, Header, description = "`strict` or `permissive`"),
    ),
    request_body = Vec<SendRequest>,
    responses(
        (status = 200, body = BatchSent),
        (status = "4XX", body = ErrorBody),
        (status = "5XX", body = ErrorBody),
    ),
    security(("key" = ["send"])),
)]
pub(crate) async fn batch(
    State(api): State<Api>,
    MaySend(who): MaySend,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BatchSent>, Problem> {
    let key = Key::read(&headers, "/emails/batch", &body)?;
    let is_strict = is_strict(&headers)?;
    let tenant = Arc::clone(&who.tenant);
    let bytes = body.bytes.clone();
    let (submissions, mut refused) = worked(&api, may_take_long(&bytes), move |api| {
        composed(api, &tenant, &bytes, is_strict)
    })
    .await?;
    let claim = key.claim(&api, &who.tenant, submissions.len()).await?;
    let may_repeat = is_strict && claim.is_some();
    let (taken, failed) = accept_all(&api, submissions, claim).await;
    if let Some((index, error)) = failed.first()
        && (taken.is_empty() || may_repeat)
    {
        // Nothing was taken, or a repetition under the same key completes it.
        return Err(Problem::from(error.clone()).in_item(*index));
    }
    refused.extend(
        failed
            .into_iter()
            .map(|(index, error)| (index, error.into())),
    );
    refused.sort_by_key(|(index, _)| *index);
    let errors = refused.into_iter().map(|(index, problem)| BatchError {
        index,
        error: problem.body(),
    });
    Ok(Json(BatchSent {
        data: taken.into_iter().map(Sent::from).collect(),
        errors: errors.collect(),
    }))
}

type Composed = (Vec<(usize, Submission)>, Vec<(usize, Problem)>);

/// The messages of a batch, with their places; strict, the first mistake is the whole's.
fn composed(api: &Api, tenant: &Arc<str>, bytes: &[u8], strict: bool) -> Result<Composed, Problem> {
    let items: Few<&RawValue, ITEMS_MAX> = body::json(bytes)?;
    let most = api.0.config.batch_max;
    if items.is_empty() || items.len() > most {
        let message = format!(
            "A batch has 1 to {most} messages; this one has {}.",
            items.len()
        );
        return Err(Problem::new(Kind::Validation, message));
    }
    let requests: Vec<Result<SendRequest<'_>, Problem>> = items
        .iter()
        .map(|item| body::json(item.get().as_bytes()))
        .collect();
    let mut composer = composer(api, tenant, true);
    let (mut submissions, mut refused) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, request) in requests.iter().enumerate() {
        let made = match request {
            Ok(request) => composer.submission(request),
            Err(problem) => Err(problem.clone()),
        };
        match made.and_then(|it| routed(api, it)) {
            Ok(submission) => submissions.push((index, submission)),
            Err(problem) if strict => return Err(problem.in_item(index)),
            Err(problem) => refused.push((index, problem)),
        }
    }
    Ok((submissions, refused))
}

/// What leads nowhere is found before the first message of a batch is taken.
fn routed(api: &Api, submission: Submission) -> Result<Submission, Problem> {
    for recipient in submission.envelope.recipients() {
        let engine = &api.0.engine;
        engine.check_recipient(&submission.tenant, &recipient.address)?;
    }
    Ok(submission)
}

type Taken = (Vec<Accepted>, Vec<(usize, AcceptError)>);

/// A message of a batch: accepted by an earlier request, or on its way to the disk.
enum Begun {
    Before(Accepted),
    Now(engine::Pending),
}

/// Puts all into one commit group, then waits for it.
async fn accept_all(
    api: &Api,
    submissions: Vec<(usize, Submission)>,
    claim: Option<Claim>,
) -> Taken {
    let claimed = claim.as_ref().map_or(&[][..], |claim| &claim.ids);
    let before = claim.as_ref().map_or(&[][..], |claim| &claim.accepted);
    let (mut pending, mut failed) = (Vec::with_capacity(submissions.len()), Vec::new());
    let mut stopped: Option<AcceptError> = None;
    for (place, (index, mut submission)) in submissions.into_iter().enumerate() {
        if let Some(Some(accepted)) = before.get(place) {
            pending.push((index, Begun::Before(accepted.clone())));
            continue;
        }
        if let Some(error) = &stopped {
            failed.push((index, error.clone()));
            continue;
        }
        submission.options.id = claimed.get(place).copied();
        match api.0.engine.begin_accept(submission) {
            Ok(one) => pending.push((index, Begun::Now(one))),
            Err(error) => {
                stopped = is_ours(&error).then(|| error.clone());
                failed.push((index, error));
            }
        }
    }
    let mut taken = Vec::with_capacity(pending.len());
    for (index, one) in pending {
        let ended = match one {
            Begun::Before(accepted) => Ok(accepted),
            Begun::Now(pending) => pending.await,
        };
        match ended {
            Ok(accepted) => taken.push(accepted),
            Err(error) => failed.push((index, error)),
        }
    }
    if let (Some(claim), true, Some((_, error))) = (claim, taken.is_empty(), failed.first()) {
        api.0.engine.release(&claim, error);
    }
    (taken, failed)
}

/// Whether the next message would fare no better.
fn is_ours(error: &AcceptError) -> bool {
    !matches!(
        error,
        AcceptError::NoRoute { .. }
            | AcceptError::TooLarge { .. }
            | AcceptError::TooManyRecipients { .. }
            | AcceptError::TooFarAhead { .. }
            | AcceptError::Signing(_)
    )
}

fn is_strict(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get("x-batch-validation").map(HeaderValue::as_bytes) {
        None | Some(b"strict") => Ok(true),
        Some(b"permissive") => Ok(false),
        Some(_) => Err(Problem::invalid(
            "x-batch-validation",
            "one of strict, permissive",
        )),
    }
}

/// Where a composed message goes, if not where its header says.
#[derive(Deserialize, IntoParams, Debug)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RawParams {
    /// The reverse-path; otherwise the address of Sender or From. Empty: the null path.
    from: Option<String>,
    /// The recipients, with commas between; otherwise those of To, Cc and Bcc.
    to: Option<String>,
    /// Not before this: ISO 8601, or a span as `in 1 min`.
    scheduled_at: Option<String>,
}

/// Sends a message that is composed already (message/rfc822).
///
/// Any line ends; Bcc is taken out; Date and Message-ID are added where they are missing.
#[utoipa::path(
    post, path = "/emails/raw", tag = "emails", operation_id = "sendRaw",
    params(RawParams, ("Idempotency-Key" = Option<String>, Header, description = "1 to 256 characters")),
    request_body(content = String, content_type = "message/rfc822"),
    responses(
        (status = 200, body = Sent),
        (status = "4XX", body = ErrorBody),
        (status = "5XX", body = ErrorBody),
    ),
    security(("key" = ["send"])),
)]
pub(crate) async fn raw(
    State(api): State<Api>,
    MaySend(who): MaySend,
    Params(params): Params<RawParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Sent>, Problem> {
    let path = format!("/emails/raw?{params:?}");
    let key = Key::read(&headers, &path, &body)?;
    let tenant = Arc::clone(&who.tenant);
    let bytes = body.bytes.clone();
    let is_long = bytes.len() > INLINE_BYTES_MAX;
    let submission = worked(&api, is_long, move |api| {
        raw_submission(api, tenant, &params, &bytes)
    })
    .await?;
    key.accept(&api, submission).await
}

fn raw_submission(
    api: &Api,
    tenant: Arc<str>,
    params: &RawParams,
    bytes: &[u8],
) -> Result<Submission, Problem> {
    let unfit = |error| Problem::new(Kind::Validation, format!("{error}."));
    let eml = Eml::parse(bytes).map_err(|error| unfit(error.to_string()))?;
    let envelope = raw_envelope(&eml, params)?;
    let parsed = mail_parser::MessageParser::new().parse_headers(eml.content().as_bytes());
    let header = parsed.as_ref();
    let subject = header
        .and_then(mail_parser::Message::subject)
        .unwrap_or_default();
    let has_id = header.is_some_and(|header| header.message_id().is_some());
    let has_date = header.is_some_and(|header| header.date().is_some());
    let send_at = params.scheduled_at.as_deref();
    let options = Options {
        subject: subject.into(),
        send_at: send_at
            .map(|text| scheduled_at(text, api.now(), api.ahead_max()))
            .transpose()?,
        ..Options::default()
    };
    let content = completed(api, eml.content(), &envelope, has_date, has_id)
        .map_err(|error| unfit(error.to_string()))?;
    Ok(Submission {
        tenant,
        envelope: Arc::new(envelope),
        content,
        options,
    })
}

/// The header's envelope, or what the query says instead.
fn raw_envelope(eml: &Eml, params: &RawParams) -> Result<Envelope, Problem> {
    let read = |field: &str, text: &str| {
        text.trim()
            .parse::<Address>()
            .map_err(|error| Problem::invalid(field, format!("{error}: {text:?}")))
    };
    let implied = || {
        eml.envelope()
            .map_err(|error| Problem::new(Kind::Validation, format!("{error}.")))
    };
    let recipients = match &params.to {
        None => implied()?.recipients().to_vec(),
        Some(list) => list
            .split(',')
            .map(|text| read("to", text).map(Recipient::from))
            .collect::<Result<_, _>>()?,
    };
    let reverse_path = match params.from.as_deref() {
        None => implied()?.reverse_path().clone(),
        Some("") => smtp::ReversePath::Null,
        Some(text) => read("from", text)?.into(),
    };
    Envelope::new(reverse_path, recipients).map_err(|_| Problem::missing("to"))
}

/// RFC 6409 §8.1, §8.2: what every message must have.
fn completed(
    api: &Api,
    content: &Content,
    envelope: &Envelope,
    has_date: bool,
    has_id: bool,
) -> Result<Content, smtp::ContentError> {
    let mut fields = String::new();
    if !has_date {
        let date = jiff::fmt::rfc2822::to_string(&api.now().to_zoned(jiff::tz::TimeZone::UTC));
        fields.push_str(&format!("Date: {}\r\n", date.unwrap_or_default()));
    }
    if !has_id {
        let domain = envelope.reverse_path().address().map(Address::domain);
        let domain = domain.unwrap_or("localhost");
        let id = api.0.engine.next_id();
        fields.push_str(&format!("Message-ID: <{id}@{domain}>\r\n"));
    }
    match fields.is_empty() {
        true => Ok(content.clone()),
        false => content.prefixed(fields.as_bytes()),
    }
}

fn composer<'r>(api: &'r Api, tenant: &Arc<str>, is_batch: bool) -> Composer<'r> {
    let tenant = Arc::clone(tenant);
    Composer::new(
        tenant,
        &api.0.templates,
        api.now(),
        api.ahead_max(),
        is_batch,
    )
}

/// Does `work` here, or where it disturbs nobody if it may take long, and has the stack that a
/// stranger's template may need.
async fn worked<T: Send + 'static>(
    api: &Api,
    is_long: bool,
    work: impl FnOnce(&Api) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if !is_long {
        return work(api);
    }
    let _turn = api.0.work_turns.acquire().await;
    let (api, (tell, told)) = (api.clone(), oneshot::channel());
    let thread = std::thread::Builder::new().name("compose".into());
    let begun = thread.stack_size(STACK_BYTES).spawn(move || {
        // Nobody listens if the client has gone.
        let _ = tell.send(work(&api));
    });
    begun.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    told.await
        .unwrap_or_else(|_| Err(Problem::new(Kind::Internal, "composing it failed")))
}

/// Whether composing what this JSON says may take long: there is much of it, or it may have a
/// template, which may do 20 ms of work for each message. A field's name can be spelt
/// with escapes too.
fn may_take_long(json: &[u8]) -> bool {
    let has = |text: &[u8]| memmem::find(json, text).is_some();
    json.len() > INLINE_BYTES_MAX || has(b"template") || has(b"\\u00")
}

/// An idempotency key with what the request is told from others by; or none.
struct Key(Option<(String, engine::Fingerprint)>);

impl Key {
    fn read(headers: &HeaderMap, path: &str, body: &Body) -> Result<Self, Problem> {
        let Some(key) = headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        let key = String::from_utf8(key.as_bytes().to_vec())
            .map_err(|_| Problem::from(ClaimError::Key))?;
        let mut digest = Sha256::new_with_prefix(path);
        digest.update([0]);
        digest.update(&body.bytes);
        Ok(Self(Some((key, digest.finalize().into()))))
    }

    /// Accepts a message under it.
    async fn accept(self, api: &Api, submission: Submission) -> Result<Json<Sent>, Problem> {
        let engine = &api.0.engine;
        let accepted = match self.0 {
            None => engine.accept(submission).await?,
            Some((key, fingerprint)) => engine.accept_once(&key, fingerprint, submission).await?,
        };
        Ok(Json(accepted.into()))
    }

    async fn claim(
        self,
        api: &Api,
        tenant: &str,
        messages: usize,
    ) -> Result<Option<Claim>, Problem> {
        let Some((key, fingerprint)) = self.0 else {
            return Ok(None);
        };
        let claim = api.0.engine.claim(tenant, &key, fingerprint, messages);
        Ok(Some(claim.await?))
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        let kind = match error {
            ClaimError::Key => Kind::InvalidIdempotencyKey,
            ClaimError::OtherRequest | ClaimError::Forgotten => Kind::IdempotencyMismatch,
            ClaimError::InFlight => Kind::IdempotencyInFlight,
            ClaimError::Accept(error) => return error.into(),
            _ => Kind::Internal,
        };
        Self::new(kind, sentence(&error)).at("Idempotency-Key")
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        let (kind, field) = match &error {
            AcceptError::Full | AcceptError::Busy { .. } | AcceptError::Rate { .. } => {
                (Kind::RateLimit, None)
            }
            AcceptError::Quota { .. } => (Kind::Quota, None),
            AcceptError::TenantSuspended => (Kind::Suspended, None),
            AcceptError::NoRoute { .. } | AcceptError::TooManyRecipients { .. } => {
                (Kind::Validation, Some("to"))
            }
            AcceptError::TooLarge { .. } => (Kind::TooLarge, None),
            AcceptError::TooFarAhead { .. } => (Kind::Validation, Some("scheduled_at")),
            AcceptError::Draining | AcceptError::Poisoned => (Kind::Unavailable, None),
            _ => (Kind::Internal, None),
        };
        let mut problem = Self::new(kind, sentence(&error));
        problem.field = field.map(str::to_owned);
        problem.retry_after_s = error
            .retry_after()
            .map(|after| after.as_secs_f64().ceil().max(1.0) as u64);
        problem
    }
}

fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_a_template_is_not_worked_on_between_other_clients_requests() {
        let large = "x".repeat(INLINE_BYTES_MAX + 1);
        for (json, is_long) in [
            (r#"{"subject": "Hello", "text": "Hi"}"#, false),
            (r#"{"template": {"text": "{{ 1 }}"}}"#, true),
            (r#"{"t\u0065mplate": {"text": "{{ 1 }}"}}"#, true),
            (r#"{"\u0074\u0065\u006D\u0070late": 1}"#, true),
            (&large, true),
        ] {
            assert_eq!(may_take_long(json.as_bytes()), is_long, "{json:.40}");
        }
    }
}
