//! The service as a process of its own, with a contourer of the test's: this test binary, started once more.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use oarlock::pipeline::series::CompleteSeries;
use oarlock::service::{Contourer, MadeStructureSet, Service};
use oarlock::settings::ServiceSettings;
use serde_json::{Value, json};

use crate::support::{Process, free_port};
use crate::wire::{RTSTRUCT, data_set, echoes, part10, wait_for};

/// Tells this test binary to be the service: its settings as JSON.
const BE_THE_SERVICE: &str = "OARLOCK_TEST_SETTINGS";

/// Takes a moment, and mints a new SOP Instance UID each time it is asked: two structure sets of one version would show.
/// The series of a structure set is named after the version that it is of.
fn contourer() -> Contourer {
    Box::new(|series: &CompleteSeries| {
        std::thread::sleep(Duration::from_millis(5));
        let uid = format!("2.25.{}", uuid::Uuid::new_v4().as_u128());
        let of = format!("{}.{}", series.series_instance_uid, series.version);
        let part10 = part10(RTSTRUCT, &uid, &data_set(RTSTRUCT, &of, &uid, 0.0, 3));
        Ok(MadeStructureSet { part10, formatted: Vec::new(), organs: Vec::new() })
    })
}

/// The service of [`BE_THE_SERVICE`]; nothing where this is an ordinary run of the tests.
#[test]
fn the_service_of_other_tests() {
    let Ok(told) = std::env::var(BE_THE_SERVICE) else { return };
    let settings: ServiceSettings = serde_json::from_str(&told).unwrap();
    oarlock::telemetry::start("info");
    let _service = Service::start(&settings, Some(contourer())).unwrap();
    loop {
        std::thread::park();
    }
}

/// A service that runs, its log in a file beside its data folder.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Running {
    /// Short waits, a free port, the data in this folder; `settings` are laid over that.
    pub(crate) fn start(folder: &Path, settings: Value, environment: &[(&str, &OsStr)]) -> Self {
        let port = free_port();
        let mut all = json!({
            "data_dir": folder,
            "listen": {
                "port": port, "min_free_mb": 1, "max_associations": 64, "max_associations_per_caller": 64,
                "request_timeout_s": 2, "idle_timeout_s": 5,
            },
            "series": {"quiet_time_s": 0.3, "incomplete_wait_s": 0.6},
            "delivery": {"first_retry_s": 0.05, "longest_retry_s": 0.2},
        });
        for (key, value) in settings.as_object().unwrap() {
            all[key] = value.clone();
        }
        let log = folder.with_extension("log");
        let to = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::the_service_of_other_tests", "--nocapture"])
            .env(BE_THE_SERVICE, all.to_string())
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(to)
            .spawn()
            .unwrap();
        let port = all["listen"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
        let address = ([127, 0, 0, 1], port).into();
        let running = Self { process: Process(process), address, log };
        wait_for("the service", || echoes(address).then_some(()));
        running
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// A test that fails says what the service said last.
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("association ended")).collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
