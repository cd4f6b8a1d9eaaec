//! How far a place in an atlas is from the skin.

use ndarray::Array3;

use super::LabelAtlas;

/// Distance of the nodes, mm.
const STEP_MM: f64 = 4.0;
/// Nodes beyond the atlas on each side: as far as fat can grow.
const PAD: usize = 7;

/// Signed distance to the skin on coarse nodes, mm: negative inside. Where the atlas ends inside the body, the body goes on.
#[derive(Debug, Clone)]
pub(super) struct Skin {
    distance: Array3<f32>,
}

impl Skin {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nodes of a volume in memory"
    )]
    pub(super) fn of(atlas: &LabelAtlas) -> Self {
        let sides: [usize; 3] = atlas.tissues.dim().into();
        let nodes: [usize; 3] = std::array::from_fn(|a| {
            (sides[a] as f64 * atlas.spacing_mm[a] / STEP_MM).ceil() as usize + 1 + 2 * PAD
        });
        let voxel = |axis: usize, node: usize| {
            let place = (node as f64 - PAD as f64) * STEP_MM / atlas.spacing_mm[axis];
            place.round().clamp(0.0, sides[axis] as f64 - 1.0) as usize
        };
        let inside = Array3::from_shape_fn(nodes, |(z, y, x)| {
            atlas.tissues[[voxel(0, z), voxel(1, y), voxel(2, x)]] != 0
        });
        let half = single(STEP_MM / 2.0);
        let out = chamfer(&inside, true);
        let mut distance = chamfer(&inside, false);
        distance.zip_mut_with(&out, |within, out| {
            *within = if *out > 0.0 { *out - half } else { half - *within }
        });
        Self { distance: smoothed(&distance) }
    }

    /// Distance at a place of the atlas, mm from its first voxel, and the way out (a unit vector, or zero deep inside).
    pub(super) fn at(&self, place: [f64; 3]) -> (f64, [f64; 3]) {
        let here = self.value(place);
        let slope: [f64; 3] = std::array::from_fn(|axis| {
            let (mut up, mut down) = (place, place);
            up[axis] += STEP_MM;
            down[axis] -= STEP_MM;
            self.value(up) - self.value(down)
        });
        let length = slope.iter().map(|s| s * s).sum::<f64>().sqrt();
        (here, slope.map(|s| if length > 1e-3 { s / length } else { 0.0 }))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the nodes first")]
    fn value(&self, place: [f64; 3]) -> f64 {
        let sides: [usize; 3] = self.distance.dim().into();
        let at: [f64; 3] = std::array::from_fn(|a| {
            (place[a] / STEP_MM + PAD as f64).clamp(0.0, (sides[a] - 1) as f64 - 1e-6)
        });
        let low = at.map(|v| v as usize);
        let share: [f64; 3] = std::array::from_fn(|a| at[a] - low[a] as f64);
        let d = |z: usize, y: usize, x: usize| f64::from(self.distance[[low[0] + z, low[1] + y, low[2] + x]]);
        let row = |z, y| d(z, y, 0) + share[2] * (d(z, y, 1) - d(z, y, 0));
        let plane = |z| row(z, 0) + share[1] * (row(z, 1) - row(z, 0));
        plane(0) + share[0] * (plane(1) - plane(0))
    }
}

/// Distance of every node to the nearest one whose flag is `towards`, mm, over the 26 neighbours in two sweeps.
fn chamfer(flags: &Array3<bool>, towards: bool) -> Array3<f32> {
    let sides: [usize; 3] = flags.dim().into();
    let mut distance = flags.mapv(|flag| if flag == towards { 0.0 } else { 1e4_f32 });
    let step = single(STEP_MM);
    // The 13 neighbours that a sweep has already passed.
    let passed: Vec<([isize; 3], f32)> = (0..27_isize)
        .map(|n| [n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1])
        .take(13)
        .map(|d| (d, step * single((d.iter().map(|v| v * v).sum::<isize>() as f64).sqrt())))
        .collect();
    for backwards in [false, true] {
        let sign = if backwards { -1 } else { 1 };
        let order = |axis: usize, n: usize| if backwards { sides[axis] - 1 - n } else { n };
        for k in 0..sides[0] {
            for j in 0..sides[1] {
                for i in 0..sides[2] {
                    let here = [order(0, k), order(1, j), order(2, i)];
                    let mut best = distance[here];
                    for (way, length) in &passed {
                        let there: [usize; 3] =
                            std::array::from_fn(|a| here[a].wrapping_add_signed(way[a] * sign));
                        if let Some(other) = distance.get(there) {
                            best = best.min(other + length);
                        }
                    }
                    distance[here] = best;
                }
            }
        }
    }
    distance
}

/// Mean over three nodes along each axis.
fn smoothed(values: &Array3<f32>) -> Array3<f32> {
    let mut smooth = values.clone();
    for axis in 0..3 {
        let before = smooth.clone();
        let last = before.dim();
        let last = [last.0, last.1, last.2][axis] - 1;
        for (mut at, value) in smooth.indexed_iter_mut().map(|((z, y, x), value)| ([z, y, x], value)) {
            let middle = at[axis];
            at[axis] = middle.saturating_sub(1);
            let below = before[at];
            at[axis] = (middle + 1).min(last);
            *value = (below + *value + before[at]) / 3.0;
        }
    }
    smooth
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
fn single(value: f64) -> f32 {
    value as f32
}
