//! Where the patient is: everything else is air to the network.

use ndarray::{Array2, Array3, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::error::VolumeError;
use super::hu_volume::HuVolume;
use super::resample::resample;
use crate::vocabulary::space::{Grid, PatientPoint, VoxelBox, VoxelPoint};

/// Spacing of the body's grid, mm, on all axes.
const SPACING_MM: f64 = 4.0;

/// Above this is tissue, bone or something solid, HU.
pub const TISSUE_HU: f32 = -400.0;

/// Most voxels of the body's grid: 1.3 m x 1.3 m x 4 m.
const MOST_VOXELS: usize = 128_000_000;

/// Smallest body: 0.2 litre. A head is 5.
const SMALLEST_VOXELS: usize = 3_000;

/// The patient on an axial grid of 4 mm; air inside (mouth, trachea) belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Body {
    /// Voxels of the patient, with a margin of one.
    pub(super) inside: Array3<bool>,
    /// Their grid: axial, x to the left, y to posterior, z to superior.
    pub(super) grid: Grid,
}

/// Why no body was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoBody {
    /// The image covers more than any patient.
    TooLarge {
        /// Voxels that its grid would have.
        n_voxels: usize,
    },
    /// Nothing large enough is denser than air.
    NothingThere,
}

impl From<NoBody> for VolumeError {
    fn from(why: NoBody) -> Self {
        match why {
            NoBody::NothingThere => Self::NoBody,
            NoBody::TooLarge { n_voxels } => Self::TooWide { n_voxels },
        }
    }
}

/// The least piece of a body in a slice, mm2: a finger.
const SMALLEST_PIECE_MM2: f64 = 100.0;

/// The body on the grid of the image: tissue within a voxel of [`Body::find`], with everything that it encloses in its
/// slice.
///
/// # Errors
/// [`VolumeError`] where there is none.
pub fn body_mask(volume: &HuVolume) -> Result<Array3<bool>, VolumeError> {
    let body = Body::find(volume)?;
    let grid = &volume.grid;
    let [_, spacing_y, spacing_x] = grid.spacing_mm();
    let fewest = SMALLEST_PIECE_MM2 / (spacing_y * spacing_x);
    let mut mask = volume.hu.mapv(|hu| f32::from(hu) > TISSUE_HU);
    let planes: Vec<_> = mask.axis_iter_mut(Axis(0)).enumerate().collect();
    planes.into_par_iter().for_each(|(z, mut plane)| {
        for ((y, x), tissue) in plane.indexed_iter_mut().filter(|(_, tissue)| **tissue) {
            let p = grid.patient_from_voxel(VoxelPoint { z: z as f64, y: y as f64, x: x as f64 });
            *tissue = body.holds(p);
        }
        keep_pieces(&mut plane, fewest);
        let outside = outside_of(plane.view());
        plane.zip_mut_with(&outside, |inside, outside| *inside = !outside);
    });
    Ok(mask)
}

/// Drops pieces (four neighbours) of a plane with fewer pixels.
fn keep_pieces(plane: &mut ArrayViewMut2<'_, bool>, fewest: f64) {
    let mut seen = Array2::from_elem(plane.dim(), false);
    let starts: Vec<(usize, usize)> =
        plane.indexed_iter().filter(|(_, inside)| **inside).map(|(at, _)| at).collect();
    for start in starts {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut piece = vec![start];
        let mut next = 0;
        while let Some((y, x)) = piece.get(next).copied() {
            next += 1;
            for at in [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)] {
                if plane.get(at) == Some(&true) && !seen[at] {
                    seen[at] = true;
                    piece.push(at);
                }
            }
        }
        if (piece.len() as f64) < fewest {
            piece.into_iter().for_each(|at| plane[at] = false);
        }
    }
}

impl Body {
    /// Whether a point of the patient lies in it.
    fn holds(&self, point: PatientPoint) -> bool {
        let v = self.grid.voxel_from_patient(point);
        let place: [Option<usize>; 3] =
            std::array::from_fn(|axis| whole([v.z, v.y, v.x][axis], self.grid.shape()[axis]));
        matches!(place, [Some(z), Some(y), Some(x)] if self.inside[[z, y, x]])
    }

    /// The largest connected piece denser than lung after an opening of 4 mm, which parts it from couch and mask, with
    /// its holes filled plane by plane.
    pub(super) fn find(volume: &HuVolume) -> Result<Self, NoBody> {
        let grid = around(&volume.grid)?;
        let solid = resample(volume, &grid).mapv(|hu| hu > TISSUE_HU);
        let core = eroded(&solid);
        let Some(mut inside) = largest_piece(&core) else { return Err(NoBody::NothingThere) };
        // Back to the skin, and one voxel more.
        grow(&mut inside);
        inside.zip_mut_with(&solid, |inside, solid| *inside &= *solid);
        if inside.iter().filter(|inside| **inside).count() < SMALLEST_VOXELS {
            return Err(NoBody::NothingThere);
        }
        for mut plane in inside.axis_iter_mut(Axis(0)) {
            let outside = outside_of(plane.view());
            plane.zip_mut_with(&outside, |inside, outside| *inside = !outside);
        }
        grow(&mut inside);
        Ok(Self { inside, grid })
    }

    /// The box of its voxels among the planes `from..to` of its grid, `None` where these hold none of it.
    pub(super) fn extent(&self, from: usize, to: usize) -> Option<VoxelBox> {
        let (mut start, mut end) = ([usize::MAX; 3], [0; 3]);
        for z in from..to.min(self.inside.dim().0) {
            for ((y, x), _) in
                self.inside.index_axis(Axis(0), z).indexed_iter().filter(|(_, inside)| **inside)
            {
                for (axis, index) in [z, y, x].into_iter().enumerate() {
                    start[axis] = start[axis].min(index);
                    end[axis] = end[axis].max(index + 1);
                }
            }
        }
        (end[0] > 0).then_some(VoxelBox { start, end })
    }

    /// Mean row and column of its voxels among the planes `from..to`, 0 where these hold none of it.
    pub(super) fn middle(&self, from: usize, to: usize) -> [f64; 2] {
        let (mut n, mut sum) = (0.0, [0.0; 2]);
        for z in from..to.min(self.inside.dim().0) {
            for ((y, x), _) in
                self.inside.index_axis(Axis(0), z).indexed_iter().filter(|(_, inside)| **inside)
            {
                n += 1.0;
                sum = [sum[0] + y as f64, sum[1] + x as f64];
            }
        }
        sum.map(|sum| if n > 0.0 { sum / n } else { 0.0 })
    }

    /// Sets everything outside the patient to `air`. `image` lies on `grid`, which is axial as ours.
    pub(super) fn clear_outside(&self, image: &mut Array3<f32>, grid: &Grid, air: f32) {
        let shape = grid.shape();
        let nearest: [Vec<Option<usize>>; 3] = std::array::from_fn(|axis| {
            let place = |index: usize| {
                let mut at = [0.0; 3];
                at[axis] = index as f64;
                let [z, y, x] = at;
                let on_ours = self.grid.voxel_from_patient(grid.patient_from_voxel(VoxelPoint { z, y, x }));
                whole([on_ours.z, on_ours.y, on_ours.x][axis], self.grid.shape()[axis])
            };
            (0..shape[axis]).map(place).collect()
        });
        let [z, y, x] = nearest;
        for ((k, j, i), value) in image.indexed_iter_mut() {
            let inside = match (z[k], y[j], x[i]) {
                (Some(z), Some(y), Some(x)) => self.inside[[z, y, x]],
                _ => false,
            };
            if !inside {
                *value = air;
            }
        }
    }
}

/// An axial grid over the whole image.
fn around(image: &Grid) -> Result<Grid, NoBody> {
    let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
    for corner in 0..8_usize {
        let side =
            |axis: usize| if corner >> axis & 1 == 0 { -0.5 } else { image.shape()[axis] as f64 - 0.5 };
        let p = image.patient_from_voxel(VoxelPoint { z: side(0), y: side(1), x: side(2) });
        for (axis, mm) in [p.z, p.y, p.x].into_iter().enumerate() {
            low[axis] = low[axis].min(mm);
            high[axis] = high[axis].max(mm);
        }
    }
    let shape =
        std::array::from_fn(|axis| whole((high[axis] - low[axis]) / SPACING_MM, usize::MAX).unwrap_or(0) + 1);
    let n_voxels = shape.iter().fold(1_usize, |n, side| n.saturating_mul(*side));
    if n_voxels > MOST_VOXELS {
        return Err(NoBody::TooLarge { n_voxels });
    }
    let origin = PatientPoint::lps_mm(low[2], low[1], low[0]);
    Grid::axial(shape, [SPACING_MM; 3], origin).map_err(|_finite| NoBody::TooLarge { n_voxels })
}

/// The nearest index below `side`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in the range")]
fn whole(place: f64, side: usize) -> Option<usize> {
    let rounded = place.round();
    (rounded >= 0.0 && rounded < side as f64).then_some(rounded as usize)
}

/// Voxels whose six neighbours are all set; the border of the volume counts as set.
fn eroded(mask: &Array3<bool>) -> Array3<bool> {
    let (d, h, w) = mask.dim();
    Array3::from_shape_fn((d, h, w), |(z, y, x)| {
        mask[[z, y, x]]
            && mask[[z.saturating_sub(1), y, x]]
            && mask[[(z + 1).min(d - 1), y, x]]
            && mask[[z, y.saturating_sub(1), x]]
            && mask[[z, (y + 1).min(h - 1), x]]
            && mask[[z, y, x.saturating_sub(1)]]
            && mask[[z, y, (x + 1).min(w - 1)]]
    })
}

/// Grows by the 26 neighbours.
fn grow(mask: &mut Array3<bool>) {
    for axis in 0..3 {
        let before = mask.clone();
        let side = mask.len_of(Axis(axis));
        for (index, mut plane) in mask.axis_iter_mut(Axis(axis)).enumerate() {
            for neighbour in [index.saturating_sub(1), (index + 1).min(side - 1)] {
                plane.zip_mut_with(&before.index_axis(Axis(axis), neighbour), |a, b| *a |= *b);
            }
        }
    }
}

/// The connected piece (six neighbours) with the most voxels.
fn largest_piece(mask: &Array3<bool>) -> Option<Array3<bool>> {
    let shape = mask.dim();
    let mut piece_of = Array3::<u32>::zeros(shape);
    let mut sizes: Vec<usize> = Vec::new();
    let mut waiting = Vec::new();
    for (start, _) in mask.indexed_iter().filter(|(_, set)| **set) {
        if piece_of[start] != 0 {
            continue;
        }
        let number = u32::try_from(sizes.len() + 1).ok()?;
        let mut size = 0;
        piece_of[start] = number;
        waiting.push(start);
        while let Some((z, y, x)) = waiting.pop() {
            size += 1;
            let neighbours = [
                (z.wrapping_sub(1), y, x),
                (z + 1, y, x),
                (z, y.wrapping_sub(1), x),
                (z, y + 1, x),
                (z, y, x.wrapping_sub(1)),
                (z, y, x + 1),
            ];
            for next in neighbours {
                if mask.get(next) == Some(&true) && piece_of[next] == 0 {
                    piece_of[next] = number;
                    waiting.push(next);
                }
            }
        }
        sizes.push(size);
    }
    let (largest, _) = sizes.iter().enumerate().max_by_key(|(_, size)| **size)?;
    let number = u32::try_from(largest + 1).ok()?;
    Some(piece_of.mapv(|piece| piece == number))
}

/// What is connected with the plane's border without crossing the mask.
fn outside_of(plane: ArrayView2<'_, bool>) -> Array2<bool> {
    let (h, w) = plane.dim();
    let mut outside = Array2::from_elem((h, w), false);
    let border = (0..h).flat_map(|y| [(y, 0), (y, w - 1)]).chain((0..w).flat_map(|x| [(0, x), (h - 1, x)]));
    let mut waiting: Vec<(usize, usize)> = border.filter(|at| !plane[*at]).collect();
    for at in &waiting {
        outside[*at] = true;
    }
    while let Some((y, x)) = waiting.pop() {
        for next in [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)] {
            if plane.get(next) == Some(&false) && !outside[next] {
                outside[next] = true;
                waiting.push(next);
            }
        }
    }
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tube of tissue with an airway, 240 mm high, and a couch 12 mm behind it.
    fn volume() -> HuVolume {
        let grid =
            Grid::axial([60, 70, 80], [4.0, 3.0, 3.0], PatientPoint::lps_mm(-90.0, -120.0, 500.0)).unwrap();
        let hu = Array3::from_shape_fn([60, 70, 80], |(_, y, x)| {
            let p = grid.patient_from_voxel(VoxelPoint { z: 0.0, y: y as f64, x: x as f64 });
            let from_axis = ((p.x - 10.0) / 60.0).hypot((p.y + 40.0) / 70.0);
            let airway = (p.x - 18.0).hypot(p.y + 50.0) < 9.0;
            match () {
                () if airway => -1000,
                () if from_axis < 1.0 => 40,
                () if (45.0..52.0).contains(&p.y) => 100,
                () => -1000,
            }
        });
        HuVolume { hu, grid }
    }

    #[test]
    fn the_couch_is_outside_and_the_airway_inside() {
        let body = Body::find(&volume()).unwrap();
        let at = |x: f64, y: f64| {
            let v = body.grid.voxel_from_patient(PatientPoint::lps_mm(x, y, 600.0));
            body.inside[[v.z.round() as usize, v.y.round() as usize, v.x.round() as usize]]
        };
        assert!(at(10.0, -40.0) && at(18.0, -50.0) && at(66.0, -40.0));
        assert!(!at(10.0, 48.0) && !at(80.0, -40.0) && !at(10.0, -118.0));
        let [y, x] = body.middle(0, 60);
        let middle = body.grid.patient_from_voxel(VoxelPoint { z: 0.0, y, x });
        assert!((middle.x - 10.0).abs() < 2.5 && (middle.y + 40.0).abs() < 2.5, "{middle:?}");
    }

    #[test]
    fn air_alone_is_no_body() {
        let grid = volume().grid;
        let empty = HuVolume { hu: Array3::from_elem(grid.shape(), -1000), grid };
        assert_eq!(Body::find(&empty), Err(NoBody::NothingThere));
        let wide =
            Grid::axial([60, 70, 80], [900.0, 900.0, 3.0], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        let wide = HuVolume { hu: Array3::from_elem(wide.shape(), 30), grid: wide };
        assert!(matches!(Body::find(&wide), Err(NoBody::TooLarge { .. })));
    }
}
