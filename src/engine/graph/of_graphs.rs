//! Inference graphs -> the weights they were made of, so that a stored model can be trained further.

use std::collections::BTreeMap;

use prost::Message;

use super::description::DescriptionError;
use super::layers::narrow;
use super::onnx::{ModelProto, TensorProto};
use super::{Preset, Weights, WeightsError};

/// Number of the element type `f32` in a tensor.
const FLOAT: i32 = 1;

/// Why the graphs of a model gave no weights.
#[derive(Debug, thiserror::Error)]
pub enum OfGraphsError {
    /// A file is no ONNX model.
    #[error("a graph of the model cannot be read")]
    Graph(#[from] DescriptionError),
    /// A tensor is missing or of another size.
    #[error("the graphs of the model do not hold what its preset needs")]
    Weights(#[from] WeightsError),
}

impl Weights {
    /// The weights of a model's graphs. Its batch norms were folded into the convolutions when it was stored, so they come
    /// back as what changes nothing: scale 1, mean 0, variance 1 less epsilon, and the convolution's bias as their shift.
    /// Such weights are trained further with [`super::Norms::Frozen`].
    ///
    /// # Errors
    /// [`OfGraphsError`] where a graph is broken or belongs to another preset.
    pub fn of_graphs(preset: &Preset, graphs: &[&[u8]]) -> Result<Self, OfGraphsError> {
        let mut stored = BTreeMap::new();
        for bytes in graphs {
            let model = ModelProto::decode(*bytes)
                .map_err(|source| DescriptionError::NoModel { n_bytes: bytes.len(), source })?;
            let tensors = model.graph.ok_or(DescriptionError::NoGraph)?.initializer;
            stored.extend(tensors.into_iter().filter(|tensor| tensor.data_type == FLOAT).map(numbers));
        }
        let mut values = BTreeMap::new();
        for parameter in Self::needed(preset) {
            let name = &parameter.name;
            let count = parameter.shape.iter().product::<usize>();
            let folded = |end: &str, stored_end: &str| {
                name.strip_suffix(end).and_then(|base| stored.get(&format!("{base}.{stored_end}"))).cloned()
            };
            let found = stored
                .get(name)
                .cloned()
                .or_else(|| folded(".conv.weight", "weight"))
                .or_else(|| folded(".norm.shift", "bias"))
                .or_else(|| match name.rsplit_once(".norm.") {
                    Some((_, "scale")) => Some(vec![1.0; count]),
                    Some((_, "mean")) => Some(vec![0.0; count]),
                    Some((_, "variance")) => Some(vec![narrow(1.0 - preset.norm_epsilon); count]),
                    _ => None,
                });
            values.extend(found.map(|found| (parameter.name.clone(), found)));
        }
        Ok(Self::new(preset, values)?)
    }
}

fn numbers(tensor: TensorProto) -> (String, Vec<f32>) {
    let (whole, _) = tensor.raw_data.as_chunks();
    (tensor.name, whole.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::uanet::{mask_graph, refinement_graph, trunk_graph};
    use super::*;

    /// Folding what came back folded gives the same graphs again.
    #[test]
    fn a_models_graphs_give_weights_that_give_its_graphs() {
        let preset = Preset::starter();
        let mut weights = Weights::start(&preset, 7);
        weights.values_mut("stem.2.norm.mean").iter_mut().for_each(|value| *value = 0.3);
        weights.values_mut("rise.norm.scale").iter_mut().for_each(|value| *value = -0.7);
        weights.values_mut("mask.merge1.norm.shift").iter_mut().for_each(|value| *value = 0.2);
        let graphs =
            |weights: &Weights| [trunk_graph(weights), refinement_graph(weights), mask_graph(weights)];
        let first = graphs(&weights);
        let back = Weights::of_graphs(&preset, &first.each_ref().map(Vec::as_slice)).unwrap();
        for parameter in back.parameters().iter().filter(|parameter| !parameter.name.contains(".norm.")) {
            let (again, wanted) = (folded(&back, &parameter.name), folded(&weights, &parameter.name));
            let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (found, wanted) in again.iter().zip(&wanted) {
                assert!((found - wanted).abs() <= 1e-6 * largest, "{}", parameter.name);
            }
        }
        assert_eq!(back.values("mask.merge1.norm.shift"), weights.values("mask.merge1.norm.shift"));
    }

    fn folded(weights: &Weights, name: &str) -> Vec<f32> {
        match name.strip_suffix(".conv.weight") {
            Some(base) if weights.parameters().iter().any(|p| p.name == format!("{base}.norm.mean")) => {
                weights.folded(base, usize::from(base == "rise"), weights.preset().norm_epsilon).0
            }
            _ => weights.values(name).to_vec(),
        }
    }

    #[test]
    fn graphs_of_another_preset_are_refused_by_the_first_tensor_that_does_not_fit() {
        let graphs = trunk_graph(&Weights::start(&Preset::starter(), 7));
        let error = Weights::of_graphs(&Preset::reference(), &[&graphs]).unwrap_err();
        assert!(matches!(error, OfGraphsError::Weights(WeightsError::Unfit { .. })), "{error}");
        assert!(matches!(Weights::of_graphs(&Preset::starter(), &[b"xx"]), Err(OfGraphsError::Graph(_))));
    }
}
