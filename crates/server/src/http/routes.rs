//! The table of routes, and the document that describes them.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use axum::{Router, middleware};
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Kind, Problem};
use super::{Api, admin, emails, events, health, keys, send, statistics, suppressions};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "mailrail",
        description = "Mail in, what became of it, and the operator's levers.\n\n\
            The calls under `emails` have the shape of Resend's API.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    tags(
        (name = "emails", description = "Sending, and one message at a time"),
        (name = "events", description = "What happened, and how much of it"),
        (name = "queue", description = "What waits"),
        (name = "sites", description = "Where it goes, and what limits it"),
        (name = "suppressions", description = "Addresses that get no mail"),
        (name = "keys", description = "Who may"),
        (name = "server", description = "How it is"),
    ),
)]
struct Document;

/// Routes and their description, from one table.
fn table() -> (Router<Api>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(send::send))
        .routes(routes!(send::batch))
        .routes(routes!(send::raw))
        .routes(routes!(emails::get, emails::update))
        .routes(routes!(emails::cancel))
        .routes(routes!(emails::events))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(statistics::statistics))
        .routes(routes!(admin::queue))
        .routes(routes!(admin::suspend))
        .routes(routes!(admin::resume))
        .routes(routes!(admin::retry))
        .routes(routes!(admin::cancel))
        .routes(routes!(admin::retry_failed))
        .routes(routes!(admin::sites))
        .routes(routes!(admin::site))
        .routes(routes!(suppressions::list, suppressions::create))
        .routes(routes!(suppressions::remove))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(admin::status))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key of this server; scopes are send, read, admin.",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));
    describe_answers(&mut document);
    (router, document)
}

/// OpenAPI wants a word for every answer, though most say nothing that the schema does not.
fn describe_answers(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            for (status, answer) in &mut operation.responses.responses {
                if let RefOr::T(answer) = answer
                    && answer.description.is_empty()
                {
                    answer.description = match status.as_bytes().first() {
                        Some(b'2') => "Done.",
                        Some(b'4') => "Refused; `name` says why, and `field` where.",
                        _ => "It could not be done now.",
                    }
                    .to_owned();
                }
            }
        }
    }
}

/// Everything that is served.
pub(super) fn router(api: Api) -> Router {
    let (router, document) = table();
    let text: Arc<str> = document.to_json().unwrap_or_default().into();
    let describe = move || async move { ([(CONTENT_TYPE, "application/json")], text.to_string()) };
    router
        .route("/openapi.json", get(describe))
        .fallback(|request: Request| async move {
            let path = request.uri().path();
            Problem::new(Kind::NotFound, format!("There is no {path} here."))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let message = format!("{} is not allowed here.", request.method());
            Problem::new(Kind::MethodNotAllowed, message)
        })
        .layer(middleware::from_fn_with_state(api.clone(), measured))
        .with_state(api)
}

/// Counts and times a request under the pattern of its route.
async fn measured(State(api): State<Api>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route: Arc<str> = route.map_or("none", MatchedPath::as_str).into();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let response = next.run(request).await;
    let code = response.status().as_u16();
    api.0
        .metrics
        .answered(method, &route, code, begun.elapsed());
    response
}
