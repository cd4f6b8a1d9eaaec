//! Organs that end where the scan ends.

use super::{Examined, Finding, ScanEnd};
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::space::{Grid, PatientVector, VoxelPoint};

/// So near to an end of the image an organ may go on beyond it, mm: in the last plane a mask fades.
const REACH_MM: f64 = 3.0;
/// So near to an end of the network's grid it touches that end, mm: less than a voxel of any first look.
const WINDOW_REACH_MM: f64 = 2.0;

/// Marks organs that come near an end of the image, or touch an end of the network's grid where the image goes on.
pub(super) fn mark_truncated(examined: &mut Examined, network_grid: &Grid, image_grid: &Grid) {
    for n in 0..examined.masks.len() {
        let organ = examined.masks[n].organ;
        for at in ends(&examined.masks[n], network_grid, image_grid) {
            examined.note(organ, Finding::Truncated { at });
        }
    }
}

fn ends(mask: &OrganMask, network_grid: &Grid, image_grid: &Grid) -> Vec<ScanEnd> {
    let (shape, spacing_mm) = (image_grid.shape(), image_grid.spacing_mm());
    let (window, voxel_mm) = (network_grid.shape(), network_grid.spacing_mm());
    let mut found = Vec::new();
    for ((z, y, x), _) in mask.probability.indexed_iter().filter(|(_, p)| **p >= MASK_THRESHOLD) {
        let [k, j, i]: [usize; 3] =
            [z + mask.region.start[0], y + mask.region.start[1], x + mask.region.start[2]];
        let patient = network_grid.patient_from_voxel(VoxelPoint { z: k as f64, y: j as f64, x: i as f64 });
        let v = image_grid.voxel_from_patient(patient);
        let mut at_an_end = false;
        for (axis, at) in [v.z, v.y, v.x].into_iter().enumerate() {
            let outward = image_grid.directions()[axis];
            let to_low_mm = (at + 0.5) * spacing_mm[axis];
            let to_high_mm = (shape[axis] as f64 - 0.5 - at) * spacing_mm[axis];
            for (mm, outward) in [(to_low_mm, outward * -1.0), (to_high_mm, outward)] {
                if mm <= REACH_MM {
                    at_an_end = true;
                    found.push(end_towards(outward));
                }
            }
        }
        let at_window = (0..3).any(|axis| {
            let voxels = [k, j, i][axis].min(window[axis] - 1 - [k, j, i][axis]);
            voxels as f64 * voxel_mm[axis] < WINDOW_REACH_MM
        });
        if at_window && !at_an_end {
            found.push(ScanEnd::Window);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn end_towards(outward: PatientVector) -> ScanEnd {
    /// Cosine to the body's axis above which an end is an upper or lower one.
    const STEEP: f64 = 0.7;
    if outward.z > STEEP {
        ScanEnd::Superior
    } else if outward.z < -STEEP {
        ScanEnd::Inferior
    } else {
        ScanEnd::Edge
    }
}

#[cfg(test)]
mod tests {
    use super::super::bricks::{examined, grid, organ};
    use super::*;
    use crate::vocabulary::organ::Organ;
    use crate::vocabulary::space::PatientPoint;

    fn marks(image: &Grid, boxes: &[std::ops::Range<usize>; 3]) -> Vec<ScanEnd> {
        let mut found = examined(vec![organ(Organ::Larynx, std::slice::from_ref(boxes))]);
        mark_truncated(&mut found, &grid(), image);
        let of = found.findings.remove(&Organ::Larynx).unwrap_or_default();
        of.iter()
            .map(|finding| match finding {
                Finding::Truncated { at } => *at,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The image covers z 9 to 90 mm, y -60 to 0 mm, x -63 to 64 mm; its planes run downwards.
    #[test]
    fn each_end_of_an_image_that_runs_downwards_is_named() {
        let directions = [
            PatientVector::lps(0.0, 0.0, -1.0),
            PatientVector::lps(0.0, -1.0, 0.0),
            PatientVector::lps(1.0, 0.0, 0.0),
        ];
        let image =
            Grid::new([41, 60, 127], [2.0, 1.0, 1.0], PatientPoint::lps_mm(-63.0, 0.0, 90.0), directions);
        let image = image.unwrap();
        // Slices of the network lie at 10 + 3 k mm: 26 at 88 mm, 3 mm from the image's end at 91; 25 at 85 mm.
        assert_eq!(marks(&image, &[10..27, 5..15, 20..40]), [ScanEnd::Superior]);
        assert_eq!(marks(&image, &[10..26, 5..15, 20..40]), []);
        assert_eq!(marks(&image, &[0..20, 5..15, 20..40]), [ScanEnd::Inferior]);
        // Row 23 lies at -2.5 mm.
        assert_eq!(marks(&image, &[10..20, 5..24, 20..40]), [ScanEnd::Edge]);
    }

    #[test]
    fn the_end_of_the_window_is_told_apart() {
        let long =
            Grid::axial([200, 100, 160], [3.0, 2.5, 2.0], PatientPoint::lps_mm(-120.0, -100.0, -300.0))
                .unwrap();
        assert_eq!(marks(&long, &[0..20, 5..15, 20..40]), [ScanEnd::Window]);
        assert_eq!(marks(&long, &[1..20, 5..15, 20..40]), []);
    }
}
