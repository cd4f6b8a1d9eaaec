//! Delivery into a folder that another program watches.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::destination::Receipt;
use crate::pipeline::ingest::part10::{self, Part10Error};
use crate::platform;

/// Why a file was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder is not there. It is not made: below a mount that is missing it would fill the wrong disk.
    #[error("the folder {folder} is not there: is the share mounted, and the path right?")]
    Missing {
        /// Which.
        folder: PathBuf,
    },
    /// Writing failed.
    #[error("writing into {folder} failed: is it full, or not ours to write?")]
    Write {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another file of that name.
    #[error("{path} is there already with other content: move it away, then deliver again")]
    Taken {
        /// Which.
        path: PathBuf,
    },
    /// What should go is no Part 10 file.
    #[error("the file cannot be delivered")]
    File(#[source] Part10Error),
}

impl FolderError {
    /// Whether waiting is of no use.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Taken { .. } | Self::File(_) => true,
            Self::Missing { .. } | Self::Write { .. } => false,
        }
    }
}

/// Puts a Part 10 file into the folder as `oarlock-UID.dcm`, all of it at once and durable on return. A watcher sees the
/// whole file or none: it is written as `.oarlock-UID.part` first. The same file again changes nothing.
///
/// # Errors
/// [`FolderError`].
pub(super) fn put(folder: &Path, part10: &[u8]) -> Result<Receipt, FolderError> {
    // Its UID is digits and dots, checked, so it bends no path.
    let uid = part10::split(part10).map_err(FolderError::File)?.sop_instance_uid;
    if !folder.is_dir() {
        return Err(FolderError::Missing { folder: folder.to_owned() });
    }
    let failed = |source| FolderError::Write { folder: folder.to_owned(), source };
    let path = folder.join(format!("oarlock-{uid}.dcm"));
    match fs::read(&path) {
        Ok(there) if there == part10 => return Ok(Receipt::default()),
        Ok(_other) => return Err(FolderError::Taken { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let aside = folder.join(format!(".oarlock-{uid}.part"));
    write_durably(&aside, part10).map_err(failed)?;
    fs::rename(&aside, &path).map_err(failed)?;
    sync_folder(folder).map_err(failed)?;
    Ok(Receipt::default())
}

/// Whether the folder is there and takes a file.
///
/// # Errors
/// [`FolderError`].
pub(super) fn probe(folder: &Path) -> Result<(), FolderError> {
    if !folder.is_dir() {
        return Err(FolderError::Missing { folder: folder.to_owned() });
    }
    let probed = tempfile::Builder::new().prefix(".oarlock-").suffix(".part").tempfile_in(folder);
    probed.map(drop).map_err(|source| FolderError::Write { folder: folder.to_owned(), source })
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // The program that watches runs as another user, often of the same group.
    let mut file = platform::file_for_the_group().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match platform::sync_folder(folder) {
        // Network file systems may know no sync of folders; the rename is done.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::destination::tests::part10;
    use super::*;

    #[test]
    fn a_file_arrives_whole_once_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let object = part10("1.2.80", b"first");
        put(folder.path(), &object).unwrap();
        put(folder.path(), &object).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["oarlock-1.2.80.dcm"]);
        assert_eq!(fs::read(folder.path().join(&names[0])).unwrap(), object);
        let other = put(folder.path(), &part10("1.2.80", b"other")).unwrap_err();
        assert!(other.is_permanent() && other.to_string().contains("other content"), "{other}");
        assert_eq!(fs::read(folder.path().join(&names[0])).unwrap(), object);
    }

    #[test]
    fn a_write_that_was_cut_off_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".oarlock-1.2.80.part"), b"longer than half of what was to be written")
            .unwrap();
        let object = part10("1.2.80", b"x");
        put(folder.path(), &object).unwrap();
        assert_eq!(fs::read(folder.path().join("oarlock-1.2.80.dcm")).unwrap(), object);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_waited_for_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        let error = put(&mount, &part10("1.2.80", b"first")).unwrap_err();
        assert!(!error.is_permanent() && !mount.exists(), "{error}");
        assert!(probe(&mount).is_err() && probe(folder.path()).is_ok());
    }
}
