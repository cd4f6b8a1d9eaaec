//! What became of each organ, and the records that earlier versions of this program kept as files.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

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

/// A delivery as it stood in the JSON of an outbox without a database.
#[derive(Debug, Deserialize)]
struct OldDelivery {
    key: String,
    destination: String,
    state: String,
}

/// Takes over the outbox of a version without a database: what was delivered is noted on disk as the new one does, so
/// that it does not go twice. What was pending goes again when its series is replayed. The JSON files are moved away.
pub(super) fn take_over_outbox(
    outbox: &Path,
    mut delivered: impl FnMut(&str, &str) -> io::Result<()>,
) -> io::Result<usize> {
    let aside = outbox.join("before-the-database");
    let mut n = 0;
    for entry in fs::read_dir(outbox)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match fs::read(&path).map(|bytes| serde_json::from_slice::<OldDelivery>(&bytes))? {
            Ok(old) if old.state == "delivered" => delivered(&old.key, &old.destination)?,
            Ok(_goes_again) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no record of a delivery; put aside")
            }
        }
        fs::create_dir_all(&aside)?;
        fs::rename(&path, aside.join(path.file_name().unwrap_or_default()))?;
        n += 1;
    }
    Ok(n)
}
