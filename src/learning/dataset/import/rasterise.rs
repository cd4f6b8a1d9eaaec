//! Contours of any planes into voxels.

use crate::pipeline::contours::{PlanarContour, RoiContours, fill};
use crate::pipeline::rtstruct;
use crate::vocabulary::space::{Grid, PatientPoint, RegionMask};

/// A ring that leans by more than this part of the slice distance is in no plane parallel to the slices.
const FLAT: f64 = 0.25;

/// Rings nearer than this part of the slice distance are in one plane.
const SAME_PLANE: f64 = 0.1;

/// Fewer planes do not tell contours on every second slice from an organ with a hole between two slices.
const PLANES_OF_A_HABIT: usize = 4;

/// An ROI as voxels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rasterised {
    pub(super) mask: RegionMask,
    /// Rings that are in no plane parallel to the slices.
    pub(super) slanting: usize,
    /// Rings in planes beyond the image.
    pub(super) beyond: usize,
}

/// The voxels inside rings. A plane of contours reaches half-way to where its neighbour would be, so that contours
/// between slices, or on every second one, fill the slices near them, and a plane that is missing stays missing.
pub(super) fn rasterise(rings: &[Vec<PatientPoint>], grid: &Grid) -> Rasterised {
    let mut slanting = 0;
    let mut placed: Vec<(f64, &Vec<PatientPoint>)> = Vec::new();
    for ring in rings {
        let heights = ring.iter().map(|p| grid.voxel_from_patient(*p).z);
        let (low, high) = heights.fold((f64::MAX, f64::MIN), |(l, h), z| (l.min(z), h.max(z)));
        if high - low <= 2.0 * FLAT {
            placed.push(((low + high) / 2.0, ring));
        } else {
            slanting += 1;
        }
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut planes: Vec<(f64, Vec<&Vec<PatientPoint>>)> = Vec::new();
    for (z, ring) in placed {
        match planes.last_mut() {
            Some((plane, rings)) if z - *plane <= SAME_PLANE => rings.push(ring),
            _ => planes.push((z, vec![ring])),
        }
    }
    let mut gaps: Vec<f64> = planes.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    gaps.sort_by(f64::total_cmp);
    let habit = gaps.get(gaps.len() / 2).filter(|_| planes.len() >= PLANES_OF_A_HABIT);
    let reach = habit.copied().unwrap_or(1.0).max(1.0) / 2.0;
    let n_slices = grid.shape()[0];
    let last = n_slices as f64 - 1.0;
    let beyond = planes.iter().filter(|(z, _)| *z + reach <= 0.0 || *z - reach > last);
    let beyond = beyond.map(|(_, rings)| rings.len()).sum();
    let mut contours = Vec::new();
    for slice in 0..n_slices {
        let z = slice as f64;
        let covers = |plane: f64| plane - reach <= z + 1e-6 && z + 1e-6 < plane + reach;
        let near = planes.iter().filter(|(plane, _)| covers(*plane));
        let nearest = near.min_by(|(a, _), (b, _)| (a - z).abs().total_cmp(&(b - z).abs()));
        for ring in nearest.map(|(_, rings)| rings.as_slice()).unwrap_or_default() {
            contours.push(PlanarContour { slice, points: (*ring).clone() });
        }
    }
    let mask = fill(&RoiContours { contours }, grid, rtstruct::FILL_RULE);
    Rasterised { mask, slanting, beyond }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::space::VoxelPoint;

    fn grid() -> Grid {
        Grid::axial([9, 20, 30], [2.5, 0.9, 1.3], PatientPoint::lps_mm(-31.0, 7.0, 112.0)).unwrap()
    }

    /// A rectangle whose corners lie between voxels: rows y0..y1 and columns x0..x1 are inside.
    fn rectangle(z: f64, [y0, y1]: [f64; 2], [x0, x1]: [f64; 2]) -> Vec<PatientPoint> {
        let corners = [(y0, x0), (y0, x1), (y1, x1), (y1, x0)];
        let at = |(y, x)| grid().patient_from_voxel(VoxelPoint { z, y: y - 0.5, x: x - 0.5 });
        corners.into_iter().map(at).collect()
    }

    fn slices(rings: &[Vec<PatientPoint>]) -> Vec<usize> {
        let whole = rasterise(rings, &grid()).mask.to_whole(grid().shape());
        whole.outer_iter().map(|plane| plane.iter().filter(|inside| **inside).count()).collect()
    }

    #[test]
    fn planes_on_slices_holes_and_several_rings() {
        let ring = |z| rectangle(z, [2.0, 9.0], [3.0, 14.0]); // 77 voxels
        let hole = |z| rectangle(z, [4.0, 6.0], [5.0, 8.0]); // 6
        let other = |z| rectangle(z, [12.0, 15.0], [20.0, 24.0]); // 12
        let rings = [ring(2.0), ring(3.000_001), hole(3.0), other(3.0), ring(4.0)];
        assert_eq!(slices(&rings), [0, 0, 77, 83, 77, 0, 0, 0, 0]);
        // Plane 5 is missing.
        assert_eq!(slices(&[ring(3.0), ring(4.0), ring(6.0), ring(7.0)]), [0, 0, 0, 77, 77, 0, 77, 77, 0]);
    }

    #[test]
    fn planes_between_slices_and_on_every_second_one() {
        let ring = |z, x1| rectangle(z, [2.0, 9.0], [3.0, x1]);
        // Half-way between slices: each fills the slice below it.
        assert_eq!(slices(&[ring(2.5, 14.0), ring(3.5, 10.0)]), [0, 0, 77, 49, 0, 0, 0, 0, 0]);
        // Every second slice: each reaches a slice's distance on both sides, half-open; two planes are no habit.
        let second = [ring(1.0, 14.0), ring(3.0, 10.0), ring(5.0, 5.0), ring(7.0, 14.0)];
        assert_eq!(slices(&second), [77, 77, 49, 49, 14, 14, 77, 77, 0]);
        assert_eq!(slices(&second[..2]), [0, 77, 0, 49, 0, 0, 0, 0, 0]);
        // Thrice as dense as the slices: the nearest counts.
        let dense: Vec<_> =
            (6..13).map(|n| ring(f64::from(n) / 3.0, if n % 3 == 0 { 14.0 } else { 10.0 })).collect();
        assert_eq!(slices(&dense), [0, 0, 77, 77, 77, 0, 0, 0, 0]);
        assert_eq!(slices(&[ring(7.2, 10.0)]), [0, 0, 0, 0, 0, 0, 0, 49, 0]);
    }

    #[test]
    fn rings_that_lean_or_lie_beyond_are_counted() {
        let mut leaning = rectangle(3.0, [2.0, 9.0], [3.0, 14.0]);
        leaning[2].z += 2.0;
        let found = rasterise(&[leaning, rectangle(40.0, [2.0, 9.0], [3.0, 14.0])], &grid());
        assert_eq!((found.slanting, found.beyond, found.mask.n_voxels()), (1, 1, 0));
        let point = vec![PatientPoint::lps_mm(0.0, 10.0, 117.0)];
        assert_eq!(rasterise(&[point], &grid()).mask.n_voxels(), 0);
        assert_eq!(rasterise(&[], &grid()).mask.n_voxels(), 0);
    }

    /// ROIs of two systems on grids laid through their own planes: the volumes of `SOURCE.md`, within 2 %.
    #[test]
    fn real_contours_have_the_volumes_that_others_found() {
        let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        if !shared.is_dir() {
            crate::command::say("SKIPPED: no ../shared/data");
            return;
        }
        type Volumes = &'static [(&'static str, f64)];
        let sets: [(&str, Volumes); 2] = [
            (
                "plastimatch-thorax/rtstruct/RT.dcm",
                &[
                    ("SpinalCord", 62.68),
                    ("Lung_R", 2139.07),
                    ("Lung_L", 1780.88),
                    ("Heart", 747.04),
                    ("Esophagus", 27.72),
                ],
            ),
            (
                "rtstruct-only/eclipse_breast_rtss.dcm",
                &[("Heart", 439.7), ("Lt Lung", 2005.1), ("Tumor Bed Block", 63.83), ("Breast", 400.0)],
            ),
        ];
        for (file, rois) in sets {
            let set = rtstruct::read(&shared.join(file)).unwrap();
            for (name, wanted) in rois {
                let roi = set.rois.iter().find(|roi| roi.name == *name).unwrap();
                let points: Vec<PatientPoint> = roi.rings.iter().flatten().copied().collect();
                let edge = |of: fn(&PatientPoint) -> f64, pick: fn(f64, f64) -> f64| {
                    points.iter().map(of).reduce(pick).unwrap()
                };
                let origin = PatientPoint::lps_mm(
                    edge(|p| p.x, f64::min) - 3.0,
                    edge(|p| p.y, f64::min) - 3.0,
                    edge(|p| p.z, f64::min),
                );
                let spacing = [3.0, 0.9, 0.8];
                let sides = [
                    edge(|p| p.z, f64::max) - origin.z,
                    edge(|p| p.y, f64::max) - origin.y,
                    edge(|p| p.x, f64::max) - origin.x,
                ];
                let shape = std::array::from_fn(|axis| (sides[axis] / spacing[axis]).round() as usize + 5);
                let grid = Grid::axial(shape, spacing, origin).unwrap();
                let found = rasterise(&roi.rings, &grid);
                let cm3 = found.mask.n_voxels() as f64 * grid.voxel_volume_mm3() / 1000.0;
                let off = (cm3 / wanted - 1.0).abs();
                assert!(off < 0.02, "{file} {name}: {cm3} of {wanted} cm3");
                assert_eq!((found.slanting, found.beyond), (0, 0), "{name}");
            }
        }
    }
}
