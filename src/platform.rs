//! What differs between operating systems: who may read a file, the disk, the network's fine tuning, signals.
//!
//! The only file that knows one. Elsewhere than on Unix there are stand-ins, so that the program compiles: they keep no
//! permissions, and say where something cannot be done.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use tokio::net::TcpStream;

/// Options that make a file for its owner alone (mode 0600).
pub(crate) fn private_file() -> OpenOptions {
    file_of_mode(0o600)
}

/// Options that make a file that its group may read (mode 0640).
pub(crate) fn file_for_the_group() -> OpenOptions {
    file_of_mode(0o640)
}

#[cfg(unix)]
fn file_of_mode(mode: u32) -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options
}

#[cfg(not(unix))]
fn file_of_mode(_mode: u32) -> OpenOptions {
    OpenOptions::new()
}

/// Makes a folder, and those above it, for its owner alone (mode 0700).
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    // Elsewhere a folder is no file that could be synced.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Options that make a file whose writes go past the page cache, where the system can: place, length and memory of each
/// must be multiples of the disk's blocks then, and are refused as invalid otherwise.
#[cfg(target_os = "linux")]
pub(crate) fn uncached_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, direct);
    options
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn uncached_file() -> OpenOptions {
    OpenOptions::new()
}

/// Has the writes of a file go through the page cache from here on.
pub(crate) fn through_the_cache(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::empty())?;
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    Ok(())
}

/// The permission bits of a file; 0600 where there are none.
pub(crate) fn mode_of(about: &Metadata) -> u32 {
    #[cfg(unix)]
    let mode = std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o777;
    #[cfg(not(unix))]
    let mode = if about.is_file() { 0o600 } else { 0o700 };
    mode
}

/// Whether both are of the same file; yes where the system does not say.
pub(crate) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    #[cfg(unix)]
    let is_same = {
        use std::os::unix::fs::MetadataExt;
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    #[cfg(not(unix))]
    let is_same = one.is_file() == other.is_file();
    is_same
}

/// Free space for us on the disk of a folder, bytes.
pub(crate) fn free_bytes(folder: &Path) -> io::Result<u64> {
    #[cfg(unix)]
    let free = rustix::fs::statvfs(folder).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))?;
    #[cfg(windows)]
    let free = fs4::available_space(folder)?;
    #[cfg(not(any(unix, windows)))]
    let free = std::fs::metadata(folder).and(Err(io::ErrorKind::Unsupported.into()))?;
    Ok(free)
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    name
}

/// Has what was received acknowledged at once, where the system lets us. Only speed depends on it.
pub(crate) fn acknowledge_at_once(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    let done = socket.set_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let done = socket.nodelay().map(drop);
    if let Err(error) = done {
        tracing::trace!(%error, "acknowledgements stay delayed");
    }
}

/// What stands in the environment of a process that ONNX Runtime shall gather nothing in for its maker: on Unix its
/// builds of 2026 keep a number of this machine and events in the user's cache folder and know an address for them, and what
/// its interface can switch off afterwards comes too late for the first.
pub(crate) const NO_TELEMETRY: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// One heap that is kept. Each training graph gives its memory back after a run (decision 15); else the system takes it,
/// and clears it page by page for the next graph. No cache of small blocks for a thread: one of them, given free behind a
/// large block, keeps that from joining what follows. For glibc; nothing else reads it.
pub(crate) const KEPT_HEAP: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0:\
     glibc.malloc.trim_threshold=8589934592",
);

/// Large blocks come from the heap, and it is kept: an import has volumes in hand all the time, and the system would take
/// the memory of each and clear that of the next page by page. For glibc; nothing else reads it.
pub(crate) const KEPT_VOLUMES: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592");

/// Starts this program anew in the same process with those of the variables, read when a process starts, that nobody has
/// chosen; returns where none is missing, or it could not. On Windows, where neither is read, it does nothing.
pub(crate) fn start_with(variables: &[(&str, &str)]) -> io::Result<()> {
    #[cfg(unix)]
    if variables.iter().any(|(name, _)| std::env::var_os(name).is_none()) {
        let mut arguments = std::env::args_os();
        let mut anew = std::process::Command::new(std::env::current_exe()?);
        if let Some(name) = arguments.next() {
            std::os::unix::process::CommandExt::arg0(&mut anew, name);
        }
        let missing = variables.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied();
        anew.args(arguments).envs(missing);
        return Err(std::os::unix::process::CommandExt::exec(&mut anew));
    }
    #[cfg(not(unix))]
    let _ = variables;
    Ok(())
}

/// Whether [`NO_TELEMETRY`], or what a person has chosen instead, is in force.
pub(crate) fn is_telemetry_decided() -> bool {
    cfg!(not(unix)) || std::env::var_os(NO_TELEMETRY.0).is_some()
}

/// What a process is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// To end in order (SIGTERM).
    Terminate,
    /// To read its settings again (SIGHUP).
    HangUp,
}

/// Hears a signal from now on.
#[derive(Debug)]
pub(crate) struct Ear {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
    #[cfg(not(unix))]
    signal: Signal,
}

impl Signal {
    /// Begins to hear it, instead of what the system does with it; in a runtime.
    pub(crate) fn listen(self) -> io::Result<Ear> {
        #[cfg(unix)]
        let signal = {
            use tokio::signal::unix::{SignalKind, signal};
            signal(match self {
                Self::Interrupt => SignalKind::interrupt(),
                Self::Terminate => SignalKind::terminate(),
                Self::HangUp => SignalKind::hangup(),
            })?
        };
        #[cfg(not(unix))]
        let signal = self;
        Ok(Ear { signal })
    }
}

impl Ear {
    /// Ready when it comes.
    pub(crate) async fn hear(&mut self) {
        #[cfg(unix)]
        let heard = self.signal.recv().await.is_some();
        #[cfg(not(unix))]
        let heard = self.signal == Signal::Interrupt && tokio::signal::ctrl_c().await.is_ok();
        if !heard {
            std::future::pending().await
        }
    }
}
