//! What bends a patient: plane waves through the volume, and smooth noise within planes.

use ndarray::Array3;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::AugmentSettings;

/// How many waves bend a patient.
const WAVES: usize = 3;

/// The axes `(z = 0, y = 1, x = 2)` of axial, sagittal and coronal planes.
const AXIAL: [usize; 2] = [1, 2];
const OTHERS: [[usize; 2]; 2] = [[0, 2], [0, 1]];

/// Probability of noise within sagittal, and of noise within coronal planes. Source: Tang et al. 2019, its implementation.
const OTHER_PLANE: f64 = 0.5;

/// Cosines that together make one component of the noise: enough to be nearly normal.
const COSINES: usize = 24;

/// All that moves points before the patient is turned; zero displacement where it is empty.
pub(super) struct Bend {
    waves: Vec<Wave>,
    noises: Vec<PlaneNoise>,
}

impl Bend {
    /// Straight.
    pub(super) const NONE: Self = Self { waves: Vec::new(), noises: Vec::new() };

    pub(super) fn draw(settings: &AugmentSettings, rng: &mut impl Rng) -> Self {
        let n_waves = if settings.elastic_mm > 0.0 { WAVES } else { 0 };
        let waves = (0..n_waves).map(|_| Wave::draw(settings.elastic_mm, rng)).collect();
        let mut planes = Vec::new();
        if settings.plane_elastic_mm > 0.0 {
            planes.push(AXIAL);
            planes.extend(OTHERS.into_iter().filter(|_| rng.random_range(0.0..1.0) < OTHER_PLANE));
        }
        let (mm, smoothness) = (settings.plane_elastic_mm, settings.plane_elastic_smoothness_mm);
        let noises = planes.into_iter().map(|axes| PlaneNoise::draw(axes, mm, smoothness, rng)).collect();
        Self { waves, noises }
    }

    /// Ready for the voxels of a grid of `spacing_mm` and `shape`, `(z, y, x)`, round its centre.
    pub(super) fn on_grid(&self, spacing_mm: [f64; 3], shape: [usize; 3]) -> BendOnGrid<'_> {
        let noises = self.noises.iter().map(|noise| (noise.axes, noise.on_grid(spacing_mm, shape)));
        BendOnGrid { waves: &self.waves, noises: noises.collect() }
    }
}

/// A [`Bend`] with its noise sampled.
pub(super) struct BendOnGrid<'a> {
    waves: &'a [Wave],
    /// Axes of a plane, and displacements along them, mm, axes (component, first, second).
    noises: Vec<([usize; 2], Array3<f64>)>,
}

impl BendOnGrid<'_> {
    /// Where the point of a voxel, `offset` mm from the grid's centre, goes. All `(z, y, x)`.
    pub(super) fn moved(&self, offset: [f64; 3], voxel: [usize; 3]) -> [f64; 3] {
        let mut to = self.waves.iter().fold(offset, |bent, wave| {
            let height = wave.height(offset);
            std::array::from_fn(|axis| bent[axis] + height * wave.reach_mm[axis])
        });
        for ([first, second], noise) in &self.noises {
            to[*first] += noise[[0, voxel[*first], voxel[*second]]];
            to[*second] += noise[[1, voxel[*first], voxel[*second]]];
        }
        to
    }
}

/// A plane wave that moves points; gentle enough that no two points meet: 20 mm over 80 mm would be the limit.
struct Wave {
    /// Direction over wavelength, times 2 pi, `(z, y, x)`, 1/mm.
    number: [f64; 3],
    phase: f64,
    /// How far a crest moves a point, `(z, y, x)`, mm.
    reach_mm: [f64; 3],
}

impl Wave {
    fn draw(longest_mm: f64, rng: &mut impl Rng) -> Self {
        let mut direction = || -> [f64; 3] {
            let drawn: [f64; 3] = std::array::from_fn(|_| rng.random_range(-1.0..=1.0));
            let length = drawn.iter().map(|d| d * d).sum::<f64>().sqrt().max(1e-3);
            drawn.map(|d| d / length)
        };
        let (along, towards) = (direction(), direction());
        let full_turn = 2.0 * std::f64::consts::PI;
        let number = full_turn / rng.random_range(80.0..=240.0);
        let reach = rng.random_range(0.0..=1.0) * longest_mm;
        Self {
            number: along.map(|d| d * number),
            phase: rng.random_range(0.0..full_turn),
            reach_mm: towards.map(|d| d * reach),
        }
    }

    /// -1 to 1 at a point `(z, y, x)`, mm.
    fn height(&self, at: [f64; 3]) -> f64 {
        ((0..3).map(|axis| self.number[axis] * at[axis]).sum::<f64>() + self.phase).sin()
    }
}

/// White noise smoothed by a Gaussian, within a plane and the same along the axis across it.
///
/// Its spectrum is the square of the Gaussian's, so it is a sum of cosines whose wave numbers are normal with standard
/// deviation `1 / (sqrt(2) smoothness)`. Source of the augmentation: Tang et al. 2019, its implementation (noise smoothed
/// with sigma 30 voxels); of the sum: Rahimi and Recht 2007.
struct PlaneNoise {
    axes: [usize; 2],
    /// Of each component: wave numbers along both axes (1/mm) and phase.
    cosines: [[([f64; 2], f64); COSINES]; 2],
    amplitude_mm: f64,
}

impl PlaneNoise {
    fn draw(axes: [usize; 2], deviation_mm: f64, smoothness_mm: f64, rng: &mut impl Rng) -> Self {
        let spread = 1.0 / (std::f64::consts::SQRT_2 * smoothness_mm);
        let mut normal = || rng.sample::<f64, _>(StandardNormal);
        let numbers: [[[f64; 2]; COSINES]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| [spread * normal(), spread * normal()]));
        let full_turn = 2.0 * std::f64::consts::PI;
        let cosines = numbers.map(|all| all.map(|number| (number, rng.random_range(0.0..full_turn))));
        Self { axes, cosines, amplitude_mm: deviation_mm * (2.0 / COSINES as f64).sqrt() }
    }

    fn on_grid(&self, spacing_mm: [f64; 3], shape: [usize; 3]) -> Array3<f64> {
        let sides = self.axes.map(|axis| shape[axis]);
        Array3::from_shape_fn((2, sides[0], sides[1]), |(component, a, b)| {
            let at: [f64; 2] = std::array::from_fn(|i| {
                ([a, b][i] as f64 - (sides[i] as f64 - 1.0) / 2.0) * spacing_mm[self.axes[i]]
            });
            let sum: f64 = self.cosines[component]
                .iter()
                .map(|(number, phase)| (number[0] * at[0] + number[1] * at[1] + phase).cos())
                .sum();
            self.amplitude_mm * sum
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    /// Three waves of up to 2 mm move no point by more than 6 mm, and move it.
    #[test]
    fn waves_bend_a_patient_by_no_more_than_their_length() {
        let settings = AugmentSettings { elastic_mm: 2.0, ..AugmentSettings::NONE };
        let distance = |seed| {
            let bend = Bend::draw(&settings, &mut Pcg64::seed_from_u64(seed));
            let at = [9.0, -20.0, 35.0];
            let to = bend.on_grid([3.0, 1.0, 2.0], [5, 7, 11]).moved(at, [2, 3, 5]);
            (0..3).map(|axis| (to[axis] - at[axis]).powi(2)).sum::<f64>().sqrt()
        };
        let all: Vec<f64> = (0..20).map(distance).collect();
        assert!(all.iter().all(|mm| *mm <= 6.0) && all.iter().any(|mm| *mm > 0.5), "{all:?}");
    }

    /// Over many draws the displacement has the standard deviation asked for, and at a distance of twice the smoothness
    /// the correlation of smoothed white noise: `exp(-d^2 / (4 s^2))`, which is 0.368.
    #[test]
    fn the_noise_has_the_spread_and_reach_of_smoothed_white_noise() {
        let (mut square, mut product, mut n) = (0.0, 0.0, 0.0);
        for seed in 0..600 {
            let noise = PlaneNoise::draw(AXIAL, 5.0, 20.0, &mut Pcg64::seed_from_u64(seed));
            // 40 mm apart along x: 16 voxels of 2.5 mm.
            let field = noise.on_grid([3.0, 2.0, 2.5], [4, 9, 30]);
            for component in 0..2 {
                square += field[[component, 4, 3]].powi(2);
                product += field[[component, 4, 3]] * field[[component, 4, 19]];
                n += 1.0;
            }
        }
        let (deviation, correlation) = (f64::sqrt(square / n), product / square);
        assert!((deviation - 5.0).abs() < 0.4, "{deviation}");
        assert!((correlation - (-1.0_f64).exp()).abs() < 0.08, "{correlation}");
    }

    /// Axial noise is always there, the others in about half of the draws; each moves points within its own plane only.
    #[test]
    fn noise_stays_within_its_plane() {
        let settings = AugmentSettings {
            plane_elastic_mm: 5.0,
            plane_elastic_smoothness_mm: 20.0,
            ..AugmentSettings::NONE
        };
        let mut counts = [0; 3];
        for seed in 0..100 {
            let bend = Bend::draw(&settings, &mut Pcg64::seed_from_u64(seed));
            for noise in &bend.noises {
                counts[3 - noise.axes[0] - noise.axes[1]] += 1;
            }
            let [only] = bend.noises.as_slice() else { continue };
            assert_eq!(only.axes, AXIAL);
            let to = bend.on_grid([3.0, 2.0, 2.5], [4, 9, 30]).moved([1.0, 2.0, 3.0], [1, 5, 20]);
            assert!((to[0] - 1.0).abs() < 1e-12 && (to[1] - 2.0).abs() > 1e-9 && (to[2] - 3.0).abs() > 1e-9);
        }
        assert_eq!(counts[0], 100);
        assert!(counts[1..].iter().all(|n| (30..=70).contains(n)), "{counts:?}");
    }
}
