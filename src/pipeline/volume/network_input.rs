//! What the network sees, and where that lies in the patient.

use ndarray::Array3;

use super::body::Body;
use super::decode::AIR_HU;
use super::error::VolumeError;
use super::hu_volume::HuVolume;
use super::resample::resample;
use crate::vocabulary::space::{Grid, PatientPoint, VoxelPoint};

/// The network's input: `2 (hu + 1024) / 4100 - 1`, axes `(z, y, x)`, sides multiples of 16 (padded with -1),
/// and the grid it lies on, which is the way back to the patient.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkInput {
    /// Normalised values.
    pub tensor: Array3<f32>,
    /// The network grid, padding included; its shape is the tensor's. Axial: x to the left, y to posterior, z to
    /// superior, however the patient lay in the scanner.
    pub grid: Grid,
}

/// What the network wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputForm {
    /// Spacing of its grid `(z, y, x)`, mm.
    pub spacing_mm: [f64; 3],
    /// Sides are multiples of this.
    pub multiple: usize,
    /// Most voxels `(z, y, x)`, multiples of `multiple`.
    pub largest: [usize; 3],
}

/// Metal beyond 12 bits is cut to this, HU; the network never saw more in training.
const HIGHEST_HU: f32 = 3071.0;

/// Depth from the top of a window in which the middle of a wide patient is looked for, mm: a head and its neck.
const HEAD_MM: f64 = 250.0;

/// A scan as networks may see it.
#[derive(Debug)]
pub struct Views<'a> {
    volume: &'a HuVolume,
    body: Body,
}

impl<'a> Views<'a> {
    /// Looks for the patient.
    ///
    /// # Errors
    /// [`VolumeError::NoBody`] where nothing of a patient's size is in the image, [`VolumeError::TooWide`] where it
    /// covers more than any patient.
    pub fn of(volume: &'a HuVolume) -> Result<Self, VolumeError> {
        let body = Body::find(volume)?;
        match body.extent(0, body.grid.shape()[0]) {
            Some(_) => Ok(Self { volume, body }),
            None => Err(VolumeError::NoBody),
        }
    }

    /// The patient on the network's grid. A scan longer than the largest input gives several windows from the top
    /// downwards, each overlapping the one before by half; one wider is cut round the middle of the head. Outside the
    /// body everything is air. Source: Tang et al. 2019, Methods; the windows are ours.
    #[must_use]
    pub fn windows(&self, form: &InputForm) -> Vec<NetworkInput> {
        let body = &self.body;
        let Some(whole) = body.extent(0, body.grid.shape()[0]) else { return Vec::new() };
        let [plane_mm, _, _] = body.grid.spacing_mm();
        let window_mm = form.largest[0] as f64 * form.spacing_mm[0];
        let at_most = planes(window_mm / plane_mm).max(1);
        let mut ends = vec![whole.end[0]];
        let mut end = whole.end[0];
        while end.saturating_sub(whole.start[0]) > at_most {
            end = (end - at_most.div_ceil(2)).max(whole.start[0] + at_most);
            ends.push(end);
        }
        let windows = ends.into_iter().filter_map(|end| {
            let start = end.saturating_sub(at_most).max(whole.start[0]);
            Some(self.on_grid(grid_of_window(body, start..end, form)?))
        });
        windows.collect()
    }

    /// What of the patient lies on a grid; the rest is air.
    #[must_use]
    pub fn on_grid(&self, grid: Grid) -> NetworkInput {
        let mut tensor = resample(self.volume, &grid);
        self.body.clear_outside(&mut tensor, &grid, f32::from(AIR_HU));
        tensor.mapv_inplace(|hu| 2.0 * (hu.clamp(f32::from(AIR_HU), HIGHEST_HU) + 1024.0) / 4100.0 - 1.0);
        NetworkInput { tensor, grid }
    }
}

/// The grid of the part of the patient in these planes of the body's grid.
fn grid_of_window(body: &Body, planes_of_body: std::ops::Range<usize>, form: &InputForm) -> Option<Grid> {
    let extent = body.extent(planes_of_body.start, planes_of_body.end)?;
    let spacing = body.grid.spacing_mm();
    let head = planes(HEAD_MM / spacing[0]);
    let [y, x] = body.middle(planes_of_body.end.saturating_sub(head), planes_of_body.end);
    let middle = [0.0, y, x];
    let mut shape = [0; 3];
    let mut start = [0.0; 3];
    for axis in 0..3 {
        let side_mm = (extent.end[axis] - extent.start[axis]) as f64 * spacing[axis];
        let wanted = planes((side_mm / form.spacing_mm[axis]).ceil()).max(1).next_multiple_of(form.multiple);
        shape[axis] = wanted.min(form.largest[axis]);
        let (low, high) = (extent.start[axis] as f64 - 0.5, extent.end[axis] as f64 - 0.5);
        let covered = shape[axis] as f64 * form.spacing_mm[axis] / spacing[axis];
        start[axis] = if covered >= high - low {
            // All of it, the padding on both sides alike; slices hang from the top.
            if axis == 0 { high - covered } else { (low + high - covered) / 2.0 }
        } else if axis == 0 {
            high - covered
        } else {
            (middle[axis] - covered / 2.0).clamp(low, high - covered)
        };
    }
    let [z, y, x] = start;
    let edge = body.grid.patient_from_voxel(VoxelPoint { z, y, x });
    let [sz, sy, sx] = form.spacing_mm;
    let origin = PatientPoint::lps_mm(edge.x + sx / 2.0, edge.y + sy / 2.0, edge.z + sz / 2.0);
    Grid::axial(shape, form.spacing_mm, origin).ok()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of planes of an image in memory"
)]
fn planes(count: f64) -> usize {
    count.max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upright: soft tissue 180 mm (x) by 220 mm (y) by `height` mm about (15, -20), its top at z = 310 mm, with a
    /// bright rod at x = 40, y = 30.
    fn patient(height_mm: f64, width_mm: f64) -> HuVolume {
        let shape = [(height_mm / 2.5) as usize + 20, 120, 160];
        let bottom = 310.0 - height_mm;
        let grid = Grid::axial(
            shape,
            [2.5, 2.0, 2.0 * width_mm / 180.0],
            PatientPoint::lps_mm(15.0 - 0.85 * width_mm, -140.0, bottom - 12.0),
        )
        .unwrap();
        let hu = Array3::from_shape_fn(shape, |(z, y, x)| {
            let p = grid.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
            if (p.x - 40.0).hypot(p.y - 30.0) < 6.0 && (bottom..310.0).contains(&p.z) {
                1000
            } else if (p.x - 15.0).abs() < width_mm / 2.0
                && (p.y + 20.0).abs() < 110.0
                && (bottom..310.0).contains(&p.z)
            {
                20
            } else {
                -1000
            }
        });
        HuVolume { hu, grid }
    }

    const FORM: InputForm = InputForm { spacing_mm: [3.0, 2.5, 2.5], multiple: 16, largest: [96, 96, 96] };

    fn windows_of(volume: HuVolume) -> Vec<NetworkInput> {
        Views::of(&volume).unwrap().windows(&FORM)
    }

    fn hu_at(input: &NetworkInput, x: f64, y: f64, z: f64) -> f32 {
        let v = input.grid.voxel_from_patient(PatientPoint::lps_mm(x, y, z));
        let value = input.tensor[[v.z.round() as usize, v.y.round() as usize, v.x.round() as usize]];
        (value + 1.0) / 2.0 * 4100.0 - 1024.0
    }

    #[test]
    fn a_short_scan_is_one_window_with_everything_in_its_place() {
        let windows = windows_of(patient(200.0, 180.0));
        let [input] = windows.as_slice() else { panic!("{} windows", windows.len()) };
        assert!(input.tensor.shape().iter().all(|side| side % 16 == 0));
        assert_eq!(input.tensor.shape(), input.grid.shape());
        assert!((hu_at(input, 40.0, 30.0, 200.0) - 1000.0).abs() < 30.0);
        assert!((hu_at(input, 20.0, -60.0, 120.0) - 20.0).abs() < 10.0);
        assert!((hu_at(input, 112.0, -20.0, 200.0) + 1024.0).abs() < 1.0);
    }

    /// 700 mm on windows of 288 mm: each overlaps the next by half, the last ends at the feet.
    #[test]
    fn a_long_scan_is_cut_into_overlapping_windows_from_the_top() {
        let windows = windows_of(patient(700.0, 180.0));
        let tops: Vec<f64> = windows
            .iter()
            .map(|w| {
                w.grid.patient_from_voxel(VoxelPoint { z: w.grid.shape()[0] as f64 - 0.5, y: 0.0, x: 0.0 }).z
            })
            .collect();
        assert_eq!(windows.len(), 4, "{tops:?}");
        assert!((tops[0] - 314.0).abs() < 8.0, "{tops:?}");
        assert!(
            tops.windows(2).all(|pair| pair[0] - pair[1] > 100.0 && pair[0] - pair[1] < 150.0),
            "{tops:?}"
        );
        let last = windows.last().unwrap();
        assert!(last.grid.origin().z < -385.0, "{:?}", last.grid.origin());
        assert!(windows.iter().all(|w| w.grid.shape()[0] <= 96));
    }

    #[test]
    fn a_wide_patient_is_cut_round_the_middle() {
        let [input] = &windows_of(patient(200.0, 420.0))[..] else { panic!() };
        assert_eq!(input.grid.shape()[2], 96);
        let middle = input.grid.origin().x + 2.5 * 95.0 / 2.0;
        assert!((middle - 15.0).abs() < 4.0, "{middle}");
    }
}
