//! Writes a model into a folder of models.

use std::io::Write;
use std::path::Path;

use super::ModelError;
use super::registry::{StoredModel, manifest_in, sha256_of};
use crate::settings::{CLOSE_UP, DoorEntry, GraphEntry, Manifest, ModelEntry};

/// Where the card of the model that looks closer begins.
const SECOND_LOOK: &str = "\n# The second look\n\n";

/// A model that is to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewModel {
    /// What `--model` will take.
    pub name: String,
    /// Architecture.
    pub preset: String,
    /// Architecture of the graphs that look closer, where there are some.
    pub close_up: Option<String>,
    /// ONNX operator set of the graphs.
    pub opset: i64,
    /// Training steps behind the weights.
    pub steps: u64,
    /// The model card, Markdown.
    pub card: String,
    /// The graphs.
    pub graphs: Vec<NewGraph>,
}

/// A graph that is to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGraph {
    /// Which part of the network.
    pub part: String,
    /// The ONNX file.
    pub bytes: Vec<u8>,
    /// Doors in.
    pub inputs: Vec<DoorEntry>,
    /// Doors out.
    pub outputs: Vec<DoorEntry>,
}

impl NewModel {
    /// A model and one that looks closer, as one model of this name, with both cards. A second look that the first model
    /// has already is left out.
    #[must_use]
    pub fn joined(name: &str, first: StoredModel, closer: StoredModel) -> Self {
        let graphs = |prefix: &'static str, model: StoredModel| {
            let all = model.graphs.into_iter().zip(model.entry.graphs);
            let own = all.filter(|(graph, _)| !graph.part.starts_with(CLOSE_UP));
            own.map(move |(graph, entry)| NewGraph {
                part: format!("{prefix}{}", graph.part),
                bytes: graph.bytes.into_owned(),
                inputs: entry.inputs,
                outputs: entry.outputs,
            })
        };
        let own_card = first.card.split(SECOND_LOOK).next().unwrap_or_default();
        let card = format!("{own_card}{SECOND_LOOK}{}", closer.card.trim_start_matches('#').trim_start());
        Self {
            name: name.to_owned(),
            preset: first.entry.preset.clone(),
            close_up: Some(closer.entry.preset.clone()),
            opset: first.entry.opset,
            steps: first.entry.steps,
            card,
            graphs: graphs("", first).chain(graphs(CLOSE_UP, closer)).collect(),
        }
    }

    /// Writes graphs and card, then the manifest with the model in place of one of the same name.
    ///
    /// # Errors
    /// [`ModelError`] when a file cannot be written or the folder's manifest cannot be used.
    pub fn store(&self, folder: &Path) -> Result<(), ModelError> {
        std::fs::create_dir_all(folder).map_err(|source| ModelError::File {
            operation: "make the folder",
            path: folder.to_path_buf(),
            source,
        })?;
        let mut manifest = manifest_in(Some(folder))?.unwrap_or_default();
        let mut graphs = Vec::new();
        for graph in &self.graphs {
            let file = format!("{}.{}.onnx", self.name, graph.part);
            put(folder, &file, &graph.bytes)?;
            graphs.push(GraphEntry {
                part: graph.part.clone(),
                file,
                sha256: sha256_of(&graph.bytes),
                inputs: graph.inputs.clone(),
                outputs: graph.outputs.clone(),
            });
        }
        let card = format!("{}.card.md", self.name);
        put(folder, &card, self.card.as_bytes())?;
        manifest.models.retain(|model| model.name != self.name);
        manifest.models.push(ModelEntry {
            name: self.name.clone(),
            preset: self.preset.clone(),
            close_up: self.close_up.clone(),
            opset: self.opset,
            steps: self.steps,
            card,
            graphs,
        });
        Self::put_manifest(folder, &manifest)
    }

    fn put_manifest(folder: &Path, manifest: &Manifest) -> Result<(), ModelError> {
        let path = folder.join("manifest.yaml");
        let text = manifest
            .to_text(&path)
            .map_err(|source| ModelError::Manifest { folder: folder.to_path_buf(), source })?;
        put(folder, "manifest.yaml", text.as_bytes())
    }
}

/// Writes aside, syncs, renames.
fn put(folder: &Path, file: &str, bytes: &[u8]) -> Result<(), ModelError> {
    let path = folder.join(file);
    let aside = folder.join(format!("{file}.part"));
    let written = std::fs::File::create(&aside)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&aside, &path));
    written.map_err(|source| ModelError::File { operation: "write", path, source })
}
