//! `/health`, `/ready` and `/metrics`: read only, without log-in, so it belongs on loopback or behind a proxy.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::cluster::Ledger;
use super::store::{DeliveryState, JobState, State, Store, StoreError};
use super::worker::WorkCounters;
use crate::pipeline::ingest::{IngestCounters, free_mb};

/// A request line and its headers are shorter.
const MAX_REQUEST: usize = 8_192;

/// For a whole request to come and its answer to go.
const LIMIT: Duration = Duration::from_secs(5);

/// For the database to say that it is there.
const PING: Duration = Duration::from_secs(2);

/// What the page shows.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) ingest: Arc<IngestCounters>,
    pub(super) work: Arc<WorkCounters>,
    pub(super) store: Arc<Store>,
    /// The data folder, whose disk is measured.
    pub(super) folder: PathBuf,
    /// With less free there no instance is taken, MB; only where they lie there.
    pub(super) min_free_mb: Option<u64>,
    pub(super) has_model: bool,
    pub(super) is_stopping: Arc<AtomicBool>,
    /// Whether the bucket is there.
    pub(super) bucket_answers: Arc<AtomicBool>,
    /// What a node tells the others, where it has some.
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) audit_lost: Arc<AtomicU64>,
}

/// Serves until `stop` turns true.
pub(super) async fn serve(socket: TcpListener, shown: Arc<Shown>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(16));
    while !*stop.borrow() {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            changed = stop.changed() => match changed { Ok(()) => continue, Err(_gone) => return },
        };
        let (Ok((stream, _)), Ok(place)) = (accepted, Arc::clone(&places).try_acquire_owned()) else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shown = Arc::clone(&shown);
        tokio::spawn(async move {
            let served = timeout(LIMIT, answer(stream, shown)).await;
            tracing::debug!(?served, "web request");
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, shown: Arc<Shown>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1_024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        let n = stream.read(&mut part).await?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..n]);
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let (status, body) = match line {
        [b'G', b'E', b'T', b' ', rest @ ..] if rest.starts_with(b"/health ") => ("200 OK", "ok\n".to_owned()),
        [b'G', b'E', b'T', b' ', rest @ ..] if rest.starts_with(b"/metrics ") => {
            ("200 OK", metrics(&shown).await.map_err(std::io::Error::other)?)
        }
        [b'G', b'E', b'T', b' ', rest @ ..] if rest.starts_with(b"/ready ") => {
            let reasons = not_ready(&shown).await;
            match reasons.is_empty() {
                true => ("200 OK", "ready\n".to_owned()),
                false => ("503 Service Unavailable", format!("{}\n", reasons.join("\n"))),
            }
        }
        _ => ("404 Not Found", "only GET /health, /ready and /metrics are here\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    stream.shutdown().await
}

/// Why no new association should come here now.
async fn not_ready(shown: &Shown) -> Vec<&'static str> {
    let is_full = |mb| free_mb(&shown.folder).is_ok_and(|free| free < mb);
    let is_database_there = timeout(PING, shown.store.ping()).await.is_ok_and(|answer| answer.is_ok());
    let ledger = shown.ledger.as_ref();
    let reasons = [
        (shown.is_stopping.load(Ordering::Relaxed), "it is stopping"),
        (!shown.has_model, "there is no model"),
        (!is_database_there, "the database does not answer"),
        (!shown.bucket_answers.load(Ordering::Relaxed), "the object store does not answer"),
        (shown.min_free_mb.is_some_and(is_full), "the disk is full"),
        (ledger.is_some_and(|l| !l.is_alive()), "the other nodes have not heard of it for too long"),
        (ledger.is_some_and(|l| l.skew() > l.most_skew()), "its clock differs from the database's"),
    ];
    reasons.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason).collect()
}

/// The Prometheus text format.
async fn metrics(shown: &Shown) -> Result<String, StoreError> {
    let mut text = String::new();
    let counters = [
        ("oarlock_connections_total", "Connections taken.", &shown.ingest.connections),
        (
            "oarlock_associations_rejected_total",
            "Associations rejected or not asked for properly.",
            &shown.ingest.rejected,
        ),
        ("oarlock_associations_broken_total", "Associations broken off.", &shown.ingest.broken),
        (
            "oarlock_tls_handshakes_failed_total",
            "Connections without a TLS handshake.",
            &shown.ingest.tls_failed,
        ),
        ("oarlock_instances_stored_total", "Instances stored.", &shown.ingest.stored),
        ("oarlock_instances_refused_total", "Instances refused.", &shown.ingest.refused),
        ("oarlock_audit_events_lost_total", "Audit events that could not be kept.", &*shown.audit_lost),
        ("oarlock_series_contoured_total", "Series contoured.", &shown.work.contoured),
        ("oarlock_series_refused_total", "Series refused for what they are.", &shown.work.refused),
        ("oarlock_series_failed_total", "Series failed by the machine's fault.", &shown.work.failed),
    ];
    for (name, help, counter) in counters {
        let value = counter.load(Ordering::Relaxed);
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"));
    }
    if let Ok(free_mb) = free_mb(&shown.folder) {
        let (name, help) = ("oarlock_disk_free_bytes", "Free on the disk of the data folder.");
        let bytes = free_mb.saturating_mul(1_000_000);
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {bytes}\n"));
    }
    let deliveries = shown.store.delivery_counts().await?;
    for (name, help, state) in [
        ("oarlock_deliveries_pending", "Deliveries that still have to go.", DeliveryState::Pending),
        ("oarlock_deliveries_failed", "Deliveries given up.", DeliveryState::Failed),
        ("oarlock_deliveries_held", "Deliveries held back.", DeliveryState::Held),
        ("oarlock_deliveries_delivered", "Deliveries that a peer took.", DeliveryState::Delivered),
    ] {
        let value = deliveries.iter().find(|(known, _)| *known == state).map_or(0, |(_, n)| *n);
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    text.push_str(
        "# HELP oarlock_jobs Versions of series by the state of their job.\n# TYPE oarlock_jobs gauge\n",
    );
    for (state, n) in shown.store.job_counts().await? {
        let state: JobState = state;
        text.push_str(&format!("oarlock_jobs{{state=\"{}\"}} {n}\n", state.word()));
    }
    Ok(text)
}
