//! The anatomy that is shipped inside the program; `anatomy/README.md` says whose it is.

use std::path::Path;

use crate::learning::dataset::{DatasetError, LabelAtlas};

const LABELS: &[u8] = include_bytes!("anatomy/labels.nii.gz");
const TISSUE: &[u8] = include_bytes!("anatomy/tissue.nii.gz");
const TISSUES: &[u8] = include_bytes!("anatomy/tissues.csv");

/// The shipped anatomy: one head and neck with all 28 organs on a 2 mm grid.
///
/// # Errors
/// Never, as a test reads it; the type says it for callers that also read others.
pub fn shipped_anatomy() -> Result<LabelAtlas, DatasetError> {
    LabelAtlas::parse(Path::new("the program"), LABELS, TISSUE, TISSUES)
}

/// Who made the shipped anatomy: goes wherever it is shown.
pub const ATTRIBUTION: &str = "Anatomy: BodyParts3D, (c) The Database Center for Life Science, CC BY 4.0; SPL Head and Neck \
     Atlas, (c) Surgical Planning Laboratory, Brigham and Women's Hospital, 3D Slicer licence; both modified.";
