//! What several test modules share.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::wire::{echoes, wait_for};

/// Whether a missing peer or data set is a failure (as in CI) rather than a test that says it was skipped.
pub(crate) fn everything_must_be_here() -> bool {
    std::env::var_os("OARLOCK_DEMAND_PEERS").is_some()
}

/// The folder of test data beside the project, or `None` with a visible line.
///
/// # Panics
/// Where `OARLOCK_DEMAND_PEERS` is set and the folder is missing.
pub(crate) fn shared_data(test: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(!everything_must_be_here(), "{test}: ../shared/data is missing");
    eprintln!("SKIPPED {test}: ../shared/data is not here");
    None
}

/// The path of an installed program, or `None` with a visible line.
///
/// # Panics
/// Where `OARLOCK_DEMAND_PEERS` is set and the program is missing.
pub(crate) fn peer(test: &str, program: &str) -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(!everything_must_be_here(), "{test}: {program} is not installed; run tests/peers/install");
        eprintln!("SKIPPED {test}: {program} is not installed (tests/peers/install)");
    }
    found
}

/// A file that a package installs, or `None` with a visible line.
///
/// # Panics
/// Where `OARLOCK_DEMAND_PEERS` is set and the file is missing.
pub(crate) fn file(test: &str, path: &str) -> Option<PathBuf> {
    let found = Some(PathBuf::from(path)).filter(|path| path.exists());
    if found.is_none() {
        assert!(!everything_must_be_here(), "{test}: {path} is not installed; run tests/peers/install");
        eprintln!("SKIPPED {test}: {path} is not installed (tests/peers/install)");
    }
    found
}

/// A peer's process, ended with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A port that nothing listens on, that no other test of this process is given, and that the system gives to no
/// connection: below the range that it takes those from (32768 on, Linux).
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(61).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + n % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Free ports that differ.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| free_port())
}

/// Starts a peer and waits until it answers a C-ECHO.
pub(crate) fn start(program: &Path, arguments: &[&str], port: u16) -> Process {
    let mut command = Command::new(program);
    let process =
        Process(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the peer", || echoes(([127, 0, 0, 1], port).into()).then_some(()));
    process
}

/// What the database of a data folder says.
pub(crate) fn stored<T>(folder: &Path, ask: impl AsyncFnOnce(&oarlock::service::store::Store) -> T) -> T {
    use oarlock::service::store::{FILE_NAME, Place, Store};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open_existing(&Place::File(folder.join(FILE_NAME))).await.unwrap();
        let answer = ask(&store).await;
        store.close().await;
        answer
    })
}

/// Every job of a store, with its versions.
pub(crate) async fn all_jobs(
    store: &oarlock::service::store::Store,
) -> Vec<oarlock::service::store::JobDetail> {
    let filter = oarlock::service::store::JobFilter { states: Vec::new(), limit: u32::MAX };
    let all = store.jobs(&filter).await.unwrap();
    let series: BTreeSet<String> = all.into_iter().map(|job| job.series).collect();
    let mut details = Vec::new();
    for series in series {
        details.push(store.job(&series).await.unwrap().unwrap());
    }
    details
}
