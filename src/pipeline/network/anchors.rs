//! The boxes that proposals start from.

use super::network_box::NetworkBox;
use super::single;
use crate::engine::graph::Preset;
use crate::engine::graph::preset::{COARSE_STRIDE, N_ANCHORS};

/// Centre of the first position of the coarse map, in voxels: the middle of its eight.
const FIRST_CENTRE: f32 = 3.5;

/// All anchors of an input of `shape` `(z, y, x)`: positions z, y, x outermost, the 12 anchors of a preset innermost.
/// Centres lie at `3.5 + 8 i` voxels. Source: Tang et al. 2019, Methods.
#[must_use]
pub fn anchors(preset: &Preset, shape: [usize; 3]) -> Vec<NetworkBox> {
    let [nz, ny, nx] = shape.map(|side| side / COARSE_STRIDE);
    let sides = preset.anchors.map(|sides| sides.map(single));
    let centre = |position: usize| FIRST_CENTRE + (COARSE_STRIDE * position) as f32;
    let mut all = Vec::with_capacity(nz * ny * nx * N_ANCHORS);
    for z in 0..nz {
        for y in 0..ny {
            for x in 0..nx {
                let at =
                    |[d, h, w]: [f32; 3]| NetworkBox { z: centre(z), y: centre(y), x: centre(x), d, h, w };
                all.extend(sides.map(at));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_run_innermost_then_x_then_y_then_z() {
        let all = anchors(&Preset::reference(), [16, 32, 48]);
        assert_eq!(all.len(), 2 * 4 * 6 * 12);
        // Anchor 1: base 7 with aspect (1, 2.5, 5).
        assert_eq!(all[1].to_array(), [3.5, 3.5, 3.5, 7.0, 17.5, 35.0]);
        assert_eq!(all[12].to_array(), [3.5, 3.5, 11.5, 7.0, 17.5, 17.5]);
        assert_eq!(all[6 * 12].to_array()[..3], [3.5, 11.5, 3.5]);
        assert_eq!(all[4 * 6 * 12].to_array()[..3], [11.5, 3.5, 3.5]);
    }
}
