//! The server: which request is answered by what. Requests that [`Access`] lets in go to facts, deeds, the stream of news or
//! the files of the page; answers come out under one strict policy. It never runs what may wait for the kernel on its own thread.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{self, Instant};

use super::access::Access;
use super::hub::{Ending, Hub, News};
use super::{assets, deeds, facts};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lab::Running;

/// Between two looks at a lab; one that takes long to look at is looked at less often.
const LOOK: Duration = Duration::from_secs(1);
const REST: u32 = 4;
/// How long a page may take to hear the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of a request's body at most.
const LARGEST: usize = 16 << 10;
const LOG_LINES: usize = 400;

/// Nothing but this server's own files, no script or style in the page itself, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

#[derive(Debug, Clone)]
struct Shared {
    hub: Arc<Hub>,
    access: Arc<Access>,
    /// One deed at a time: a probe beside another would be counted with it.
    turn: Arc<Mutex<()>>,
}

/// Serves until told to stop.
pub(super) fn serve(
    listener: TcpListener,
    access: Access,
    hub: Arc<Hub>,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let what = || "cannot serve the page".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(Kind::Environment, what)?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let shared = Shared { hub, access: Arc::new(access), turn: Arc::default() };
        let looking = tokio::spawn(look(Arc::clone(&shared.hub)));
        let (ending, ended) = oneshot::channel();
        let until = async {
            let _whoever = stopped.await;
            let _listening = ending.send(());
        };
        let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(until);
        let late = async {
            let _told = ended.await;
            time::sleep(FAREWELL).await;
        };
        let served = tokio::select! {
            served = serving.into_future() => served,
            () = late => Ok(()),
        };
        looking.abort();
        served
    });
    // A deed under way is not waited for: its record is kept whole by itself.
    runtime.shutdown_timeout(FAREWELL);
    served.doing(Kind::Environment, what)
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/api/lab", get(lab))
        .route("/api/node", get(node))
        .route("/api/log", get(log))
        .route("/api/live", get(live))
        .route("/api/link", post(set_link))
        .route("/api/node", post(set_node))
        .route("/api/impair", post(impair))
        .route("/api/trace", post(trace))
        .fallback(get(page))
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets in who may, and says to browsers what the page may.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let checked = shared.access.check(request.method(), request.uri(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refused) => (refused.status(), format!("{refused}\n")).into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn page(State(shared): State<Shared>, uri: Uri) -> Response {
    let Some(asset) = assets::asset(uri.path()) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    let kind = [(header::CONTENT_TYPE, asset.kind)];
    match uri.path() {
        "/" => (kind, [(header::SET_COOKIE, shared.access.cookie())], asset.text).into_response(),
        _ => (kind, asset.text).into_response(),
    }
}

// ---- facts -------------------------------------------------------------------------------------------------

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

async fn lab(State(shared): State<Shared>) -> Answer {
    beside(&shared.hub, facts::lab).await
}

async fn node(
    State(shared): State<Shared>,
    named: std::result::Result<Query<Named>, QueryRejection>,
) -> Answer {
    let Query(named) = named.map_err(|e| misread(&e))?;
    beside(&shared.hub, move |lab| facts::node(lab, &named.name)).await
}

async fn log(
    State(shared): State<Shared>,
    named: std::result::Result<Query<Named>, QueryRejection>,
) -> Answer {
    let Query(named) = named.map_err(|e| misread(&e))?;
    beside(&shared.hub, move |lab| facts::log(lab, &named.name, LOG_LINES)).await
}

// ---- deeds -------------------------------------------------------------------------------------------------

type Asked<T> = std::result::Result<Json<T>, JsonRejection>;

async fn set_link(State(shared): State<Shared>, asked: Asked<deeds::Fault>) -> Answer {
    deed(&shared, asked, deeds::set_link).await
}

async fn set_node(State(shared): State<Shared>, asked: Asked<deeds::Fault>) -> Answer {
    deed(&shared, asked, deeds::set_node).await
}

async fn impair(State(shared): State<Shared>, asked: Asked<deeds::Impaired>) -> Answer {
    deed(&shared, asked, deeds::impair).await
}

async fn trace(State(shared): State<Shared>, asked: Asked<deeds::Probe>) -> Answer {
    deed(&shared, asked, deeds::trace).await
}

async fn deed<T: Send + 'static>(
    shared: &Shared,
    asked: Asked<T>,
    f: impl FnOnce(&Running, &T) -> Result<Value> + Send + 'static,
) -> Answer {
    let Json(asked) = asked.map_err(|e| misread(&e))?;
    let turn = Arc::clone(&shared.turn).lock_owned().await;
    let answer = beside(&shared.hub, move |lab| {
        // Held until it is done, even if who asked does not wait for it.
        let _turn = turn;
        f(lab, &asked)
    });
    answer.await
}

/// Calls `f` where it may wait.
async fn beside(hub: &Hub, f: impl FnOnce(&Running) -> Result<Value> + Send + 'static) -> Answer {
    let lab = hub.lab();
    let done = tokio::task::spawn_blocking(move || f(&lab)).await;
    let done = done.map_err(|e| Error::bug("the request was not finished").because(e))?;
    Ok(Json(done?))
}

// ---- news --------------------------------------------------------------------------------------------------

/// Looks at the lab as long as a page listens.
async fn look(hub: Arc<Hub>) {
    loop {
        let start = Instant::now();
        if hub.is_heard() {
            let looked = beside(&hub, facts::state).await;
            // What cannot be looked at in the middle of a change, or goes down, is looked at again or ends.
            if let Ok(Json(state)) = looked {
                hub.show(state.to_string());
            }
        }
        time::sleep(LOOK.max(start.elapsed() * REST)).await;
    }
}

async fn live(
    State(shared): State<Shared>,
) -> Sse<impl Stream<Item = std::result::Result<Event, Infallible>>> {
    let (told, receiver) = shared.hub.listen();
    let later = stream::unfold(receiver, |mut receiver| async {
        match receiver.recv().await {
            Ok(news) => Some((Some(news), receiver)),
            Err(RecvError::Lagged(_)) => Some((None, receiver)),
            Err(RecvError::Closed) => None,
        }
    });
    let all = stream::iter(told).map(Some).chain(later);
    // The last news ends the stream, too.
    let ending = |over: &mut bool, news: Option<News>| {
        let before = std::mem::replace(over, matches!(news, Some(News::End(_))));
        std::future::ready((!before).then_some(news))
    };
    let events = all.scan(false, ending).map(|news| Ok(written(news)));
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn written(news: Option<News>) -> Event {
    match news {
        Some(News::Event(text)) => Event::default().event("event").data(&*text),
        Some(News::State(text)) => Event::default().event("state").data(&*text),
        Some(News::End(Ending::LabDown)) => Event::default().event("end").data("lab-down"),
        Some(News::End(Ending::Stopped)) => Event::default().event("end").data("stopped"),
        None => Event::default().event("missed").data("some"),
    }
}

// ---- answers -----------------------------------------------------------------------------------------------

type Answer = std::result::Result<Json<Value>, Failure>;

/// An error as the page shows it.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self(e)
    }
}

fn misread(e: &impl std::fmt::Display) -> Failure {
    Failure(Error::usage("the request is not understood").because(e))
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(e) = self;
        let status = match e.kind() {
            Kind::Usage | Kind::LabFile => StatusCode::BAD_REQUEST,
            Kind::Failed => StatusCode::CONFLICT,
            Kind::Environment | Kind::Kernel | Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": e.what(), "causes": e.causes(), "hint": e.hint_text() })))
            .into_response()
    }
}
