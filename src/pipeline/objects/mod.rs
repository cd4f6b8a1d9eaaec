//! Objects: bytes under a name, durable when they are said to be kept. In a folder of this node, or in an S3 bucket that
//! several nodes share.
//!
//! Comes in: names of ours (checked UIDs, hashes, numbers, with `/` between them) and bytes. Goes out: bytes. Everything
//! here blocks and belongs on a thread that may.

mod bucket;
mod folder;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bucket::Bucket;
pub use bucket::{BucketAccess, BucketError};

/// Why an object cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Reading or writing a file failed.
    #[error("{operation} {path} failed: is the disk full, or the folder not ours?")]
    File {
        /// What we did.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bucket did not do it.
    #[error("{operation} {name} failed in the bucket: does the object store answer, and may we?")]
    Bucket {
        /// What we did.
        operation: &'static str,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: BucketError,
    },
    /// There is none of this name.
    #[error("there is no {0}: was it removed?")]
    Absent(String),
    /// What was tried does not come out as it should.
    #[error("the object store {0}")]
    Unfit(&'static str),
}

/// What became of an object that should be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    New,
    /// There was one of this name, which stays.
    Before,
}

/// What lies directly in a folder of objects; the last parts of the names, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Objects.
    pub objects: Vec<String>,
    /// Folders.
    pub folders: Vec<String>,
}

/// A place of objects.
#[derive(Debug, Clone)]
pub struct Objects {
    place: Place,
    /// Before each name; empty, or with a `/` at its end.
    below: String,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Bucket(Arc<Bucket>),
}

impl Objects {
    /// In a folder, which is made where it is missing.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { place: Place::Folder(folder.to_owned()), below: String::new() }
    }

    /// In a bucket.
    ///
    /// # Errors
    /// [`BucketError`] where the access is not one; nothing is asked of the server yet.
    pub fn in_bucket(access: &BucketAccess) -> Result<Self, BucketError> {
        Ok(Self { place: Place::Bucket(Arc::new(Bucket::open(access)?)), below: String::new() })
    }

    /// The objects below a folder of these.
    #[must_use]
    pub fn below(&self, folder: &str) -> Self {
        Self { place: self.place.clone(), below: format!("{}{folder}/", self.below) }
    }

    /// Keeps an object of several parts if there is none of this name. Durable on return; of several who try at once, one
    /// is told [`Kept::New`].
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Kept, ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => folder::put_new(&folder.join(name), parts),
            Place::Bucket(bucket) => bucket.put_new(&name, parts).map_err(failed("writing", &name)),
        }
    }

    /// Keeps an object in the place of one that may be there. Durable on return, and never half of either.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => folder::put(&folder.join(name), bytes),
            Place::Bucket(bucket) => bucket.put(&name, bytes).map_err(failed("writing", &name)),
        }
    }

    /// The bytes of an object; `None` where there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => folder::get(&folder.join(name)),
            Place::Bucket(bucket) => bucket.get(&name).map_err(failed("reading", &name)),
        }
    }

    /// The first bytes of an object, or all of a shorter one; `None` where there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn get_first(&self, name: &str, n_bytes: u64) -> Result<Option<Vec<u8>>, ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => folder::get_first(&folder.join(name), n_bytes),
            Place::Bucket(bucket) => bucket.get_first(&name, n_bytes).map_err(failed("reading", &name)),
        }
    }

    /// Whether there is an object of this name.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn exists(&self, name: &str) -> Result<bool, ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => Ok(folder.join(name).is_file()),
            Place::Bucket(bucket) => bucket.exists(&name).map_err(failed("finding", &name)),
        }
    }

    /// What lies directly in a folder; the empty name is the place itself.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn list(&self, folder: &str) -> Result<Listed, ObjectError> {
        let name = self.name(folder);
        let name = name.trim_end_matches('/');
        match &self.place {
            Place::Folder(root) => folder::list(&root.join(name)),
            Place::Bucket(bucket) => bucket.list(name).map_err(failed("listing", name)),
        }
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn remove(&self, name: &str) -> Result<(), ObjectError> {
        let name = self.name(name);
        match &self.place {
            Place::Folder(folder) => folder::remove(&folder.join(name)),
            Place::Bucket(bucket) => bucket.remove(&name).map_err(failed("removing", &name)),
        }
    }

    /// Gives an object another name. In a bucket both may be there for a moment.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn rename(&self, from: &str, to: &str) -> Result<(), ObjectError> {
        let (from, to) = (self.name(from), self.name(to));
        match &self.place {
            Place::Folder(folder) => folder::rename(&folder.join(from), &folder.join(to)),
            Place::Bucket(bucket) => bucket.rename(&from, &to).map_err(failed("moving", &from)),
        }
    }

    /// Whether the place answers: a folder always, a bucket when it can be asked.
    #[must_use]
    pub fn answers(&self) -> bool {
        match &self.place {
            Place::Folder(_) => true,
            // Never an object, nor a folder of some.
            Place::Bucket(bucket) => bucket.exists(&self.name("probe/nothing")).is_ok(),
        }
    }

    /// Tries everything that is needed with objects of its own, which are removed again.
    ///
    /// # Errors
    /// [`ObjectError`]: what fails, or what the place does not do.
    pub fn probe(&self, unique: &str) -> Result<(), ObjectError> {
        let folder = format!("probe/{unique}");
        let (first, second) = (format!("{folder}/1"), format!("{folder}/2"));
        let outcome = self.tried(&folder, &first, &second);
        let removed = [self.remove(&first), self.remove(&second)];
        outcome.and(removed.into_iter().collect())
    }

    fn tried(&self, folder: &str, first: &str, second: &str) -> Result<(), ObjectError> {
        let require =
            |holds: bool, or: &'static str| if holds { Ok(()) } else { Err(ObjectError::Unfit(or)) };
        require(self.put_new(first, &[b"pro", b"be"])? == Kept::New, "says that there is what never was")?;
        require(
            self.put_new(first, &[b"other"])? == Kept::Before
                && self.get(first)?.as_deref() == Some(b"probe"),
            "overwrites what is there although it is told not to (If-None-Match: *): take one with conditional writes",
        )?;
        self.put(first, b"again")?;
        require(self.get(first)?.as_deref() == Some(b"again"), "gives back something else than was put")?;
        self.rename(first, second)?;
        let listed = self.list(folder)?.objects;
        require(listed == ["2"], "does not list what was just moved")
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.below)
    }
}

/// Puts a file in place at once, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ObjectError> {
    folder::put(path, bytes)
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(BucketError) -> ObjectError {
    let name = name.to_owned();
    move |source| ObjectError::Bucket { operation, name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_first_stays_until_it_is_replaced_moved_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::in_folder(folder.path()).below("a");
        assert_eq!(objects.list("").unwrap(), Listed::default());
        assert_eq!(objects.put_new("b/1.dcm", &[b"fir", b"st"]).unwrap(), Kept::New);
        assert_eq!(objects.put_new("b/1.dcm", &[b"second"]).unwrap(), Kept::Before);
        assert_eq!(objects.get("b/1.dcm").unwrap().unwrap(), b"first");
        assert_eq!(objects.get_first("b/1.dcm", 3).unwrap().unwrap(), b"fir");
        assert_eq!(objects.get_first("b/1.dcm", 30).unwrap().unwrap(), b"first");
        assert_eq!(objects.get_first("b/2.dcm", 3).unwrap(), None);
        objects.put("b/1.dcm", b"third").unwrap();
        objects.put("0.txt", b"x").unwrap();
        let listed = objects.list("").unwrap();
        assert_eq!((listed.objects, listed.folders), (vec!["0.txt".to_owned()], vec!["b".to_owned()]));
        objects.rename("b/1.dcm", "c/d/1.dcm").unwrap();
        assert!(!objects.exists("b/1.dcm").unwrap());
        assert_eq!(Objects::in_folder(folder.path()).get("a/c/d/1.dcm").unwrap().unwrap(), b"third");
        objects.probe("me").unwrap();
        objects.remove("c/d/1.dcm").unwrap();
        objects.remove("c/d/1.dcm").unwrap();
        assert_eq!(objects.get("c/d/1.dcm").unwrap(), None);
    }

    #[test]
    fn of_several_who_keep_the_same_name_at_once_one_is_told_new() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::in_folder(folder.path());
        let kept: Vec<Kept> = std::thread::scope(|scope| {
            let one = |n: u8| {
                let objects = &objects;
                scope.spawn(move || objects.put_new("x/y", &[&[n; 1_000]]).unwrap())
            };
            let all: Vec<_> = (0..8).map(one).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(kept.iter().filter(|kept| **kept == Kept::New).count(), 1, "{kept:?}");
    }
}
