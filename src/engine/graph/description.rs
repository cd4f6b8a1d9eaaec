//! What an ONNX file says about itself: preset, operator set, and the doors in and out.
//!
//! A manifest repeats this, so that a person can read it and a program can see that file and manifest belong together.

use prost::Message;

use super::onnx::{ModelProto, Side, ValueInfoProto};

/// A tensor that enters or leaves a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// Its sides in axis order: a number, or a word for a side of the caller's choice.
    pub sides: Vec<String>,
}

/// What a graph file holds, apart from its nodes and weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphDescription {
    /// Name of the graph: `trunk`, `refinement`, `mask`.
    pub name: String,
    /// Name of the preset it was made of; empty where the file does not say.
    pub preset: String,
    /// Version of ONNX's own operators.
    pub opset: i64,
    /// Doors in, in order.
    pub inputs: Vec<Door>,
    /// Doors out, in order.
    pub outputs: Vec<Door>,
}

/// Why a file could not be described.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The bytes are no protobuf message of this kind.
    #[error("wanted an ONNX model, found {n_bytes} bytes that are none; fetch or make the file again")]
    NoModel {
        /// How long the file is.
        n_bytes: usize,
        /// Where decoding stopped.
        #[source]
        source: prost::DecodeError,
    },
    /// It is a model without a graph.
    #[error("wanted an ONNX model with a graph, found one without; fetch or make the file again")]
    NoGraph,
}

impl GraphDescription {
    /// Reads the description of an ONNX file from its bytes.
    ///
    /// # Errors
    /// [`DescriptionError`] where the bytes are no ONNX model.
    pub fn read(bytes: &[u8]) -> Result<Self, DescriptionError> {
        let model = ModelProto::decode(bytes)
            .map_err(|source| DescriptionError::NoModel { n_bytes: bytes.len(), source })?;
        let graph = model.graph.ok_or(DescriptionError::NoGraph)?;
        let own = model.opset_import.iter().find(|set| set.domain.is_empty());
        let preset = model.metadata_props.into_iter().find(|entry| entry.key == "preset");
        Ok(Self {
            name: graph.name,
            preset: preset.map(|entry| entry.value).unwrap_or_default(),
            opset: own.map_or(0, |set| set.version),
            inputs: graph.input.iter().map(door).collect(),
            outputs: graph.output.iter().map(door).collect(),
        })
    }
}

fn door(value: &ValueInfoProto) -> Door {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let sides = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| &shape.dim);
    let words = sides.iter().map(|dimension| match &dimension.side {
        Some(Side::Fixed(side)) => side.to_string(),
        Some(Side::Named(name)) => name.clone(),
        None => "any".to_owned(),
    });
    Door { name: value.name.clone(), sides: words.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::{Machine, Norms, Preset, Weights, flat, training, uanet};

    fn written(doors: &[Door]) -> Vec<String> {
        doors.iter().map(|door| format!("{} {}", door.name, door.sides.join(" "))).collect()
    }

    #[test]
    fn the_inference_graphs_have_the_doors_that_everybody_relies_on() {
        let weights = Weights::start(&Preset::starter(), 1);
        let trunk = GraphDescription::read(&uanet::trunk_graph(&weights)).unwrap();
        assert_eq!((trunk.name.as_str(), trunk.preset.as_str(), trunk.opset), ("trunk", "starter", 18));
        assert_eq!(written(&trunk.inputs), ["image 1 1 D H W"]);
        let maps = [
            "f2 1 16 D2 H2 W2",
            "f4 1 32 D4 H4 W4",
            "f8 1 64 D8 H8 W8",
            "logits 1 12 D8 H8 W8",
            "deltas 1 72 D8 H8 W8",
        ];
        assert_eq!(written(&trunk.outputs), maps);
        let refinement = GraphDescription::read(&uanet::refinement_graph(&weights)).unwrap();
        assert_eq!(written(&refinement.inputs), ["pooled n 13824"]);
        assert_eq!(written(&refinement.outputs), ["class_logits n 29", "box_deltas n 174"]);
        let mask = GraphDescription::read(&uanet::mask_graph(&weights)).unwrap();
        let crops =
            ["image 1 1 d h w", "f2 1 16 d2 h2 w2", "f4 1 32 d4 h4 w4", "f8 1 64 d8 h8 w8", "class 1"];
        assert_eq!(written(&mask.inputs), crops);
        assert_eq!(written(&mask.outputs), ["logit 1 1 d h w"]);
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        assert!(matches!(
            GraphDescription::read(b"no model"),
            Err(DescriptionError::NoModel { n_bytes: 8, .. })
        ));
        assert!(matches!(GraphDescription::read(b""), Err(DescriptionError::NoGraph)));
    }

    /// ONNX's own checker, with shape inference, on every graph that is written. Asks for the Python of
    /// `tests/peers/install`, or what `OARLOCK_PYTHON` names, with the package `onnx`.
    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn onnx_accepts_every_graph() {
        let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/python/bin/python");
        let python = std::env::var_os("OARLOCK_PYTHON").unwrap_or_else(|| installed.into());
        let has_onnx = std::process::Command::new(&python).args(["-c", "import onnx.checker"]).output();
        if !has_onnx.is_ok_and(|run| run.status.success()) {
            assert!(std::env::var_os("OARLOCK_DEMAND_PEERS").is_none(), "{python:?} has no package onnx");
            eprintln!(
                "SKIPPED onnx_accepts_every_graph: {python:?} has no package onnx (tests/peers/install)"
            );
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        let mut keep = |name: String, bytes: Vec<u8>| {
            let path = folder.path().join(name + ".onnx");
            std::fs::write(&path, bytes).unwrap();
            files.push(path);
        };
        for preset in [Preset::starter(), Preset::reference()] {
            let weights = Weights::start(&preset, 1);
            keep(format!("{} trunk", preset.name), uanet::trunk_graph(&weights));
            keep(format!("{} flat trunk", preset.name), flat(&uanet::trunk_graph(&weights), 16).unwrap());
            keep(format!("{} flat mask", preset.name), flat(&uanet::mask_graph(&weights), 8).unwrap());
            keep(format!("{} refinement", preset.name), uanet::refinement_graph(&weights));
            keep(format!("{} mask", preset.name), uanet::mask_graph(&weights));
            keep(
                format!("{} forward", preset.name),
                training::forward(&preset, [16, 32, 48], Norms::Batch, Machine::Processor).bytes,
            );
            keep(
                format!("{} backbone", preset.name),
                training::backbone_step(&preset, [16, 32, 48], Norms::Batch, Machine::Processor).bytes,
            );
            keep(format!("{} refinement step", preset.name), training::refinement_step(&preset, 7).bytes);
            keep(
                format!("{} mask step", preset.name),
                training::mask_step(&preset, [8, 24, 16], Machine::Gpu).bytes,
            );
        }
        let script = "import onnx.checker, sys\nfor path in sys.argv[1:]: onnx.checker.check_model(path, full_check=True)";
        let run = std::process::Command::new(&python).args(["-c", script]).args(&files).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}
