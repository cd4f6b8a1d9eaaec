//! What a folder of models holds, and the hashes that prove it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SettingsError;

/// `manifest.yaml` of a folder of models.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The models, by name.
    pub models: Vec<ModelEntry>,
}

/// Comes before the part's name of a graph that looks closer.
pub const CLOSE_UP: &str = "close-up-";

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// What `--model` takes.
    pub name: String,
    /// Architecture.
    pub preset: String,
    /// Architecture of the graphs that look closer, whose parts are named [`CLOSE_UP`] and their own part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_up: Option<String>,
    /// ONNX operator set of the graphs.
    pub opset: i64,
    /// Training steps behind the weights.
    pub steps: u64,
    /// File of the model card.
    pub card: String,
    /// The graphs.
    pub graphs: Vec<GraphEntry>,
}

/// One graph file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphEntry {
    /// Which part of the network.
    pub part: String,
    /// File in the folder of the manifest.
    pub file: String,
    /// SHA-256 of the file, small hexadecimal digits.
    pub sha256: String,
    /// Doors in: name and sides, a word for a side that varies.
    pub inputs: Vec<DoorEntry>,
    /// Doors out.
    pub outputs: Vec<DoorEntry>,
}

/// A tensor that enters or leaves a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoorEntry {
    /// Its name in the file.
    pub name: String,
    /// Sides in the graph's axis order.
    pub sides: Vec<String>,
}

impl Manifest {
    /// Reads a manifest from its text; `path` is for messages.
    ///
    /// # Errors
    /// [`SettingsError`] when it is not a manifest or names a file outside its folder.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let manifest: Self = super::yaml::from_str(text)
            .map_err(|source| SettingsError::Yaml { path: path.to_path_buf(), source })?;
        let climbs = |file: &str| file.is_empty() || file.contains(['/', '\\']) || file.starts_with('.');
        for model in &manifest.models {
            let files = model.graphs.iter().map(|graph| &graph.file).chain([&model.card]);
            for file in files {
                if climbs(file) {
                    return Err(SettingsError::Value {
                        path: path.to_path_buf(),
                        key: "file",
                        found: file.clone(),
                        allowed: "a file name in the folder of the manifest",
                    });
                }
            }
        }
        Ok(manifest)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`SettingsError::Yaml`] when a value has no YAML form.
    pub fn to_text(&self, path: &Path) -> Result<String, SettingsError> {
        serde_yaml::to_string(self).map_err(|source| SettingsError::Yaml { path: path.to_path_buf(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_names_only_files_beside_it() {
        let graph = |file: &str| GraphEntry {
            part: "trunk".into(),
            file: file.into(),
            sha256: "00".repeat(32),
            inputs: vec![DoorEntry { name: "image".into(), sides: vec!["1".into(), "depth".into()] }],
            outputs: vec![],
        };
        let manifest = |file: &str| Manifest {
            models: vec![ModelEntry {
                name: "starter".into(),
                preset: "starter".into(),
                close_up: None,
                opset: 18,
                steps: 40,
                card: "starter.md".into(),
                graphs: vec![graph(file)],
            }],
        };
        let path = Path::new("manifest.yaml");
        let good = manifest("starter.trunk.onnx");
        assert_eq!(Manifest::parse(&good.to_text(path).unwrap(), path).unwrap(), good);
        for bad in ["../secret", "/etc/passwd", ""] {
            let text = manifest(bad).to_text(path).unwrap();
            assert!(matches!(Manifest::parse(&text, path), Err(SettingsError::Value { .. })), "{bad}");
        }
    }
}
