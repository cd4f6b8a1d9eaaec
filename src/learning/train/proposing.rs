//! Anchors, box coding and proposals as the training step needs them.

use super::boxes::CentredBox;
use super::targets::iou;
use crate::engine::graph::Preset;
use crate::engine::graph::preset::{COARSE_STRIDE, N_ANCHORS};

/// All anchors of an image of `shape` `(z, y, x)`: positions z, y, x outermost, the 12 anchors innermost.
pub(super) fn anchors(preset: &Preset, shape: [usize; 3]) -> Vec<CentredBox> {
    let [d, h, w] = shape.map(|side| side / COARSE_STRIDE);
    let centre = |position: usize| 3.5 + (COARSE_STRIDE * position) as f32;
    let mut all = Vec::with_capacity(d * h * w * N_ANCHORS);
    for z in 0..d {
        for y in 0..h {
            for x in 0..w {
                for sides in preset.anchors {
                    let [sd, sh, sw] = sides.map(single);
                    all.push([centre(z), centre(y), centre(x), sd, sh, sw]);
                }
            }
        }
    }
    all
}

/// Deltas that move `from` onto `to`. Source: Ren et al. 2015, eq. 2; weights of the preset.
pub(super) fn encode(from: &CentredBox, to: &CentredBox, preset: &Preset) -> [f32; 6] {
    std::array::from_fn(|i| {
        let weight = single(preset.box_weights[i]);
        if i < 3 {
            weight * (to[i] - from[i]) / from[i + 3]
        } else {
            weight * (to[i].max(1e-3) / from[i]).ln()
        }
    })
}

/// The box that deltas make of `from`, its centre clamped into an image of `shape`.
pub(super) fn decode(from: &CentredBox, deltas: [f32; 6], shape: [usize; 3], preset: &Preset) -> CentredBox {
    // A side grows at most e^4-fold; an untrained head would overflow otherwise.
    const LARGEST_LOG: f32 = 4.0;
    std::array::from_fn(|i| {
        let delta = deltas[i] / single(preset.box_weights[i]);
        if i < 3 {
            (from[i] + delta * from[i + 3]).clamp(0.0, (shape[i] - 1) as f32)
        } else {
            from[i] * delta.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        }
    })
}

/// The most probable boxes of the proposal stage without near duplicates, best first, at most `most` of them.
///
/// `logits` is `(12, positions)`, `deltas` `(72, positions)`, channel `6 anchor + coordinate`, in C order.
pub(super) fn proposals(
    anchors: &[CentredBox],
    logits: &[f32],
    deltas: &[f32],
    shape: [usize; 3],
    preset: &Preset,
    most: usize,
) -> Vec<CentredBox> {
    // Candidates of one step, so that an untrained network does not spend the step on comparing boxes.
    const MOST_CANDIDATES: usize = 600;
    let positions = anchors.len() / N_ANCHORS;
    let logit = |place: usize| logits[place % N_ANCHORS * positions + place / N_ANCHORS];
    let lowest = single(preset.proposal_probability / (1.0 - preset.proposal_probability)).ln();
    let mut order: Vec<usize> = (0..anchors.len()).filter(|place| logit(*place) > lowest).collect();
    order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)));
    order.truncate(MOST_CANDIDATES);
    let mut kept: Vec<CentredBox> = Vec::new();
    for place in order {
        let channel = |i: usize| (6 * (place % N_ANCHORS) + i) * positions + place / N_ANCHORS;
        let found = decode(&anchors[place], std::array::from_fn(|i| deltas[channel(i)]), shape, preset);
        if kept.len() < most && kept.iter().all(|other| iou(other, &found) < single(preset.proposal_nms_iou))
        {
            kept.push(found);
        }
    }
    kept
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
pub(super) fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand for anchor (8, 16, 20) wide: dz = 10 * 2 / 8 = 2.5; dd = 5 ln(4 / 8) = -3.4657.
    #[test]
    fn deltas_move_an_anchor_onto_its_box_and_back() {
        let preset = Preset::reference();
        let anchor = [11.5, 19.5, 27.5, 8.0, 16.0, 20.0];
        let to = [13.5, 17.0, 30.0, 4.0, 32.0, 21.0];
        let deltas = encode(&anchor, &to, &preset);
        assert!((deltas[0] - 2.5).abs() < 1e-5 && (deltas[3] + 3.465_736).abs() < 1e-5, "{deltas:?}");
        let back = decode(&anchor, deltas, [32, 48, 64], &preset);
        for (found, wanted) in back.iter().zip(to) {
            assert!((found - wanted).abs() < 1e-4, "{back:?}");
        }
    }

    #[test]
    fn anchors_run_x_fastest_then_y_then_z() {
        let anchors = anchors(&Preset::reference(), [16, 32, 48]);
        assert_eq!(anchors.len(), 2 * 4 * 6 * 12);
        assert_eq!(anchors[12], [3.5, 3.5, 11.5, 7.0, 17.5, 17.5]);
        assert_eq!(anchors[6 * 12 + 4][..3], [3.5, 11.5, 3.5]);
        assert_eq!(anchors[4 * 6 * 12][..3], [11.5, 3.5, 3.5]);
    }

    /// Two anchors of one position fire on the same box, a third elsewhere, a fourth is too improbable.
    #[test]
    fn proposals_come_best_first_without_duplicates() {
        let preset = Preset::reference();
        let shape = [16, 32, 48];
        let all = anchors(&preset, shape);
        let positions = all.len() / 12;
        let mut logits = vec![-5.0; all.len()];
        let mut deltas = vec![0.0; all.len() * 6];
        let box_a = [9.0, 12.0, 20.0, 10.0, 12.0, 14.0];
        for (anchor, position, logit, to) in [
            (2, 7, 1.0, box_a),
            (5, 7, 3.0, box_a),
            (1, 20, 2.0, [6.0, 20.0, 30.0, 8.0, 9.0, 10.0]),
            (3, 30, -0.5, [6.0, 28.0, 8.0, 8.0, 9.0, 10.0]),
        ] {
            logits[anchor * positions + position] = logit;
            for (i, delta) in encode(&all[position * 12 + anchor], &to, &preset).into_iter().enumerate() {
                deltas[(6 * anchor + i) * positions + position] = delta;
            }
        }
        let found = proposals(&all, &logits, &deltas, shape, &preset, 10);
        assert_eq!(found.len(), 2);
        assert!((found[0][2] - 20.0).abs() < 1e-3 && (found[1][2] - 30.0).abs() < 1e-3, "{found:?}");
    }
}
