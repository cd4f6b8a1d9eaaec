//! The arguments of `oarlock jobs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::service::store::JobState;
use crate::vocabulary::dicom::SeriesInstanceUid;

/// `oarlock jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Settings of the service; see config/service.yaml.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Data folder of the service, instead of the settings'.
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Machine-readable output.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: JobsAction,
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsAction {
    /// One line for each version of a series, the one that changed last first.
    List {
        /// Only jobs in this state; repeat for several.
        #[arg(long, value_enum, value_name = "STATE")]
        state: Vec<JobState>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Everything about a series: its versions, what became of each organ, deliveries, the whole chain of causes, history.
    Show {
        /// Series Instance UID.
        series: SeriesInstanceUid,
    },
    /// Do a failed, refused or passed-over version again; rules are not asked.
    Retry {
        /// Series Instance UID.
        #[arg(required_unless_present = "all_failed")]
        series: Option<SeriesInstanceUid>,
        /// Which version; the last one without it.
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// Every job that failed.
        #[arg(long, conflicts_with_all = ["series", "version"])]
        all_failed: bool,
    },
    /// Send the structure set of a version again: what was delivered, was given up, or is held back.
    Resend {
        /// Series Instance UID.
        series: SeriesInstanceUid,
        /// Which version; the last one without it.
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// To this destination only.
        #[arg(long, value_name = "AET@HOST:PORT")]
        to: Option<String>,
    },
    /// Have the series in the bucket looked at again that the database does not know, as after its restoration from a
    /// backup. What was delivered is not delivered again.
    Recover,
    /// Instances that were not taken because their SOP Instance UID was known with other content.
    Quarantine {
        /// What to do.
        #[command(subcommand)]
        action: QuarantineAction,
    },
}

/// What to do with instances in quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineAction {
    /// Names and reasons.
    List,
    /// Take the instance instead of the one that was kept, which goes to quarantine; its series becomes a new version.
    Release {
        /// Name, as `list` prints it.
        name: String,
    },
    /// Remove the instance for good; the one that was kept stays.
    Drop {
        /// Name, as `list` prints it.
        name: String,
    },
}
