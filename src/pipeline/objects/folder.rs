//! Objects as files of mode 0600: written beside their place, synced, put in place, and the folder synced.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use tempfile::{NamedTempFile, PersistError};

use super::{Kept, Listed, ObjectError};

/// What a file that is being written ends in; nobody takes it for an object.
const PART: &str = ".part";

pub(super) fn put_new(path: &Path, parts: &[&[u8]]) -> Result<Kept, ObjectError> {
    if path.exists() {
        return Ok(Kept::Before);
    }
    match written(path, parts)?.persist_noclobber(path) {
        Ok(_file) => sync(parent(path)).map(|()| Kept::New),
        Err(PersistError { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Kept::Before),
        Err(PersistError { error, .. }) => Err(failed("writing", path)(error)),
    }
}

pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), ObjectError> {
    let placed = written(path, &[bytes])?.persist(path);
    placed.map_err(|PersistError { error, .. }| failed("writing", path)(error))?;
    sync(parent(path))
}

pub(super) fn get(path: &Path) -> Result<Option<Vec<u8>>, ObjectError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

pub(super) fn get_first(path: &Path, n_bytes: u64) -> Result<Option<Vec<u8>>, ObjectError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(n_bytes).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

pub(super) fn list(folder: &Path) -> Result<Listed, ObjectError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::default()),
        Err(error) => return Err(failed("reading", folder)(error)),
    };
    let mut listed = Listed::default();
    for entry in entries {
        let entry = entry.map_err(failed("reading", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            listed.folders.push(name);
        } else if !name.ends_with(PART) {
            listed.objects.push(name);
        }
    }
    listed.objects.sort();
    listed.folders.sort();
    Ok(listed)
}

pub(super) fn remove(path: &Path) -> Result<(), ObjectError> {
    match fs::remove_file(path) {
        Ok(()) => sync(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("removing", path)(error)),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), ObjectError> {
    make(parent(to))?;
    fs::rename(from, to).map_err(failed("moving", from))?;
    sync(parent(to))
}

/// A file beside the path that the disk has.
fn written(path: &Path, parts: &[&[u8]]) -> Result<NamedTempFile, ObjectError> {
    let folder = parent(path);
    make(folder)?;
    let mut file = tempfile::Builder::new()
        .suffix(PART)
        .tempfile_in(folder)
        .map_err(failed("creating a file in", folder))?;
    for part in parts {
        file.write_all(part).map_err(failed("writing", path))?;
    }
    file.as_file().sync_all().map_err(failed("syncing", path))?;
    Ok(file)
}

/// Makes a folder and its name durable; one that is there is fine.
fn make(folder: &Path) -> Result<(), ObjectError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(failed("creating", folder))?;
    sync(parent(folder))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(folder: &Path) -> Result<(), ObjectError> {
    crate::platform::sync_folder(folder).map_err(failed("syncing", folder))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ObjectError {
    let path = path.to_owned();
    move |source| ObjectError::File { operation, path, source }
}
