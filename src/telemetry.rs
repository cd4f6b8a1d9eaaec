//! Logs: set-up, and what may never be written to them (a patient's name, ID, dates, or a whole data set).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error; `OARLOCK_LOG` sets the level (`usual` without it), in color on a terminal only. A
/// line that cannot be written, as on a full disk, is lost; to complain of that to standard error would end the thread.
pub fn start(usual: &str) {
    let filter = EnvFilter::try_from_env("OARLOCK_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let color = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
}
