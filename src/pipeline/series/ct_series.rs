//! The sorted, regular series.

use std::path::{Path, PathBuf};

use dicom_object::InMemDicomObject;

use super::error::SeriesError;
use super::found::FoundSeries;
use crate::vocabulary::dicom::{
    FrameOfReferenceUid, SeriesInstanceUid, SopClassUid, SopInstanceUid, StudyInstanceUid,
};
use crate::vocabulary::space::{Grid, PatientPoint, VoxelPoint};

/// One plane of a series: an instance, or a frame of an enhanced one.
#[derive(Debug, Clone, PartialEq)]
pub struct CtSlice {
    /// Where the instance lies.
    pub path: PathBuf,
    /// SOP Class UID (0008,0016).
    pub sop_class_uid: SopClassUid,
    /// SOP Instance UID (0008,0018).
    pub sop_instance_uid: SopInstanceUid,
    /// Zero-based frame of a multi-frame instance, `None` for a single-frame one.
    pub frame: Option<usize>,
    /// Image Position (Patient) as it was written: up to 0.05 mm off its place on the regular grid.
    pub position: PatientPoint,
}

/// A complete CT series: slice k is plane k of `grid`, sorted along the normal (row direction x column
/// direction), one frame of reference.
#[derive(Debug, Clone)]
pub struct CtSeries {
    /// Planes in order of the grid's z index.
    pub slices: Vec<CtSlice>,
    /// Shape, spacing, position and directions of the voxels.
    pub grid: Grid,
    /// Study Instance UID (0020,000D).
    pub study_instance_uid: StudyInstanceUid,
    /// Series Instance UID (0020,000E).
    pub series_instance_uid: SeriesInstanceUid,
    /// Frame of Reference UID (0020,0052).
    pub frame_of_reference_uid: FrameOfReferenceUid,
    /// Every patient- and study-level attribute of the first slice, with Specific Character Set, byte for byte:
    /// what a structure set copies. Text that is plain ASCII is text; any other is held as its bytes
    /// (`PrimitiveValue::U8`), which are written as they came, whatever the character set.
    pub patient_and_study: InMemDicomObject,
}

impl CtSeries {
    /// How far the image of a plane lies above that plane of the grid, mm along the normal.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a plane of a series")]
    pub fn off_grid_mm(&self, plane: usize) -> f64 {
        let on_grid = self.grid.patient_from_voxel(VoxelPoint { z: plane as f64, y: 0.0, x: 0.0 });
        let [normal, ..] = self.grid.directions();
        self.slices.get(plane).map_or(0.0, |slice| (slice.position - on_grid).dot(normal))
    }

    /// The one CT series in a folder and the folders below it. What is no CT slice (other modalities,
    /// localizers, other files) is left out.
    ///
    /// # Errors
    /// [`SeriesError`]: nothing or several series there, a damaged instance, or all reasons why contours on this
    /// series could be wrong.
    pub fn from_folder(folder: &Path) -> Result<Self, SeriesError> {
        FoundSeries::in_folder(folder)?.only()?.read()
    }

    /// The CT series with this Series Instance UID in a folder and the folders below it.
    ///
    /// # Errors
    /// As [`CtSeries::from_folder`].
    pub fn from_folder_with_uid(folder: &Path, uid: &SeriesInstanceUid) -> Result<Self, SeriesError> {
        FoundSeries::in_folder(folder)?.with_uid(uid)?.read()
    }

    /// The one CT series among these files.
    ///
    /// # Errors
    /// As [`CtSeries::from_folder`].
    pub fn from_instances(paths: &[PathBuf]) -> Result<Self, SeriesError> {
        FoundSeries::among(paths)?.only()?.read()
    }
}
