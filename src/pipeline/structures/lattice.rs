//! A region sampled finely enough for distances: the slices' own planes and planes between them, pixels divided.

use ndarray::{Array2, Array3, ArrayView2, Axis};

use crate::pipeline::contours::{FillRule, PlanarContour, RoiContours, fill};
use crate::vocabulary::space::{Grid, VoxelBox, VoxelPoint};

/// Pixels wider than this are divided by three, mm; three keeps a sample at each pixel's centre.
const WIDEST_MM: f64 = 0.6;

/// Planes are at most this far apart, mm, and at least [`FEWEST_PLANES`] to a slice, so that the half slice above what
/// ends is sampled.
const FARTHEST_MM: f64 = 1.0;

/// See [`FARTHEST_MM`].
const FEWEST_PLANES: usize = 3;

/// Most samples of a lattice; a larger region gets a coarser one.
const MOST_SAMPLES: usize = 60_000_000;

/// Part of an image grid, with pixels divided by `per_pixel` and slice distances by `per_slice`.
#[derive(Debug, Clone)]
pub(super) struct Lattice {
    /// Slices and pixels of the image grid that it covers.
    pub(super) region: VoxelBox,
    pub(super) per_pixel: usize,
    pub(super) per_slice: usize,
    /// Distance of planes, rows and columns, mm.
    pub(super) step_mm: [f64; 3],
}

impl Lattice {
    /// A lattice over the contours with room around them, mm per side of each axis `(z, y, x)`: below, then above.
    pub(super) fn around(roi: &RoiContours, grid: &Grid, room_mm: [[f64; 2]; 3]) -> Option<Self> {
        let spacing = grid.spacing_mm();
        let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
        for point in roi.contours.iter().flat_map(|contour| &contour.points) {
            let v = grid.voxel_from_patient(*point);
            for (axis, value) in [v.z, v.y, v.x].into_iter().enumerate() {
                low[axis] = low[axis].min(value);
                high[axis] = high[axis].max(value);
            }
        }
        if low[0] > high[0] {
            return None;
        }
        let mut region = VoxelBox { start: [0; 3], end: [0; 3] };
        for axis in 0..3 {
            let [below, above] = room_mm[axis].map(|mm| mm / spacing[axis]);
            region.start[axis] = index((low[axis] - below).floor() - 2.0, grid.shape()[axis]);
            region.end[axis] = index((high[axis] + above).ceil() + 3.0, grid.shape()[axis]);
        }
        let shape = region.shape();
        let mut per_pixel = if spacing[1].max(spacing[2]) > WIDEST_MM { 3 } else { 1 };
        let mut per_slice = index((spacing[0] / FARTHEST_MM - 1e-6).ceil(), 20).max(FEWEST_PLANES);
        let samples = |per_pixel: usize, per_slice: usize| {
            shape[0].saturating_mul(per_slice * per_pixel * per_pixel).saturating_mul(shape[1] * shape[2])
        };
        if samples(per_pixel, per_slice) > MOST_SAMPLES {
            per_pixel = 1;
        }
        while per_slice > 1 && samples(per_pixel, per_slice) > MOST_SAMPLES {
            per_slice -= 1;
        }
        let step_mm =
            [spacing[0] / per_slice as f64, spacing[1] / per_pixel as f64, spacing[2] / per_pixel as f64];
        Some(Self { region, per_pixel, per_slice, step_mm })
    }

    /// Rows and columns of samples.
    pub(super) fn rows_and_columns(&self) -> [usize; 2] {
        let [_, rows, columns] = self.region.shape();
        [rows * self.per_pixel, columns * self.per_pixel]
    }

    /// A place of the lattice's rows or columns in pixels of the image.
    pub(super) fn pixel(&self, axis: usize, place: f64) -> f64 {
        let per_pixel = self.per_pixel as f64;
        (place - (per_pixel - 1.0) / 2.0) / per_pixel + self.region.start[axis] as f64
    }

    /// Which samples lie in the region, plane by plane at the distance of [`Self::step_mm`], from half a slice below the
    /// first slice of the lattice to half a slice above its last. The second value is the index of the first slice.
    ///
    /// Between two slices the outline moves as the signed distances of both, each to at most one slice distance, change
    /// into each other. So slopes up to 45 degrees are straight lines, and what has nothing above or below it ends half
    /// way, as the volume of contours has it.
    pub(super) fn sample(&self, roi: &RoiContours, grid: &Grid) -> (Array3<bool>, usize) {
        let [n_slices, ..] = self.region.shape();
        let [rows, columns] = self.rows_and_columns();
        let most_mm = grid.spacing_mm()[0];
        let depth = self.signed_distances(roi, grid, most_mm);
        let nothing = Array2::from_elem((rows, columns), to_f32(most_mm));
        let half = self.per_slice / 2;
        let n_planes = (n_slices - 1) * self.per_slice + 1 + 2 * half;
        let mut inside = Array3::from_elem((n_planes, rows, columns), false);
        let at = |slice: Option<usize>| match slice {
            Some(slice) if slice < n_slices => depth.index_axis(Axis(0), slice),
            _ => nothing.view(),
        };
        for (plane, mut samples) in inside.axis_iter_mut(Axis(0)).enumerate() {
            // Counted from one slice below the first.
            let steps = plane + self.per_slice - half;
            let (below, part) = (steps / self.per_slice, steps % self.per_slice);
            let (a, b) = (at(below.checked_sub(1)), at(Some(below)));
            let t = to_f32(part as f64 / self.per_slice as f64);
            ndarray::Zip::from(&mut samples).and(a).and(b).for_each(|inside, a, b| {
                *inside = a * (1.0 - t) + b * t < 0.0;
            });
        }
        (inside, half)
    }

    /// Signed distance to the outline within each slice, mm, negative inside, at most `most_mm`.
    fn signed_distances(&self, roi: &RoiContours, grid: &Grid, most_mm: f64) -> Array3<f32> {
        let [n_slices, ..] = self.region.shape();
        let [rows, columns] = self.rows_and_columns();
        let mut depth = Array3::from_elem((n_slices, rows, columns), to_f32(most_mm));
        let fine = Fine { lattice: self, grid };
        let planes: Vec<_> = depth.axis_iter_mut(Axis(0)).enumerate().collect();
        rayon::iter::ParallelIterator::for_each(
            rayon::iter::IntoParallelIterator::into_par_iter(planes),
            |(slice, mut plane)| {
                let inside = fine.fill(roi, self.region.start[0] + slice);
                if let Some(inside) = inside {
                    plane.assign(&signed_distance(
                        inside.view(),
                        [self.step_mm[1], self.step_mm[2]],
                        most_mm,
                    ));
                }
            },
        );
        depth
    }
}

struct Fine<'a> {
    lattice: &'a Lattice,
    grid: &'a Grid,
}

impl Fine<'_> {
    /// The samples of one slice inside the contours, `None` where it has none.
    fn fill(&self, roi: &RoiContours, slice: usize) -> Option<Array2<bool>> {
        let here = roi.contours.iter().filter(|contour| contour.slice == slice);
        let [rows, columns] = self.lattice.rows_and_columns();
        let contours: Vec<PlanarContour> =
            here.map(|contour| PlanarContour { slice: 0, points: contour.points.clone() }).collect();
        if contours.is_empty() {
            return None;
        }
        let corner =
            VoxelPoint { z: slice as f64, y: self.lattice.pixel(1, 0.0), x: self.lattice.pixel(2, 0.0) };
        let [_, step_y, step_x] = self.lattice.step_mm;
        let spacing = [self.grid.spacing_mm()[0], step_y, step_x];
        let origin = self.grid.patient_from_voxel(corner);
        let fine = Grid::new([1, rows, columns], spacing, origin, self.grid.directions()).ok()?;
        let mask = fill(&RoiContours { contours }, &fine, FillRule::EvenOdd).to_whole([1, rows, columns]);
        Some(mask.index_axis_move(Axis(0), 0))
    }
}

/// Distance to the nearest sample on the other side less half a step, so that the outline lies between them.
fn signed_distance(inside: ArrayView2<'_, bool>, step_mm: [f64; 2], most_mm: f64) -> Array2<f32> {
    let half_step = (step_mm[0] + step_mm[1]) / 4.0;
    let to = |of: bool| {
        let mut squared = inside.mapv(|i| if i == of { 0.0 } else { f32::INFINITY });
        for (axis, step) in step_mm.into_iter().enumerate() {
            let reach = index((most_mm / step).ceil(), 10_000);
            let cost: Vec<f32> = (0..=reach).map(|n| to_f32((n as f64 * step).powi(2))).collect();
            for lane in squared.lanes_mut(Axis(axis)) {
                spread(lane, &cost, &cost);
            }
        }
        squared
    };
    let (out, within) = (to(true), to(false));
    let distance = |squared: f32| (f64::from(squared).sqrt() - half_step).min(most_mm);
    let mut depth = Array2::zeros(inside.dim());
    ndarray::Zip::from(&mut depth).and(inside).and(&out).and(&within).for_each(
        |depth, inside, out, within| {
            *depth = to_f32(if *inside { -distance(*within) } else { distance(*out) });
        },
    );
    depth
}

/// One axis of a separable distance: each sample becomes the least of every sample's value and the cost of the steps
/// from there, `up[n]` for n steps towards higher indices, `down[n]` towards lower ones (Felzenszwalb and Huttenlocher
/// 2012, eq. 1, taken over the reach of the costs).
pub(super) fn spread(mut lane: ndarray::ArrayViewMut1<'_, f32>, up: &[f32], down: &[f32]) {
    let before: Vec<f32> = lane.to_vec();
    if before.iter().all(|value| value.is_infinite()) {
        return;
    }
    let n = before.len();
    for (from, value) in before.iter().enumerate().filter(|(_, value)| value.is_finite()) {
        for (steps, cost) in up.iter().enumerate().take(n - from).skip(1) {
            let there = &mut lane[from + steps];
            *there = there.min(value + cost);
        }
        for (steps, cost) in down.iter().enumerate().take(from + 1).skip(1) {
            let there = &mut lane[from - steps];
            *there = there.min(value + cost);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a distance in mm, or its square")]
pub(super) fn to_f32(value: f64) -> f32 {
    value as f32
}

/// A whole number as an index up to `most`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to the range of an index"
)]
pub(super) fn index(value: f64, most: usize) -> usize {
    if value.is_nan() { 0 } else { value.clamp(0.0, most as f64) as usize }
}
