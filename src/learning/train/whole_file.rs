//! Files that are whole or not there.

use std::fs::File;
use std::io::{Error, Write};
use std::path::Path;

/// What a name ends in while its file is being written.
pub(super) const ASIDE: &str = ".part";

/// Writes aside, syncs, renames; where that fails, the half file is taken away and what was there stays.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    let written = File::create(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        drop(std::fs::remove_file(&aside));
        return written;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all())
}

/// Takes away what a killed process left half written in a folder.
pub(super) fn sweep(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.as_os_str().to_string_lossy().ends_with(ASIDE) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        // A folder in the way of the file aside.
        std::fs::create_dir(dir.path().join("kept.part")).unwrap();
        assert!(write(&path, b"third").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn half_files_are_swept_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("step-7.checkpoint.part"), b"ha").unwrap();
        std::fs::write(dir.path().join("step-6.checkpoint"), b"whole").unwrap();
        sweep(dir.path()).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["step-6.checkpoint"]);
    }
}
