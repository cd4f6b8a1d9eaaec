//! The objects that still have to go, on disk, and when to try again. How a delivery stands is the store's.
//!
//! ```text
//! outbox/STEM.dcm             still has to go
//! outbox/delivered/STEM.dcm   the peer has it; kept so that it can be sent again, byte for byte
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::platform;

/// Why the outbox cannot keep something.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Reading or writing failed.
    #[error("{operation} {path} failed: is the disk full, or the folder not ours?")]
    Io {
        /// What we did.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// When to try again, and when not any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub first: Duration,
    /// At most between two attempts.
    pub longest: Duration,
    /// After this long it is failed.
    pub give_up_after: Duration,
}

impl RetryPolicy {
    /// Before the attempt after `attempts` failed ones. `draw` in 0..1 spreads it over the upper half, so that
    /// several destinations behind one broken line do not all come back at once.
    #[must_use]
    pub fn wait(&self, attempts: u32, draw: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1).min(20));
        self.first.saturating_mul(doubled).min(self.longest).mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }
}

/// The folder of objects.
#[derive(Debug)]
pub struct OutboxFolder {
    folder: PathBuf,
}

impl OutboxFolder {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, OutboxError> {
        let delivered = folder.join("delivered");
        fs::create_dir_all(&delivered).map_err(io_error("creating", &delivered))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Keeps a Part 10 file for a destination. Durable on return. The same key for the same destination again
    /// changes nothing: what was kept first goes.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self, delivery: &str, destination: &str, part10: &[u8]) -> Result<(), OutboxError> {
        if self.is_delivered(delivery, destination) || self.waiting(delivery, destination).exists() {
            return Ok(());
        }
        replace(&self.waiting(delivery, destination), part10)
    }

    /// The bytes that go, or went, to a destination.
    ///
    /// # Errors
    /// Where they are not there.
    pub fn read(&self, delivery: &str, destination: &str) -> Result<Vec<u8>, OutboxError> {
        let waiting = self.waiting(delivery, destination);
        match fs::read(&waiting) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let delivered = self.delivered(delivery, destination);
                fs::read(&delivered).map_err(io_error("reading", &delivered))
            }
            Err(source) => Err(OutboxError::Io { operation: "reading", path: waiting, source }),
        }
    }

    /// Notes on disk that a peer has it.
    ///
    /// # Errors
    /// Where the file cannot be moved.
    pub fn settle(&self, delivery: &str, destination: &str) -> Result<(), OutboxError> {
        let waiting = self.waiting(delivery, destination);
        if !waiting.exists() {
            return Ok(());
        }
        let delivered = self.delivered(delivery, destination);
        fs::rename(&waiting, &delivered).map_err(io_error("moving", &waiting))?;
        sync_parent(&delivered)
    }

    /// Notes on disk that a peer has what lies at `object`.
    ///
    /// # Errors
    /// Where it cannot be linked.
    pub fn adopt_delivered(
        &self,
        delivery: &str,
        destination: &str,
        object: &Path,
    ) -> Result<(), OutboxError> {
        let delivered = self.delivered(delivery, destination);
        if delivered.exists() {
            return Ok(());
        }
        fs::hard_link(object, &delivered).map_err(io_error("linking", object))?;
        sync_parent(&delivered)
    }

    /// Removes an object that the peer has; it cannot be sent again.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn forget(&self, delivery: &str, destination: &str) -> Result<(), OutboxError> {
        let delivered = self.delivered(delivery, destination);
        match fs::remove_file(&delivered) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("removing", &delivered)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether any object still has to go, or was delivered without a note on disk.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn holds_any(&self) -> Result<bool, OutboxError> {
        let entries = fs::read_dir(&self.folder).map_err(io_error("reading", &self.folder))?;
        Ok(entries.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "dcm")))
    }

    /// Whether a peer has it, as the disk says.
    #[must_use]
    pub fn is_delivered(&self, delivery: &str, destination: &str) -> bool {
        self.delivered(delivery, destination).exists()
    }

    fn waiting(&self, delivery: &str, destination: &str) -> PathBuf {
        self.folder.join(stem(delivery, destination)).with_added_extension("dcm")
    }

    fn delivered(&self, delivery: &str, destination: &str) -> PathBuf {
        self.folder.join("delivered").join(stem(delivery, destination)).with_added_extension("dcm")
    }
}

/// A file name that no key or destination can bend: their SHA-256.
fn stem(delivery: &str, destination: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(format!("{delivery}\n{destination}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a file of mode 0600 in place at once, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), OutboxError> {
    let temporary = path.with_added_extension("part");
    let written = platform::private_file()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .and_then(|mut file| io::Write::write_all(&mut file, bytes).and_then(|()| file.sync_all()));
    written.map_err(io_error("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("renaming", &temporary))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), OutboxError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    platform::sync_folder(folder).map_err(io_error("syncing", folder))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutboxError {
    let path = path.to_owned();
    move |source| OutboxError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        let seconds = Duration::from_secs;
        RetryPolicy { first: seconds(10), longest: seconds(300), give_up_after: seconds(9_999) }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_spread_over_the_upper_half() {
        let waits: Vec<u64> = (1..=7).map(|n| policy().wait(n, 1.0).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(policy().wait(3, 0.0), Duration::from_secs(20));
        assert_eq!(policy().wait(u32::MAX, 0.5), Duration::from_secs(225));
    }

    #[test]
    fn the_first_object_under_a_key_stays_even_when_it_is_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let open = || OutboxFolder::open(folder.path()).unwrap();
        open().keep("../../1.2.3 v1", "PACS@h:104", b"first").unwrap();
        open().keep("../../1.2.3 v1", "PACS@h:104", b"second").unwrap();
        open().keep("../../1.2.3 v1", "TPS@h:104", b"third").unwrap();
        let outbox = open();
        assert_eq!(outbox.read("../../1.2.3 v1", "PACS@h:104").unwrap(), b"first");
        assert_eq!(outbox.waiting("../../1.2.3 v1", "PACS@h:104").parent(), Some(folder.path()));
        assert!(!outbox.is_delivered("../../1.2.3 v1", "PACS@h:104"));
        outbox.settle("../../1.2.3 v1", "PACS@h:104").unwrap();
        outbox.keep("../../1.2.3 v1", "PACS@h:104", b"fourth").unwrap();
        assert!(outbox.is_delivered("../../1.2.3 v1", "PACS@h:104"));
        assert_eq!(outbox.read("../../1.2.3 v1", "PACS@h:104").unwrap(), b"first");
        assert!(outbox.read("1.2.3 v2", "PACS@h:104").is_err());
    }
}
