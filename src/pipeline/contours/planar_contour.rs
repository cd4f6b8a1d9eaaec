//! Rings of a plane into the patient, and masks into contours.

use std::collections::BTreeMap;

use ndarray::Axis;

use super::polygon::{HoleForm, Polygon, area, assemble, rings_of};
use super::trace::{Ring, along_voxel_edges};
use super::{PlanarContour, RoiContours};
use crate::vocabulary::space::{Grid, RegionMask, VoxelPoint};

/// Contours of a mask along its voxel edges: filling them again gives the mask back, voxel by voxel, and their
/// area times the distance of the planes is the volume of the voxels. `mask` lies on `grid`.
#[must_use]
pub fn contours_of_mask(mask: &RegionMask, grid: &Grid, holes: HoleForm) -> RoiContours {
    let [z0, y0, x0] = mask.region.start;
    let mut contours = Vec::new();
    for (plane, z) in mask.voxels.axis_iter(Axis(0)).zip(z0..) {
        let polygons = assemble(along_voxel_edges(plane));
        contours.extend(place(polygons, holes, Plane { z, y0, x0 }, grid));
    }
    RoiContours { contours }
}

/// A plane of the image grid, with the row and column at which its part of the grid starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane {
    pub(crate) z: usize,
    pub(crate) y0: usize,
    pub(crate) x0: usize,
}

/// The contours of the polygons of one plane, largest first.
#[expect(clippy::cast_precision_loss, reason = "indices of an image")]
pub(crate) fn place(
    mut polygons: Vec<Polygon>,
    holes: HoleForm,
    plane: Plane,
    grid: &Grid,
) -> Vec<PlanarContour> {
    polygons.sort_by(|a, b| area(&b.outer).total_cmp(&area(&a.outer)));
    let in_patient = |ring: Ring| PlanarContour {
        slice: plane.z,
        points: ring
            .into_iter()
            .map(|c| VoxelPoint { z: plane.z as f64, y: c.y + plane.y0 as f64, x: c.x + plane.x0 as f64 })
            .map(|v| grid.patient_from_voxel(v))
            .collect(),
    };
    polygons.into_iter().flat_map(|polygon| rings_of(polygon, holes)).map(in_patient).collect()
}

/// The same contours with their holes in another form. They come in with holes as rings of their own, as
/// [`HoleForm::Xor`] leaves them: a hole turns the other way than the ring around it.
#[must_use]
pub fn with_holes(roi: &RoiContours, grid: &Grid, form: HoleForm) -> RoiContours {
    let mut planes: BTreeMap<usize, (Vec<&PlanarContour>, Vec<Ring>)> = BTreeMap::new();
    for contour in &roi.contours {
        let (contours, rings) = planes.entry(contour.slice).or_default();
        contours.push(contour);
        rings.push(ring_of(contour, grid));
    }
    let mut contours = Vec::with_capacity(roi.contours.len());
    for (z, (as_they_are, rings)) in planes {
        if rings.iter().all(|ring| area(ring) >= 0.0) {
            contours.extend(as_they_are.into_iter().cloned());
        } else {
            contours.extend(place(assemble(rings), form, Plane { z, y0: 0, x0: 0 }, grid));
        }
    }
    RoiContours { contours }
}

/// Whether a ring is a hole that is a ring of its own.
#[must_use]
pub fn is_hole(contour: &PlanarContour, grid: &Grid) -> bool {
    area(&ring_of(contour, grid)) < 0.0
}

/// A contour in voxels of its plane.
pub(crate) fn ring_of(contour: &PlanarContour, grid: &Grid) -> Ring {
    let in_plane = contour.points.iter().map(|p| grid.voxel_from_patient(*p));
    in_plane.map(|v| geo::Coord { x: v.x, y: v.y }).collect()
}

/// Volume of contours whose holes are keyholes or XOR rings: even-odd area of each plane times the distance of the
/// planes, mm3. `Separate` and `Xor` holes count as holes where they turn the other way.
#[must_use]
pub fn volume_mm3(roi: &RoiContours, grid: &Grid) -> f64 {
    let [spacing_z, spacing_y, spacing_x] = grid.spacing_mm();
    roi.contours.iter().map(|contour| area(&ring_of(contour, grid))).sum::<f64>()
        * spacing_x
        * spacing_y
        * spacing_z
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;
    use crate::vocabulary::space::{PatientPoint, PatientVector};

    proptest! {
        /// Joining holes afterwards is the same as tracing them joined.
        #[test]
        fn holes_change_form_without_changing_the_region(bits in proptest::collection::vec(0_u8..6, 2 * 9 * 13)) {
            let x = PatientVector::lps(0.6, 0.8, 0.0);
            let y = PatientVector::lps(0.0, 0.0, -1.0);
            let origin = PatientPoint::lps_mm(-31.0, 7.0, 112.0);
            let grid = Grid::new([2, 9, 13], [2.5, 0.9, 1.3], origin, [x.cross(y), y, x]).unwrap();
            let whole = Array3::from_shape_vec([2, 9, 13], bits.into_iter().map(|b| b > 0).collect()).unwrap();
            let mask = RegionMask::from_whole(whole.view());
            let rings = contours_of_mask(&mask, &grid, HoleForm::Xor);
            for form in [HoleForm::Keyhole, HoleForm::Xor, HoleForm::Separate] {
                let (changed, traced) = (with_holes(&rings, &grid, form), contours_of_mask(&mask, &grid, form));
                prop_assert_eq!(changed.contours.len(), traced.contours.len());
                let filled = super::super::fill(&changed, &grid, super::super::FillRule::EvenOdd);
                prop_assert_eq!(&filled, &mask, "{:?}", form);
                prop_assert!((volume_mm3(&changed, &grid) - volume_mm3(&traced, &grid)).abs() < 1e-6);
            }
        }
    }
}
