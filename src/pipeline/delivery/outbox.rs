//! The objects that still have to go, and when to try again. How a delivery stands is the store's.
//!
//! ```text
//! outbox/STEM.dcm             still has to go
//! outbox/delivered/STEM.dcm   the peer has it; kept so that it can be sent again, byte for byte
//! ```

use std::path::Path;
use std::time::Duration;

use crate::pipeline::objects::{ObjectError, Objects};

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
    objects: Objects,
}

impl OutboxFolder {
    /// In a folder of this node.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, ObjectError> {
        let delivered = folder.join("delivered");
        let failed = |source| ObjectError::File { operation: "creating", path: delivered.clone(), source };
        std::fs::create_dir_all(&delivered).map_err(failed)?;
        Ok(Self::over(Objects::in_folder(folder)))
    }

    /// Over objects, of a bucket too.
    #[must_use]
    pub fn over(objects: Objects) -> Self {
        Self { objects }
    }

    /// Keeps a Part 10 file for a destination. Durable on return. The same key for the same destination again
    /// changes nothing: what was kept first goes.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self, delivery: &str, destination: &str, part10: &[u8]) -> Result<(), ObjectError> {
        if self.is_delivered(delivery, destination)? {
            return Ok(());
        }
        self.objects.put_new(&waiting(delivery, destination), &[part10]).map(drop)
    }

    /// The bytes that go, or went, to a destination.
    ///
    /// # Errors
    /// Where they are not there.
    pub fn read(&self, delivery: &str, destination: &str) -> Result<Vec<u8>, ObjectError> {
        let waiting = waiting(delivery, destination);
        if let Some(bytes) = self.objects.get(&waiting)? {
            return Ok(bytes);
        }
        let delivered = delivered(delivery, destination);
        self.objects.get(&delivered)?.ok_or(ObjectError::Absent(delivered))
    }

    /// Notes beside the objects that a peer has it.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn settle(&self, delivery: &str, destination: &str) -> Result<(), ObjectError> {
        let waiting = waiting(delivery, destination);
        if !self.objects.exists(&waiting)? {
            return Ok(());
        }
        self.objects.rename(&waiting, &delivered(delivery, destination))
    }

    /// Notes that a peer has what lies in the file `object`.
    ///
    /// # Errors
    /// Where it cannot be read or kept.
    pub fn adopt_delivered(
        &self,
        delivery: &str,
        destination: &str,
        object: &Path,
    ) -> Result<(), ObjectError> {
        let failed = |source| ObjectError::File { operation: "reading", path: object.to_owned(), source };
        let bytes = std::fs::read(object).map_err(failed)?;
        self.objects.put_new(&delivered(delivery, destination), &[&bytes]).map(drop)
    }

    /// Removes an object that the peer has; it cannot be sent again.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn forget(&self, delivery: &str, destination: &str) -> Result<(), ObjectError> {
        self.objects.remove(&delivered(delivery, destination))
    }

    /// Whether any object still has to go, or was delivered without a note beside the objects.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn holds_any(&self) -> Result<bool, ObjectError> {
        Ok(self.objects.list("")?.objects.iter().any(|name| name.ends_with(".dcm")))
    }

    /// Whether a peer has it, as the objects say.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub fn is_delivered(&self, delivery: &str, destination: &str) -> Result<bool, ObjectError> {
        self.objects.exists(&delivered(delivery, destination))
    }
}

fn waiting(delivery: &str, destination: &str) -> String {
    format!("{}.dcm", stem(delivery, destination))
}

fn delivered(delivery: &str, destination: &str) -> String {
    format!("delivered/{}.dcm", stem(delivery, destination))
}

/// A file name that no key or destination can bend: their SHA-256.
fn stem(delivery: &str, destination: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(format!("{delivery}\n{destination}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
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
        assert!(!waiting("../../1.2.3 v1", "PACS@h:104").contains('/'));
        assert!(!outbox.is_delivered("../../1.2.3 v1", "PACS@h:104").unwrap());
        outbox.settle("../../1.2.3 v1", "PACS@h:104").unwrap();
        outbox.keep("../../1.2.3 v1", "PACS@h:104", b"fourth").unwrap();
        assert!(outbox.is_delivered("../../1.2.3 v1", "PACS@h:104").unwrap());
        assert_eq!(outbox.read("../../1.2.3 v1", "PACS@h:104").unwrap(), b"first");
        assert!(outbox.read("1.2.3 v2", "PACS@h:104").is_err());
    }
}
