//! Logs: set-up, and what may never be written to them (a patient's name, ID, dates, or a whole data set).

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error; `OARLOCK_LOG` sets the level (`info` without it).
pub fn start() {
    let filter = EnvFilter::try_from_env("OARLOCK_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,ort=warn,dicom_ul=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
