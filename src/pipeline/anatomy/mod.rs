//! What the network found, held against what is known of anatomy.
//!
//! Comes in: at most one `OrganMask` per organ on the network's grid. Goes out: [`Examined`], the same masks less what
//! cannot be, and a [`Finding`] for everything that was removed or noticed; then a [`Doubt`] per organ. A rule removes,
//! gives voxels to the one of two organs that has the better claim, or marks. No rule makes an organ.
//!
//! The rules run in the order of [`Rule`], each on what the one before left. They work on the probabilities, since
//! contours are traced where these cross one half: what holds for the fields holds between their voxels too.

mod border;
mod doubt;
mod exclusive;
mod field_of_view;
mod finding;
mod midplane;
mod mirror;
mod one_piece;
mod rules;
mod sides;
mod signs;

use std::collections::{BTreeMap, BTreeSet};

pub use doubt::{Calibration, CalibrationError, Doubt, FeatureWeight, Fit, OrganShift, judge};
pub use finding::{Finding, ScanEnd};
pub use midplane::Midplane;
pub use mirror::{merged, mirrored, mirrored_back};
pub use rules::{AnatomySettings, InvalidRuleChoice, Rule, RuleChoice};
pub use signs::{FEATURES, Signs, agreement, signs};

use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint, VoxelPoint};

/// What the rules left, and what they found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Examined {
    /// The masks, at most one per organ, in class order.
    pub masks: Vec<OrganMask>,
    /// What was removed or noticed, by organ, in the order of the rules; organs that are gone have theirs too.
    pub findings: BTreeMap<Organ, Vec<Finding>>,
}

/// Runs the rules that are switched on. `network_grid` is the grid that the masks' boxes count in, `image_grid` that of
/// the scan; `measured` are the organs whose contours by this model were measured on real patients.
#[must_use]
pub fn examine(
    masks: Vec<OrganMask>,
    network_grid: &Grid,
    image_grid: &Grid,
    settings: &AnatomySettings,
    measured: &BTreeSet<Organ>,
) -> Examined {
    let mut examined = Examined { masks, findings: BTreeMap::new() };
    if settings.sides {
        sides::each_on_its_side(&mut examined, network_grid);
    }
    if settings.one_piece {
        one_piece::one_piece_each(&mut examined, network_grid);
    }
    if settings.brain_stem_cord {
        border::brain_stem_above_cord(&mut examined, network_grid);
    }
    if settings.exclusive {
        exclusive::no_voxel_for_two(&mut examined, network_grid, settings.eye_includes_lens, measured);
    }
    if settings.truncated {
        field_of_view::mark_truncated(&mut examined, network_grid, image_grid);
    }
    examined
}

impl Examined {
    fn note(&mut self, organ: Organ, finding: Finding) {
        self.findings.entry(organ).or_default().push(finding);
    }

    fn place_of(&self, organ: Organ) -> Option<usize> {
        self.masks.iter().position(|mask| mask.organ == organ)
    }
}

/// Places in the patient of the voxels that are organ.
fn places<'a>(mask: &'a OrganMask, grid: &'a Grid) -> impl Iterator<Item = PatientPoint> + 'a {
    let inside = mask.probability.indexed_iter().filter(|(_, p)| **p >= MASK_THRESHOLD);
    inside.map(|((z, y, x), _)| place(mask, grid, [z, y, x]))
}

/// Where a voxel of a mask's box lies in the patient.
fn place(mask: &OrganMask, grid: &Grid, at: [usize; 3]) -> PatientPoint {
    let [z, y, x] = std::array::from_fn(|axis| (mask.region.start[axis] + at[axis]) as f64);
    grid.patient_from_voxel(VoxelPoint { z, y, x })
}

/// Mean place of the voxels that are organ; `None` without any.
fn centre(mask: &OrganMask, grid: &Grid) -> Option<PatientPoint> {
    let (mut n, mut sum) = (0.0, [0.0; 3]);
    for p in places(mask, grid) {
        n += 1.0;
        sum = [sum[0] + p.x, sum[1] + p.y, sum[2] + p.z];
    }
    (n > 0.0).then(|| PatientPoint::lps_mm(sum[0] / n, sum[1] / n, sum[2] / n))
}

/// Number of voxels that are organ.
fn n_voxels(mask: &OrganMask) -> usize {
    mask.probability.iter().filter(|p| **p >= MASK_THRESHOLD).count()
}

/// Volume of so many voxels, cm3.
fn cm3(n_voxels: usize, grid: &Grid) -> f64 {
    n_voxels as f64 * grid.voxel_volume_mm3() / 1000.0
}

#[cfg(test)]
pub(crate) mod bricks {
    //! Organs of whole voxels for the tests of this room.

    use ndarray::{Array3, s};

    use super::*;
    use crate::vocabulary::space::VoxelBox;

    /// 40 x 48 x 64 voxels of 3 x 2.5 x 2 mm; voxel x = 31.5 lies at L 0.
    pub(crate) fn grid() -> Grid {
        Grid::axial([40, 48, 64], [3.0, 2.5, 2.0], PatientPoint::lps_mm(-63.0, -60.0, 10.0)).unwrap()
    }

    /// An organ of probability 0.9 in these boxes `[z, y, x]` and 0.05 elsewhere in the whole volume.
    pub(crate) fn organ(organ: Organ, boxes: &[[std::ops::Range<usize>; 3]]) -> OrganMask {
        let mut probability = Array3::from_elem([40, 48, 64], 0.05_f32);
        for [z, y, x] in boxes {
            probability.slice_mut(s![z.clone(), y.clone(), x.clone()]).fill(0.9);
        }
        let region = VoxelBox::whole([40, 48, 64]);
        OrganMask { organ, detection_probability: 0.95, region, probability }
    }

    pub(crate) fn examined(masks: Vec<OrganMask>) -> Examined {
        Examined { masks, findings: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::bricks::{grid, organ};
    use super::*;

    /// With every rule off the masks pass as they are; with all on, what is clean passes too, but for fields that touch.
    #[test]
    fn clean_organs_pass_unchanged() {
        let masks = vec![
            organ(Organ::BrainStem, &[[24..33, 20..28, 27..36]]),
            organ(Organ::Larynx, &[[6..11, 10..16, 28..36]]),
            organ(Organ::ParotidL, &[[18..26, 20..27, 48..55]]),
            organ(Organ::ParotidR, &[[18..27, 20..26, 8..15]]),
        ];
        for settings in [AnatomySettings::default(), AnatomySettings::NONE] {
            let examined = examine(masks.clone(), &grid(), &grid(), &settings, &BTreeSet::new());
            assert_eq!((examined.masks, examined.findings), (masks.clone(), BTreeMap::new()));
        }
        assert!(
            examine(Vec::new(), &grid(), &grid(), &AnatomySettings::default(), &BTreeSet::new())
                .masks
                .is_empty()
        );
    }

    /// 4 x 2 x 6 voxels of 15 mm3, by hand.
    #[test]
    fn centre_and_volume_by_hand() {
        let mask = organ(Organ::Larynx, &[[10..14, 20..22, 30..36]]);
        let at = centre(&mask, &grid()).unwrap();
        assert!(at.distance_mm(PatientPoint::lps_mm(2.0, -8.75, 44.5)) < 1e-9, "{at:?}");
        assert!((cm3(n_voxels(&mask), &grid()) - 0.72).abs() < 1e-12);
    }
}
