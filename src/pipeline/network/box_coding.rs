//! Boxes as deltas from other boxes.

use super::network_box::NetworkBox;
use super::single;
use crate::engine::graph::Preset;

/// A side changes at most e^20-fold, far beyond any volume: so that products of three sides stay finite.
const LARGEST_LOG: f32 = 20.0;

/// Deltas `(z, y, x, d, h, w)` that move `from` onto `to`: `dz = 10 (tz - az) / ad`, `dd = 5 ln(td / ad)`.
///
/// Source: Ren et al. 2015, eq. 2; factors and the third axis from Tang et al. 2019, Methods.
#[must_use]
pub fn encode(from: NetworkBox, to: NetworkBox, preset: &Preset) -> [f32; 6] {
    let (a, t) = (from.to_array(), to.to_array());
    std::array::from_fn(|i| {
        let weight = single(preset.box_weights[i]);
        if i < 3 { weight * (t[i] - a[i]) / a[i + 3] } else { weight * (t[i] / a[i]).ln() }
    })
}

/// The box that deltas make of `from`: the inverse of [`encode`], its centre clamped to `0..=side - 1` of an input of
/// `shape` `(z, y, x)`; sides are not clamped.
#[must_use]
pub fn decode(from: NetworkBox, deltas: [f32; 6], shape: [usize; 3], preset: &Preset) -> NetworkBox {
    let a = from.to_array();
    NetworkBox::from_array(std::array::from_fn(|i| {
        let delta = deltas[i] / single(preset.box_weights[i]);
        if i < 3 {
            (a[i] + delta * a[i + 3]).clamp(0.0, shape[i].saturating_sub(1) as f32)
        } else {
            a[i] * delta.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand for an anchor 8 deep: dz = 10 * 2 / 8 = 2.5; dd = 5 ln(4 / 8) = -3.4657.
    #[test]
    fn deltas_move_an_anchor_onto_its_box_and_back() {
        let preset = Preset::reference();
        let anchor = NetworkBox::from_array([11.5, 19.5, 27.5, 8.0, 16.0, 20.0]);
        let to = [13.5, 17.0, 30.0, 4.0, 32.0, 21.0];
        let deltas = encode(anchor, NetworkBox::from_array(to), &preset);
        assert!((deltas[0] - 2.5).abs() < 1e-5 && (deltas[3] + 3.465_736).abs() < 1e-5, "{deltas:?}");
        let back = decode(anchor, deltas, [32, 48, 64], &preset).to_array();
        for (found, wanted) in back.iter().zip(to) {
            assert!((found - wanted).abs() < 1e-4, "{back:?}");
        }
    }

    /// 10 voxels per 10 of delta: z would be 21.5 of 16 slices, x -12.5.
    #[test]
    fn centres_stay_in_the_volume_and_sides_do_not() {
        let anchor = NetworkBox::from_array([11.5, 19.5, 7.5, 10.0, 16.0, 20.0]);
        let moved = decode(anchor, [10.0, 0.0, -10.0, 5.0, 0.0, 0.0], [16, 32, 48], &Preset::reference());
        assert_eq!((moved.z, moved.y, moved.x), (15.0, 19.5, 0.0));
        assert!((moved.d - 27.182_817).abs() < 1e-4, "{moved:?}");
    }
}
