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
        Self { name: name.to_owned(), preset, close_up: None, opset: OPSET, steps, card, graphs }
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
    use crate::learning::model::ModelRegistry;

    /// What is joined has both models' graphs and cards; joined once more, the second look is the new one.
    #[test]
    fn two_models_are_joined_into_one() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, preset: &Preset, seed| {
            let model =
                NewModel::from_weights(name, &Weights::start(preset, seed), 7, format!("# {name}\n\nCard."));
            let folder = dir.path().join(name);
            model.store(&folder).unwrap();
            ModelRegistry::of_folder(folder).load(name).unwrap()
        };
        let first = made("first", &Preset::starter(), 3);
        let closer = [4, 5].map(|seed| made(&format!("closer-{seed}"), &Preset::close_up(), seed));
        let folder = dir.path().join("both");
        let joined = |first, closer| {
            NewModel::joined("both", first, closer).store(&folder).unwrap();
            ModelRegistry::of_folder(folder.clone()).load("both").unwrap()
        };
        let [one, other] = closer.clone().map(|closer| closer.graph("mask").unwrap().to_vec());
        let both = joined(first.clone(), closer[0].clone());
        assert_eq!(both.entry.close_up.as_deref(), Some("close-up"));
        assert_eq!((both.entry.preset.as_str(), both.entry.steps, both.graphs.len()), ("starter", 7, 6));
        assert_eq!(both.graph("mask"), first.graph("mask"));
        assert_eq!(both.graph("close-up-mask"), Some(one.as_slice()));
        assert!(both.card.starts_with("# first") && both.card.contains("# The second look\n\ncloser-4"));
        assert_ne!(both.fingerprint(), first.fingerprint());
        let again = joined(both, closer[1].clone());
        assert_eq!((again.graphs.len(), again.graph("close-up-mask")), (6, Some(other.as_slice())));
        assert!(again.card.contains("closer-5") && !again.card.contains("closer-4"));
    }

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
