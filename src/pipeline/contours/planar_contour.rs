//! Rings of a plane into the patient, and masks into contours.

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

/// Volume of contours whose holes are keyholes or XOR rings: even-odd area of each plane times the distance of the
/// planes, mm3. `Separate` and `Xor` holes count as holes where they turn the other way.
#[must_use]
pub fn volume_mm3(roi: &RoiContours, grid: &Grid) -> f64 {
    let [spacing_z, spacing_y, spacing_x] = grid.spacing_mm();
    let area_of = |contour: &PlanarContour| {
        let ring: Ring = contour
            .points
            .iter()
            .map(|p| grid.voxel_from_patient(*p))
            .map(|v| geo::Coord { x: v.x, y: v.y })
            .collect();
        area(&ring)
    };
    roi.contours.iter().map(area_of).sum::<f64>() * spacing_x * spacing_y * spacing_z
}
