//! Finds models by name and checks their hashes.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{ModelError, shipped};
use crate::pipeline::anatomy::Calibration;
use crate::settings::{Manifest, ModelEntry, calibration_of_text};

/// The places where models are, in the order of search: data folder, folders beside the program, the program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRegistry {
    folders: Vec<PathBuf>,
}

/// A model that a manifest lists.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelListing {
    /// Its entry in the manifest.
    pub entry: ModelEntry,
    /// Its folder; `None` is the program itself.
    pub folder: Option<PathBuf>,
}

/// A model whose files have the hashes of its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredModel {
    /// Its entry in the manifest.
    pub entry: ModelEntry,
    /// The graphs, in the manifest's order.
    pub graphs: Vec<StoredGraph>,
    /// The model card, Markdown.
    pub card: String,
    /// What its contours are worth by their signs, where somebody has measured it: `NAME.doubt.yaml`.
    pub calibration: Option<Calibration>,
}

/// A checked graph.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGraph {
    /// Which part of the network.
    pub part: String,
    /// The ONNX file.
    pub bytes: Cow<'static, [u8]>,
}

const MANIFEST: &str = "manifest.yaml";

impl ModelRegistry {
    /// The usual places: `models/` in the user's data folder, `onnx/` beside the executable, the shipped models.
    #[must_use]
    pub fn usual() -> Self {
        let of_user = Self::of_user();
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("onnx")));
        Self { folders: of_user.into_iter().chain(beside).collect() }
    }

    /// The folder of models in the user's data folder, if this user has one; it need not be there yet.
    #[must_use]
    pub fn of_user() -> Option<PathBuf> {
        directories::ProjectDirs::from("", "", "oarlock").map(|dirs| dirs.data_dir().join("models"))
    }

    /// Only this folder and the shipped models after it.
    #[must_use]
    pub fn of_folder(folder: PathBuf) -> Self {
        Self { folders: vec![folder] }
    }

    /// The first model of a folder, or the model of a name in the usual places.
    ///
    /// # Errors
    /// As [`ModelRegistry::load`].
    pub fn of_name_or_folder(name: &Path) -> Result<StoredModel, ModelError> {
        if !name.is_dir() {
            return Self::usual().load(&name.to_string_lossy());
        }
        let registry = Self::of_folder(name.to_path_buf());
        let first = registry.list()?.into_iter().find(|model| model.folder.is_some());
        registry.load(&first.map_or_else(|| name.display().to_string(), |model| model.entry.name))
    }

    /// Looks into this folder before all others.
    #[must_use]
    pub fn with_first(mut self, folder: PathBuf) -> Self {
        self.folders.insert(0, folder);
        self
    }

    /// All models that can be asked for; of two with one name the first counts.
    ///
    /// # Errors
    /// [`ModelError::Manifest`] or [`ModelError::File`] when a manifest that is there cannot be used.
    pub fn list(&self) -> Result<Vec<ModelListing>, ModelError> {
        let mut models: Vec<ModelListing> = Vec::new();
        for folder in self.folders.iter().map(Some).chain([None]) {
            let Some(manifest) = manifest_in(folder.map(PathBuf::as_path))? else { continue };
            for entry in manifest.models {
                if models.iter().all(|known| known.entry.name != entry.name) {
                    models.push(ModelListing { entry, folder: folder.cloned() });
                }
            }
        }
        Ok(models)
    }

    /// Reads a model and checks every hash.
    ///
    /// # Errors
    /// [`ModelError`] when the name is unknown, a file is missing, or its bytes are not those that were stored.
    pub fn load(&self, name: &str) -> Result<StoredModel, ModelError> {
        let models = self.list()?;
        let Some(model) = models.iter().find(|model| model.entry.name == name) else {
            let folders: Vec<String> = self.folders.iter().map(|f| f.display().to_string()).collect();
            let known: Vec<&str> = models.iter().map(|model| model.entry.name.as_str()).collect();
            return Err(ModelError::Unknown {
                name: name.to_owned(),
                searched: format!("{} or the program itself", folders.join(", ")),
                known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
            });
        };
        let folder = model.folder.as_deref();
        let mut graphs = Vec::new();
        for graph in &model.entry.graphs {
            let bytes = bytes_of(folder, &graph.file)?;
            let found = sha256_of(&bytes);
            if found != graph.sha256 {
                return Err(ModelError::Hash {
                    name: name.to_owned(),
                    file: graph.file.clone(),
                    found,
                    stated: graph.sha256.clone(),
                });
            }
            graphs.push(StoredGraph { part: graph.part.clone(), bytes });
        }
        let card = String::from_utf8_lossy(&bytes_of(folder, &model.entry.card)?).into_owned();
        let mut stored = StoredModel { entry: model.entry.clone(), graphs, card, calibration: None };
        stored.calibration = calibration_of(&stored, folder)?;
        Ok(stored)
    }
}

/// The calibration beside a model; `None` where there is none, or one of other weights, which is logged.
fn calibration_of(stored: &StoredModel, folder: Option<&Path>) -> Result<Option<Calibration>, ModelError> {
    let name = &stored.entry.name;
    let file = format!("{name}.doubt.yaml");
    let there = match folder {
        Some(folder) => !name.contains(['/', '\\']) && folder.join(&file).is_file(),
        None => shipped::file(&file).is_some(),
    };
    if !there {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes_of(folder, &file)?).into_owned();
    let calibration = calibration_of_text(&text, Path::new(&file))
        .map_err(|source| ModelError::Calibration { name: name.clone(), source: Box::new(source) })?;
    if calibration.fingerprint != stored.fingerprint() {
        tracing::warn!(
            model = name,
            file,
            "the calibration is of other weights and is not used: make one with oarlock evaluate --calibrate"
        );
        return Ok(None);
    }
    Ok(Some(calibration))
}

impl StoredModel {
    /// The graph of a part of the network.
    #[must_use]
    pub fn graph(&self, part: &str) -> Option<&[u8]> {
        self.graphs.iter().find(|graph| graph.part == part).map(|graph| graph.bytes.as_ref())
    }

    /// SHA-256 over the hashes of all graphs: one name for the exact weights, for structure sets and logs.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let all: String = self.entry.graphs.iter().map(|graph| graph.sha256.as_str()).collect();
        sha256_of(all.as_bytes())
    }
}

/// SHA-256 in small hexadecimal digits.
pub(super) fn sha256_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest of a folder (or of the program), `None` where there is none.
pub(super) fn manifest_in(folder: Option<&Path>) -> Result<Option<Manifest>, ModelError> {
    let name = Path::new(MANIFEST);
    let path = folder.map_or_else(|| name.to_path_buf(), |f| f.join(name));
    let there = match folder {
        Some(_) => path.is_file(),
        None => shipped::file(MANIFEST).is_some(),
    };
    if !there {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes_of(folder, MANIFEST)?).into_owned();
    let folder = folder.map_or_else(|| PathBuf::from("the program"), Path::to_path_buf);
    Manifest::parse(&text, &path).map(Some).map_err(|source| ModelError::Manifest { folder, source })
}

fn bytes_of(folder: Option<&Path>, file: &str) -> Result<Cow<'static, [u8]>, ModelError> {
    let path = folder.map_or_else(|| PathBuf::from(file), |f| f.join(file));
    match folder {
        Some(_) => std::fs::read(&path).map(Cow::Owned).map_err(|source| ModelError::File {
            operation: "read",
            path,
            source,
        }),
        None => shipped::file(file).map(Cow::Borrowed).ok_or_else(|| ModelError::File {
            operation: "find in the program",
            path,
            source: std::io::ErrorKind::NotFound.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NewGraph, NewModel};
    use super::*;

    fn stored(dir: &Path) -> ModelRegistry {
        NewModel {
            name: "small".into(),
            preset: "starter".into(),
            close_up: None,
            opset: 18,
            steps: 7,
            card: "# Card of small\n".into(),
            graphs: vec![
                NewGraph { part: "trunk".into(), bytes: b"abc".to_vec(), inputs: vec![], outputs: vec![] },
                NewGraph { part: "mask".into(), bytes: b"xyz".to_vec(), inputs: vec![], outputs: vec![] },
            ],
        }
        .store(dir)
        .unwrap();
        ModelRegistry::of_folder(dir.to_path_buf())
    }

    /// SHA-256 of "abc" is the first test vector of FIPS 180-2.
    #[test]
    fn a_stored_model_comes_back_with_its_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let model = stored(dir.path()).load("small").unwrap();
        assert_eq!((model.graph("trunk"), model.graph("mask")), (Some(&b"abc"[..]), Some(&b"xyz"[..])));
        assert!(model.entry.graphs[0].sha256.starts_with("ba7816bf8f01cfea"));
        assert_eq!(model.card, "# Card of small\n");
    }

    #[test]
    fn a_changed_graph_is_refused_with_cause_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let registry = stored(dir.path());
        std::fs::write(dir.path().join("small.mask.onnx"), b"xyZ").unwrap();
        let message = registry.load("small").unwrap_err().to_string();
        assert!(message.contains("small.mask.onnx") && message.contains("put back"), "{message}");
    }

    #[test]
    fn a_calibration_of_other_weights_is_not_used_and_a_broken_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let registry = stored(dir.path());
        let fingerprint = registry.load("small").unwrap().fingerprint();
        let file = dir.path().join("small.doubt.yaml");
        let shipped = String::from_utf8(shipped::file("starter.doubt.yaml").unwrap().to_vec()).unwrap();
        std::fs::write(&file, &shipped).unwrap();
        assert_eq!(registry.load("small").unwrap().calibration, None);
        let line = shipped.lines().find(|line| line.starts_with("fingerprint:")).unwrap();
        std::fs::write(&file, shipped.replace(line, &format!("fingerprint: {fingerprint}"))).unwrap();
        assert!(registry.load("small").unwrap().calibration.is_some());
        std::fs::write(&file, "model: small").unwrap();
        let message = registry.load("small").unwrap_err().to_string();
        assert!(message.contains("small.doubt.yaml") && message.contains("--calibrate"), "{message}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let message = stored(dir.path()).load("smal").unwrap_err().to_string();
        assert!(message.contains("no model smal") && message.contains("small"), "{message}");
    }

    #[test]
    fn every_shipped_model_loads() {
        let nowhere = tempfile::tempdir().unwrap();
        let registry = ModelRegistry::of_folder(nowhere.path().to_path_buf());
        for model in registry.list().unwrap() {
            let name = &model.entry.name;
            let stored = registry.load(name).unwrap();
            assert!(stored.card.contains("must not"), "{name}: the card says what it must not be used for");
            let command = "oarlock evaluate --data ../shared/data/openkbp/train --limit 80 --calibrate onnx/NAME.doubt.yaml";
            assert!(stored.calibration.is_some(), "{name} has no calibration of its own weights: {command}");
        }
    }
}
