//! The operator's HTTP port: `/metrics` for Prometheus and `/healthz` for whoever restarts us. Loopback by default;
//! nothing on it is for the network.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::lifecycle::Tasks;
use crate::store::{KeyRange, Order, Partition, Store};

mod patience;

/// What the pages are made from.
pub struct Pages {
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Asked by `/healthz`.
    pub store: Arc<dyn Store>,
    /// Whether we drain, and until when to serve.
    pub tasks: Tasks,
}

/// Serves `listener` until the hard token, so that a drain can be watched.
pub fn serve(listener: TcpListener, pages: Pages) {
    let tasks = pages.tasks.clone();
    let stop = tasks.hard().clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(Arc::new(pages));
    tasks.spawn("http", async move {
        // Not graceful: an open keep-alive connection must not hold up the end of the process.
        tokio::select! {
            served = axum::serve(patience::Patience::new(listener), router).into_future() => Ok(served?),
            () = stop.cancelled() => Ok(()),
        }
    });
}

async fn metrics(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &pages.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// 200 `ok`; 503 `draining` after SIGTERM; 503 `store` when it cannot be read.
async fn health(State(pages): State<Arc<Pages>>) -> (StatusCode, &'static str) {
    let probe = Partition::new("health", "");
    if pages.tasks.soft().is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if pages.store.scan(&probe, &KeyRange::all(), 1, Order::Ascending).is_err() {
        (StatusCode::SERVICE_UNAVAILABLE, "store\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::lifecycle::{Lifecycle, Signal};
    use crate::metrics::{Metrics, Operation};
    use crate::store::{self, Batch};

    async fn page(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    struct AtOnce;

    impl Signal for AtOnce {
        async fn next(&mut self) {}
    }

    #[tokio::test]
    async fn metrics_and_health_are_served_through_the_drain() {
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(dir.path(), 1 << 20).unwrap();
        store.commit(Batch::new(&Partition::new("x", "x")).put("k", "v")).await.unwrap();
        let metrics = Metrics::default();
        metrics.requests.get_or_create(&Operation { operation: "submit", outcome: "ok" }).inc();
        let lifecycle = Lifecycle::default();
        let tasks = lifecycle.tasks();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = metrics.registry(store.clone());
        serve(listener, Pages { registry, store, tasks });

        assert!(page(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        let text = page(address, "/metrics").await;
        assert!(text.contains("ahoyd_requests_total{operation=\"submit\",outcome=\"ok\"} 1\n"), "{text}");
        assert!(text.contains("ahoyd_store_commits_total 1\n"), "{text}");
        assert!(page(address, "/").await.starts_with("HTTP/1.1 404 "));

        let while_draining = move || async move {
            let answer = page(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining\n"), "{answer}");
        };
        lifecycle.run(AtOnce, while_draining, Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_its_request_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(dir.path(), 1 << 20).unwrap();
        let lifecycle = Lifecycle::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Metrics::default().registry(store.clone());
        serve(listener, Pages { registry, store, tasks: lifecycle.tasks() });
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.unwrap();
        let mut answer = Vec::new();
        let cut = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(cut.is_ok(), "it is still connected after a minute");
        assert!(answer.is_empty(), "{answer:?}");
        lifecycle.run(AtOnce, || async {}, Duration::from_secs(1)).await.unwrap();
    }
}
