//! What several test modules share.

use std::path::PathBuf;

/// Whether a missing peer or data set is a failure (as in CI) rather than a test that says it was skipped.
pub(crate) fn everything_must_be_here() -> bool {
    std::env::var_os("OARLOCK_DEMAND_PEERS").is_some()
}

/// The folder of test data beside the project, or `None` with a visible line.
///
/// # Panics
/// Where `OARLOCK_DEMAND_PEERS` is set and the folder is missing.
#[allow(dead_code, reason = "used as modules come")]
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
#[allow(dead_code, reason = "used as modules come")]
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
