//! From masks to closed rings on the image planes, and back.

use crate::vocabulary::space::PatientPoint;

/// One closed planar contour: at least three points, the first not repeated (PS3.3 C.8.8.6.1, CLOSED_PLANAR).
#[derive(Debug, Clone, PartialEq)]
pub struct PlanarContour {
    /// Plane of the image grid on which it lies.
    pub slice: usize,
    /// Corners in the patient.
    pub points: Vec<PatientPoint>,
}

/// All contours of one region of interest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoiContours {
    /// In order of slice.
    pub contours: Vec<PlanarContour>,
}
