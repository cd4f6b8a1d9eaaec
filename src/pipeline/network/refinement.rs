//! Stage two: at most one detection per organ.

use ndarray::ArrayView2;

use super::box_coding::decode;
use super::network_box::NetworkBox;
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

/// The most probable refined box of each organ, in class order, among the proposals whose most probable class it is.
///
/// `class_logits` is `(n, 29)`, column 0 background; `box_deltas` is `(n, 174)`, column `6 class + coordinate`; rows in
/// the order of `proposals`. Suppression within a class never removes its most probable box, so there is none here.
/// Source: Tang et al. 2019, reference implementation. Of equal ones the more probable proposal counts.
#[must_use]
pub fn detections(
    preset: &Preset,
    proposals: &[NetworkBox],
    class_logits: ArrayView2<'_, f32>,
    box_deltas: ArrayView2<'_, f32>,
    shape: [usize; 3],
) -> Vec<Detection> {
    let mut best: [Option<Detection>; Organ::COUNT] = [None; Organ::COUNT];
    for (row, from) in proposals.iter().enumerate() {
        let logits = class_logits.row(row);
        let class =
            (0..N_CLASSES).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let Some(organ) = Organ::from_class(class) else { continue };
        let probability = 1.0 / logits.iter().map(|logit| (logit - logits[class]).exp()).sum::<f32>();
        if best[organ.index()].is_none_or(|other| probability > other.probability) {
            let deltas = std::array::from_fn(|i| box_deltas[[row, 6 * class + i]]);
            let around = decode(*from, deltas, shape, preset);
            best[organ.index()] = Some(Detection { organ, around, probability });
        }
    }
    best.into_iter().flatten().collect()
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
        let found = detections(&preset, &from, logits.view(), deltas.view(), shape);
        let organs: Vec<Organ> = found.iter().map(|detection| detection.organ).collect();
        assert_eq!(organs, [Organ::EyeL, Organ::Larynx]);
        // Softmax of one logit of 4 among 28 zeros.
        assert!((found[1].probability - 4_f32.exp() / (4_f32.exp() + 28.0)).abs() < 1e-6);
        for (value, wanted) in found[1].around.to_array().into_iter().zip(to.to_array()) {
            assert!((value - wanted).abs() < 1e-4, "{found:?}");
        }
        assert!(
            detections(&preset, &[], Array2::zeros((0, 29)).view(), Array2::zeros((0, 174)).view(), shape)
                .is_empty()
        );
    }
}
