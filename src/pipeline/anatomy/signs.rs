//! What about a contoured organ tells how good its contour may be.

use super::Finding;
use crate::pipeline::network::{MASK_THRESHOLD, OrganMask};
use crate::vocabulary::organ::Organ;

/// Signs of quality of one organ.
#[derive(Debug, Clone, PartialEq)]
pub struct Signs {
    /// Probability that the classifier gave its box, 0..=1.
    pub detection_probability: f32,
    /// The DSC that the mask's own probabilities promise, 0..=1: sure inside and outside is 1.
    pub promised_dice: f64,
    /// Volume inside the contours, cm3.
    pub volume_cm3: f64,
    /// Its volume as a part of its partner's; `None` for unpaired organs and where the partner was not found.
    pub side_ratio: Option<f64>,
    /// The part that the rules took away as loose or on the other side, 0..=1.
    pub removed_share: f64,
    /// Whether it ends where the scan ends.
    pub truncated: bool,
    /// DSC with what the network found in the mirrored patient; `None` where it was not asked.
    pub mirror_dice: Option<f64>,
}

/// What a calibration weighs, in the order of [`Signs::features`]; the last one only where the mirror was asked.
pub const FEATURES: [&str; 8] = [
    "promised_dice",
    "detection",
    "volume_place",
    "volume_off",
    "side_ratio",
    "removed_share",
    "truncated",
    "mirror_dice",
];

/// Logits of the detection are cut to this.
const MOST_LOGIT: f64 = 7.0;
/// Places in the volume range beyond this are as bad as it gets; 0 is the middle, 1 the limit, in logarithms.
const FURTHEST_PLACE: f64 = 2.5;
/// Logarithms of the side ratio are cut to this: a factor of 4.5.
const MOST_RATIO: f64 = 1.5;

impl Signs {
    /// The signs as numbers, in the order of [`FEATURES`]; what is not known is a harmless zero, a mirror that was not
    /// asked is left out.
    #[must_use]
    pub fn features(&self, organ: Organ) -> Vec<f64> {
        let p = f64::from(self.detection_probability).clamp(1e-6, 1.0 - 1e-6);
        let detection = (p / (1.0 - p)).ln().clamp(-MOST_LOGIT, MOST_LOGIT);
        let place = organ.volume_range_cm3().map_or(0.0, |(low, high)| {
            let middle = f64::midpoint(low.ln(), high.ln());
            let half = (high / low).ln() / 2.0;
            ((self.volume_cm3.max(1e-3).ln() - middle) / half).clamp(-FURTHEST_PLACE, FURTHEST_PLACE)
        });
        let ratio = self.side_ratio.map_or(0.0, |ratio| ratio.max(1e-3).ln().abs().min(MOST_RATIO));
        let mut features = vec![
            self.promised_dice,
            detection,
            place,
            place * place,
            ratio,
            self.removed_share,
            f64::from(u8::from(self.truncated)),
        ];
        features.extend(self.mirror_dice);
        features
    }
}

/// Gathers the signs of an organ from its mask as the network gave it, its contours' volume, its partner's volume, and
/// what the rules found; `mirror_dice` as in [`Signs`].
#[must_use]
pub fn signs(
    mask: &OrganMask,
    volume_cm3: f64,
    partner_cm3: Option<f64>,
    findings: &[Finding],
    mirror_dice: Option<f64>,
) -> Signs {
    let removed_cm3: f64 = findings
        .iter()
        .map(|finding| match finding {
            Finding::PiecesRemoved { cm3, .. } | Finding::BeyondMidplane { cm3 } => *cm3,
            _ => 0.0,
        })
        .sum();
    Signs {
        detection_probability: mask.detection_probability,
        promised_dice: promised_dice(mask),
        volume_cm3,
        side_ratio: partner_cm3.filter(|cm3| *cm3 > 0.0).map(|cm3| volume_cm3 / cm3),
        removed_share: if removed_cm3 > 0.0 { removed_cm3 / (removed_cm3 + volume_cm3) } else { 0.0 },
        truncated: findings.iter().any(|finding| matches!(finding, Finding::Truncated { .. })),
        mirror_dice,
    }
}

/// `2 S / (n + T)`: S the probability inside the mask, n its voxels, T the probability in all: what the DSC would be
/// on average if every voxel were organ with its probability.
fn promised_dice(mask: &OrganMask) -> f64 {
    let (mut inside, mut n, mut all) = (0.0, 0.0, 0.0);
    for p in &mask.probability {
        let p_wide = f64::from(*p);
        all += p_wide;
        if *p >= MASK_THRESHOLD {
            inside += p_wide;
            n += 1.0;
        }
    }
    if n > 0.0 { 2.0 * inside / (n + all) } else { 0.0 }
}

/// DSC of two masks on one grid, at one half; zero where one is missing or empty.
#[must_use]
pub fn agreement(a: &OrganMask, b: Option<&OrganMask>) -> f64 {
    let Some(b) = b else { return 0.0 };
    let n = |mask: &OrganMask| mask.probability.iter().filter(|p| **p >= MASK_THRESHOLD).count();
    let both = a
        .probability
        .indexed_iter()
        .filter(|(_, p)| **p >= MASK_THRESHOLD)
        .filter(|((z, y, x), _)| {
            let at: [Option<usize>; 3] = [(0, z), (1, y), (2, x)]
                .map(|(axis, index)| (index + a.region.start[axis]).checked_sub(b.region.start[axis]));
            let [Some(z), Some(y), Some(x)] = at else { return false };
            b.probability.get([z, y, x]).is_some_and(|p| *p >= MASK_THRESHOLD)
        })
        .count();
    let total = n(a) + n(b);
    if total == 0 { 0.0 } else { 2.0 * both as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::super::ScanEnd;
    use super::*;
    use crate::vocabulary::space::VoxelBox;

    fn mask(start: [usize; 3], row: [f32; 4]) -> OrganMask {
        let probability = Array3::from_shape_vec((1, 1, 4), row.to_vec()).unwrap();
        let end = [start[0] + 1, start[1] + 1, start[2] + 4];
        OrganMask {
            organ: Organ::ParotidL,
            detection_probability: 0.75,
            region: VoxelBox { start, end },
            probability,
        }
    }

    /// Inside 0.5 + 1, two voxels, 1.75 in all: 2 * 1.5 / 3.75.
    #[test]
    fn promise_by_hand() {
        let found = promised_dice(&mask([1, 2, 3], [0.25, 0.5, 1.0, 0.0]));
        assert!((found - 0.8).abs() < 1e-12, "{found}");
        assert_eq!(promised_dice(&mask([0; 3], [0.0, 1.0, 1.0, 0.0])), 1.0);
        assert_eq!(promised_dice(&mask([0; 3], [0.1; 4])), 0.0);
    }

    /// Voxels 4, 5 and 5, 6: one of two and two.
    #[test]
    fn agreement_by_hand() {
        let a = mask([1, 2, 3], [0.0, 0.7, 0.7, 0.0]);
        assert_eq!(agreement(&a, Some(&mask([1, 2, 5], [0.9, 0.9, 0.0, 0.0]))), 0.5);
        assert_eq!(agreement(&a, Some(&mask([2, 2, 5], [0.9, 0.9, 0.0, 0.0]))), 0.0);
        assert_eq!((agreement(&a, Some(&a)), agreement(&a, None)), (1.0, 0.0));
    }

    /// A parotid of 2 cm3, limits 8 and 75: ln of the middle is 3.198, half the width 1.119; (0.693 - 3.198) / 1.119.
    #[test]
    fn features_by_hand() {
        let findings =
            [Finding::PiecesRemoved { n: 1, cm3: 0.5 }, Finding::Truncated { at: ScanEnd::Superior }];
        let signs = signs(&mask([0; 3], [0.0, 1.0, 1.0, 0.0]), 2.0, Some(8.0), &findings, None);
        let features = signs.features(Organ::ParotidL);
        let wanted = [1.0, 3.0_f64.ln(), -2.2389, 5.0125, 4.0_f64.ln(), 0.2, 1.0];
        assert_eq!(features.len(), FEATURES.len() - 1);
        for ((found, wanted), name) in features.iter().zip(wanted).zip(FEATURES) {
            assert!((found - wanted).abs() < 2e-3, "{name}: {found}, wanted {wanted}");
        }
        let mirrored = Signs { mirror_dice: Some(0.25), side_ratio: None, ..signs };
        let features = mirrored.features(Organ::EarL);
        assert_eq!((features[2], features[4], features.last()), (0.0, 0.0, Some(&0.25)));
    }
}
