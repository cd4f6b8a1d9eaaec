//! A regular grid of voxels placed in the patient.

use super::{PatientPoint, PatientVector, VoxelPoint};

/// A regular, orthogonal, right-handed grid: shape `(z, y, x)`, spacing in mm per axis, where voxel (0, 0, 0)
/// has its centre, and the unit direction in which each index grows.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    origin: PatientPoint,
    directions: [PatientVector; 3],
}

/// Why numbers make no grid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidGrid {
    /// A side without voxels.
    #[error("a grid needs at least one voxel on each axis, found {shape:?} (z, y, x)")]
    Empty {
        /// Shape asked for, `(z, y, x)`.
        shape: [usize; 3],
    },
    /// Zero, negative or not finite.
    #[error("spacing must be positive and finite, found {spacing_mm:?} mm (z, y, x)")]
    Spacing {
        /// Spacing asked for, `(z, y, x)`, mm.
        spacing_mm: [f64; 3],
    },
    /// Not unit length, not at right angles, or left-handed.
    #[error("directions must be unit vectors at right angles, x cross y = z; they miss it by {error:.2e}")]
    Directions {
        /// Largest deviation from orthonormal, or 2 for a left-handed set.
        error: f64,
    },
}

/// Direction cosines in files carry 6 decimals or so; more than this is another orientation, not rounding.
const DIRECTION_TOLERANCE: f64 = 1e-3;

impl Grid {
    /// A grid from its parts. `spacing_mm` and `directions` run `(z, y, x)`: `directions[2]` is where the
    /// column index grows (the row direction of Image Orientation (Patient)).
    ///
    /// # Errors
    /// [`InvalidGrid`] when a side is empty, a spacing is not positive or the directions are not orthonormal
    /// and right-handed (x cross y = z).
    pub fn new(
        shape: [usize; 3],
        spacing_mm: [f64; 3],
        origin: PatientPoint,
        directions: [PatientVector; 3],
    ) -> Result<Self, InvalidGrid> {
        if shape.contains(&0) {
            return Err(InvalidGrid::Empty { shape });
        }
        if !spacing_mm.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(InvalidGrid::Spacing { spacing_mm });
        }
        let [z, y, x] = directions;
        let normal = x.cross(y);
        let error =
            [x.length() - 1.0, y.length() - 1.0, x.dot(y), normal.x - z.x, normal.y - z.y, normal.z - z.z]
                .into_iter()
                .fold(0.0_f64, |worst, e| if e.is_finite() { worst.max(e.abs()) } else { f64::INFINITY });
        if error > DIRECTION_TOLERANCE {
            return Err(InvalidGrid::Directions { error });
        }
        Ok(Self { shape, spacing_mm, origin, directions })
    }

    /// An axial grid in standard orientation: x to the left, y to posterior, z to superior.
    ///
    /// # Errors
    /// As [`Grid::new`].
    pub fn axial(shape: [usize; 3], spacing_mm: [f64; 3], origin: PatientPoint) -> Result<Self, InvalidGrid> {
        let directions = [
            PatientVector::lps(0.0, 0.0, 1.0),
            PatientVector::lps(0.0, 1.0, 0.0),
            PatientVector::lps(1.0, 0.0, 0.0),
        ];
        Self::new(shape, spacing_mm, origin, directions)
    }

    /// Voxels on each axis, `(z, y, x)`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Distance between neighbours, mm, `(z, y, x)`.
    #[must_use]
    pub fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }

    /// Centre of voxel (0, 0, 0).
    #[must_use]
    pub fn origin(&self) -> PatientPoint {
        self.origin
    }

    /// Unit directions in which the indices grow, `(z, y, x)`.
    #[must_use]
    pub fn directions(&self) -> [PatientVector; 3] {
        self.directions
    }

    /// Volume of one voxel, mm3.
    #[must_use]
    pub fn voxel_volume_mm3(&self) -> f64 {
        self.spacing_mm.iter().product()
    }

    /// Number of voxels.
    #[must_use]
    pub fn n_voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where a place on the grid lies in the patient.
    #[must_use]
    pub fn patient_from_voxel(&self, v: VoxelPoint) -> PatientPoint {
        let [dz, dy, dx] = self.directions;
        let [sz, sy, sx] = self.spacing_mm;
        self.origin + dz * (v.z * sz) + dy * (v.y * sy) + dx * (v.x * sx)
    }

    /// Where a point of the patient lies on the grid; the inverse of [`Grid::patient_from_voxel`].
    #[must_use]
    pub fn voxel_from_patient(&self, p: PatientPoint) -> VoxelPoint {
        let offset = p - self.origin;
        let [dz, dy, dx] = self.directions;
        let [sz, sy, sx] = self.spacing_mm;
        VoxelPoint { z: offset.dot(dz) / sz, y: offset.dot(dy) / sy, x: offset.dot(dx) / sx }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oblique() -> Grid {
        let x = PatientVector::lps(0.6, 0.8, 0.0);
        let y = PatientVector::lps(0.0, 0.0, -1.0);
        Grid::new([5, 7, 11], [2.5, 0.9, 1.3], PatientPoint::lps_mm(-31.0, 7.0, 112.0), [x.cross(y), y, x])
            .unwrap()
    }

    #[test]
    fn patient_and_voxel_are_inverse_on_an_oblique_grid() {
        let grid = oblique();
        let voxel = VoxelPoint { z: 3.25, y: 5.5, x: 0.75 };
        let back = grid.voxel_from_patient(grid.patient_from_voxel(voxel));
        for (a, b) in [(back.z, voxel.z), (back.y, voxel.y), (back.x, voxel.x)] {
            assert!((a - b).abs() < 1e-12, "{back:?} is not {voxel:?}");
        }
    }

    /// By hand: 2 columns of 1.3 mm along (0.6, 0.8, 0) = (1.56, 2.08, 0); 1 row of 0.9 mm along -z.
    #[test]
    fn columns_go_along_the_row_direction() {
        let p = oblique().patient_from_voxel(VoxelPoint { z: 0.0, y: 1.0, x: 2.0 });
        assert!(p.distance_mm(PatientPoint::lps_mm(-29.44, 9.08, 111.1)) < 1e-12, "{p:?}");
    }

    #[test]
    fn a_left_handed_set_of_directions_is_refused() {
        let [z, y, x] = oblique().directions();
        let mirrored = Grid::new([1, 1, 1], [1.0; 3], PatientPoint::lps_mm(0.0, 0.0, 0.0), [z * -1.0, y, x]);
        assert!(matches!(mirrored, Err(InvalidGrid::Directions { .. })));
    }
}
