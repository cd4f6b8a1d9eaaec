//! A destination: its name, the way to it, and what it says in one of four words - taken, taken with a warning, not
//! now, never.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::commitment::{self, Commitment};
use super::folder::{self, FolderError};
use super::scu::{self, Kind, Scu, ScuError, ScuTimeouts, kind_of};
use super::stow::{self, StowError, StowService};
use crate::pipeline::tls::{TlsClient, TlsClientFiles, TlsError};
use crate::vocabulary::dicom::{AeTitle, Peer};

/// Where structure sets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What records and messages call it; one destination, one name.
    pub name: String,
    /// How they get there.
    pub way: Way,
}

/// How structure sets get to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// C-STORE.
    Store {
        /// To whom.
        peer: Peer,
        /// How long to wait for its storage commitment; `None` asks for none.
        commitment: Option<Duration>,
        /// Over TLS with these files; `None` is plain.
        tls: Option<TlsClientFiles>,
    },
    /// A file in a folder.
    Folder(PathBuf),
    /// DICOMweb STOW-RS.
    Stow(StowService),
}

/// What a destination says when it has taken something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Its warning, such as `status B007H: elements discarded`.
    pub warning: Option<String>,
}

/// Why a destination did not take something.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// C-STORE.
    #[error(transparent)]
    Store(#[from] ScuError),
    /// Folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// STOW-RS.
    #[error(transparent)]
    Stow(#[from] StowError),
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Our own thread ended.
    #[error("the delivery was interrupted; it is tried again")]
    Interrupted,
}

impl DeliveryError {
    /// Whether trying again is of no use until a person has changed something in the object or the destination.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::Folder(error) => error.is_permanent(),
            Self::Stow(error) => error.is_permanent(),
            Self::Tls(_) | Self::Interrupted => false,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl From<Peer> for Destination {
    /// A peer under its own notation.
    fn from(peer: Peer) -> Self {
        Self { name: peer.to_string(), way: Way::Store { peer, commitment: None, tls: None } }
    }
}

impl Destination {
    /// Delivers a Part 10 file.
    ///
    /// # Errors
    /// [`DeliveryError`]; [`DeliveryError::is_permanent`] says whether to try again.
    pub async fn deliver(
        &self,
        calling: &AeTitle,
        timeouts: ScuTimeouts,
        part10: &[u8],
    ) -> Result<Receipt, DeliveryError> {
        match &self.way {
            Way::Store { peer, commitment, tls } => {
                let tls = tls.as_ref().map(TlsClient::load).transpose()?;
                Ok(store(peer, *commitment, (calling, timeouts), tls.as_ref(), part10).await?)
            }
            Way::Folder(folder) => {
                let (folder, part10) = (folder.clone(), part10.to_vec());
                Ok(aside(move || folder::put(&folder, &part10)).await??)
            }
            Way::Stow(service) => {
                let (service, part10) = (service.clone(), part10.to_vec());
                Ok(aside(move || stow::store(&service, timeouts, &part10)).await??)
            }
        }
    }

    /// How long it may keep an answer back beyond that of a request: for the report of a storage commitment.
    #[must_use]
    pub fn waits(&self) -> Duration {
        match &self.way {
            Way::Store { commitment, .. } => commitment.unwrap_or_default(),
            Way::Folder(_) | Way::Stow(_) => Duration::ZERO,
        }
    }

    /// Asks whether it can be reached, without delivering anything: C-ECHO, a file that is removed again, or a search
    /// over HTTP. Gives a sentence for a person.
    ///
    /// # Errors
    /// [`DeliveryError`].
    pub async fn reach(&self, calling: &AeTitle, timeouts: ScuTimeouts) -> Result<String, DeliveryError> {
        match &self.way {
            Way::Store { peer, tls, .. } => {
                let tls = tls.as_ref().map(TlsClient::load).transpose()?;
                scu::echo_with(peer, calling, timeouts, tls.as_ref()).await?;
                Ok(format!("{self} answers{}", if tls.is_some() { " over TLS" } else { "" }))
            }
            Way::Folder(folder) => {
                let at = folder.clone();
                aside(move || folder::probe(&at)).await??;
                Ok(format!("{self}: {} can be written", folder.display()))
            }
            Way::Stow(service) => {
                let service = service.clone();
                let said = aside(move || stow::reach(&service, timeouts)).await??;
                Ok(format!("{self}: {said}"))
            }
        }
    }
}

/// Runs what blocks on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DeliveryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked_or_stopped| DeliveryError::Interrupted)
}

async fn store(
    peer: &Peer,
    commitment: Option<Duration>,
    (calling, timeouts): (&AeTitle, ScuTimeouts),
    tls: Option<&TlsClient>,
    part10: &[u8],
) -> Result<Receipt, ScuError> {
    let kind = kind_of(part10)?;
    let mut kinds = BTreeSet::from([kind.clone()]);
    kinds.extend(commitment.and_then(|_| commitment::kind_to_propose()));
    let mut scu = Scu::open_with(peer, calling, &kinds, timeouts, tls).await?;
    let outcome = store_and_commit(&mut scu, peer, commitment, &kind, part10).await;
    if !matches!(outcome, Err(ScuError::Pdu { .. } | ScuError::Unexpected { .. })) {
        scu.release().await;
    }
    outcome
}

async fn store_and_commit(
    scu: &mut Scu,
    peer: &Peer,
    commitment: Option<Duration>,
    kind: &Kind,
    part10: &[u8],
) -> Result<Receipt, ScuError> {
    let stored = scu.store(part10).await?;
    let Some(wait) = commitment else { return Ok(Receipt { warning: stored.warning }) };
    let said = match scu.commit(&kind.sop_class_uid, &stored.sop_instance_uid, wait).await? {
        Commitment::Committed => {
            tracing::info!(%peer, "storage committed");
            None
        }
        Commitment::Refused { reason } => return Err(ScuError::NotCommitted { peer: peer.clone(), reason }),
        Commitment::NotOffered(why) => Some(format!("no storage commitment: {why}")),
        Commitment::NoAnswer => Some(format!("no storage commitment came within {} s", wait.as_secs_f64())),
    };
    let warnings: Vec<String> = stored.warning.into_iter().chain(said).collect();
    Ok(Receipt { warning: (!warnings.is_empty()).then(|| warnings.join("; ")) })
}

#[cfg(test)]
pub(super) mod tests {
    /// A Part 10 file of an RT Structure Set with this UID, and `content` for a data set.
    pub(in super::super) fn part10(uid: &str, content: &[u8]) -> Vec<u8> {
        let element = |number: u8, text: &str| {
            let mut value = text.as_bytes().to_vec();
            value.resize(text.len().next_multiple_of(2), 0);
            let head = [2, 0, number, 0, b'U', b'I', u8::try_from(value.len()).unwrap(), 0];
            [head.to_vec(), value].concat()
        };
        let meta = [
            element(2, "1.2.840.10008.5.1.4.1.1.481.3"),
            element(3, uid),
            element(0x10, "1.2.840.10008.1.2"),
        ];
        [vec![0; 128], b"DICM".to_vec(), meta.concat(), content.to_vec()].concat()
    }
}
