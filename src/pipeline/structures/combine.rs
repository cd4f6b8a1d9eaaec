//! Union, intersection and difference of contours, plane by plane, without going through voxels.

use std::collections::BTreeSet;

use geo::{BooleanOps, LineString, MultiPolygon};

use super::by_plane;
use crate::pipeline::contours::{
    HoleForm, PlanarContour, Plane, Polygon, RoiContours, area, assemble, place, ring_of,
};
use crate::vocabulary::space::Grid;

/// How two regions make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// What is in either.
    Union,
    /// What is in both.
    Intersection,
    /// What is in the first only.
    Difference,
}

/// Combines two ROIs. Holes are rings of their own ([`HoleForm::Xor`]), in and out.
#[must_use]
pub fn combine(a: &RoiContours, b: &RoiContours, how: Combination, grid: &Grid) -> RoiContours {
    let slices = |roi: &RoiContours| roi.contours.iter().map(|c| c.slice).collect::<BTreeSet<_>>();
    let planes = match how {
        Combination::Union => &slices(a) | &slices(b),
        Combination::Intersection => &slices(a) & &slices(b),
        Combination::Difference => slices(a),
    };
    let on_plane = |z: usize| {
        let (a_here, b_here) = (on(a, z), on(b, z));
        // Where one of them has nothing, the other stays as it is, to the last bit.
        if b_here.is_empty() {
            return a_here.into_iter().cloned().collect();
        }
        if a_here.is_empty() {
            return b_here.into_iter().cloned().collect();
        }
        let (a, b) = (region(&a_here, grid), region(&b_here, grid));
        let result = match how {
            Combination::Union => a.union(&b),
            Combination::Intersection => a.intersection(&b),
            Combination::Difference => a.difference(&b),
        };
        place(polygons(result), HoleForm::Xor, Plane { z, y0: 0, x0: 0 }, grid)
    };
    RoiContours { contours: by_plane(planes.into_iter().collect(), on_plane) }
}

/// Without rings, holes or not, of less area.
pub(super) fn without_specks(roi: &RoiContours, smallest_mm2: f64, grid: &Grid) -> RoiContours {
    let [_, spacing_y, spacing_x] = grid.spacing_mm();
    let smallest = smallest_mm2 / (spacing_y * spacing_x);
    let is_kept = |contour: &&PlanarContour| area(&ring_of(contour, grid)).abs() >= smallest;
    RoiContours { contours: roi.contours.iter().filter(is_kept).cloned().collect() }
}

fn on(roi: &RoiContours, slice: usize) -> Vec<&PlanarContour> {
    roi.contours.iter().filter(|contour| contour.slice == slice).collect()
}

/// The region inside the contours of one plane, in voxels of the plane.
fn region(contours: &[&PlanarContour], grid: &Grid) -> MultiPolygon<f64> {
    let rings = contours.iter().map(|contour| ring_of(contour, grid)).collect();
    let closed = |ring: Vec<geo::Coord<f64>>| LineString::new(ring);
    let polygon = |polygon: Polygon| {
        geo::Polygon::new(closed(polygon.outer), polygon.holes.into_iter().map(closed).collect())
    };
    MultiPolygon::new(assemble(rings).into_iter().map(polygon).collect())
}

/// Our polygons: outer rings of positive area, holes of negative, first points not repeated, none without area.
fn polygons(region: MultiPolygon<f64>) -> Vec<Polygon> {
    let ring = |line: &LineString<f64>, sign: f64| {
        let mut ring = line.0.clone();
        if ring.first() == ring.last() {
            ring.pop();
        }
        ring.dedup();
        if area(&ring) * sign < 0.0 {
            ring.reverse();
        }
        (ring.len() >= 3 && area(&ring).abs() > LEAST_AREA).then_some(ring)
    };
    let polygon = |p: &geo::Polygon<f64>| {
        let outer = ring(p.exterior(), 1.0)?;
        Some(Polygon { outer, holes: p.interiors().iter().filter_map(|hole| ring(hole, -1.0)).collect() })
    };
    region.iter().filter_map(polygon).collect()
}

/// A ring of less area is the rounding of two edges that meet, voxels of the plane.
const LEAST_AREA: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::contours::{FillRule, contours_of_mask, fill, volume_mm3};
    use crate::vocabulary::space::{PatientPoint, PatientVector, RegionMask};

    fn oblique() -> Grid {
        let x = PatientVector::lps(0.6, 0.8, 0.0);
        let y = PatientVector::lps(0.0, 0.0, -1.0);
        let origin = PatientPoint::lps_mm(-31.0, 7.0, 112.0);
        Grid::new([2, 9, 13], [2.5, 0.9, 1.3], origin, [x.cross(y), y, x]).unwrap()
    }

    fn whole(bits: &[u8]) -> Array3<bool> {
        Array3::from_shape_vec([2, 9, 13], bits.iter().map(|b| *b > 1).collect()).unwrap()
    }

    proptest! {
        /// Against the same on voxels, for which it is exact; and volumes add up.
        #[test]
        fn contours_combine_as_their_voxels_do(
            a in proptest::collection::vec(0_u8..4, 2 * 9 * 13),
            b in proptest::collection::vec(0_u8..4, 2 * 9 * 13),
        ) {
            let (grid, a, b) = (oblique(), whole(&a), whole(&b));
            let contours = |w: &Array3<bool>| contours_of_mask(&RegionMask::from_whole(w.view()), &grid, HoleForm::Xor);
            let (ca, cb) = (contours(&a), contours(&b));
            let mut volumes = Vec::new();
            for (how, of) in [
                (Combination::Union, (|a, b| a || b) as fn(bool, bool) -> bool),
                (Combination::Intersection, |a, b| a && b),
                (Combination::Difference, |a, b| a && !b),
            ] {
                let found = combine(&ca, &cb, how, &grid);
                let mut truth = a.clone();
                truth.zip_mut_with(&b, |a, b| *a = of(*a, *b));
                prop_assert_eq!(fill(&found, &grid, FillRule::EvenOdd).to_whole([2, 9, 13]), truth, "{:?}", how);
                volumes.push(volume_mm3(&found, &grid));
            }
            let (va, vb) = (volume_mm3(&ca, &grid), volume_mm3(&cb, &grid));
            prop_assert!((volumes[0] + volumes[1] - va - vb).abs() < 1e-3, "{:?} {} {}", volumes, va, vb);
            prop_assert!((volumes[1] + volumes[2] - va).abs() < 1e-3);
            // Taken apart and put together again.
            let apart = combine(&ca, &cb, Combination::Difference, &grid);
            let shared = combine(&ca, &cb, Combination::Intersection, &grid);
            let together = combine(&apart, &shared, Combination::Union, &grid);
            prop_assert_eq!(fill(&together, &grid, FillRule::EvenOdd).to_whole([2, 9, 13]), a);
        }
    }

    #[test]
    fn a_speck_goes_and_its_ring_stays() {
        let grid = oblique();
        let mut mask = Array3::from_elem([2, 9, 13], false);
        mask.slice_mut(ndarray::s![0, 1..8, 1..8]).fill(true);
        mask[[0, 4, 4]] = false;
        let roi = contours_of_mask(&RegionMask::from_whole(mask.view()), &grid, HoleForm::Xor);
        assert_eq!((roi.contours.len(), without_specks(&roi, 2.0, &grid).contours.len()), (2, 1));
    }
}
