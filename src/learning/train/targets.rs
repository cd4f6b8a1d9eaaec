//! What the network should have said: targets of the proposal stage, samples of the refinement.
//!
//! An organ that a case does not annotate may be anywhere, so nothing here may call it background; see
//! docs/decisions/0003-unannotated-organs.md for the rule and its reasons.

use rand::{Rng, RngExt};

use super::boxes::{BodyCount, TrueBox};
use crate::learning::dataset::OrganSet;
use crate::pipeline::network::NetworkBox;
use crate::vocabulary::organ::Organ;

/// What an anchor is for the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnchorRole {
    /// Should find the true box of this place in the list.
    Positive(usize),
    /// Should find nothing.
    Negative,
    /// Contributes no loss.
    Ignored,
}

/// Limits of the proposal stage's targets. Source: Tang et al. 2019 and its reference implementation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RpnLimits {
    /// IoU from which an anchor is positive.
    pub(super) positive: f32,
    /// IoU below which an anchor is negative.
    pub(super) negative: f32,
    /// Most negatives drawn.
    pub(super) n_negative: usize,
}

/// One proposal that the refinement stage learns from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RefinementSample {
    /// The proposal.
    pub(super) proposal: NetworkBox,
    /// The true box it should become, by place in the list; `None` is background.
    pub(super) truth: Option<usize>,
}

/// How many proposals the refinement stage learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefinementCounts {
    /// Most foreground proposals of one organ.
    pub(super) per_organ: usize,
    /// All together; background fills up.
    pub(super) total: usize,
}

/// What is known about a sample when roles are given.
pub(super) struct Truth<'a> {
    /// Boxes of the annotated organs.
    pub(super) boxes: &'a [TrueBox],
    /// Which organs are annotated.
    pub(super) annotated: OrganSet,
    /// Where the body is.
    pub(super) body: &'a BodyCount,
}

impl Truth<'_> {
    /// Whether a box that meets no true box can be called background.
    ///
    /// With all organs annotated it can. Otherwise only where no organ can be: an organ's box `B` lies in the body,
    /// and IoU(A, B) >= t needs an intersection of at least t / (1 + t) of A, so a box A with less body than that
    /// has IoU < t with every organ there may be.
    fn may_be_background(&self, candidate: NetworkBox, iou: f32) -> bool {
        self.annotated == OrganSet::ALL || self.body.share(candidate) < iou / (1.0 + iou)
    }
}

/// Gives every anchor its role. The result has the order of `anchors`.
///
/// Positive: IoU at or above the limit, or the best anchor of an organ. Negative: below the lower limit with every
/// true box, where that can be known, and drawn without return up to the count. All others are ignored.
pub(super) fn anchor_roles(
    anchors: &[NetworkBox],
    truth: &Truth<'_>,
    limits: &RpnLimits,
    rng: &mut impl Rng,
) -> Vec<AnchorRole> {
    let mut roles = vec![AnchorRole::Ignored; anchors.len()];
    let mut best_of_box: Vec<(f32, Option<usize>)> = vec![(0.0, None); truth.boxes.len()];
    let mut negatives = Vec::new();
    for (place, anchor) in anchors.iter().enumerate() {
        let (mut best, mut owner) = (0.0, None);
        for (number, true_box) in truth.boxes.iter().enumerate() {
            let overlap = anchor.iou(true_box.target);
            if overlap > best {
                (best, owner) = (overlap, Some(number));
            }
            if overlap > best_of_box[number].0 {
                best_of_box[number] = (overlap, Some(place));
            }
        }
        match owner {
            Some(number) if best >= limits.positive => roles[place] = AnchorRole::Positive(number),
            _ if best < limits.negative && truth.may_be_background(*anchor, limits.negative) => {
                negatives.push(place);
            }
            _ => {}
        }
    }
    draw_down_to(&mut negatives, limits.n_negative, rng);
    for place in negatives {
        roles[place] = AnchorRole::Negative;
    }
    for (number, (_, place)) in best_of_box.iter().enumerate() {
        if let Some(place) = place {
            roles[*place] = AnchorRole::Positive(number);
        }
    }
    roles
}

/// Draws the proposals that the refinement stage learns from; the true boxes are proposals too.
///
/// Foreground: IoU >= 0.5 with its best true box, at most `per_organ` of each. Background: IoU < 0.2 with all, to fill
/// up to `total`; the class loss lets such a row be any organ that is not annotated.
/// Source: Tang et al. 2019 and its reference implementation.
pub(super) fn refinement_samples(
    proposals: &[NetworkBox],
    truth: &Truth<'_>,
    counts: RefinementCounts,
    rng: &mut impl Rng,
) -> Vec<RefinementSample> {
    const FOREGROUND_IOU: f32 = 0.5;
    const BACKGROUND_IOU: f32 = 0.2;
    let mut of_organ: Vec<Vec<NetworkBox>> = truth.boxes.iter().map(|b| vec![b.target]).collect();
    let mut background = Vec::new();
    for proposal in proposals {
        let best = truth
            .boxes
            .iter()
            .enumerate()
            .map(|(number, b)| (proposal.iou(b.target), number))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((overlap, number)) if overlap >= FOREGROUND_IOU => of_organ[number].push(*proposal),
            Some((overlap, _)) if overlap >= BACKGROUND_IOU => {}
            _ => background.push(*proposal),
        }
    }
    let mut samples = Vec::new();
    for (number, mut boxes) in of_organ.into_iter().enumerate() {
        draw_down_to(&mut boxes, counts.per_organ, rng);
        let truth = Some(number);
        samples.extend(boxes.into_iter().map(|proposal| RefinementSample { proposal, truth }));
    }
    draw_down_to(&mut background, counts.total.saturating_sub(samples.len()), rng);
    samples.extend(background.into_iter().map(|proposal| RefinementSample { proposal, truth: None }));
    samples
}

/// Weight of each sample's class loss: inverse to how often its class occurs, mean 1 over the samples.
pub(super) fn class_weights(classes: &[usize]) -> Vec<f32> {
    let mut counts = [0_u16; Organ::COUNT + 1];
    for class in classes {
        counts[*class] = counts[*class].saturating_add(1);
    }
    let inverse: Vec<f32> = classes.iter().map(|class| 1.0 / f32::from(counts[*class])).collect();
    let mean = inverse.iter().sum::<f32>() / inverse.len().max(1) as f32;
    inverse.into_iter().map(|weight| weight / mean).collect()
}

/// The box moved by up to a fifth of its sides and made 0.8 to 1.4 of them, as a detection would miss it: detected boxes
/// of the third part of the starter model on OpenKBP had centres with a standard deviation of 0.12 of the side, and nine
/// of ten sides between 0.8 and 1.4. A mask head that only ever saw good boxes takes their faces for the organ's ends.
pub(super) fn jittered(around: NetworkBox, rng: &mut impl Rng) -> NetworkBox {
    let mut moved = around.to_array();
    for axis in 0..3 {
        let side = moved[axis + 3];
        moved[axis] += rng.random_range(-0.2..=0.2) * side;
        moved[axis + 3] *= rng.random_range(0.8..=1.4_f32);
    }
    NetworkBox::from_array(moved)
}

/// Keeps a random `count` of the items, in their order.
fn draw_down_to<T>(items: &mut Vec<T>, count: usize, rng: &mut impl Rng) {
    while items.len() > count {
        let excess = items.len() - count;
        let n_items = items.len();
        // One pass that drops each item with the probability that just suffices; a few passes at most.
        let mut dropped = 0;
        items.retain(|_| {
            let drop = dropped < excess && rng.random_range(0..n_items) < excess;
            dropped += usize::from(drop);
            !drop
        });
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use rand::SeedableRng;

    use super::*;
    use crate::vocabulary::space::VoxelBox;

    fn rng() -> rand_pcg::Pcg64 {
        rand_pcg::Pcg64::seed_from_u64(7)
    }

    fn true_box(organ: Organ, target: [f32; 6]) -> TrueBox {
        TrueBox { organ, tight: VoxelBox::whole([1, 1, 1]), target: NetworkBox::from_array(target) }
    }

    fn all_body() -> BodyCount {
        BodyCount::of(Array3::from_elem((32, 40, 48), 0.0_f32).view())
    }

    const LIMITS: RpnLimits = RpnLimits { positive: 0.5, negative: 0.1, n_negative: 1000 };

    /// The first anchor has IoU 0.6, the second 0.25 / 1.75 of moving half in x twice over (between the limits),
    /// the third none; the small organ's best anchor is positive although its IoU is low.
    #[test]
    fn anchors_get_their_roles() {
        let boxes = [
            true_box(Organ::Mandible, [10.0, 11.0, 12.0, 4.0, 6.0, 10.0]),
            true_box(Organ::LensL, [20.0, 30.0, 40.0, 2.0, 3.0, 5.0]),
        ];
        let anchors = [
            [11.0, 11.0, 12.0, 4.0, 6.0, 10.0],
            [10.0, 11.0, 18.0, 4.0, 6.0, 10.0],
            [28.0, 5.0, 5.0, 4.0, 6.0, 10.0],
            [20.0, 30.0, 40.0, 8.0, 8.0, 8.0],
        ]
        .map(NetworkBox::from_array);
        let body = all_body();
        let truth = Truth { boxes: &boxes, annotated: OrganSet::ALL, body: &body };
        let roles = anchor_roles(&anchors, &truth, &LIMITS, &mut rng());
        // Second: intersection 4 x 6 x 4 = 96, union 384: 0.25.
        let expected =
            [AnchorRole::Positive(0), AnchorRole::Ignored, AnchorRole::Negative, AnchorRole::Positive(1)];
        assert_eq!(roles, expected);
    }

    /// With the mandible alone annotated, tissue elsewhere may be an organ: only the anchor in air is a negative.
    #[test]
    fn an_unannotated_organ_gives_no_loss() {
        let boxes = [true_box(Organ::Mandible, [10.0, 11.0, 12.0, 4.0, 6.0, 10.0])];
        let anchors = [[28.0, 25.0, 5.0, 4.0, 6.0, 10.0], [28.0, 25.0, 40.0, 4.0, 6.0, 10.0]]
            .map(NetworkBox::from_array);
        let image = Array3::from_shape_fn((32, 40, 48), |(_, _, x)| if x < 24 { 0.1_f32 } else { -1.0 });
        let body = BodyCount::of(image.view());
        let partly = Truth { boxes: &boxes, annotated: OrganSet::of(Organ::Mandible), body: &body };
        let roles = anchor_roles(&anchors, &partly, &LIMITS, &mut rng());
        assert_eq!(roles, [AnchorRole::Ignored, AnchorRole::Negative]);
        let wholly = Truth { annotated: OrganSet::ALL, ..partly };
        let roles = anchor_roles(&anchors, &wholly, &LIMITS, &mut rng());
        assert_eq!(roles, [AnchorRole::Negative, AnchorRole::Negative]);
    }

    #[test]
    fn no_more_negatives_than_asked_for() {
        let anchors: Vec<NetworkBox> =
            (0..50_u8).map(|i| NetworkBox::from_array([f32::from(i), 9.0, 9.0, 2.0, 3.0, 4.0])).collect();
        let body = all_body();
        let truth = Truth { boxes: &[], annotated: OrganSet::ALL, body: &body };
        let limits = RpnLimits { n_negative: 13, ..LIMITS };
        let roles = anchor_roles(&anchors, &truth, &limits, &mut rng());
        assert_eq!(roles.iter().filter(|r| **r == AnchorRole::Negative).count(), 13);
    }

    /// Two proposals on the mandible, one of them the true box itself; one between the limits; one far away.
    #[test]
    fn refinement_learns_from_overlaps_and_from_what_is_far_away() {
        let boxes = [true_box(Organ::Mandible, [10.0, 11.0, 12.0, 4.0, 6.0, 10.0])];
        let body = all_body();
        let truth = Truth { boxes: &boxes, annotated: OrganSet::of(Organ::Mandible), body: &body };
        let near = NetworkBox::from_array([11.0, 11.0, 12.0, 4.0, 6.0, 10.0]);
        let between = NetworkBox::from_array([10.0, 11.0, 18.0, 4.0, 6.0, 10.0]);
        let far = NetworkBox::from_array([28.0, 25.0, 40.0, 4.0, 6.0, 10.0]);
        let counts = RefinementCounts { per_organ: 4, total: 128 };
        let samples = refinement_samples(&[far, between, near], &truth, counts, &mut rng());
        let found: Vec<_> = samples.iter().map(|s| (s.proposal, s.truth)).collect();
        assert_eq!(found, [(boxes[0].target, Some(0)), (near, Some(0)), (far, None)]);
    }

    /// Class 3 once, class 5 three times: 1 and 1/3 each, mean 0.5, so 2 and 2/3.
    #[test]
    fn rare_classes_weigh_more() {
        let weights = class_weights(&[5, 3, 5, 5]);
        for (found, wanted) in weights.iter().zip([2.0 / 3.0, 2.0, 2.0 / 3.0, 2.0 / 3.0]) {
            assert!((found - wanted).abs() < 1e-6);
        }
    }
}
