//! A random patient of one anatomy: another build, another pose, other tissues.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::{Phantom, StructureName};
use crate::learning::dataset::{LabelAtlas, N_TISSUES};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::PatientPoint;

/// Waves of the smooth deformation.
const N_WAVES: usize = 4;

/// One patient: where each point lies in the anatomy, and the HU of each tissue.
///
/// The middle of the anatomy lies at the origin of the patient's frame. An organ is where the nearest voxel of the
/// anatomy is labelled so: the truth is exact, with the anatomy's own steps.
#[derive(Debug, Clone)]
pub struct Patient {
    anatomy: LabelAtlas,
    /// Parts of the anatomy per part of the patient `(z, y, x)`.
    scale: [f64; 3],
    /// Sine and cosine of the nod about the left-right axis.
    nod: (f64, f64),
    waves: [Wave; N_WAVES],
    hu: [f64; N_TISSUES],
}

/// A displacement along one axis that varies along another.
#[derive(Debug, Clone)]
struct Wave {
    moved: usize,
    along: usize,
    /// The displacement every [`KNOT_MM`] from -[`REACH_MM`] on, mm; straight between, level beyond.
    knots_mm: Vec<f64>,
}

/// So near that the straight lines between leave a wave by less than a thousandth of a millimetre.
const KNOT_MM: f64 = 0.5;
const REACH_MM: f64 = 600.0;

impl Wave {
    fn new(moved: usize, along: usize, mm_at: impl Fn(f64) -> f64) -> Self {
        let mut knots_mm = Vec::new();
        let mut at = -REACH_MM;
        while at <= REACH_MM {
            knots_mm.push(mm_at(at));
            at += KNOT_MM;
        }
        Self { moved, along, knots_mm }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the knots first")]
    fn displacement_mm(&self, at_mm: f64) -> f64 {
        let last = (self.knots_mm.len() - 1) as f64;
        let at = ((at_mm + REACH_MM) / KNOT_MM).clamp(0.0, last - 1e-6);
        let (low, share) = (at.floor() as usize, at - at.floor());
        self.knots_mm[low] * (1.0 - share) + self.knots_mm[low + 1] * share
    }
}

impl Patient {
    /// Draws a patient; the same seed gives the same one.
    #[must_use]
    pub fn draw(anatomy: LabelAtlas, seed: u64) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut even = |reach: f64| rng.random_range(-reach..=reach);
        let common = 1.0 + even(0.06);
        let scale = std::array::from_fn(|_| common + even(0.03));
        let nod = even(5.0_f64).to_radians().sin_cos();
        let waves = std::array::from_fn(|n| {
            let (amplitude_mm, length_mm) = (even(3.0), 160.0 + even(50.0));
            let phase = even(std::f64::consts::PI);
            let mm_at = |mm: f64| amplitude_mm * (mm / length_mm * std::f64::consts::TAU + phase).sin();
            Wave::new(n % 3, (n + 1) % 3, mm_at)
        });
        let table = *anatomy.tissues_hu();
        let shift = even(8.0);
        let hu = std::array::from_fn(|tissue| {
            let (mean, deviation) = table[tissue];
            if tissue == 0 { -1000.0 } else { mean + shift + even((deviation * 0.4).clamp(4.0, 80.0)) }
        });
        Self { anatomy, scale, nod, waves, hu }
    }

    /// Voxel of the anatomy `(z, y, x)` at a point.
    fn anatomy_voxel(&self, point: PatientPoint) -> [f64; 3] {
        let mm = [point.z, point.y, point.x];
        let mut moved = mm;
        for wave in &self.waves {
            moved[wave.moved] += wave.displacement_mm(mm[wave.along]);
        }
        let (sin, cos) = self.nod;
        let turned = [cos * moved[0] - sin * moved[1], sin * moved[0] + cos * moved[1], moved[2]];
        let (shape, spacing_mm) = (self.anatomy.shape(), self.anatomy.spacing_mm());
        std::array::from_fn(|axis| {
            (shape[axis] as f64 - 1.0) / 2.0 + turned[axis] * self.scale[axis] / spacing_mm[axis]
        })
    }
}

impl Phantom for Patient {
    fn structures(&self) -> Vec<StructureName> {
        let name = |organ: Organ| StructureName { name: organ.paper_name().to_owned(), organ: Some(organ) };
        Organ::ALL.into_iter().map(name).collect()
    }

    fn structures_at(&self, point: PatientPoint) -> u32 {
        self.anatomy.at(self.anatomy_voxel(point)).0.map_or(0, |organ| 1 << organ.index())
    }

    fn hu_at(&self, point: PatientPoint) -> f64 {
        self.hu[self.anatomy.at(self.anatomy_voxel(point)).1]
    }

    fn footprint(&self) -> &'static [[f64; 3]] {
        // Wider than a voxel: a scanner's kernel.
        const Q: f64 = 0.7;
        &[[0.0, -Q, 0.0], [0.0, Q, 0.0], [0.0, 0.0, -Q], [0.0, 0.0, Q], [-0.4, 0.1, 0.1], [0.4, -0.1, -0.1]]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ScanGeometry, scan, shipped_anatomy};
    use super::*;

    #[test]
    fn the_shipped_anatomy_has_all_organs_on_their_sides_in_every_patient() {
        let geometry = ScanGeometry {
            shape: [110, 130, 130],
            spacing_mm: [3.0, 2.4, 2.4],
            centre: PatientPoint::lps_mm(0.0, 0.0, 0.0),
            position: "HFS".parse().unwrap(),
            turned_deg: [0.0; 2],
            tilt_deg: 0.0,
        };
        for seed in [3, 8] {
            let scan = scan(&Patient::draw(shipped_anatomy().unwrap(), seed), &geometry, 10.0, seed).unwrap();
            assert_eq!(scan.truth.len(), Organ::COUNT);
            let middle_x = |organ: Organ| {
                let mask = &scan.truth[organ.index()].1;
                let voxels = mask.voxels.indexed_iter().filter(|(_, inside)| **inside);
                let xs: Vec<f64> = voxels.map(|((_, _, x), _)| (x + mask.region.start[2]) as f64).collect();
                xs.iter().sum::<f64>() / xs.len() as f64
            };
            for (name, mask) in &scan.truth {
                assert!(mask.n_voxels() > 0, "{} is missing", name.name);
            }
            assert!(middle_x(Organ::ParotidL) > middle_x(Organ::ParotidR) + 20.0);
            assert!(middle_x(Organ::EyeL) > middle_x(Organ::EyeR) + 10.0);
        }
    }

    #[test]
    fn a_seed_is_a_patient() {
        let point = PatientPoint::lps_mm(21.0, -13.0, 40.0);
        let place = |seed| Patient::draw(shipped_anatomy().unwrap(), seed).anatomy_voxel(point);
        assert_eq!(place(5), place(5));
        assert_ne!(place(5), place(6));
    }
}
