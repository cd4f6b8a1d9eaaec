//! Voxels of any file or scan onto axes to the patient's left, posterior and superior.

use ndarray::Array3;

use super::fault::Fault;
use crate::convert::Geometry;
use crate::learning::dataset::augment::nearest;
use crate::pipeline::volume::{AIR_HU, HuVolume, resample};
use crate::vocabulary::space::{Grid, PatientPoint, VoxelPoint};

/// How far a voxel may lie from its place on an axial grid, in voxels, and the grid still counts as axial.
const AXIAL_TOLERANCE_VOXELS: f64 = 0.25;

/// Most voxels of an image that is turned upright.
const MOST_VOXELS: usize = 1 << 30;

/// Which axis of a file runs along each axis of the patient, and in which sense.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Upright {
    /// Axis of the file `(k, j, i)` along the patient's `(z, y, x)`.
    axes: [usize; 3],
    /// Whether it runs the other way.
    reversed: [bool; 3],
    /// Where the voxels lie once they are turned; nearly axial, or oblique.
    pub(super) grid: Grid,
}

impl Upright {
    /// Of a file of `shape` `(k, j, i)`.
    ///
    /// # Errors
    /// [`Fault::NoGrid`] where the axes are not at right angles.
    pub(super) fn of(shape: [usize; 3], geometry: &Geometry) -> Result<Self, Fault> {
        let [i, j, k] = geometry.steps;
        let steps = [k, j, i];
        let along = |axis: usize, patient: usize| {
            let step = steps[axis];
            [step.z, step.y, step.x][patient] / step.length().max(f64::MIN_POSITIVE)
        };
        const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let fit = |order: &[usize; 3]| (0..3).map(|p| along(order[p], p).abs()).sum::<f64>();
        let axes = ORDERS.into_iter().max_by(|a, b| fit(a).total_cmp(&fit(b))).unwrap_or([0, 1, 2]);
        let reversed: [bool; 3] = std::array::from_fn(|patient| along(axes[patient], patient) < 0.0);
        let mut origin = geometry.origin;
        let mut directions = steps;
        let mut spacing_mm = [0.0; 3];
        for patient in 0..3 {
            let step = steps[axes[patient]];
            spacing_mm[patient] = step.length();
            let sense = if reversed[patient] { -1.0 } else { 1.0 };
            directions[patient] = step * (sense / step.length());
            if reversed[patient] {
                origin = origin + step * (shape[axes[patient]] as f64 - 1.0);
            }
        }
        let grid = Grid::new(axes.map(|axis| shape[axis]), spacing_mm, origin, directions)
            .map_err(|source| Fault::NoGrid { source })?;
        Ok(Self { axes, reversed, grid })
    }

    /// Turns voxels of the file's shape.
    pub(super) fn turn<V: Clone>(&self, voxels: Array3<V>) -> Array3<V> {
        let mut turned = voxels.permuted_axes(self.axes);
        for (axis, reversed) in self.reversed.into_iter().enumerate() {
            if reversed {
                turned.invert_axis(ndarray::Axis(axis));
            }
        }
        if turned.is_standard_layout() { turned } else { turned.as_standard_layout().into_owned() }
    }
}

/// Image and organs on a grid of upright axes become axial ones: as they are where the grid is axial, else resampled at
/// the same spacing (image linear, organs nearest). Also says whether they were.
pub(super) fn axial(
    hu: Array3<i16>,
    organs: Array3<u32>,
    grid: Grid,
) -> Result<(Array3<i16>, Array3<u32>, Grid, bool), Fault> {
    let whole = |source| Fault::NoGrid { source };
    let (shape, spacing) = (grid.shape(), grid.spacing_mm());
    let straight = Grid::axial(shape, spacing, grid.origin()).map_err(whole)?;
    let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
    let mut off_voxels = 0.0_f64;
    for corner in 0..8_usize {
        let at: [f64; 3] =
            std::array::from_fn(|axis| if corner >> axis & 1 == 0 { 0.0 } else { shape[axis] as f64 - 1.0 });
        let point = grid.patient_from_voxel(VoxelPoint { z: at[0], y: at[1], x: at[2] });
        let there = straight.voxel_from_patient(point);
        for (axis, (found, mm)) in
            [there.z, there.y, there.x].into_iter().zip([point.z, point.y, point.x]).enumerate()
        {
            off_voxels = off_voxels.max((found - at[axis]).abs());
            low[axis] = low[axis].min(mm);
            high[axis] = high[axis].max(mm);
        }
    }
    if off_voxels <= AXIAL_TOLERANCE_VOXELS {
        return Ok((hu, organs, straight, false));
    }
    let sides = std::array::from_fn(|axis| index(((high[axis] - low[axis]) / spacing[axis]).ceil()) + 1);
    let n_voxels = sides.iter().try_fold(1_usize, |n, side: &usize| n.checked_mul(*side));
    if n_voxels.is_none_or(|n| n > MOST_VOXELS) {
        return Err(Fault::TooLarge { shape: sides });
    }
    let axial = Grid::axial(sides, spacing, PatientPoint::lps_mm(low[2], low[1], low[0])).map_err(whole)?;
    let volume = HuVolume { hu, grid };
    let values = resample(&volume, &axial).mapv(rounded);
    let turned = Array3::from_shape_fn(sides, |(z, y, x)| {
        let point = axial.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
        let v = volume.grid.voxel_from_patient(point);
        nearest([v.z, v.y, v.x], organs.dim()).map_or(0, |voxel| organs[voxel])
    });
    Ok((values, turned, axial, true))
}

#[expect(clippy::cast_possible_truncation, reason = "Hounsfield units between those of 16 bits")]
fn rounded(hu: f32) -> i16 {
    hu.round().max(f32::from(AIR_HU)) as i16
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a side of an image, mm over mm")]
fn index(value: f64) -> usize {
    value.max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::PatientVector;

    /// A file of 3 x 4 x 5 voxels `(k, j, i)` whose fastest axis goes down, then to the right, then to anterior.
    #[test]
    fn axes_of_any_order_and_sense_are_turned_upright() {
        let geometry = Geometry {
            origin: PatientPoint::lps_mm(50.0, 40.0, 30.0),
            steps: [
                PatientVector::lps(0.0, 0.0, -2.5),
                PatientVector::lps(-1.3, 0.0, 0.0),
                PatientVector::lps(0.0, -0.9, 0.0),
            ],
        };
        let upright = Upright::of([3, 4, 5], &geometry).unwrap();
        assert_eq!(upright.grid.shape(), [5, 3, 4]);
        let voxels = Array3::from_shape_fn((3, 4, 5), |(k, j, i)| 100 * k + 10 * j + i);
        let turned = upright.turn(voxels);
        // Voxel k 2, j 1, i 3 of the file lies at x 48.7, y 38.2, z 22.5.
        let v = upright.grid.voxel_from_patient(PatientPoint::lps_mm(48.7, 38.2, 22.5));
        let at = [v.z, v.y, v.x].map(|v| v.round() as usize);
        assert_eq!((at, turned[at]), ([1, 0, 2], 213));
        let sheared = Geometry {
            steps: [PatientVector::lps(1.0, 0.0, 0.0), PatientVector::lps(0.3, 1.0, 0.0), geometry.steps[0]],
            ..geometry
        };
        assert!(matches!(Upright::of([3, 4, 5], &sheared), Err(Fault::NoGrid { .. })));
    }

    /// Turned by 20 degrees about z, a brick 12 x 20 x 10 mm off the middle keeps its place and, within the steps of
    /// the voxels, its volume.
    #[test]
    fn an_oblique_image_is_resampled_to_an_axial_one() {
        let (sin, cos) = 20.0_f64.to_radians().sin_cos();
        let x = PatientVector::lps(cos, sin, 0.0);
        let y = PatientVector::lps(-sin, cos, 0.0);
        let grid = Grid::new(
            [12, 40, 50],
            [2.0, 1.0, 1.2],
            PatientPoint::lps_mm(-20.0, -30.0, 5.0),
            [PatientVector::lps(0.0, 0.0, 1.0), y, x],
        )
        .unwrap();
        let mut hu = Array3::from_elem((12, 40, 50), -1000_i16);
        let mut organs = Array3::zeros((12, 40, 50));
        hu.slice_mut(ndarray::s![3..9, 8..28, 15..25]).fill(60);
        organs.slice_mut(ndarray::s![3..9, 8..28, 15..25]).fill(4_u32);
        let centre = grid.patient_from_voxel(VoxelPoint { z: 5.5, y: 17.5, x: 19.5 });
        let before = 6 * 20 * 10;
        let (hu, organs, axial, resampled) = axial(hu, organs, grid).unwrap();
        assert!(resampled);
        let v = axial.voxel_from_patient(centre);
        let at = [v.z, v.y, v.x].map(|v| v.round() as usize);
        assert_eq!((hu[at], organs[at]), (60, 4));
        let after = organs.iter().filter(|bits| **bits == 4).count();
        assert!(after.abs_diff(before) * 50 < before, "{after} voxels of {before}");
    }
}
