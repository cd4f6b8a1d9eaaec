//! Accepts connections, limits them, and ends them in order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::association;
use super::budget::Budget;
use super::pledges::Pledges;
use super::spool::Spool;
use super::stored::StoredInstance;
use super::tally::Tally;
use super::witness::{IngestEvent, Witness};
use crate::pipeline::tls::TlsServer;
use crate::vocabulary::dicom::AeTitle;

/// C-ECHO associations that are taken beyond the cap, so that a full service still says that it lives.
const ECHO_RESERVE: usize = 4;

/// Connections without an association that we hold at a time; the time limit on the request empties the room.
const MAX_CONNECTIONS: usize = 512;

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 1_024;

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Everybody who reaches the port.
    Any,
    /// These only.
    Listed(Vec<Caller>),
}

/// A peer that may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its AE title.
    pub ae_title: AeTitle,
    /// The network it must call from; `None` for any.
    pub network: Option<IpNet>,
}

impl Callers {
    pub(super) fn allow(&self, title: &AeTitle, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(callers) => callers.iter().any(|c| {
                c.ae_title == *title
                    && c.network.is_none_or(|network| network.contains(&address.to_canonical()))
            }),
        }
    }
}

/// Which storage SOP classes are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageClasses {
    /// Any of the standard's.
    Any,
    /// These UIDs.
    Listed(Vec<String>),
}

impl StorageClasses {
    pub(super) fn accept(&self, class: &str) -> bool {
        match self {
            Self::Any => class.starts_with("1.2.840.10008.5.1.4.1.1."),
            Self::Listed(classes) => classes.iter().any(|c| c == class),
        }
    }
}

/// Who comes in, and with what; it may change while the listener serves.
#[derive(Debug)]
pub struct Door {
    /// The called AE title must be this; `None` takes any.
    pub called: Option<AeTitle>,
    /// Who may call.
    pub callers: Callers,
    /// What may be stored.
    pub storage_classes: StorageClasses,
}

/// What the listener accepts and how far it goes.
#[derive(Debug)]
pub struct ListenerOptions {
    /// TLS, and then nothing without it.
    pub tls: Option<Arc<TlsServer>>,
    /// Who comes in; a change is in force for the next association.
    pub door: watch::Receiver<Arc<Door>>,
    /// Is told what the audit trail has to know.
    pub witness: Option<Witness>,
    /// Keeps questions about storage commitment.
    pub pledges: Arc<Pledges>,
    /// How far it goes.
    pub limits: ListenerLimits,
}

/// How far the listener goes for everybody together, and for one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Associations at a time.
    pub max_associations: usize,
    /// Associations at a time of one AE title at one address.
    pub max_associations_per_caller: usize,
    /// Connections at a time from one address, with an association or without.
    pub max_connections_per_address: usize,
    /// The longest data set, bytes.
    pub max_instance_bytes: usize,
    /// All data sets that are being received, bytes.
    pub max_in_hand_bytes: usize,
    /// From the connection to the end of the A-ASSOCIATE-RQ, the TLS handshake included (ARTIM, PS3.8 9.1.4).
    pub request_timeout: Duration,
    /// For a whole PDU to come, and for ours to be taken.
    pub idle_timeout: Duration,
    /// For a whole message, from its first byte on.
    pub message_timeout: Duration,
    /// For a whole association.
    pub association_timeout: Duration,
}

/// What the listener has done since its start.
#[derive(Debug, Default)]
pub struct IngestCounters {
    /// Instances stored, without repetitions.
    pub stored: AtomicU64,
    /// Instances refused.
    pub refused: AtomicU64,
    /// Connections taken.
    pub connections: AtomicU64,
    /// Associations rejected, and connections on which none was asked for in DICOM's words.
    pub rejected: AtomicU64,
    /// Connections that made no TLS handshake.
    pub tls_failed: AtomicU64,
    /// Associations broken off.
    pub broken: AtomicU64,
}

/// What all associations share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ListenerOptions,
    pub(super) spool: Arc<Spool>,
    pub(super) associations: Semaphore,
    pub(super) per_caller: Arc<Tally<(AeTitle, IpAddr)>>,
    pub(super) echo_reserve: Semaphore,
    pub(super) budget: Arc<Budget>,
    pub(super) arrived: mpsc::Sender<StoredInstance>,
    pub(super) counters: Arc<IngestCounters>,
}

impl Shared {
    /// Puts on record that somebody was turned away.
    pub(super) fn turned_away(&self, address: IpAddr, calling: Option<AeTitle>, reason: String) {
        if let Some(witness) = &self.options.witness {
            witness.tell(IngestEvent::TurnedAway { address, calling, reason });
        }
    }
}

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    shared: Arc<Shared>,
}

impl Listener {
    /// Binds; each stored instance is sent to `arrived` after it is durable and before its sender is told.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        options: ListenerOptions,
        spool: Arc<Spool>,
        arrived: mpsc::Sender<StoredInstance>,
    ) -> io::Result<Self> {
        let socket = listen(address)?;
        let limits = options.limits;
        let shared = Shared {
            options,
            spool,
            associations: Semaphore::new(limits.max_associations),
            per_caller: Tally::new(limits.max_associations_per_caller),
            echo_reserve: Semaphore::new(ECHO_RESERVE),
            budget: Budget::new(limits.max_in_hand_bytes),
            arrived,
            counters: Arc::default(),
        };
        Ok(Self { socket, shared: Arc::new(shared) })
    }

    /// Where it listens: the port that was chosen, too.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> Arc<IngestCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `stop` turns true; then the instances in hand are finished and the associations aborted.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let mut crowd = Crowd::default();
        let per_address = Tally::new(self.shared.options.limits.max_connections_per_address);
        while !*stop.borrow() {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    log_panic(ended);
                    continue;
                }
                changed = stop.changed() => match changed {
                    Ok(()) => continue,
                    Err(_no_one_left_to_stop_us) => break,
                },
            };
            match accepted {
                Ok((_socket, address)) if connections.len() >= MAX_CONNECTIONS => {
                    crowd.turn_away(address.ip());
                }
                Ok((socket, address)) => {
                    let address = address.ip().to_canonical();
                    let Some(place) = per_address.take(address) else {
                        crowd.turn_away(address);
                        continue;
                    };
                    self.shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                    let served = association::serve(socket, address, Arc::clone(&self.shared), stop.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or the like: wait for some to come back rather than spin.
                    tracing::error!(%error, "no connection could be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.socket);
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    }
}

/// Binds and listens. The usual 128 connections that may wait to be accepted are few when a flood of them comes on a busy
/// machine: one more, and the kernel drops somebody's first packet, who tries again a second later.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As std and tokio do: the port of a service that has just ended is free; elsewhere the option means another thing.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connections that are closed for want of room: a flood of them must not fill the disk with log lines.
#[derive(Default)]
struct Crowd {
    n_closed: u64,
    said: Option<Instant>,
}

impl Crowd {
    /// Counts one, and says at most once a second how many there were.
    fn turn_away(&mut self, address: IpAddr) {
        self.n_closed += 1;
        if self.said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1)) {
            let n_closed = std::mem::take(&mut self.n_closed);
            tracing::warn!(%address, n_closed, "too many connections, all together or from this address; closed");
            self.said = Some(Instant::now());
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an association ended by a fault of ours; please report this");
    }
}
