//! Contours back into voxels.

use geo::Coord;
use ndarray::Array3;

use super::RoiContours;
use crate::vocabulary::space::{Grid, RegionMask, VoxelBox};

/// What rings of one plane mean together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillRule {
    /// A voxel is inside where an odd number of rings is around it: nested rings are holes.
    EvenOdd,
    /// A voxel is inside where any ring is around it.
    Union,
}

/// The voxels of `grid` whose centre lies inside the contours. Parts beyond the grid are left out.
#[must_use]
pub fn fill(roi: &RoiContours, grid: &Grid, rule: FillRule) -> RegionMask {
    let [n_planes, n_rows, n_columns] = grid.shape();
    let rings: Vec<(usize, Vec<Coord<f64>>)> = roi
        .contours
        .iter()
        .filter(|contour| contour.slice < n_planes && contour.points.len() >= 3)
        .map(|contour| {
            let in_plane = contour.points.iter().map(|p| grid.voxel_from_patient(*p));
            (contour.slice, in_plane.map(|v| Coord { x: v.x, y: v.y }).collect())
        })
        .collect();
    let Some(region) = region_of(&rings, [n_rows, n_columns]) else {
        let region = VoxelBox { start: [0; 3], end: [0; 3] };
        return RegionMask { region, voxels: Array3::from_elem([0; 3], false) };
    };
    let mut voxels = Array3::from_elem(region.shape(), false);
    let mut crossings = Vec::new();
    for (z, ring) in &rings {
        let mut plane = voxels.index_axis_mut(ndarray::Axis(0), z - region.start[0]);
        crossings_of(ring, [region.start[1], region.end[1]], &mut crossings);
        for pair in crossings.chunks_exact(2) {
            let ((y, from), (_, to)) = (pair[0], pair[1]);
            let [start, end] = [from, to].map(|x| index(x.ceil(), region.start[2], region.end[2]));
            let row = plane.index_axis_mut(ndarray::Axis(0), y - region.start[1]);
            for inside in row.into_iter().skip(start - region.start[2]).take(end.saturating_sub(start)) {
                *inside = match rule {
                    FillRule::EvenOdd => !*inside,
                    FillRule::Union => true,
                };
            }
        }
    }
    cut_down(RegionMask { region, voxels })
}

/// The smallest box of voxels around all rings, inside an image of `[rows, columns]`.
fn region_of(rings: &[(usize, Vec<Coord<f64>>)], [n_rows, n_columns]: [usize; 2]) -> Option<VoxelBox> {
    let range = |value: fn(&Coord<f64>) -> f64, count: usize| {
        let values = rings.iter().flat_map(|(_, ring)| ring).map(value).filter(|v| v.is_finite());
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        (index(low.floor(), 0, count), index(high.floor() + 1.0, 0, count))
    };
    let z = (rings.iter().map(|r| r.0).min()?, rings.iter().map(|r| r.0).max()? + 1);
    let (y, x) = (range(|c| c.y, n_rows), range(|c| c.x, n_columns));
    let region = VoxelBox { start: [z.0, y.0, x.0], end: [z.1, y.1, x.1] };
    (!region.is_empty() && y.0 < y.1 && x.0 < x.1).then_some(region)
}

/// Where the ring crosses the rows `rows[0]..rows[1]`: `(row, x)`, sorted, an even number in each row. An edge
/// owns its upper end and not its lower one, so a corner on a row counts once.
#[expect(clippy::cast_precision_loss, reason = "rows of an image")]
fn crossings_of(ring: &[Coord<f64>], rows: [usize; 2], crossings: &mut Vec<(usize, f64)>) {
    crossings.clear();
    for (a, b) in super::polygon::edges(ring) {
        if !(a.x.is_finite() && a.y.is_finite() && b.x.is_finite() && b.y.is_finite()) {
            continue;
        }
        // Both directions of a channel must give the same x to the last bit, so every edge is taken downwards.
        let (top, bottom) = if a.y <= b.y { (a, b) } else { (b, a) };
        for y in index(top.y.ceil(), rows[0], rows[1])..index(bottom.y.ceil(), rows[0], rows[1]) {
            let part = (y as f64 - top.y) / (bottom.y - top.y);
            crossings.push((y, top.x + part * (bottom.x - top.x)));
        }
    }
    crossings.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
}

/// A whole number as an index between `low` and `high`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to the range of an index"
)]
fn index(value: f64, low: usize, high: usize) -> usize {
    if value.is_nan() { low } else { value.clamp(low as f64, high as f64) as usize }
}

/// The same mask in the smallest box.
fn cut_down(mask: RegionMask) -> RegionMask {
    let inner = RegionMask::from_whole(mask.voxels.view());
    if inner.region.is_empty() {
        return inner;
    }
    let shift = |corner: [usize; 3]| std::array::from_fn(|axis| corner[axis] + mask.region.start[axis]);
    RegionMask {
        region: VoxelBox { start: shift(inner.region.start), end: shift(inner.region.end) },
        voxels: inner.voxels,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PlanarContour, contours_of_mask, polygon::HoleForm, volume_mm3};
    use super::*;
    use crate::vocabulary::space::{PatientPoint, PatientVector};
    use proptest::prelude::*;

    fn oblique(shape: [usize; 3]) -> Grid {
        let x = PatientVector::lps(0.6, 0.8, 0.0);
        let y = PatientVector::lps(0.0, 0.0, -1.0);
        Grid::new(shape, [2.5, 0.9, 1.3], PatientPoint::lps_mm(-31.0, 7.0, 112.0), [x.cross(y), y, x])
            .unwrap()
    }

    proptest! {
        /// Noise has every corner case there is: single pixels, corners that touch, holes in holes, the border.
        #[test]
        fn mask_to_contours_to_mask_is_the_same_mask(bits in proptest::collection::vec(0_u8..5, 2 * 9 * 13)) {
            let grid = oblique([2, 9, 13]);
            let whole = Array3::from_shape_vec([2, 9, 13], bits.into_iter().map(|b| b > 1).collect()).unwrap();
            let mask = RegionMask::from_whole(whole.view());
            for (holes, rule) in [
                (HoleForm::Keyhole, FillRule::EvenOdd),
                (HoleForm::Keyhole, FillRule::Union),
                (HoleForm::Xor, FillRule::EvenOdd),
            ] {
                let roi = contours_of_mask(&mask, &grid, holes);
                prop_assert_eq!(&fill(&roi, &grid, rule), &mask, "{:?} {:?}", holes, rule);
                let volume = mask.n_voxels() as f64 * grid.voxel_volume_mm3();
                prop_assert!((volume_mm3(&roi, &grid) - volume).abs() < 1e-6 * (1.0 + volume));
            }
        }

        /// Sub-pixel rings keep every voxel centre on its side of one half.
        #[test]
        fn a_field_keeps_its_voxels(values in proptest::collection::vec(0.0_f32..1.0, 9 * 13)) {
            let grid = oblique([1, 9, 13]);
            let field = ndarray::Array2::from_shape_vec([9, 13], values).unwrap();
            let polygons = super::super::polygon::assemble(super::super::trace::at_one_half(field.view()));
            let plane = super::super::planar_contour::Plane { z: 0, y0: 0, x0: 0 };
            for (holes, rule) in [(HoleForm::Keyhole, FillRule::Union), (HoleForm::Xor, FillRule::EvenOdd)] {
                let contours = super::super::planar_contour::place(polygons.clone(), holes, plane, &grid);
                let filled = fill(&RoiContours { contours }, &grid, rule).to_whole([1, 9, 13]);
                let truth = field.mapv(|v| v >= 0.5).insert_axis(ndarray::Axis(0));
                prop_assert_eq!(&filled, &truth);
            }
        }
    }

    #[test]
    fn rings_beyond_the_image_or_without_area_are_no_trouble() {
        let grid = oblique([2, 9, 13]);
        let p = |x, y| grid.patient_from_voxel(crate::vocabulary::space::VoxelPoint { z: 1.0, y, x });
        let ring = |points: Vec<PatientPoint>| PlanarContour { slice: 1, points };
        let far = ring(vec![p(-1e7, -1e7), p(1e7, -1e7), p(1e7, 1e7), p(-1e7, 1e7)]);
        let nan = ring(vec![PatientPoint::lps_mm(f64::NAN, 0.0, 0.0); 5]);
        let roi = RoiContours { contours: vec![far, nan, ring(vec![p(1.0, 1.0); 2])] };
        assert_eq!(fill(&roi, &grid, FillRule::EvenOdd).n_voxels(), 9 * 13);
        assert_eq!(fill(&RoiContours::default(), &grid, FillRule::Union).n_voxels(), 0);
    }
}
