//! Tumours and nodes: round, denser than fat, where no tissue of the atlas is.

use ndarray::Array3;
use rand::{Rng, RngExt};

use super::scanner::Scanner;
use super::substance::single;
use crate::settings::Synthetic;

/// Most masses in a patient.
const MOST: usize = 3;

/// Tissues that a mass may take the place of: air inside, fat, muscle, glands, vessel, nerve, mucosa.
const YIELDING: [u8; 8] = [1, 3, 5, 12, 13, 15, 18, 19];
/// Tissues in which one may begin.
const HOSTS: [u8; 3] = [5, 13, 19];

/// A patient's masses.
pub(super) struct Masses {
    all: Vec<Mass>,
}

struct Mass {
    /// Which voxel of a host tissue, as a part of their number.
    host: f64,
    radii_mm: [f32; 3],
    hu: f32,
    /// HU of the middle: necrosis.
    core_hu: f32,
}

impl Masses {
    /// Every second patient has one or more.
    pub(super) fn draw(varied: &Synthetic, rng: &mut impl Rng) -> Self {
        let n = if varied.disease && rng.random_range(0..2) == 0 { rng.random_range(1..=MOST) } else { 0 };
        Self { all: (0..n).map(|_| Mass::draw(rng)).collect() }
    }

    /// Puts them into soft tissue.
    pub(super) fn apply(&self, hu: &mut Array3<f32>, tissues: &Array3<u8>, scanner: &Scanner) {
        if self.all.is_empty() {
            return;
        }
        let hosts: Vec<(usize, usize, usize)> =
            tissues.indexed_iter().filter(|(_, tissue)| HOSTS.contains(tissue)).map(|(at, _)| at).collect();
        let step = scanner.spacing_mm.map(single);
        for mass in &self.all {
            let Some((z, y, x)) = hosts.get(part_of(mass.host, hosts.len())) else { return };
            let centre = [*z, *y, *x];
            let reach: [usize; 3] = std::array::from_fn(|a| whole(mass.radii_mm[a] / step[a]) + 1);
            let from: [usize; 3] = std::array::from_fn(|a| centre[a].saturating_sub(reach[a]));
            let to: [usize; 3] = std::array::from_fn(|a| (centre[a] + reach[a] + 1).min(scanner.shape[a]));
            for z in from[0]..to[0] {
                for y in from[1]..to[1] {
                    for x in from[2]..to[2] {
                        let far = (0..3)
                            .map(|a| {
                                let away = [z, y, x][a] as f32 - centre[a] as f32;
                                (away * step[a] / mass.radii_mm[a]).powi(2)
                            })
                            .sum::<f32>()
                            .sqrt();
                        if far < 1.0 && YIELDING.contains(&tissues[[z, y, x]]) {
                            let share = ((1.0 - far) * 4.0).min(1.0);
                            let own = if far < 0.5 { mass.core_hu } else { mass.hu };
                            hu[[z, y, x]] += share * (own - hu[[z, y, x]]);
                        }
                    }
                }
            }
        }
    }
}

impl Mass {
    fn draw(rng: &mut impl Rng) -> Self {
        let radius = rng.random_range(5.0_f32..=22.0);
        let hu = rng.random_range(20.0..=110.0);
        let is_necrotic = rng.random_range(0..3) == 0;
        Self {
            host: rng.random_range(0.0..1.0),
            radii_mm: std::array::from_fn(|_| radius * rng.random_range(0.7_f32..=1.4)),
            hu,
            core_hu: if is_necrotic { rng.random_range(0.0..=25.0) } else { hu },
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
fn part_of(part: f64, count: usize) -> usize {
    (part * count as f64) as usize
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few voxels")]
fn whole(voxels: f32) -> usize {
    voxels.max(0.0) as usize
}
