//! Whether a drawn organ can be that organ.
//!
//! Clinics draw for a plan, not for teaching: a "spinal cord" of half a litre keeps dose from the whole nape, a parotid
//! of two slices was drawn where the dose was. Neither says where the organ ends.

use std::collections::BTreeMap;

use ndarray::{Axis, s};

use super::case::union;
use super::{Case, OrganSet};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::VoxelBox;

/// Why a drawing is set aside, or deserves a look.
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
    /// The left one lies to the right of the right one.
    Swapped {
        /// How far, mm.
        mm: f64,
    },
    /// It ends where the image does, so part of it may lack.
    Cut,
    /// Much smaller than its partner.
    Uneven {
        /// Part of the partner's volume.
        ratio: f64,
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
            Self::Swapped { mm } => write!(
                f,
                "left and right are swapped: the left one lies {mm:.0} mm to the right of the other"
            ),
            Self::Cut => write!(f, "it reaches the border of the image, part of it may lack"),
            Self::Uneven { ratio } => write!(f, "{:.0} % of its partner's volume", 100.0 * ratio),
        }
    }
}

/// HU at and below which a voxel holds no patient and no air of a scan.
const NO_IMAGE_HU: i16 = -1024;
/// The largest part of an organ without CT.
const MOST_WITHOUT_IMAGE: f64 = 0.1;
/// The least part of the partner's volume; ours, wide enough for a gland that shrank under dose.
const LEAST_OF_PARTNER: f64 = 0.5;

/// Median above which soft tissue of the nervous system is bone, HU. In every other OpenKBP patient at hand with
/// one of both drawn it is at most 35 HU; in pt_221, whose drawings lie 2 cm from their places, it is 251 and 311.
const BONE_HU: i16 = 150;

/// What was drawn in a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Review {
    /// Where anything is drawn.
    pub region: VoxelBox,
    /// Volume of every organ with a voxel, cm3.
    pub cm3: BTreeMap<Organ, f64>,
    /// Drawings that are not believed.
    pub doubts: Vec<(Organ, Doubt)>,
    /// Drawings that a person should look at; they are believed.
    pub remarks: Vec<(Organ, Doubt)>,
}

/// The organs of a case whose drawing is not believed, with the reason.
///
/// The limits are half the lowest and the whole of the highest volume of [`Organ::volume_range_cm3`].
#[must_use]
pub fn doubts(case: &Case) -> Vec<(Organ, Doubt)> {
    review(case).doubts
}

/// Measures every annotated organ of a case in one pass.
#[must_use]
pub fn review(case: &Case) -> Review {
    let region = case.organ_region();
    let (measured, nervous) = measure(case, region);
    let in_bone = NERVOUS.into_iter().zip(nervous).find_map(|(organ, hu)| in_bone(organ, hu));
    let voxel_cm3 = case.grid.voxel_volume_mm3() / 1000.0;
    let mut review = Review { region, cm3: BTreeMap::new(), doubts: Vec::new(), remarks: Vec::new() };
    for organ in case.annotated.iter() {
        let found = &measured[organ.index()];
        if found.count == 0 {
            continue;
        }
        let cm3 = found.count as f64 * voxel_cm3;
        review.cm3.insert(organ, cm3);
        let partner = organ.partner().map(|partner| &measured[partner.index()]);
        let partner = partner.filter(|partner| partner.count > 0);
        let swapped = partner.and_then(|partner| {
            let is_left = organ.partner() > Some(organ);
            let (left, right) = if is_left { (found, partner) } else { (partner, found) };
            let mm = (right.middle_x() - left.middle_x()) * case.grid.spacing_mm()[2];
            (mm > 0.0).then_some(Doubt::Swapped { mm })
        });
        if let Some(doubt) = in_bone.or_else(|| found.doubt(cm3, organ)).or(swapped) {
            review.doubts.push((organ, doubt));
        }
        if found.at_the_border && !GOES_ON.contains(&organ) {
            review.remarks.push((organ, Doubt::Cut));
        }
        let ratio = partner.map_or(1.0, |partner| found.count as f64 / partner.count as f64);
        if ratio < LEAST_OF_PARTNER {
            review.remarks.push((organ, Doubt::Uneven { ratio }));
        }
    }
    review
}

/// Organs in bone's way that are none themselves.
const NERVOUS: [Organ; 2] = [Organ::SpinalCord, Organ::BrainStem];

/// From the HU of an organ's voxels.
fn in_bone(organ: Organ, mut hu: Vec<i16>) -> Option<Doubt> {
    let middle = hu.len() / 2;
    let hu = (!hu.is_empty()).then(|| *hu.select_nth_unstable(middle).1)?;
    (hu > BONE_HU).then_some(Doubt::InBone { organ, hu })
}

/// Organs that go on where a scan of the neck ends.
const GOES_ON: [Organ; 3] = [Organ::SpinalCord, Organ::Trachea, Organ::BrachialPlexus];

/// Counts of one organ.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    count: usize,
    without_image: usize,
    sum_x: usize,
    /// In the first or last two slices: one at the end may be half empty, so the one beside it counts as the end too.
    at_the_end: bool,
    /// In the outermost slice, row or column.
    at_the_border: bool,
}

/// The counts of each organ, and the HU of the voxels of [`NERVOUS`].
fn measure(case: &Case, region: VoxelBox) -> ([Measured; Organ::COUNT], [Vec<i16>; 2]) {
    let mut all = [Measured::default(); Organ::COUNT];
    let mut nervous = [const { Vec::new() }; 2];
    let nervous_bits = NERVOUS.map(|organ| OrganSet::of(organ).bits());
    let (n_slices, n_rows, n_columns) = case.organs.dim();
    let VoxelBox { start, end } = region;
    let inside = s![start[0]..end[0], start[1]..end[1], start[2]..end[2]];
    let (organs, hu) = (case.organs.slice(inside), case.hu.slice(inside));
    for (z, (organs, hu)) in (start[0]..).zip(organs.axis_iter(Axis(0)).zip(hu.axis_iter(Axis(0)))) {
        let end = z < 2 || z + 2 >= n_slices;
        let border_z = z == 0 || z + 1 == n_slices;
        for (y, (organs, hu)) in (start[1]..).zip(organs.axis_iter(Axis(0)).zip(hu.axis_iter(Axis(0)))) {
            if union(organs) == 0 {
                continue;
            }
            let border_y = border_z || y == 0 || y + 1 == n_rows;
            for (x, (bits, hu)) in
                (start[2]..).zip(organs.iter().zip(&hu)).filter(|(_, (bits, _))| **bits != 0)
            {
                let border = border_y || x == 0 || x + 1 == n_columns;
                for (_, values) in nervous_bits.iter().zip(&mut nervous).filter(|(bit, _)| *bits & **bit != 0)
                {
                    values.push(*hu);
                }
                let mut left = OrganSet::from_bits(*bits).bits();
                while left != 0 {
                    let found = &mut all[left.trailing_zeros() as usize];
                    left &= left - 1;
                    found.count += 1;
                    found.without_image += usize::from(*hu <= NO_IMAGE_HU);
                    found.sum_x += x;
                    found.at_the_end |= end;
                    found.at_the_border |= border;
                }
            }
        }
    }
    (all, nervous)
}

impl Measured {
    /// Column of the centre.
    fn middle_x(&self) -> f64 {
        self.sum_x as f64 / self.count.max(1) as f64
    }

    fn doubt(&self, cm3: f64, organ: Organ) -> Option<Doubt> {
        let share = self.without_image as f64 / self.count.max(1) as f64;
        if share > MOST_WITHOUT_IMAGE {
            return Some(Doubt::NoImage { share });
        }
        let (low, high) = organ.volume_range_cm3()?;
        if cm3 > high {
            return Some(Doubt::TooLarge { cm3, most: high });
        }
        let least = low / 2.0;
        (cm3 < least && !self.at_the_end).then_some(Doubt::TooSmall { cm3, least })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

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

    /// The right parotid of 4 x 4 x 4 voxels at the higher column, which is the patient's left, and the left one three
    /// times its size at column 0: both swapped, the small one uneven, the large one cut.
    #[test]
    fn swapped_sides_cut_organs_and_uneven_pairs_are_told() {
        let mut case = case([5..11, 2..10, 0..4]);
        case.organs.slice_mut(s![5..9, 2..6, 7..11]).fill(OrganSet::of(Organ::ParotidR).bits());
        case.annotated = case.annotated.union(OrganSet::of(Organ::ParotidR));
        let review = review(&case);
        assert!((review.cm3[&Organ::ParotidL] - 11.52).abs() < 1e-9, "{:?}", review.cm3);
        let swapped = |organ| {
            // Columns 1.5 and 8.5 of 5 mm.
            review
                .doubts
                .iter()
                .any(|(o, d)| *o == organ && matches!(d, Doubt::Swapped { mm } if (mm - 35.0).abs() < 1e-9))
        };
        // The right one has 3.84 cm3, under the 4 that are believed: that is said first.
        assert!(swapped(Organ::ParotidL) && !swapped(Organ::ParotidR), "{:?}", review.doubts);
        assert_eq!(review.doubts.len(), 2);
        let uneven = Doubt::Uneven { ratio: 64.0 / 192.0 };
        assert_eq!(review.remarks, [(Organ::ParotidL, Doubt::Cut), (Organ::ParotidR, uneven)]);
    }
}
