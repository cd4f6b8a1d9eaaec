//! A run's state on disk: written aside, synced, renamed; a file that was cut short is never taken.
//!
//! Layout: 8 bytes magic, 8 bytes length of the header, header (JSON: step, names, counts), the values as `f32`
//! little endian, SHA-256 of all before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::gradients::Tensors;
use super::whole_file;
use crate::engine::graph::{Adam, LossScale, Moments, Preset, Weights};

const MAGIC: &[u8; 8] = b"OARLCKP1";

/// A network ten times the reference preset; a header that asks for more is broken.
const MOST_BYTES: u64 = 4 << 30;

/// Everything that the next step depends on. Random draws depend on seed and step number alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Mean DSC of the validation that was run on these weights, if one was.
    pub validation: Option<f32>,
    /// Weights, running statistics included, with their preset.
    pub weights: Weights,
    /// Running mean of the weights, where the recipe asks for one.
    pub average: Option<Weights>,
    /// Moments.
    pub adam: Adam,
}

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error(
        "cannot {operation} the checkpoint {}: free some space or correct the permissions, then go on with --resume; the \
         checkpoint before it is good", path.display()
    )]
    Disk {
        /// Which operation.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Cut short or changed.
    #[error(
        "the checkpoint {} cannot be used ({found}): delete it, the one before it will be used",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    seed: u64,
    preset: String,
    validation: Option<f32>,
    adam_steps: BTreeMap<String, u32>,
    /// Scale and steps since it changed, in mixed precision.
    #[serde(default)]
    loss_scale: Option<(f32, u32)>,
    tensors: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    name: String,
    count: usize,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
enum Kind {
    Weight,
    Average,
    First,
    Second,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Weight => "the weight",
            Self::Average => "the running mean",
            Self::First => "the mean gradient",
            Self::Second => "the mean squared gradient",
        })
    }
}

impl Checkpoint {
    /// The weights that are validated and shipped: the running mean where there is one.
    #[must_use]
    pub fn shipped(&self) -> &Weights {
        self.average.as_ref().unwrap_or(&self.weights)
    }

    /// Writes `folder/NAME`, so that at any moment either the old file or the new one is whole.
    ///
    /// # Errors
    /// [`CheckpointError::Disk`].
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
        let path = folder.join(name);
        let failed = |operation: &'static str| {
            let path = path.clone();
            move |source| CheckpointError::Disk { operation, path, source }
        };
        std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        whole_file::write(&path, &self.encode()).map_err(failed("write"))?;
        Ok(path)
    }

    /// Reads a checkpoint and checks that it is whole.
    ///
    /// # Errors
    /// [`CheckpointError`] when it cannot be read, was cut short, or its SHA-256 differs.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let failed = |source| CheckpointError::Disk { operation: "read", path: path.to_path_buf(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > MOST_BYTES {
            return Err(damaged(path, &format!("{length} bytes")));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Self::decode(&bytes).map_err(|found| damaged(path, &found))
    }

    /// The newest whole checkpoint among `folder/step-*.checkpoint`, with the damaged ones that were passed over.
    ///
    /// # Errors
    /// [`CheckpointError::Disk`] when the folder cannot be read; a folder that is not there holds none.
    pub fn latest(folder: &Path) -> Result<(Option<Self>, Vec<CheckpointError>), CheckpointError> {
        let mut passed = Vec::new();
        for path in step_files(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), passed)),
                Err(error) => passed.push(error),
            }
        }
        Ok((None, passed))
    }

    /// Name of the periodic checkpoint of a step; names sort like steps.
    #[must_use]
    pub fn step_name(step: u64) -> String {
        format!("step-{step:08}.checkpoint")
    }

    fn tensors(&self) -> impl Iterator<Item = (Kind, &String, &[f32])> {
        let sets = [(Kind::Weight, Some(&self.weights)), (Kind::Average, self.average.as_ref())];
        let weights = sets.into_iter().filter_map(|(kind, set)| Some((kind, set?)));
        let weights = weights.flat_map(|(kind, set)| {
            set.parameters().iter().map(move |parameter| (kind, &parameter.name, set.values(&parameter.name)))
        });
        let moments = self.adam.moments.iter().flat_map(|(name, moments)| {
            [(Kind::First, name, moments.mean.as_slice()), (Kind::Second, name, moments.square.as_slice())]
        });
        weights.chain(moments)
    }

    fn encode(&self) -> Vec<u8> {
        let tensors = self
            .tensors()
            .map(|(kind, name, tensor)| Entry { kind, name: name.clone(), count: tensor.len() })
            .collect();
        let header = Header {
            step: self.step,
            seed: self.seed,
            preset: self.weights.preset().name.clone(),
            validation: self.validation,
            adam_steps: self.adam.moments.iter().map(|(name, m)| (name.clone(), m.steps)).collect(),
            loss_scale: self.adam.loss_scale.map(|LossScale { scale, steps }| (scale, steps)),
            tensors,
        };
        let header = serde_json::to_vec(&header).expect("strings and numbers make valid JSON");
        let mut bytes = MAGIC.to_vec();
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        for (_, _, tensor) in self.tensors() {
            bytes.extend(tensor.iter().flat_map(|value| value.to_le_bytes()));
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let body_length = bytes.len().checked_sub(32).ok_or("cut short")?;
        let (body, digest) = bytes.split_at(body_length);
        if Sha256::digest(body).as_slice() != digest {
            return Err("its SHA-256 differs from the one at its end".into());
        }
        let rest = body.strip_prefix(MAGIC.as_slice()).ok_or("no checkpoint of this version")?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or("cut short")?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|e| e.to_string())?;
        let (header, mut values) = rest.split_at_checked(length).ok_or("cut short")?;
        let header: Header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
        let (mut weights, mut average) = (Tensors::new(), Tensors::new());
        let (mut first, mut second) = (Tensors::new(), Tensors::new());
        for Entry { kind, name, count } in header.tensors {
            let n_bytes = count.checked_mul(4);
            let (own, others) = n_bytes
                .and_then(|n| values.split_at_checked(n))
                .ok_or_else(|| format!("{name} is cut short"))?;
            values = others;
            let numbers: Vec<f32> =
                own.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let map = match kind {
                Kind::Weight => &mut weights,
                Kind::Average => &mut average,
                Kind::First => &mut first,
                Kind::Second => &mut second,
            };
            if let Some(found) = numbers.iter().find(|number| !number.is_finite()) {
                return Err(format!("{kind} of {name} holds {found}, which is no number to go on with"));
            }
            map.insert(name, numbers);
        }
        let Header { step, seed, preset, validation, adam_steps, loss_scale, .. } = header;
        let preset = Preset::named(&preset).ok_or_else(|| format!("preset {preset} is not known"))?;
        let weights = Weights::new(&preset, weights).map_err(|e| e.to_string())?;
        let average = if average.is_empty() { Ok(None) } else { Weights::new(&preset, average).map(Some) };
        let average = average.map_err(|e| e.to_string())?;
        let loss_scale = loss_scale.map(|(scale, steps)| LossScale { scale, steps });
        let mut adam = Adam { loss_scale, ..Adam::default() };
        for (name, steps) in adam_steps {
            let moments = first.remove(&name).zip(second.remove(&name));
            let (mean, square) = moments.ok_or_else(|| format!("no moments of {name}"))?;
            adam.moments.insert(name, Moments { steps, mean, square });
        }
        Ok(Self { step, seed, validation, weights, average, adam })
    }
}

/// Name of the checkpoint with the best validation.
pub(super) const BEST: &str = "best.checkpoint";

/// Whether a folder holds the checkpoints of a run.
///
/// # Errors
/// [`CheckpointError::Disk`] when the folder cannot be listed; one that is not there holds none.
pub(super) fn holds_a_run(folder: &Path) -> Result<bool, CheckpointError> {
    Ok(!step_files(folder)?.is_empty() || folder.join(BEST).exists())
}

/// Takes away what a killed process left half written.
///
/// # Errors
/// [`CheckpointError::Disk`].
pub(super) fn sweep(folder: &Path) -> Result<(), CheckpointError> {
    whole_file::sweep(folder).map_err(|source| CheckpointError::Disk {
        operation: "delete what is left half written beside",
        path: folder.to_path_buf(),
        source,
    })
}

/// Deletes all periodic checkpoints but the newest `keep`.
///
/// # Errors
/// [`CheckpointError::Disk`].
pub(super) fn keep_newest(folder: &Path, keep: usize) -> Result<(), CheckpointError> {
    let files = step_files(folder)?;
    for path in &files[..files.len().saturating_sub(keep)] {
        std::fs::remove_file(path).map_err(|source| CheckpointError::Disk {
            operation: "delete",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Periodic checkpoints, oldest first.
fn step_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let failed = |source| CheckpointError::Disk { operation: "list", path: folder.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("step-") && name.ends_with(".checkpoint") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn damaged(path: &Path, found: &str) -> CheckpointError {
    CheckpointError::Damaged { path: path.to_path_buf(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let weights = Weights::start(&Preset::starter(), 11);
        let name = "proposal.logits.bias".to_owned();
        let count = u8::try_from(weights.values(&name).len()).unwrap();
        let values = |start: f32| (0..count).map(|i| start + 0.1 * f32::from(i)).collect();
        let moments = Moments { steps: 17, mean: values(2.0), square: values(3.0) };
        let loss_scale = Some(LossScale { scale: 512.0, steps: 31 });
        let adam = Adam { moments: [(name, moments)].into_iter().collect(), loss_scale };
        let average = Some(Weights::start(&Preset::starter(), 12));
        Checkpoint { step, seed: 5, validation: Some(0.31), weights, average, adam }
    }

    #[test]
    fn a_checkpoint_comes_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = checkpoint(40).write(dir.path(), &Checkpoint::step_name(40)).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint(40));
    }

    /// The newest file is cut at every tenth of its length, then one bit of it is turned over.
    #[test]
    fn a_damaged_checkpoint_is_refused_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().unwrap();
        for step in [40, 120] {
            checkpoint(step).write(dir.path(), &Checkpoint::step_name(step)).unwrap();
        }
        let newest = dir.path().join(Checkpoint::step_name(120));
        let whole = std::fs::read(&newest).unwrap();
        let mut broken: Vec<Vec<u8>> =
            (0..10).map(|part| whole[..whole.len() * part / 10].to_vec()).collect();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        broken.push(flipped);
        for bytes in broken {
            std::fs::write(&newest, bytes).unwrap();
            let (found, passed) = Checkpoint::latest(dir.path()).unwrap();
            assert_eq!(found.unwrap().step, 40);
            assert!(matches!(passed[..], [CheckpointError::Damaged { .. }]));
        }
    }

    /// Whole by its SHA-256, but with a value that every step would spread over all weights.
    #[test]
    fn a_weight_that_is_no_number_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut broken = checkpoint(40);
        broken.weights.values_mut("stem.1.norm.shift")[2] = f32::NAN;
        let path = broken.write(dir.path(), &Checkpoint::step_name(40)).unwrap();
        let error = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(error.contains("the weight of stem.1.norm.shift holds NaN"), "{error}");
        let mut broken = checkpoint(40);
        broken.adam.moments.get_mut("proposal.logits.bias").unwrap().square[1] = f32::INFINITY;
        let path = broken.write(dir.path(), &Checkpoint::step_name(40)).unwrap();
        let error = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(error.contains("the mean squared gradient of proposal.logits.bias holds inf"), "{error}");
    }

    #[test]
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for step in [9, 100, 20] {
            checkpoint(step).write(dir.path(), &Checkpoint::step_name(step)).unwrap();
        }
        keep_newest(dir.path(), 2).unwrap();
        let names: Vec<_> = step_files(dir.path()).unwrap();
        assert_eq!(names.len(), 2);
        assert!(
            names[0].ends_with("step-00000020.checkpoint") && names[1].ends_with("step-00000100.checkpoint")
        );
    }
}
