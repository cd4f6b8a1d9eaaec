//! Random patients from a label atlas: tissues with random HU, another build, another field of view.
//!
//! Source of the idea: Billot et al. 2023 (SynthSeg): a network that sees many unlikely images is not surprised by a real
//! one. All 28 organs of an atlas are annotated, so these patients teach what is not an organ.

mod build;
mod draw;
mod field;
mod landmarks;
mod masses;
mod metal;
mod organ_sizes;
mod organs;
mod outside;
mod pose;
mod repair;
mod scanner;
mod skin;
mod substance;

use std::path::Path;
use std::sync::OnceLock;

use landmarks::Landmarks;
use ndarray::{Array3, Axis};
use repair::repair;

use super::DatasetError;
use super::augment::nearest;
use super::nifti_volume::{grid_of, layout, parse_volume};
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
    landmarks: OnceLock<Landmarks>,
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
        let mut labels = bytes(&path, &labels, 64)?;
        let mut tissues = bytes(&tissue_path, &tissue, N_TISSUES)?;
        repair(&mut labels, &mut tissues, spacing_mm);
        let name = format!("atlas {}", folder.file_name().unwrap_or_default().to_string_lossy());
        Ok(Self { name, labels, tissues, spacing_mm, hu, landmarks: OnceLock::new() })
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

    /// Where things are in it; looked up once.
    fn landmarks(&self) -> &Landmarks {
        self.landmarks.get_or_init(|| Landmarks::of(self))
    }

    /// Middle row and column of the body's box in a slice, voxels.
    fn body_middle(&self, z: usize) -> Option<[f64; 2]> {
        let plane = self.tissues.index_axis(Axis(0), z);
        let (mut low, mut high) = ([usize::MAX; 2], [0; 2]);
        for ((y, x), _) in plane.indexed_iter().filter(|(_, tissue)| **tissue != 0) {
            low = [low[0].min(y), low[1].min(x)];
            high = [high[0].max(y), high[1].max(x)];
        }
        (low[0] <= high[0]).then(|| [0, 1].map(|a| (low[a] + high[a]) as f64 / 2.0))
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
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;
    use crate::engine::graph::Preset;
    use crate::learning::dataset::{OrganSet, SampleGrid};
    use crate::settings::Synthetic;

    /// A brick of muscle with a left parotid towards x high, which is the patient's left.
    fn atlas() -> LabelAtlas {
        let mut labels = Array3::<u8>::zeros((60, 80, 120));
        let mut tissues = Array3::<u8>::zeros((60, 80, 120));
        labels.slice_mut(ndarray::s![.., 10..70, 10..110]).fill(31);
        tissues.slice_mut(ndarray::s![.., 10..70, 10..110]).fill(5);
        labels.slice_mut(ndarray::s![20..40, 30..50, 80..100]).fill(17);
        let mut hu = [(0.0, 10.0); N_TISSUES];
        hu[0] = (-1000.0, 8.0);
        let landmarks = OnceLock::new();
        LabelAtlas { name: "brick".into(), labels, tissues, spacing_mm: [1.0; 3], hu, landmarks }
    }

    /// Whatever is drawn, the organ on the high-x side is called left, and tissue is far from air.
    #[test]
    fn drawn_patients_keep_sides_and_values() {
        let atlas = atlas();
        let mut mirrored = 0;
        for seed in 0..12 {
            let mut rng = Pcg64::seed_from_u64(seed);
            let sample =
                atlas.draw(SampleGrid::whole([3.0, 2.5, 2.5], [32, 48, 64]), &Synthetic::ALL, &mut rng);
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
        let draw = |seed| {
            atlas().draw(
                SampleGrid::whole([3.0, 2.5, 2.5], [16, 32, 48]),
                &Synthetic::ALL,
                &mut Pcg64::seed_from_u64(seed),
            )
        };
        assert_eq!(draw(4), draw(4));
        assert_ne!(draw(4).image, draw(5).image);
    }

    /// Whatever the patient, the window of a close-up holds its organs whole, or nearly, and names no other.
    #[test]
    fn a_close_up_shows_its_organs_and_no_other() {
        let anatomy = crate::learning::phantom::shipped_anatomy().unwrap();
        let preset = Preset::close_up();
        let close_up = preset.close_up.as_ref().unwrap();
        // Half the resolution of the preset shows as well where the window lies.
        let grid = SampleGrid {
            spacing_mm: preset.spacing_mm.map(|mm| 2.0 * mm),
            shape: close_up.window.map(|side| side / 2),
            close_up: Some(close_up),
        };
        let whole = Synthetic { field_of_view: false, ..Synthetic::ALL };
        let (mut present, mut inside) = (0, 0);
        for seed in 0..8 {
            let sample = anatomy.draw(grid, &whole, &mut Pcg64::seed_from_u64(seed));
            assert_eq!(sample.annotated, OrganSet::ALL);
            for organ in Organ::ALL {
                let bit = OrganSet::of(organ).bits();
                let voxels: Vec<_> =
                    sample.organs.indexed_iter().filter(|(_, bits)| *bits & bit != 0).collect();
                assert!(voxels.is_empty() || close_up.is_for(organ), "seed {seed}: {organ:?}");
                let touches = |at: (usize, usize, usize)| {
                    [at.0, at.1, at.2].iter().zip(grid.shape).any(|(at, side)| *at == 0 || at + 1 == side)
                };
                present += usize::from(!voxels.is_empty());
                inside += usize::from(!voxels.is_empty() && !voxels.iter().any(|(at, _)| touches(*at)));
            }
        }
        assert!(present >= 92 && inside >= 88, "of 96 organs {present} were there, {inside} of them whole");
    }

    /// On the shipped anatomy, coarse: each switch changes some patient, and nothing but itself is needed for it.
    #[test]
    fn every_switch_does_something() {
        let anatomy = crate::learning::phantom::shipped_anatomy().unwrap();
        let none = Synthetic::NONE;
        let draw = |varied: &Synthetic, seed| {
            anatomy.draw(SampleGrid::whole([6.0; 3], [48, 32, 48]), varied, &mut Pcg64::seed_from_u64(seed))
        };
        let seeds = 0..6;
        let plain: Vec<_> = seeds.clone().map(|seed| draw(&none, seed)).collect();
        for (name, varied) in [
            ("sizes", Synthetic { sizes: true, ..none }),
            ("fat", Synthetic { fat: true, ..none }),
            ("pose", Synthetic { pose: true, ..none }),
            ("open_mouth", Synthetic { open_mouth: true, ..none }),
            ("organ_shapes", Synthetic { organ_shapes: true, ..none }),
            ("disease", Synthetic { disease: true, ..none }),
            ("contrast", Synthetic { contrast: true, ..none }),
            ("scanner", Synthetic { scanner: true, ..none }),
            ("dental_metal", Synthetic { dental_metal: true, ..none }),
            ("devices", Synthetic { devices: true, ..none }),
            ("field_of_view", Synthetic { field_of_view: true, ..none }),
        ] {
            let changed = seeds.clone().filter(|seed| draw(&varied, *seed) != plain[*seed as usize]).count();
            assert!(changed > 0, "{name} changes nothing");
        }
    }

    /// Jacobian of the way into the atlas, over 2 mm, at places inside the patient: where it is negative, tissue is
    /// folded over.
    #[test]
    fn deformations_hardly_ever_fold() {
        let anatomy = crate::learning::phantom::shipped_anatomy().unwrap();
        let (mut n, mut folded) = (0_usize, 0_usize);
        for seed in 0..8 {
            let build = build::Build::draw(&anatomy, None, &Synthetic::ALL, &mut Pcg64::seed_from_u64(seed));
            for k in 0..16 * 12 * 16_usize {
                let at = [k / 192, k / 16 % 12, k % 16].map(|i| i as f64 * 15.0 - 110.0);
                let here = build.place(at);
                if here[3] > -2.0 {
                    continue;
                }
                let column = |axis: usize| -> [f64; 3] {
                    let mut to = at;
                    to[axis] += 2.0;
                    let there = build.place(to);
                    std::array::from_fn(|a| there[a] - here[a])
                };
                let [a, b, c] = [0, 1, 2].map(column);
                let cross = [b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]];
                n += 1;
                folded += usize::from((0..3).map(|i| a[i] * cross[i]).sum::<f64>() <= 0.0);
            }
        }
        assert!(n > 4000 && folded * 200 < n, "{folded} of {n} places are folded");
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
