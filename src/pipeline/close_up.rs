//! The second look: a window round small organs on a finer grid, where the first look found some of them.
//!
//! Comes in: the first look's masks and grid. Goes out: the masks of both looks on one grid, whose nodes are those of the
//! first and others between them; linear interpolation between the first's nodes is then the same on both, so that what
//! the first look alone found keeps its contours.

use ndarray::Array3;

use super::network::OrganMask;
use crate::engine::graph::CloseUp;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint, VoxelBox, VoxelPoint};

/// How the grid of the second look lies in that of the first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finer {
    /// Parts of a voxel of the first look, `(z, y, x)`.
    parts: [usize; 3],
    /// The first grid with other nodes between its own and as many before and behind, in which what touches its faces falls
    /// to zero; node `n` of the first is `n parts + parts - 1`.
    pub(super) grid: Grid,
}

impl Finer {
    /// The finer grid; `None` where the spacing does not divide that of the first.
    pub(super) fn of(first: &Grid, spacing_mm: [f64; 3]) -> Option<Self> {
        let parts = parts(first.spacing_mm(), spacing_mm)?;
        let before = parts.map(|parts| parts - 1);
        let shape = std::array::from_fn(|axis| first.shape()[axis] * parts[axis] + before[axis]);
        let corner = first.origin();
        let [z, y, x]: [f64; 3] = std::array::from_fn(|axis| before[axis] as f64 * spacing_mm[axis]);
        let origin = PatientPoint::lps_mm(corner.x - x, corner.y - y, corner.z - z);
        let grid = Grid::axial(shape, spacing_mm, origin).ok()?;
        Some(Self { parts, grid })
    }

    /// The window that belongs round what was found of the close-up's organs, in the finer grid; `None` where nothing was.
    pub(super) fn window(&self, close_up: &CloseUp, first: &Grid, found: &[OrganMask]) -> Option<VoxelBox> {
        let middle_of = |mask: &OrganMask| {
            let half = |axis: usize| (mask.region.start[axis] + mask.region.end[axis] - 1) as f64 / 2.0;
            let p = first.patient_from_voxel(VoxelPoint { z: half(0), y: half(1), x: half(2) });
            (mask.organ, [p.z, p.y, p.x])
        };
        let [z, y, x] = close_up.middle(&found.iter().map(middle_of).collect::<Vec<_>>())?;
        let at = self.grid.voxel_from_patient(PatientPoint::lps_mm(x, y, z));
        let most = |axis: usize| first.shape()[axis] * self.parts[axis];
        let sides: [usize; 3] = std::array::from_fn(|axis| close_up.window[axis].min(most(axis)));
        let start = std::array::from_fn(|axis| {
            let start = [at.z, at.y, at.x][axis] - (sides[axis] as f64 - 1.0) / 2.0;
            rounded(start).min(self.grid.shape()[axis] - sides[axis])
        });
        Some(VoxelBox { start, end: std::array::from_fn(|axis| start[axis] + sides[axis]) })
    }

    /// The grid of a window.
    pub(super) fn grid_of(&self, window: VoxelBox) -> Option<Grid> {
        let [z, y, x] = window.start.map(|at| at as f64);
        let origin = self.grid.patient_from_voxel(VoxelPoint { z, y, x });
        Grid::axial(window.shape(), self.grid.spacing_mm(), origin).ok()
    }

    /// A mask of the first look on the finer grid, interpolated as everything that reads masks does: linear between nodes,
    /// falling to zero within a voxel of the first grid beyond the box.
    pub(super) fn mask(&self, mask: &OrganMask) -> OrganMask {
        let start = std::array::from_fn(|axis| mask.region.start[axis] * self.parts[axis]);
        let end = std::array::from_fn(|axis| (mask.region.end[axis] + 1) * self.parts[axis] - 1);
        let region = VoxelBox { start, end };
        let lines: [Vec<[(usize, f32); 2]>; 3] = std::array::from_fn(|axis| {
            let (parts, side) = (self.parts[axis], mask.probability.shape()[axis]);
            (0..region.shape()[axis]).map(|at| between(at, parts, side)).collect()
        });
        let probability = Array3::from_shape_fn(region.shape(), |(z, y, x)| {
            let mut sum = 0.0;
            for (iz, wz) in lines[0][z] {
                for (iy, wy) in lines[1][y] {
                    for (ix, wx) in lines[2][x] {
                        let weight = wz * wy * wx;
                        if weight > 0.0 {
                            sum += weight * mask.probability[[iz, iy, ix]];
                        }
                    }
                }
            }
            sum
        });
        OrganMask {
            organ: mask.organ,
            detection_probability: mask.detection_probability,
            region,
            probability,
        }
    }

    /// What both looks found, in class order: an organ of the close-up as the second saw it, wherever it did.
    pub(super) fn joined(
        &self,
        first: &[OrganMask],
        second: Vec<OrganMask>,
        window: VoxelBox,
    ) -> Vec<OrganMask> {
        let mut second = second;
        for mask in &mut second {
            for axis in 0..3 {
                mask.region.start[axis] += window.start[axis];
                mask.region.end[axis] += window.start[axis];
            }
        }
        let of = |organ: Organ| {
            let closer = second.iter().find(|mask| mask.organ == organ).cloned();
            closer.or_else(|| first.iter().find(|mask| mask.organ == organ).map(|mask| self.mask(mask)))
        };
        Organ::ALL.into_iter().filter_map(of).collect()
    }
}

/// Into how many parts a spacing divides another on each axis; `None` where they are no whole numbers.
pub(super) fn parts(first_mm: [f64; 3], second_mm: [f64; 3]) -> Option<[usize; 3]> {
    let ratios: [f64; 3] = std::array::from_fn(|axis| first_mm[axis] / second_mm[axis]);
    let whole = ratios.iter().all(|ratio| *ratio >= 0.999 && (ratio - ratio.round()).abs() < 1e-6);
    whole.then(|| ratios.map(rounded))
}

/// The two nodes of a box of the first grid beside a node of the same box in the finer one, with their weights; a node
/// beyond the box counts nothing.
fn between(at: usize, parts: usize, side: usize) -> [(usize, f32); 2] {
    let (before, share) = ((at + 1) / parts, ((at + 1) % parts) as f32 / parts as f32);
    let node = |number: usize, weight: f32| match number.checked_sub(1) {
        Some(index) if index < side => (index, weight),
        _ => (0, 0.0),
    };
    [node(before, 1.0 - share), node(before + 1, share)]
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a grid, not below zero"
)]
fn rounded(value: f64) -> usize {
    value.round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::contours::{TraceOptions, trace_all, volume_mm3};

    fn first() -> Grid {
        Grid::axial([16, 32, 48], [3.0, 2.5, 2.5], PatientPoint::lps_mm(-31.0, 12.0, -7.0)).unwrap()
    }

    /// A lopsided blob that touches the faces of its box on some sides.
    fn blob(organ: Organ, start: [usize; 3]) -> OrganMask {
        let probability = Array3::from_shape_fn([8, 16, 8], |(z, y, x)| {
            let away = (z as f32 - 2.2).powi(2) / 9.0
                + (y as f32 - 8.7).powi(2) / 30.0
                + (x as f32 - 4.1).powi(2) / 4.0;
            1.0 / (1.0 + (3.0 * (away - 1.0)).exp())
        });
        let end = [start[0] + 8, start[1] + 16, start[2] + 8];
        OrganMask { organ, detection_probability: 0.9, region: VoxelBox { start, end }, probability }
    }

    /// On an image's planes that fit neither grid the contours are those of the first look.
    #[test]
    fn a_mask_on_the_finer_grid_has_the_same_contours() {
        let finer = Finer::of(&first(), [1.5, 1.25, 0.625]).unwrap();
        let image =
            Grid::axial([25, 90, 120], [2.2, 0.9, 1.1], PatientPoint::lps_mm(-33.0, 10.0, -8.0)).unwrap();
        let options = TraceOptions::DELIVERED;
        for start in [[0, 0, 0], [8, 8, 32], [0, 16, 40]] {
            let mask = blob(Organ::Larynx, start);
            let on_first = trace_all(std::slice::from_ref(&mask), &first(), &image, options);
            let on_finer = trace_all(&[finer.mask(&mask)], &finer.grid, &image, options);
            let volumes = [&on_first, &on_finer].map(|traced| volume_mm3(&traced[0].1, &image));
            assert!(volumes[0] > 500.0, "{volumes:?}");
            assert!((volumes[0] - volumes[1]).abs() < 1e-3 * volumes[0], "{start:?}: {volumes:?}");
            assert_eq!(on_first[0].1.contours.len(), on_finer[0].1.contours.len());
        }
    }

    #[test]
    fn the_window_lies_round_the_organs_and_inside_the_grid() {
        let finer = Finer::of(&first(), [1.5, 1.25, 1.25]).unwrap();
        assert_eq!(finer.grid.shape(), [33, 65, 97]);
        let close_up = CloseUp {
            organs: vec![(Organ::EyeL, [0.0, -5.0, 10.0]), (Organ::EyeR, [0.0, -5.0, -10.0])],
            window: [16, 32, 48],
        };
        // Middles of both boxes in the first grid: (7.5, 15.5, 35.5) and (7.5, 15.5, 19.5), 40 mm apart.
        let found = [blob(Organ::EyeL, [4, 8, 32]), blob(Organ::EyeR, [4, 8, 16])];
        let window = finer.window(&close_up, &first(), &found).unwrap();
        // (16, 32 + 4, 56) is the middle in the finer grid.
        assert_eq!((window.start, window.shape()), ([9, 21, 33], [16, 32, 48]));
        let low = [blob(Organ::EyeL, [0, 0, 0])];
        assert_eq!(finer.window(&close_up, &first(), &low).unwrap().start, [1, 5, 0]);
        assert_eq!(finer.window(&close_up, &first(), &[blob(Organ::Larynx, [0, 0, 0])]), None);
    }

    #[test]
    fn the_second_look_counts_where_it_found_something() {
        let finer = Finer::of(&first(), [1.5, 1.25, 1.25]).unwrap();
        let window = VoxelBox { start: [3, 5, 7], end: [19, 37, 39] };
        let found = [blob(Organ::EyeL, [4, 8, 32]), blob(Organ::Larynx, [0, 0, 0])];
        let second = blob(Organ::EyeL, [8, 8, 8]);
        let joined = finer.joined(&found, vec![second.clone()], window);
        assert_eq!(joined.iter().map(|mask| mask.organ).collect::<Vec<_>>(), [Organ::EyeL, Organ::Larynx]);
        assert_eq!((joined[0].region.start, &joined[0].probability), ([11, 13, 15], &second.probability));
        assert_eq!(joined[1], finer.mask(&found[1]));
    }

    #[test]
    fn a_spacing_that_does_not_divide_the_first_has_no_common_grid() {
        assert_eq!(parts([3.0, 2.5, 2.5], [1.5, 1.25, 1.25]), Some([2, 2, 2]));
        assert_eq!(parts([2.5, 0.98, 0.98], [1.5, 1.25, 1.25]), None);
        assert_eq!(parts([1.5, 1.25, 1.25], [3.0, 2.5, 2.5]), None);
    }
}
