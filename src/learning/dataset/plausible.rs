//! Whether a drawn organ can be that organ.
//!
//! Clinics draw for a plan, not for teaching: a "spinal cord" of half a litre keeps dose from the whole nape, a parotid
//! of two slices was drawn where the dose was. Neither says where the organ ends.

use ndarray::Axis;

use super::{Case, OrganSet};
use crate::vocabulary::organ::Organ;

/// Why a drawing is set aside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Doubt {
    /// More than any such organ.
    TooLarge {
        /// What was drawn, cm3.
        cm3: f64,
        /// The most that is believed, cm3.
        most: f64,
    },
    /// Less than any such organ, though the scan goes on above and below.
    TooSmall {
        /// What was drawn, cm3.
        cm3: f64,
        /// The least that is believed, cm3.
        least: f64,
    },
    /// Spinal cord or brain stem drawn in bone: drawing and image are not of one place, so no organ of the case is believed.
    InBone {
        /// Which of the two.
        organ: Organ,
        /// Median of its voxels.
        hu: i16,
    },
    /// Drawn where there is no CT.
    NoImage {
        /// Which part of it, 0..=1.
        share: f64,
    },
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { cm3, most } => write!(f, "{cm3:.1} cm3, at most {most:.1} are believed"),
            Self::TooSmall { cm3, least } => {
                write!(f, "{cm3:.1} cm3 though not at the scan's end, at least {least:.1} are believed")
            }
            Self::InBone { organ, hu } => write!(
                f,
                "the {} is drawn at {hu} HU, in bone: drawing and image do not belong together",
                organ.paper_name()
            ),
            Self::NoImage { share } => write!(f, "{:.0} % of it lies where there is no CT", 100.0 * share),
        }
    }
}

/// HU at and below which a voxel holds no patient and no air of a scan.
const NO_IMAGE_HU: i16 = -1024;
/// The largest part of an organ without CT.
const MOST_WITHOUT_IMAGE: f64 = 0.1;

/// Median above which soft tissue of the nervous system is bone, HU. In 202 of the 203 OpenKBP patients with one of both
/// drawn it is at most 35 HU; in pt_221, whose drawings lie 2 cm from their places, it is 251 and 311.
const BONE_HU: i16 = 150;

/// The organs of a case whose drawing is not believed, with the reason.
///
/// The limits are half the lowest and the whole of the highest volume of [`Organ::volume_range_cm3`].
#[must_use]
pub fn doubts(case: &Case) -> Vec<(Organ, Doubt)> {
    let in_bone = [Organ::SpinalCord, Organ::BrainStem].into_iter().find_map(|organ| in_bone(case, organ));
    let of = |organ| in_bone.or_else(|| doubt(case, organ));
    case.annotated.iter().filter_map(|organ| Some((organ, of(organ)?))).collect()
}

fn in_bone(case: &Case, organ: Organ) -> Option<Doubt> {
    let bit = OrganSet::of(organ).bits();
    let drawn = case.organs.iter().zip(&case.hu).filter(|(bits, _)| *bits & bit != 0);
    let mut hu: Vec<i16> = drawn.map(|(_, hu)| *hu).collect();
    let middle = hu.len() / 2;
    let hu = (!hu.is_empty()).then(|| *hu.select_nth_unstable(middle).1)?;
    (hu > BONE_HU).then_some(Doubt::InBone { organ, hu })
}

fn doubt(case: &Case, organ: Organ) -> Option<Doubt> {
    let bit = OrganSet::of(organ).bits();
    let drawn = |bits: &u32| bits & bit != 0;
    let count = case.organs.iter().filter(|bits| drawn(bits)).count();
    if count == 0 {
        return None;
    }
    let without =
        case.organs.iter().zip(&case.hu).filter(|(bits, hu)| drawn(bits) && **hu <= NO_IMAGE_HU).count();
    let share = without as f64 / count as f64;
    if share > MOST_WITHOUT_IMAGE {
        return Some(Doubt::NoImage { share });
    }
    let (low, high) = organ.volume_range_cm3()?;
    let cm3 = count as f64 * case.grid.voxel_volume_mm3() / 1000.0;
    if cm3 > high {
        return Some(Doubt::TooLarge { cm3, most: high });
    }
    let n_slices = case.organs.dim().0;
    let in_slice = |z: usize| case.organs.index_axis(Axis(0), z).iter().any(drawn);
    // A slice at the end may be half empty, so the one beside it counts as the end too.
    let at_the_end = (0..2.min(n_slices)).chain(n_slices.saturating_sub(2)..n_slices).any(in_slice);
    let least = low / 2.0;
    (cm3 < least && !at_the_end).then_some(Doubt::TooSmall { cm3, least })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;
    use crate::vocabulary::space::{Grid, PatientPoint};

    /// Voxels of 3 x 4 x 5 mm: 0.06 cm3. A parotid is believed from 4 to 75 cm3: from 67 to 1250 voxels.
    fn case(region: [std::ops::Range<usize>; 3]) -> Case {
        let mut organs = Array3::zeros((20, 16, 12));
        let [z, y, x] = region;
        organs.slice_mut(s![z, y, x]).fill(OrganSet::of(Organ::ParotidL).bits());
        let grid = Grid::axial([20, 16, 12], [3.0, 4.0, 5.0], PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
        let annotated = OrganSet::of(Organ::ParotidL);
        Case { name: "tiny".into(), hu: Array3::from_elem((20, 16, 12), 40), organs, annotated, grid }
    }

    #[test]
    fn volumes_beyond_belief_are_doubted() {
        assert_eq!(doubts(&case([5..11, 2..8, 3..9])), []);
        let large = doubts(&case([2..17, 2..14, 3..10]));
        assert!(
            matches!(large[..], [(Organ::ParotidL, Doubt::TooLarge { cm3, .. })] if (cm3 - 75.6).abs() < 1e-9)
        );
        let small = doubts(&case([5..8, 2..6, 3..7]));
        assert!(matches!(small[..], [(_, Doubt::TooSmall { cm3, .. })] if (cm3 - 2.88).abs() < 1e-9));
        // The same at the end of the scan was cut, not forgotten.
        assert_eq!(doubts(&case([17..20, 2..6, 3..7])), []);
    }

    #[test]
    fn a_cord_in_bone_casts_doubt_on_the_whole_case() {
        let mut case = case([5..11, 2..8, 3..9]);
        case.annotated = case.annotated.union(OrganSet::of(Organ::SpinalCord));
        case.organs.slice_mut(s![2..18, 10..13, 5..8]).fill(OrganSet::of(Organ::SpinalCord).bits());
        assert_eq!(doubts(&case), []);
        case.hu.slice_mut(s![2..18, 10..12, 5..8]).fill(240);
        let in_bone = Doubt::InBone { organ: Organ::SpinalCord, hu: 240 };
        assert_eq!(doubts(&case), [(Organ::ParotidL, in_bone), (Organ::SpinalCord, in_bone)]);
    }

    #[test]
    fn an_organ_drawn_beside_the_image_is_doubted() {
        let mut case = case([5..11, 2..8, 3..9]);
        case.hu.slice_mut(s![5..11, 2..3, 3..8]).fill(-1024);
        assert!(
            matches!(doubts(&case)[..], [(_, Doubt::NoImage { share })] if (share - 30.0 / 216.0).abs() < 1e-9)
        );
        case.hu.slice_mut(s![5..8, 2..3, 3..8]).fill(0);
        assert_eq!(doubts(&case), []);
    }
}
