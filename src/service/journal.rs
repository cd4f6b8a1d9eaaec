//! What became of each version of a series, on disk: one JSON per series.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pipeline::delivery::{OutboxError, replace};
use crate::pipeline::series::CompleteSeries;
use crate::vocabulary::dicom::SeriesInstanceUid;

/// The folder of records.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
}

/// What became of an organ of a contoured series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrganRecord {
    /// ROI Name, as the structure template has it.
    pub roi_name: String,
    /// Whether it has contours.
    pub found: bool,
    /// Volume inside them, cm3.
    pub volume_cm3: f64,
    /// Probability that the classifier gave its box, 0..=1; null where no box was found or it was removed.
    pub detection_probability: Option<f32>,
    /// DSC that contours with such signs had on average; null without a calibration for this organ.
    pub expected_dsc: Option<f64>,
    /// Why a person should look at it first; none: nothing stands out.
    pub check: Vec<String>,
    /// What the rules of anatomy did or noticed.
    pub findings: Vec<String>,
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Series Instance UID.
    pub(super) series_instance_uid: String,
    /// Which version.
    pub(super) version: u32,
    /// Which instances it held; see [`CompleteSeries::fingerprint`].
    pub(super) fingerprint: String,
    /// How many.
    pub(super) n_instances: usize,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// What became of each organ, where it was contoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) organs: Vec<OrganRecord>,
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The structure set is in the outbox and under results.
    Contoured,
    /// The series is the cause.
    Refused(String),
    /// The machine was the cause; tried again at the next start.
    Failed(String),
}

impl Record {
    pub(super) fn of(series: &CompleteSeries, outcome: Outcome, organs: Vec<OrganRecord>) -> Self {
        Self {
            series_instance_uid: series.series_instance_uid.to_string(),
            version: series.version,
            fingerprint: series.fingerprint(),
            n_instances: series.instances.len(),
            outcome,
            organs,
        }
    }

    /// Whether nothing more is to be done about this version.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.outcome, Outcome::Failed(_))
    }
}

impl Journal {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), OutboxError> {
        let path = self.path(&record.series_instance_uid);
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|source| OutboxError::Record { path: path.clone(), source })?;
        replace(&path, &bytes)
    }

    /// What is known of a series; a record that cannot be read counts as none, so the series is contoured again.
    pub(super) fn read(&self, series: &SeriesInstanceUid) -> Option<Record> {
        let path = self.path(series.as_str());
        let bytes = fs::read(&path).ok()?;
        let record = serde_json::from_slice(&bytes);
        if let Err(error) = &record {
            tracing::error!(path = %path.display(), %error, "a job record cannot be read; the series is done again");
        }
        record.ok()
    }

    /// The name is a checked UID.
    fn path(&self, series: &str) -> PathBuf {
        self.folder.join(series).with_added_extension("json")
    }
}
