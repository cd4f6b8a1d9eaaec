//! Stage two: at most one detection per organ.

use ndarray::ArrayView2;

use super::box_coding::decode;
use super::network_box::NetworkBox;
use super::single;
use super::suppression::suppress;
use crate::engine::graph::Preset;
use crate::engine::graph::preset::N_CLASSES;
use crate::vocabulary::organ::Organ;

/// An organ found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Which organ.
    pub organ: Organ,
    /// Where, refined.
    pub around: NetworkBox,
    /// Probability that the classifier gave it, 0..=1.
    pub probability: f32,
}

/// The refined boxes of all organs, in class order and within one most probable first, without near duplicates.
///
/// A proposal belongs to its most probable class, and is moved by that class's deltas. `class_logits` is `(n, 29)`, column
/// 0 background; `box_deltas` is `(n, 174)`, column `6 class + coordinate`; rows in the order of `proposals`.
/// Source: Tang et al. 2019, reference implementation. Of equal ones the more probable proposal comes first.
#[must_use]
pub fn refined(
    preset: &Preset,
    proposals: &[NetworkBox],
    class_logits: ArrayView2<'_, f32>,
    box_deltas: ArrayView2<'_, f32>,
    shape: [usize; 3],
) -> Vec<Detection> {
    let mut by_organ: [Vec<Detection>; Organ::COUNT] = std::array::from_fn(|_| Vec::new());
    for (row, from) in proposals.iter().enumerate() {
        let logits = class_logits.row(row);
        let class =
            (0..N_CLASSES).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let Some(organ) = Organ::from_class(class) else { continue };
        let probability = 1.0 / logits.iter().map(|logit| (logit - logits[class]).exp()).sum::<f32>();
        let deltas = std::array::from_fn(|i| box_deltas[[row, 6 * class + i]]);
        let around = decode(*from, deltas, shape, preset);
        by_organ[organ.index()].push(Detection { organ, around, probability });
    }
    let mut all = Vec::new();
    for mut of_organ in by_organ {
        of_organ.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let boxes: Vec<NetworkBox> = of_organ.iter().map(|found| found.around).collect();
        let kept = suppress(&boxes, single(preset.class_nms_iou), boxes.len());
        all.extend(kept.into_iter().map(|place| of_organ[place]));
    }
    all
}

/// The most probable of the [`refined`] boxes of each organ.
#[must_use]
pub fn detections(refined: &[Detection]) -> Vec<Detection> {
    let mut best: Vec<Detection> = refined.to_vec();
    best.dedup_by_key(|found| found.organ);
    best
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::super::box_coding::encode;
    use super::*;

    /// Rows 0 and 2 are the larynx, 2 with more certainty; row 1 is background; row 3 the left eye. Deltas lie at the
    /// columns of the row's own class only.
    #[test]
    fn the_best_box_of_each_organ_comes_in_class_order() {
        let preset = Preset::reference();
        let shape = [32, 48, 64];
        let from = [
            [9.0, 12.0, 20.0, 10.0, 12.0, 14.0],
            [8.0; 6],
            [15.0, 20.0, 30.0, 8.0, 9.0, 10.0],
            [20.0, 30.0, 40.0, 6.0, 7.0, 8.0],
        ]
        .map(NetworkBox::from_array);
        let to = NetworkBox::from_array([16.0, 22.0, 27.0, 9.0, 11.0, 13.0]);
        let mut logits = Array2::zeros((4, 29));
        let mut deltas = Array2::from_elem((4, 174), 9.0);
        for (row, class, logit) in [
            (0, Organ::Larynx.class(), 2.0),
            (1, 0, 8.0),
            (2, Organ::Larynx.class(), 4.0),
            (3, Organ::EyeL.class(), 5.0),
        ] {
            logits[[row, class]] = logit;
            for (i, delta) in encode(from[row], to, &preset).into_iter().enumerate() {
                deltas[[row, 6 * class + i]] = delta;
            }
        }
        let all = refined(&preset, &from, logits.view(), deltas.view(), shape);
        let found = detections(&all);
        let organs: Vec<Organ> = found.iter().map(|detection| detection.organ).collect();
        assert_eq!(organs, [Organ::EyeL, Organ::Larynx]);
        // Softmax of one logit of 4 among 28 zeros.
        assert!((found[1].probability - 4_f32.exp() / (4_f32.exp() + 28.0)).abs() < 1e-6);
        for (value, wanted) in found[1].around.to_array().into_iter().zip(to.to_array()) {
            assert!((value - wanted).abs() < 1e-4, "{found:?}");
        }
        // Both rows of the larynx end on one box: the less probable one is a duplicate.
        assert_eq!(all.len(), 2);
        for i in 0..6 {
            deltas[[0, 6 * Organ::Larynx.class() + i]] = 0.0;
        }
        let all = refined(&preset, &from, logits.view(), deltas.view(), shape);
        assert_eq!(all.len(), 3);
        assert!(all[1].probability > all[2].probability && all[2].around == from[0]);
        assert_eq!(detections(&all), found);
        assert!(
            refined(&preset, &[], Array2::zeros((0, 29)).view(), Array2::zeros((0, 174)).view(), shape)
                .is_empty()
        );
    }
}
