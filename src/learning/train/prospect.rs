//! What a run would be, without running it.

use std::fmt;

use super::TrainError;
use super::patients::{Sources, most_samples};
use super::run::{kept_bytes, norms, patients};
use crate::engine::graph::{Machine, Preset, Weights, training};
use crate::settings::TrainRecipe;
use crate::vocabulary::organ::Organ;

/// What a recipe asks for; its text is for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospect {
    preset: String,
    n_weights: usize,
    n_real: usize,
    n_held_out: usize,
    n_atlases: usize,
    crop: [usize; 3],
    trunk_bytes: u64,
    /// What the trunk's way out leaves for its way back while the heads work.
    handed_bytes: u64,
    mask_sides: [usize; 3],
    mask_bytes: u64,
    kept_bytes: u64,
    state_bytes: u64,
    sample_bytes: u64,
    /// Organs that real patients annotate: how many do, how many times as often they come up.
    organs: Vec<(Organ, usize, f64)>,
}

/// Reads all patients of a recipe and reckons the memory of its steps from the shapes of its graphs.
///
/// # Errors
/// [`TrainError`] where the preset is unknown or patients cannot be used.
pub fn prospect(recipe: &TrainRecipe) -> Result<Prospect, TrainError> {
    let preset =
        Preset::named(&recipe.preset).ok_or_else(|| TrainError::Preset { name: recipe.preset.clone() })?;
    let sources = Sources::of(recipe)?;
    let patients = patients(recipe, &preset, &sources)?;
    let rarity = patients.check(&sources)?;
    let n_weights = Weights::start(&preset, recipe.seed).count();
    let mask_sides = largest_mask_box(recipe.heads.largest_mask_box, recipe.crop);
    // Weights, their mean, two moments and gradients.
    let copies = 4 + usize::from(recipe.optimizer.weight_average > 0.0);
    let trunk = training::trunk_step(&preset, recipe.crop, norms(recipe), Machine::Processor);
    Ok(Prospect {
        preset: preset.name.clone(),
        n_weights,
        n_real: patients.real.iter().map(|source| source.patients.len()).sum(),
        n_held_out: sources.choosing.len() + sources.measuring.len(),
        n_atlases: patients.atlases.len(),
        crop: recipe.crop,
        trunk_bytes: trunk.out.peak_bytes.max(trunk.back.peak_bytes),
        handed_bytes: trunk.kept_bytes(),
        mask_sides,
        mask_bytes: training::mask_step(&preset, mask_sides, Machine::Processor).peak_bytes,
        kept_bytes: kept_bytes(recipe),
        state_bytes: (copies * 4 * n_weights) as u64,
        sample_bytes: (most_samples() * recipe.crop.iter().product::<usize>() * BYTES_OF_A_VOXEL) as u64,
        organs: Organ::ALL
            .into_iter()
            .map(|organ| (organ, rarity.counts[organ.index()], rarity.times(organ)))
            .filter(|(_, count, _)| *count > 0)
            .collect(),
    })
}

/// Of a sample: the image as `f32`, the organs as 32 bits.
const BYTES_OF_A_VOXEL: usize = 8;

/// A box in proportion to the crop, of at most so many voxels, its sides multiples of eight.
fn largest_mask_box(voxels: usize, crop: [usize; 3]) -> [usize; 3] {
    let mut sides = [8; 3];
    loop {
        let grown = (0..3).filter(|axis| sides[*axis] + 8 <= crop[*axis]);
        // The side that is shortest against its crop grows first.
        let next = grown.min_by_key(|axis| sides[*axis] * 10_000 / crop[*axis]);
        let Some(axis) = next else { return sides };
        let mut larger = sides;
        larger[axis] += 8;
        if larger.iter().product::<usize>() > voxels {
            return sides;
        }
        sides = larger;
    }
}

impl fmt::Display for Prospect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        writeln!(f, "{} with {} weights", self.preset, self.n_weights)?;
        writeln!(
            f,
            "{} patients to train on and {} held out read without fault, {} atlases",
            self.n_real, self.n_held_out, self.n_atlases
        )?;
        writeln!(f, "memory, from the shapes of the graphs alone:")?;
        writeln!(f, "  {:>6} MB  trunk's step on {:?} voxels (z, y, x)", mb(self.trunk_bytes), self.crop)?;
        writeln!(f, "  {:>6} MB  kept for the trunk's way back while the heads work", mb(self.handed_bytes))?;
        writeln!(f, "  {:>6} MB  mask head's step on a box of {:?}", mb(self.mask_bytes), self.mask_sides)?;
        writeln!(f, "  {:>6} MB  weights, gradients, moments", mb(self.state_bytes))?;
        writeln!(f, "  {:>6} MB  samples read ahead (never on a GPU)", mb(self.sample_bytes))?;
        writeln!(f, "  {:>6} MB  mask heads' graphs kept for the next box (at most)", mb(self.kept_bytes))?;
        let largest = self.trunk_bytes.max(self.handed_bytes + self.mask_bytes);
        let least = largest + self.state_bytes + self.sample_bytes;
        writeln!(f, "  {:>6} MB  at least, beside what the library's kernels take", mb(least))?;
        write!(f, "organs that real patients annotate:")?;
        for (organ, count, times) in &self.organs {
            write!(f, "\n  {:>4}  {}", count, organ.paper_name())?;
            if *times > 1.0 {
                write!(f, ", drawn {times:.2} times as often as the commonest")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_box_fills_its_voxels_and_fits_the_crop() {
        assert_eq!(largest_mask_box(130_000, [96, 80, 96]), [56, 48, 48]);
        assert_eq!(largest_mask_box(10_000_000, [96, 80, 96]), [96, 80, 96]);
    }
}
