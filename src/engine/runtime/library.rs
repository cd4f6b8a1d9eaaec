//! Finds ONNX Runtime's library, or fetches it once.
//!
//! Order: what was named, `ORT_DYLIB_PATH`, our data folder. [`install`] puts it there from the wheels that ONNX
//! Runtime's makers publish: version, size and SHA-256 are pinned here, the index is the one that pip is set to.

use std::fs::File;
use std::io::{Seek, SeekFrom, copy};
use std::path::{Path, PathBuf};

use super::package_index::{IndexError, IndexSettings, IndexedFile};

/// Most bytes that a release may unpack to.
const MOST_UNPACKED: u64 = 8 << 30;

/// A version for one kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Folder below the runtime folder, and what messages call it.
    pub name: &'static str,
    /// The library, below that folder.
    library: &'static str,
    /// Where its parts are.
    wheels: &'static [IndexedFile],
}

/// Why the library is not there.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Not found, and not to be fetched.
    #[error(
        "ONNX Runtime is not on this machine and --offline forbids to fetch it: name the library with --onnxruntime FILE or ORT_DYLIB_PATH, or run `oarlock runtime install` once with a network"
    )]
    Offline,
    /// No release for this machine.
    #[error(
        "no ONNX Runtime is pinned for {system} on {architecture}{cuda}: install it yourself and name the library with --onnxruntime FILE or ORT_DYLIB_PATH"
    )]
    NoRelease {
        /// Operating system.
        system: &'static str,
        /// Processor.
        architecture: &'static str,
        /// ` with CUDA`, or nothing.
        cuda: &'static str,
    },
    /// Nobody's home.
    #[error(
        "this user has no home directory to keep ONNX Runtime in: name the library with --onnxruntime FILE or ORT_DYLIB_PATH"
    )]
    NoFolder,
    /// The index.
    #[error("ONNX Runtime was not fetched")]
    Index(#[from] IndexError),
    /// The wheel.
    #[error("{wheel} cannot be unpacked")]
    Unpack {
        /// Which.
        wheel: &'static str,
        /// Why.
        #[source]
        source: zip::result::ZipError,
    },
    /// The disk.
    #[error("ONNX Runtime cannot be kept in {folder}: check permissions and free space")]
    Keep {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what we know.
    #[error("the wheels of {release} hold no {library}: this program and the index do not belong together")]
    Missing {
        /// Which release.
        release: &'static str,
        /// Which file.
        library: &'static str,
    },
}

const LINUX_X86_64: Release = Release {
    name: "onnxruntime-1.32.0",
    library: "onnxruntime/capi/libonnxruntime.so.1.32.0",
    wheels: &[IndexedFile {
        project: "onnxruntime",
        file: "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        sha256: "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
        size: 27_780_211,
    }],
};

const LINUX_AARCH64: Release = Release {
    wheels: &[IndexedFile {
        project: "onnxruntime",
        file: "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl",
        sha256: "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
        size: 23_196_724,
    }],
    ..LINUX_X86_64
};

const MACOS_AARCH64: Release = Release {
    library: "onnxruntime/capi/libonnxruntime.1.32.0.dylib",
    wheels: &[IndexedFile {
        project: "onnxruntime",
        file: "onnxruntime-1.32.0-cp312-cp312-macosx_14_0_arm64.whl",
        sha256: "d52510bbbcc880c13b826f7d75cdf33ac5cf0bb864d960000fc29ce73f0cb83e",
        size: 22_519_308,
    }],
    ..LINUX_X86_64
};

const WINDOWS_X86_64: Release = Release {
    library: "onnxruntime/capi/onnxruntime.dll",
    wheels: &[IndexedFile {
        project: "onnxruntime",
        file: "onnxruntime-1.32.0-cp312-cp312-win_amd64.whl",
        sha256: "efe7456952c243a05a53d5b8732953625144642c2f3989094277f6217f0c0c40",
        size: 16_698_767,
    }],
    ..LINUX_X86_64
};

impl Release {
    /// The release for this machine, with or without CUDA.
    ///
    /// # Errors
    /// [`LibraryError::NoRelease`].
    pub fn of_this_machine(cuda: bool) -> Result<&'static Self, LibraryError> {
        use std::env::consts::{ARCH, OS};
        match (OS, ARCH, cuda) {
            ("linux", "x86_64", false) => Ok(&LINUX_X86_64),
            ("linux", "x86_64", true) => Ok(&super::cuda_release::LINUX_X86_64),
            ("linux", "aarch64", false) => Ok(&LINUX_AARCH64),
            ("macos", "aarch64", false) => Ok(&MACOS_AARCH64),
            ("windows", "x86_64", false) => Ok(&WINDOWS_X86_64),
            (system, architecture, _) => Err(LibraryError::NoRelease {
                system,
                architecture,
                cuda: if cuda { " with CUDA" } else { "" },
            }),
        }
    }

    /// What has to be fetched, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.wheels.iter().map(|wheel| wheel.size).sum()
    }

    pub(super) const fn new(
        name: &'static str,
        library: &'static str,
        wheels: &'static [IndexedFile],
    ) -> Self {
        Self { name, library, wheels }
    }
}

/// The folder of fetched releases.
///
/// # Errors
/// [`LibraryError::NoFolder`].
pub fn folder() -> Result<PathBuf, LibraryError> {
    let of_user = directories::ProjectDirs::from("", "", "oarlock");
    of_user.map(|dirs| dirs.data_local_dir().join("runtime")).ok_or(LibraryError::NoFolder)
}

/// The library that was named, by argument or `ORT_DYLIB_PATH`, else the one in our data folder (with CUDA before
/// without); `None` where there is none.
#[must_use]
pub fn find(named: Option<&Path>) -> Option<PathBuf> {
    let named = named.map(Path::to_owned).or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    named.or_else(|| {
        let folder = folder().ok()?;
        [true, false].into_iter().find_map(|cuda| installed(Release::of_this_machine(cuda).ok()?, &folder))
    })
}

fn installed(release: &Release, folder: &Path) -> Option<PathBuf> {
    Some(folder.join(release.name).join(release.library)).filter(|path| path.is_file())
}

/// Fetches a release into `folder` unless it is there, and gives its library. Of several processes at once one
/// fetches and the others wait for it; what is half done is never found.
///
/// # Errors
/// [`LibraryError`]; the folder is then as before.
pub fn install(
    release: &'static Release,
    folder: &Path,
    index: &IndexSettings,
    progress: &mut dyn FnMut(u64),
) -> Result<PathBuf, LibraryError> {
    if let Some(library) = installed(release, folder) {
        return Ok(library);
    }
    let keep = |source| LibraryError::Keep { folder: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(keep)?;
    let lock = File::create(folder.join("lock")).map_err(keep)?;
    lock.lock().map_err(keep)?;
    if let Some(library) = installed(release, folder) {
        return Ok(library);
    }
    let aside = tempfile::Builder::new().prefix(".part-").tempdir_in(folder).map_err(keep)?;
    let mut before = 0;
    for wheel in release.wheels {
        let mut file = tempfile::tempfile_in(folder).map_err(keep)?;
        index.fetch(wheel, &mut file, &mut |n| progress(before + n))?;
        before += wheel.size;
        file.seek(SeekFrom::Start(0)).map_err(keep)?;
        unpack(wheel.file, file, aside.path()).map_err(|error| match error {
            zip::result::ZipError::Io(source) => keep(source),
            source => LibraryError::Unpack { wheel: wheel.file, source },
        })?;
    }
    if !aside.path().join(release.library).is_file() {
        return Err(LibraryError::Missing { release: release.name, library: release.library });
    }
    let target = folder.join(release.name);
    if target.exists() {
        // Somebody has taken the library out of it.
        std::fs::remove_dir_all(&target).map_err(keep)?;
    }
    std::fs::rename(aside.keep(), &target).map_err(keep)?;
    installed(release, folder)
        .ok_or(LibraryError::Missing { release: release.name, library: release.library })
}

/// Writes the wheel's shared libraries below `to`, under their own names.
fn unpack(wheel: &str, file: File, to: &Path) -> Result<(), zip::result::ZipError> {
    let mut archive = zip::ZipArchive::new(file)?;
    let mut room = MOST_UNPACKED;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(name) = entry.enclosed_name().filter(|name| entry.is_file() && is_library(name)) else {
            continue;
        };
        room = room.checked_sub(entry.size()).ok_or(zip::result::ZipError::InvalidArchive(
            format!("{wheel} unpacks to more than {MOST_UNPACKED} bytes").into(),
        ))?;
        let path = to.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let stated = entry.size();
        let written = copy(&mut std::io::Read::take(&mut entry, stated), &mut File::create(path)?)?;
        if written != stated {
            return Err(zip::result::ZipError::InvalidArchive("an entry is cut short".into()));
        }
    }
    Ok(())
}

/// Shared libraries, but not Python's own modules.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_shared =
        name.ends_with(".so") || name.contains(".so.") || name.ends_with(".dylib") || name.ends_with(".dll");
    is_shared && !name.contains("pybind11")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sha2::{Digest, Sha256};

    use super::super::package_index::tests::index;
    use super::*;

    fn wheel(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn release(wheel: &[u8], library: &'static str) -> &'static Release {
        let digest: String = Sha256::digest(wheel).iter().map(|b| format!("{b:02x}")).collect();
        let file =
            IndexedFile { project: "p", file: "p-1.whl", sha256: digest.leak(), size: wheel.len() as u64 };
        Box::leak(Box::new(Release::new("p-1", library, Box::leak(Box::new([file])))))
    }

    /// Serves the wheel; counts how often.
    fn serve(wheel: Vec<u8>) -> (IndexSettings, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let settings = index(move |path| {
            if path.ends_with("/p/") {
                return Some(("text/html", b"<a href='p-1.whl'>".to_vec()));
            }
            counted.fetch_add(1, Ordering::SeqCst);
            Some(("application/zip", wheel.clone()))
        });
        (settings, count)
    }

    #[test]
    fn four_at_once_fetch_once_and_all_get_the_library() {
        let bytes = wheel(&[
            ("p/lib/libp.so.1", b"the library"),
            ("p/x.py", b"python"),
            ("p/pybind11_state.so", b"no"),
        ]);
        let (settings, count) = serve(bytes.clone());
        let release = release(&bytes, "p/lib/libp.so.1");
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| {
                    scope
                        .spawn(|| install(release, &folder.path().join("r"), &settings, &mut |_| {}).unwrap())
                })
                .collect();
            for one in all {
                assert_eq!(std::fs::read(one.join().unwrap()).unwrap(), b"the library");
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let kept = folder.path().join("r/p-1");
        assert!(!kept.join("p/x.py").exists() && !kept.join("p/pybind11_state.so").exists());
    }

    #[test]
    fn what_is_no_release_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let no_library = wheel(&[("p/readme.txt", b"text")]);
        let (settings, _) = serve(no_library.clone());
        let error =
            install(release(&no_library, "p/libp.so"), folder.path(), &settings, &mut |_| {}).unwrap_err();
        assert!(matches!(error, LibraryError::Missing { .. }), "{error:?}");
        let (settings, _) = serve(b"no zip at all".to_vec());
        let error = install(release(b"no zip at all", "p/libp.so"), folder.path(), &settings, &mut |_| {})
            .unwrap_err();
        assert!(matches!(error, LibraryError::Unpack { .. }), "{error:?}");
        let outside = wheel(&[("../../evil.so", b"evil")]);
        let (settings, _) = serve(outside.clone());
        install(release(&outside, "evil.so"), folder.path(), &settings, &mut |_| {}).unwrap_err();
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        assert!(!folder.path().parent().unwrap().join("evil.so").exists());
    }

    #[test]
    fn a_named_library_comes_first() {
        assert_eq!(find(Some(Path::new("/named.so"))), Some("/named.so".into()));
    }
}
