//! Weights -> the three graphs that segment, ready to be stored.

use super::{NewGraph, NewModel};
use crate::engine::graph::{Door, GraphDescription, OPSET, Weights, uanet};
use crate::settings::DoorEntry;

impl NewModel {
    /// The model that these weights make, under a name and with a card (Markdown).
    ///
    /// Parts: `trunk`, `refinement`, `mask`; the doors are read from the graphs themselves.
    #[must_use]
    pub fn from_weights(name: &str, weights: &Weights, steps: u64, card: String) -> Self {
        // The largest first: while it is made, no other lies beside it.
        let refinement = graph("refinement", uanet::refinement_graph(weights));
        let trunk = graph("trunk", uanet::trunk_graph(weights));
        let mask = graph("mask", uanet::mask_graph(weights));
        let graphs = vec![trunk, refinement, mask];
        let preset = weights.preset().name.clone();
        Self { name: name.to_owned(), preset, opset: OPSET, steps, card, graphs }
    }
}

fn graph(part: &str, bytes: Vec<u8>) -> NewGraph {
    let description = GraphDescription::read(&bytes).expect("the builder wrote these bytes just now");
    let doors =
        |all: Vec<Door>| all.into_iter().map(|Door { name, sides }| DoorEntry { name, sides }).collect();
    NewGraph {
        part: part.to_owned(),
        inputs: doors(description.inputs),
        outputs: doors(description.outputs),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Preset;

    #[test]
    fn a_model_of_weights_has_three_parts_with_their_doors() {
        let weights = Weights::start(&Preset::starter(), 3);
        let model = NewModel::from_weights("mine", &weights, 0, String::new());
        let parts: Vec<&str> = model.graphs.iter().map(|graph| graph.part.as_str()).collect();
        assert_eq!(parts, ["trunk", "refinement", "mask"]);
        let outputs: Vec<&str> = model.graphs[0].outputs.iter().map(|door| door.name.as_str()).collect();
        assert_eq!(outputs, ["f2", "f4", "f8", "logits", "deltas"]);
        assert_eq!(model.graphs[1].inputs[0].sides, ["n", "13824"]);
    }
}
