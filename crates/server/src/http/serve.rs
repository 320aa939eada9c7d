//! Connections: taken up to a limit, each with limits on its header sections, drained at the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;
use super::routes::router;
use crate::accepting::Failures;

/// Header fields of one request.
const HEADERS_MAX: usize = 64;

/// Listens on an address; port 0 takes a free one. Needs a tokio runtime.
///
/// # Errors
/// What the system says.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop` resolves, then lets requests in flight end within `grace`. Event streams
/// are ended at once, with an event that says so.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    stop: impl Future<Output = ()> + Send,
    grace: Duration,
) {
    let service = TowerToHyperService::new(router(api.clone()));
    let room = Arc::new(Semaphore::new(api.0.config.connections_max));
    let builder = builder(&api);
    let graceful = GracefulShutdown::new();
    let mut failures = Failures::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, permit) = tokio::select! {
            () = &mut stop => break,
            taken = take(&listener, &room, api.0.config.write_timeout) => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    failures.pause("http", &error).await;
                    continue;
                }
            },
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off or speaks no HTTP is its own business.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    api.0.stopping.send_replace(true);
    if tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("HTTP requests in flight were cut off");
    }
}

/// The next connection, once there is room for it.
async fn take(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    write_timeout: Duration,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.expect("nobody closes it");
    let (stream, _) = listener.accept().await?;
    let _ = stream.set_nodelay(true);
    // Also ends connections whose client reads nothing: zero windows are probed, and the
    // probes' age counts.
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(write_timeout));
    Ok((stream, permit))
}

fn builder(api: &Api) -> http1::Builder {
    let config = &api.0.config;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(config.header_bytes_max.max(8 << 10));
    builder
}
