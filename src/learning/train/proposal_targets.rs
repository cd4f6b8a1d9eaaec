//! Targets of the proposal stage in the layout of the graph.

use rand::Rng;

use super::targets::{AnchorRole, RpnLimits, Truth, anchor_roles};
use crate::engine::graph::Preset;
use crate::engine::graph::preset::N_ANCHORS;
use crate::pipeline::network::{anchors::anchors, box_coding::encode, single};

/// Targets of the proposal stage as the graph wants them: axes anchor (or `6 anchor + coordinate`), z, y, x.
pub(super) struct ProposalTargets {
    pub(super) positive: Vec<f32>,
    pub(super) negative: Vec<f32>,
    pub(super) box_targets: Vec<f32>,
    pub(super) box_weights: Vec<f32>,
}

impl ProposalTargets {
    /// Positives weigh 1, negatives together as much as all positives. Source: Tang et al. 2019, reference
    /// implementation.
    pub(super) fn new(preset: &Preset, crop: [usize; 3], truth: &Truth<'_>, rng: &mut impl Rng) -> Self {
        let anchors = anchors(preset, crop);
        let rules = &preset.targets;
        let limits = RpnLimits {
            positive: single(rules.anchor_positive_iou),
            negative: single(rules.anchor_negative_iou),
            n_negative: rules.anchor_negatives,
        };
        let roles = anchor_roles(&anchors, truth, &limits, rng);
        let count = |wanted: fn(&AnchorRole) -> bool| roles.iter().filter(|role| wanted(role)).count();
        let n_positive = count(|role| matches!(role, AnchorRole::Positive(_)));
        let n_negative = count(|role| *role == AnchorRole::Negative);
        let negative_weight = n_positive.max(1) as f32 / n_negative.max(1) as f32;
        let positions = anchors.len() / N_ANCHORS;
        let mut targets = Self {
            positive: vec![0.0; anchors.len()],
            negative: vec![0.0; anchors.len()],
            box_targets: vec![0.0; 6 * anchors.len()],
            box_weights: vec![0.0; 6 * anchors.len()],
        };
        for (place, role) in roles.iter().enumerate() {
            let (anchor, position) = (place % N_ANCHORS, place / N_ANCHORS);
            match role {
                AnchorRole::Ignored => {}
                AnchorRole::Negative => targets.negative[anchor * positions + position] = negative_weight,
                AnchorRole::Positive(number) => {
                    targets.positive[anchor * positions + position] = 1.0;
                    let deltas = encode(anchors[place], truth.boxes[*number].target, preset);
                    for (i, delta) in deltas.into_iter().enumerate() {
                        let at = (6 * anchor + i) * positions + position;
                        targets.box_targets[at] = delta;
                        targets.box_weights[at] = 1.0;
                    }
                }
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use rand::SeedableRng;

    use super::super::boxes::{BodyCount, true_boxes};
    use super::*;
    use crate::learning::dataset::OrganSet;
    use crate::vocabulary::organ::Organ;

    /// The box of one organ put exactly on an anchor: its targets are zero, its weights lie at channel 6 anchor + i.
    #[test]
    fn targets_lie_where_the_graph_looks_for_them() {
        let preset = Preset::starter();
        let crop = [32, 48, 64];
        let mut organs = Array3::zeros(crop);
        organs.slice_mut(ndarray::s![6..18, 10..26, 20..38]).fill(OrganSet::of(Organ::ParotidL).bits());
        let boxes = true_boxes(&organs, OrganSet::ALL, &preset);
        let body = BodyCount::of(Array3::zeros(crop).view());
        let truth = Truth { boxes: &boxes, annotated: OrganSet::ALL, body: &body };
        let targets = ProposalTargets::new(&preset, crop, &truth, &mut rand_pcg::Pcg64::seed_from_u64(2));
        let all = anchors(&preset, crop);
        let positions = all.len() / N_ANCHORS;
        let places: Vec<usize> = (0..all.len()).filter(|at| targets.positive[*at] > 0.5).collect();
        assert!(!places.is_empty());
        for at in places {
            let (anchor, position) = (at / positions, at % positions);
            let expected = encode(all[position * N_ANCHORS + anchor], boxes[0].target, &preset);
            for (i, wanted) in expected.into_iter().enumerate() {
                let place = (6 * anchor + i) * positions + position;
                assert!((targets.box_targets[place] - wanted).abs() < 1e-6);
                assert!((targets.box_weights[place] - 1.0).abs() < 1e-6);
            }
        }
        let (up, down): (f32, f32) = (targets.positive.iter().sum(), targets.negative.iter().sum());
        assert!((up - down).abs() < 1e-2 * up, "negatives weigh together as much as positives: {up} {down}");
    }
}
