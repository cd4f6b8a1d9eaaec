//! Stage one: where an organ may be.

use ndarray::ArrayView4;

use super::anchors::anchors;
use super::box_coding::decode;
use super::network_box::NetworkBox;
use super::single;
use super::suppression::suppress;
use crate::engine::graph::Preset;
use crate::engine::graph::preset::N_ANCHORS;

/// How much work stage one may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProposalLimits {
    /// Most anchors that are compared with each other.
    pub compared: usize,
    /// Most proposals that go on.
    pub kept: usize,
}

impl ProposalLimits {
    /// For structure sets: a trained network fires on far fewer anchors, an untrained one must not keep a machine busy
    /// for hours; 1000 proposals bound the memory of the second stage to 110 MB.
    pub const DELIVERED: Self = Self { compared: 20_000, kept: 1_000 };
    /// For comparing with the original, which has no limits: beyond any network that has learned something.
    pub const COMPARED_WITH_ORIGINAL: Self = Self { compared: 200_000, kept: 20_000 };
}

/// A place where an organ may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proposal {
    /// Where.
    pub around: NetworkBox,
    /// Probability of any organ, 0..=1.
    pub probability: f32,
}

/// The proposals of an input of `shape` `(z, y, x)`, most probable first: those above the preset's probability, without
/// near duplicates.
///
/// `logits` is `(12, z, y, x)`, `deltas` `(72, z, y, x)` with channel `6 anchor + coordinate`, both at 1/8 of the input.
/// Equally probable ones keep the order of [`anchors`], so the result does not depend on the machine's sorting.
#[must_use]
pub fn proposals(
    preset: &Preset,
    logits: ArrayView4<'_, f32>,
    deltas: ArrayView4<'_, f32>,
    shape: [usize; 3],
    limits: ProposalLimits,
) -> Vec<Proposal> {
    let all = anchors(preset, shape);
    let (_, _, ny, nx) = logits.dim();
    let place_of = |place: usize| {
        let (anchor, position) = (place % N_ANCHORS, place / N_ANCHORS);
        (anchor, position / (ny * nx), position / nx % ny, position % nx)
    };
    let logit = |place: usize| {
        let (anchor, z, y, x) = place_of(place);
        logits[[anchor, z, y, x]]
    };
    let lowest = single(preset.proposal_probability);
    let mut order: Vec<(usize, f32)> = (0..all.len())
        .map(|place| (place, sigmoid(logit(place))))
        .filter(|(_, probability)| *probability > lowest)
        .collect();
    // By probability, not by logit: where float32 tells two apart no more, the earlier anchor comes first.
    order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    order.truncate(limits.compared);
    let boxes: Vec<NetworkBox> = order
        .iter()
        .map(|(place, _)| {
            let (anchor, z, y, x) = place_of(*place);
            decode(all[*place], std::array::from_fn(|i| deltas[[6 * anchor + i, z, y, x]]), shape, preset)
        })
        .collect();
    suppress(&boxes, single(preset.proposal_nms_iou), limits.kept)
        .into_iter()
        .map(|kept| Proposal { around: boxes[kept], probability: order[kept].1 })
        .collect()
}

/// Probability of a logit.
pub(super) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::super::box_coding::encode;
    use super::*;

    /// Two anchors of one position fire on the same box, a third elsewhere; a fourth is too improbable.
    #[test]
    fn proposals_come_most_probable_first_without_duplicates() {
        let preset = Preset::reference();
        let shape = [16, 32, 48];
        let all = anchors(&preset, shape);
        let mut logits = Array4::from_elem((12, 2, 4, 6), -5.0);
        let mut deltas = Array4::zeros((72, 2, 4, 6));
        let (a, b) = ([9.0, 12.0, 20.0, 10.0, 12.0, 14.0], [6.0, 20.0, 30.0, 8.0, 9.0, 10.0]);
        for (anchor, [z, y, x], logit, to) in
            [(2, [0, 1, 2], 1.0, a), (5, [0, 1, 2], 3.0, a), (1, [1, 2, 3], 2.0, b), (3, [1, 3, 5], -0.5, b)]
        {
            logits[[anchor, z, y, x]] = logit;
            let from = all[((z * 4 + y) * 6 + x) * 12 + anchor];
            for (i, delta) in encode(from, NetworkBox::from_array(to), &preset).into_iter().enumerate() {
                deltas[[6 * anchor + i, z, y, x]] = delta;
            }
        }
        let found = proposals(&preset, logits.view(), deltas.view(), shape, ProposalLimits::DELIVERED);
        assert_eq!(found.len(), 2, "{found:?}");
        for (proposal, (wanted, logit)) in found.iter().zip([(a, 3.0_f32), (b, 2.0)]) {
            for (value, wanted) in proposal.around.to_array().into_iter().zip(wanted) {
                assert!((value - wanted).abs() < 1e-3, "{found:?}");
            }
            assert!((proposal.probability - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6);
        }
        for limits in [ProposalLimits { compared: 1, kept: 9 }, ProposalLimits { compared: 9, kept: 1 }] {
            let fewer = proposals(&preset, logits.view(), deltas.view(), shape, limits);
            assert_eq!(fewer, found[..1]);
        }
    }
}
