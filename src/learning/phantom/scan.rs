//! From a phantom to voxels.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Axis};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64;

use super::{PhantomError, ScanGeometry};
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{PatientPoint, RegionMask};

/// What a structure of a phantom is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureName {
    /// Its name.
    pub name: String,
    /// Our organ, where it is one.
    pub organ: Option<Organ>,
}

/// Something of exactly known shape.
pub trait Phantom: Sync {
    /// Its structures; the n-th is bit n of [`Phantom::structures_at`]. At most 32.
    fn structures(&self) -> Vec<StructureName>;

    /// The set of structures at a point.
    fn structures_at(&self, point: PatientPoint) -> u32;

    /// HU at a point, without noise.
    fn hu_at(&self, point: PatientPoint) -> f64;

    /// Points over which a voxel's HU is the mean, as parts of the voxel `(z, y, x)` from its centre: partial volume.
    fn footprint(&self) -> &'static [[f64; 3]];
}

/// A phantom as a scanner would see it, and the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Where the voxels lie.
    pub geometry: ScanGeometry,
    /// Hounsfield units, -1024..=3071, axes `(z, y, x)`.
    pub hu: Array3<i16>,
    /// Every structure with the voxels whose centre lies in it.
    pub truth: Vec<(StructureName, RegionMask)>,
}

/// Scans a phantom with white noise of this standard deviation. The same seed gives the same noise on any machine.
///
/// # Errors
/// [`PhantomError::Geometry`] for numbers that make no scan.
pub fn scan(
    phantom: &impl Phantom,
    geometry: &ScanGeometry,
    noise_hu: f64,
    seed: u64,
) -> Result<Scan, PhantomError> {
    geometry.check()?;
    let noise = Normal::new(0.0, noise_hu).map_err(|_error| PhantomError::Geometry {
        what: "the noise in HU",
        found: noise_hu.to_string(),
        wanted: "a positive number",
    })?;
    let mut hu = Array3::<i16>::zeros(geometry.shape);
    let mut structures = Array3::<u32>::zeros(geometry.shape);
    let footprint = phantom.footprint();
    let (first, [down_stack, down, across]) = geometry.steps();
    let place = |[z, y, x]: [f64; 3]| first + down_stack * z + down * y + across * x;
    hu.axis_iter_mut(Axis(0)).into_par_iter().zip(structures.axis_iter_mut(Axis(0))).enumerate().for_each(
        |(z, (mut hu, mut structures))| {
            let mut rng = Pcg64::seed_from_u64(seed ^ (z as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            for ((y, x), value) in hu.indexed_iter_mut() {
                let centre = [z as f64, y as f64, x as f64];
                structures[[y, x]] = phantom.structures_at(place(centre));
                let at = |part: &[f64; 3]| std::array::from_fn(|axis| centre[axis] + part[axis]);
                let sum: f64 = footprint.iter().map(|part| phantom.hu_at(place(at(part)))).sum();
                *value = whole_hu(sum / footprint.len() as f64 + noise.sample(&mut rng));
            }
        },
    );
    let truth = phantom.structures().into_iter().enumerate().map(|(bit, name)| {
        let whole = structures.mapv(|set| set >> bit & 1 == 1);
        (name, RegionMask::from_whole(whole.view()))
    });
    Ok(Scan { geometry: geometry.clone(), hu, truth: truth.collect() })
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to 12 bits")]
fn whole_hu(hu: f64) -> i16 {
    hu.clamp(-1024.0, 3071.0).round() as i16
}
