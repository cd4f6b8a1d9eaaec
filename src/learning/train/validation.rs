//! The whole inference chain on held-out cases, on the network's own grid: DSC per organ.

use std::collections::BTreeMap;

use ndarray::s;

use crate::engine::graph::{Weights, uanet};
use crate::engine::runtime::session::{Runtime, SessionOptions};
use crate::learning::dataset::{OrganSet, Sample};
use crate::pipeline::network::{ModelGraphs, Network, NetworkError, OrganMask, single};
use crate::pipeline::volume::NetworkInput;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{Grid, PatientPoint, VoxelBox};

/// DSC of every annotated organ over the cases; an organ that was not found counts as 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Validation {
    /// DSC of each case that annotates the organ.
    pub dice: BTreeMap<Organ, Vec<f32>>,
    /// In how many of these cases the organ was found at all.
    pub n_found: BTreeMap<Organ, usize>,
}

impl Validation {
    /// Mean over organs of the mean over cases; 0 without any.
    #[must_use]
    pub fn mean(&self) -> f32 {
        let means: Vec<f32> = self.means().map(|(_, mean)| mean).collect();
        means.iter().sum::<f32>() / means.len().max(1) as f32
    }

    /// In how many cases an organ was found, of how many that annotate it.
    #[must_use]
    pub fn found(&self, organ: Organ) -> (usize, usize) {
        (self.n_found.get(&organ).copied().unwrap_or(0), self.dice.get(&organ).map_or(0, Vec::len))
    }

    /// Mean over cases of each organ.
    pub fn means(&self) -> impl Iterator<Item = (Organ, f32)> {
        self.dice.iter().map(|(organ, all)| (*organ, all.iter().sum::<f32>() / all.len().max(1) as f32))
    }
}

/// The network as it delivers, from weights in training.
pub(super) struct Segmenter {
    network: Network,
}

impl Segmenter {
    pub(super) fn new(
        runtime: Runtime,
        weights: &Weights,
        options: &SessionOptions,
    ) -> Result<Self, NetworkError> {
        let graphs = ModelGraphs {
            preset: &weights.preset().name,
            trunk: &uanet::trunk_graph(weights),
            refinement: &uanet::refinement_graph(weights),
            mask: &uanet::mask_graph(weights),
        };
        Ok(Self { network: Network::load(graphs, runtime, options)? })
    }

    /// Adds the DSC of each annotated organ of a case; returns all that was found, and on which grid.
    pub(super) fn measure(
        &mut self,
        sample: &Sample,
        into: &mut Validation,
    ) -> Result<(Vec<OrganMask>, Grid), NetworkError> {
        let preset = self.network.preset();
        let mask_probability = single(preset.mask_probability);
        let origin = PatientPoint::lps_mm(0.0, 0.0, 0.0);
        let grid = Grid::axial(sample.image.dim().into(), preset.spacing_mm, origin)
            .expect("a sample has voxels, a preset a spacing");
        let input = NetworkInput { tensor: sample.image.clone(), grid };
        let found = self.network.segment(&input)?;
        for organ in sample.annotated.iter() {
            let mask = found.iter().find(|mask| mask.organ == organ);
            into.dice.entry(organ).or_default().push(dice(sample, organ, mask, mask_probability));
            *into.n_found.entry(organ).or_default() += usize::from(mask.is_some());
        }
        Ok((found, input.grid))
    }
}

/// DSC = 2 |A and B| / (|A| + |B|).
fn dice(sample: &Sample, organ: Organ, found: Option<&OrganMask>, above: f32) -> f32 {
    let bit = OrganSet::of(organ).bits();
    let truth = sample.organs.iter().filter(|voxel| **voxel & bit != 0).count();
    let Some(OrganMask { region: VoxelBox { start, end }, probability, .. }) = found else { return 0.0 };
    let part = sample.organs.slice(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]]);
    let predicted = probability.iter().filter(|probability| **probability > above).count();
    let both = part.iter().zip(probability).filter(|(voxel, p)| **p > above && **voxel & bit != 0).count();
    if truth + predicted == 0 { 0.0 } else { 2.0 * both as f32 / (truth + predicted) as f32 }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    /// Truth 3 voxels, prediction 4, both 2: DSC 4 / 7; an organ that was not found has 0.
    #[test]
    fn dice_by_hand() {
        let bit = OrganSet::of(Organ::Larynx).bits();
        let mut organs = Array3::zeros((4, 5, 7));
        for at in [[1, 2, 3], [1, 2, 4], [3, 4, 6]] {
            organs[at] = bit;
        }
        let image = Array3::zeros((4, 5, 7));
        let sample = Sample { name: "tiny".into(), image, organs, annotated: OrganSet::of(Organ::Larynx) };
        let region = VoxelBox { start: [1, 1, 3], end: [2, 3, 5] };
        let probability = Array3::from_elem((1, 2, 2), 0.6);
        let found = OrganMask { organ: Organ::Larynx, detection_probability: 0.9, region, probability };
        assert!((dice(&sample, Organ::Larynx, Some(&found), 0.5) - 4.0 / 7.0).abs() < 1e-6);
        assert!(dice(&sample, Organ::Larynx, None, 0.5).abs() < 1e-9);
    }
}
