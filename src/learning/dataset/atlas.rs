//! Random patients from a label atlas: tissues with random HU, another build, another field of view.
//!
//! Source of the idea: Billot et al. 2023 (SynthSeg): a network that sees many unlikely images is not surprised by a real
//! one. All 28 organs of an atlas are annotated, so these patients teach what is not an organ.

use std::path::Path;

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Array4, Axis};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::augment::{nearest, normalised, rotation, single};
use super::nifti_volume::{grid_of, layout, parse_volume};
use super::{DatasetError, OrganSet, Sample};
use crate::vocabulary::organ::Organ;

/// Tissues that an atlas tells apart; 0 is the air outside.
pub const N_TISSUES: usize = 22;

/// A whole anatomy as labels and tissues on one grid, axes `(z, y, x)`.
#[derive(Debug, Clone)]
pub struct LabelAtlas {
    name: String,
    /// 1..=28 the organs by class, more is support tissue, 0 outside.
    labels: Array3<u8>,
    /// What each voxel is made of, 0..22.
    tissues: Array3<u8>,
    spacing_mm: [f64; 3],
    /// Mean and standard deviation of each tissue, HU.
    hu: [(f64, f64); N_TISSUES],
    /// Slices of each organ, first and last; `None` where the atlas lacks it.
    heights: [Option<(usize, usize)>; Organ::COUNT],
}

impl LabelAtlas {
    /// Reads `labels.nii.gz`, `tissue.nii.gz` and `tissues.csv` of a folder.
    ///
    /// # Errors
    /// [`DatasetError`] when a file is missing, broken, or holds other labels.
    pub fn read(folder: &Path) -> Result<Self, DatasetError> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| DatasetError::Read { path, source })
        };
        Self::parse(folder, &file("labels.nii.gz")?, &file("tissue.nii.gz")?, &file("tissues.csv")?)
    }

    /// The same from the bytes of the three files; `folder` is what messages call their place.
    ///
    /// # Errors
    /// As [`LabelAtlas::read`].
    pub fn parse(folder: &Path, labels: &[u8], tissue: &[u8], tissues: &[u8]) -> Result<Self, DatasetError> {
        let path = folder.join("labels.nii.gz");
        let (labels, header) = parse_volume(&path, labels)?;
        let spacing_mm = grid_of(&path, &header, labels.dim())?.spacing_mm();
        let tissue_path = folder.join("tissue.nii.gz");
        let (tissue, _) = parse_volume(&tissue_path, tissue)?;
        if labels.dim() != tissue.dim() {
            let (wanted, found) = (format!("{:?}", labels.dim()), format!("{:?}", tissue.dim()));
            return Err(layout(&tissue_path, &wanted, &found));
        }
        let hu = parse_tissues(&folder.join("tissues.csv"), &String::from_utf8_lossy(tissues))?;
        let labels = bytes(&path, &labels, 64)?;
        let tissues = bytes(&tissue_path, &tissue, N_TISSUES)?;
        let mut heights = [None; Organ::COUNT];
        for (z, plane) in labels.axis_iter(Axis(0)).enumerate() {
            for label in plane {
                if let Some(organ) = Organ::from_class(usize::from(*label)) {
                    let (first, _) = heights[organ.index()].unwrap_or((z, z));
                    heights[organ.index()] = Some((first, z));
                }
            }
        }
        let name = format!("atlas {}", folder.file_name().unwrap_or_default().to_string_lossy());
        Ok(Self { name, labels, tissues, spacing_mm, hu, heights })
    }

    /// Voxels on each axis, `(z, y, x)`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.labels.dim().into()
    }

    /// Spacing, mm, `(z, y, x)`.
    #[must_use]
    pub fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }

    /// The organ at the voxel nearest to a place `(z, y, x)` in voxels, and its tissue; air outside.
    #[must_use]
    pub fn at(&self, place: [f64; 3]) -> (Option<Organ>, usize) {
        match nearest(place, self.labels.dim()) {
            Some(voxel) => {
                (Organ::from_class(usize::from(self.labels[voxel])), usize::from(self.tissues[voxel]))
            }
            None => (None, 0),
        }
    }

    /// Mean and standard deviation of each tissue, HU.
    #[must_use]
    pub fn tissues_hu(&self) -> &[(f64, f64); N_TISSUES] {
        &self.hu
    }

    /// Draws a patient on a grid of `shape` voxels of `spacing_mm`, `(z, y, x)`.
    pub fn draw(&self, spacing_mm: [f64; 3], shape: [usize; 3], rng: &mut impl Rng) -> Sample {
        let body = Body::draw(self, rng);
        let hu = self.random_hu(rng);
        let scan = Scan::draw(shape, rng);
        let noise_seed = rng.next_u64();
        let middle = shape.map(|side| (side as f64 - 1.0) / 2.0);
        let mut image = Array3::from_elem(shape, -1.0_f32);
        let mut organs = Array3::<u32>::zeros(shape);
        image
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(organs.axis_iter_mut(Axis(0)))
            .enumerate()
            .filter(|(z, _)| scan.slices.contains(z))
            .for_each(|(z, (mut plane, mut labels))| {
                let mut own = Pcg64::seed_from_u64(noise_seed ^ z as u64);
                for ((y, x), value) in plane.indexed_iter_mut() {
                    let offset: [f64; 3] =
                        std::array::from_fn(|a| ([z, y, x][a] as f64 - middle[a]) * spacing_mm[a]);
                    let centre = body.atlas_voxel(offset, self.spacing_mm);
                    let Some(voxel) = nearest(centre, self.labels.dim()) else { continue };
                    let organ = Organ::from_class(usize::from(self.labels[voxel]));
                    labels[[y, x]] = organ.map_or(0, |organ| OrganSet::of(organ).bits());
                    let reach: [f64; 3] =
                        std::array::from_fn(|a| scan.blur * spacing_mm[a] / self.spacing_mm[a]);
                    let mean = self.mean_hu(centre, reach, &hu, &mut own);
                    if mean > -1000.0 {
                        // Three even draws together are nearly normal with a standard deviation of 1.
                        let noise: f64 = (0..3).map(|_| own.random_range(-1.0..=1.0)).sum();
                        *value = normalised(single((mean + noise * scan.noise_hu).clamp(-1024.0, 3071.0)));
                    }
                }
            });
        let mut sample = Sample { name: self.name.clone(), image, organs, annotated: OrganSet::ALL };
        if rng.random_range(0..2) == 1 {
            sample.image.invert_axis(Axis(2));
            sample.organs.invert_axis(Axis(2));
            sample.image = sample.image.as_standard_layout().into_owned();
            sample.organs = sample.organs.mapv(|bits| OrganSet::from_bits(bits).mirrored().bits());
            sample.organs = sample.organs.as_standard_layout().into_owned();
        }
        sample
    }

    /// HU of each tissue in this patient: soft tissues move by tens, air and bone by more.
    fn random_hu(&self, rng: &mut impl Rng) -> [f64; N_TISSUES] {
        let common = rng.random_range(-15.0..=15.0);
        std::array::from_fn(|tissue| {
            let (mean, deviation) = self.hu[tissue];
            let reach = (deviation * 0.8).clamp(12.0, 180.0);
            if tissue == 0 { -1024.0 } else { mean + common + rng.random_range(-reach..=reach) }
        })
    }

    /// Mean over points spread evenly through the voxel's footprint: partial volume and blur at once.
    fn mean_hu(&self, centre: [f64; 3], reach: [f64; 3], hu: &[f64; N_TISSUES], rng: &mut impl Rng) -> f64 {
        const N_POINTS: usize = 6;
        let mut sum = 0.0;
        for _ in 0..N_POINTS {
            let at = std::array::from_fn(|a| centre[a] + rng.random_range(-0.5..=0.5) * reach[a]);
            sum +=
                nearest(at, self.tissues.dim()).map_or(-1024.0, |voxel| hu[usize::from(self.tissues[voxel])]);
        }
        sum / N_POINTS as f64
    }
}

/// The patient's build: how a place in the image lies in the atlas.
struct Body {
    matrix: [[f64; 3]; 3],
    /// Atlas voxel under the middle of the image, `(z, y, x)`.
    centre: [f64; 3],
    /// Displacements in mm, axes (component, z, y, x), on knots [`KNOT_MM`] apart round the middle.
    knots: Array4<f64>,
}

/// Distance of the knots of the smooth deformation, mm, and their count per axis.
const KNOT_MM: f64 = 45.0;
const N_KNOTS: usize = 10;

impl Body {
    fn draw(atlas: &LabelAtlas, rng: &mut impl Rng) -> Self {
        let mut even = |reach: f64| rng.random_range(-reach..=reach);
        let angles = [even(10.0), even(6.0), even(10.0)];
        let common = 1.0 + even(0.1);
        let scale: [f64; 3] = std::array::from_fn(|_| common + even(0.06));
        let shift = [even(25.0), even(12.0), even(10.0)];
        let amplitude = even(4.0).abs() + 2.0;
        let knots = Array4::from_shape_simple_fn((3, N_KNOTS, N_KNOTS, N_KNOTS), || even(amplitude));
        let mut matrix = rotation(angles);
        for row in &mut matrix {
            (0..3).for_each(|axis| row[axis] *= scale[axis]);
        }
        let (d, h, w) = atlas.labels.dim();
        let mut centre = [d, h, w].map(|side| (side as f64 - 1.0) / 2.0);
        let there: Vec<(usize, usize)> = atlas.heights.iter().flatten().copied().collect();
        if !there.is_empty() {
            let (first, last) = there[rng.random_range(0..there.len())];
            centre[0] = rng.random_range(first..=last) as f64;
        }
        (0..3).for_each(|axis| centre[axis] += shift[axis] / atlas.spacing_mm[axis]);
        Self { matrix, centre, knots }
    }

    fn atlas_voxel(&self, offset_mm: [f64; 3], spacing_mm: [f64; 3]) -> [f64; 3] {
        let displaced = self.displacement(offset_mm);
        std::array::from_fn(|a| {
            let mm: f64 = (0..3).map(|b| self.matrix[a][b] * (offset_mm[b] + displaced[b])).sum();
            self.centre[a] + mm / spacing_mm[a]
        })
    }

    /// Linear between the eight knots around.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the knots first")]
    fn displacement(&self, offset_mm: [f64; 3]) -> [f64; 3] {
        let last = (N_KNOTS - 1) as f64;
        let at = offset_mm.map(|mm| (mm / KNOT_MM + last / 2.0).clamp(0.0, last - 1e-6));
        let low = at.map(|v| v.floor() as usize);
        let share: [f64; 3] = std::array::from_fn(|a| at[a] - low[a] as f64);
        let mut sum = [0.0; 3];
        for corner in 0..8_usize {
            let up: [usize; 3] = std::array::from_fn(|a| corner >> a & 1);
            let weight: f64 = (0..3).map(|a| if up[a] == 1 { share[a] } else { 1.0 - share[a] }).product();
            for (component, total) in sum.iter_mut().enumerate() {
                *total += weight * self.knots[[component, low[0] + up[0], low[1] + up[1], low[2] + up[2]]];
            }
        }
        sum
    }
}

/// How the patient was scanned.
struct Scan {
    /// Slices that have CT; the others stay air without organs.
    slices: std::ops::Range<usize>,
    /// Side of the footprint that a voxel averages over, in voxels.
    blur: f64,
    /// Standard deviation of white noise.
    noise_hu: f64,
}

impl Scan {
    fn draw(shape: [usize; 3], rng: &mut impl Rng) -> Self {
        let mut cut = || if rng.random_range(0..2) == 1 { rng.random_range(0..=shape[0] / 4) } else { 0 };
        let (below, above) = (cut(), cut());
        Self {
            slices: below..shape[0] - above,
            blur: rng.random_range(0.6..=2.2),
            noise_hu: rng.random_range(0.0..=25.0),
        }
    }
}

/// The volume as bytes, each below `count`.
fn bytes(path: &Path, volume: &Array3<i16>, count: usize) -> Result<Array3<u8>, DatasetError> {
    let small = |value: &i16| u8::try_from(*value).ok().filter(|v| usize::from(*v) < count);
    if let Some(found) = volume.iter().find(|value| small(value).is_none()) {
        return Err(layout(path, &format!("values 0..{count}"), &found.to_string()));
    }
    Ok(volume.map(|value| small(value).unwrap_or_default()))
}

/// Mean and standard deviation by tissue number; a name in quotes may hold commas, so fields count from the end.
fn parse_tissues(path: &Path, text: &str) -> Result<[(f64, f64); N_TISSUES], DatasetError> {
    let mut hu = [None; N_TISSUES];
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let tissue = line.split(',').next().and_then(|field| field.parse::<usize>().ok());
        let mut from_end =
            line.rsplit(',').skip(1).map(|field| field.parse::<f64>().ok().filter(|v| v.is_finite()));
        let (deviation, mean) = (from_end.next().flatten(), from_end.next().flatten());
        let place = tissue.and_then(|tissue| hu.get_mut(tissue));
        match (place, mean.zip(deviation)) {
            (Some(place), Some(values)) => *place = Some(values),
            _ => return Err(layout(path, "tissue,name,hu_mean,hu_sd,volume", line)),
        }
    }
    let all: Option<Vec<(f64, f64)>> = hu.into_iter().collect();
    let all = all.and_then(|all| <[(f64, f64); N_TISSUES]>::try_from(all).ok());
    all.ok_or_else(|| layout(path, "tissues 0 to 21", &format!("{} lines", text.lines().count())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A brick of muscle with a left parotid towards x high, which is the patient's left.
    fn atlas() -> LabelAtlas {
        let mut labels = Array3::<u8>::zeros((60, 80, 120));
        let mut tissues = Array3::<u8>::zeros((60, 80, 120));
        labels.slice_mut(ndarray::s![.., 10..70, 10..110]).fill(31);
        tissues.slice_mut(ndarray::s![.., 10..70, 10..110]).fill(5);
        labels.slice_mut(ndarray::s![20..40, 30..50, 80..100]).fill(17);
        let mut hu = [(0.0, 10.0); N_TISSUES];
        hu[0] = (-1000.0, 8.0);
        let mut heights = [None; Organ::COUNT];
        heights[Organ::ParotidL.index()] = Some((20, 39));
        LabelAtlas { name: "brick".into(), labels, tissues, spacing_mm: [1.0; 3], hu, heights }
    }

    /// Whatever is drawn, the organ on the high-x side is called left, and tissue is far from air.
    #[test]
    fn drawn_patients_keep_sides_and_values() {
        let atlas = atlas();
        let mut mirrored = 0;
        for seed in 0..12 {
            let mut rng = Pcg64::seed_from_u64(seed);
            let sample = atlas.draw([3.0, 2.5, 2.5], [32, 48, 64], &mut rng);
            assert!(sample.image.iter().all(|v| (-1.0..=1.0).contains(v)));
            for organ in OrganSet::from_bits(sample.organs.iter().fold(0, |bits, v| bits | v)).iter() {
                let bit = OrganSet::of(organ).bits();
                let of_organ: Vec<f64> = sample
                    .organs
                    .indexed_iter()
                    .filter(|(_, v)| **v == bit)
                    .map(|((_, _, x), _)| x as f64)
                    .collect();
                let of_body: Vec<f64> = sample
                    .image
                    .indexed_iter()
                    .filter(|(_, v)| **v > -0.9)
                    .map(|((_, _, x), _)| x as f64)
                    .collect();
                let mean = |xs: &[f64]| xs.iter().sum::<f64>() / xs.len() as f64;
                let left = mean(&of_organ) > mean(&of_body);
                assert_eq!(organ, if left { Organ::ParotidL } else { Organ::ParotidR }, "seed {seed}");
                mirrored += u32::from(organ == Organ::ParotidR);
            }
        }
        assert!((1..12).contains(&mirrored), "{mirrored} of 12 were mirrored");
    }

    #[test]
    fn the_same_seed_gives_the_same_patient() {
        let draw = |seed| atlas().draw([3.0, 2.5, 2.5], [16, 32, 48], &mut Pcg64::seed_from_u64(seed));
        assert_eq!(draw(4), draw(4));
        assert_ne!(draw(4).image, draw(5).image);
    }

    #[test]
    fn tissues_are_read_from_the_end_of_the_line() {
        let path = Path::new("tissues.csv");
        let mut text = "tissue,name,hu_mean,hu_sd,volume_cm3\n".to_owned();
        (0..22).for_each(|t| text.push_str(&format!("{t},\"a, b\",{},{},7.5\n", 100 + t, t)));
        let hu = parse_tissues(path, &text).unwrap();
        assert!((hu[21].0 - 121.0).abs() < 1e-9 && (hu[21].1 - 21.0).abs() < 1e-9);
        let broken = text.replace("121,21", "121,much");
        assert!(matches!(parse_tissues(path, &broken), Err(DatasetError::Layout { .. })));
    }
}
