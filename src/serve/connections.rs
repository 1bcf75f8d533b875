//! Accepts connections and speaks HTTP on them, within limits: a client can take neither memory without end nor a
//! connection for ever.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Further clients wait until a connection is free.
const MAX_CONNECTIONS: usize = 256;
const MAX_HEADERS: usize = 64;
/// The request line and all headers.
const MAX_HEADER_BYTES: usize = 16 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// From the beginning of a request, or of waiting for one, to the end of its headers.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// A connection takes no further request after this time, and ends after [`LAST_TIME`] more. It also bounds how long a
/// client may take to read an answer.
const LIFETIME: Duration = Duration::from_secs(120);
const LAST_TIME: Duration = Duration::from_secs(30);

/// Answers all clients of `listener` for ever.
///
/// # Errors
/// If the runtime cannot use the listener.
pub async fn serve(listener: std::net::TcpListener, router: Router) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let permit = Arc::clone(&free).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    answer(stream, router).await;
                });
            }
            // The client has gone, or there are too many open files, in which case waiting may help.
            Err(error) => {
                debug!("cannot accept a connection: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    // Answers are small and wait for nothing. Without this, the system may hold them back; a failure only makes it slower.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    builder.max_headers(MAX_HEADERS).max_header_size(MAX_HEADER_BYTES).max_buf_size(BUFFER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = match timeout(LIFETIME, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_TIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!("a connection ended: {error}");
    }
}
