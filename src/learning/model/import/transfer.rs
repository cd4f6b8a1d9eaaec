//! Tensors of a checkpoint -> ours, each used once.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckpointFile, ImportError, TensorEntry};
use crate::engine::graph::{Preset, Weights};
use crate::settings::{NameTable, WithNorm};
use crate::vocabulary::organ::Organ;

/// The weights of a checkpoint, with the preset whose sides its tensors have.
///
/// A convolution's bias in front of a batch norm is taken off the running mean, in `f64`; in front of a local contrast
/// norm it is cancelled by the norm's own mean and is left out.
///
/// # Errors
/// [`ImportError`]: a tensor that is missing, has other sides, is used twice, is not a number, or is left over.
pub fn transfer(file: &CheckpointFile, table: &NameTable) -> Result<Weights, ImportError> {
    let preset = nearest_preset(file, table);
    let needed = Weights::needed(&preset);
    let mut transfer = Transfer {
        file,
        shapes: needed.into_iter().map(|parameter| (parameter.name, parameter.shape)).collect(),
        preset,
        used: BTreeSet::new(),
        values: BTreeMap::new(),
    };
    for layer in &table.normalised {
        transfer.normalised(layer)?;
    }
    for WithNorm { conv, norm, ours } in &table.contrast {
        transfer.copy(&format!("{conv}.weight"), &format!("{ours}.conv.weight"))?;
        transfer.copy(&format!("{norm}.weight"), &format!("{ours}.norm.scale"))?;
        transfer.copy(&format!("{norm}.bias"), &format!("{ours}.norm.shift"))?;
        let channels = transfer.sides(&format!("{ours}.norm.shift"))?;
        transfer.take(&format!("{conv}.bias"), &channels)?;
    }
    for layer in &table.plain {
        transfer.copy(&format!("{}.weight", layer.theirs), &format!("{}.weight", layer.ours))?;
        transfer.copy(&format!("{}.bias", layer.theirs), &format!("{}.bias", layer.ours))?;
    }
    transfer.organs(&table.organs.theirs, &table.organs.ours)?;
    let used = &transfer.used;
    let left = file.tensors.iter().map(|tensor| &tensor.name).filter(|name| !used.contains(*name));
    let left: Vec<String> =
        left.filter(|name| !table.unused.iter().any(|unused| unused.holds(name))).cloned().collect();
    if !left.is_empty() {
        return Err(ImportError::LeftOver { names: left });
    }
    Weights::new(&transfer.preset, transfer.values).map_err(ImportError::Weights)
}

/// The preset whose first convolution has the sides of the file's, `reference` where none has.
fn nearest_preset(file: &CheckpointFile, table: &NameTable) -> Preset {
    let Some(layer) = table.normalised.first() else { return Preset::reference() };
    let (theirs, ours) = (format!("{}.weight", layer.conv), format!("{}.conv.weight", layer.ours));
    let found = file.tensors.iter().find(|tensor| tensor.name == theirs);
    let fits = |preset: &Preset| {
        let needed = Weights::needed(preset);
        let wanted = needed.iter().find(|parameter| parameter.name == ours);
        found.zip(wanted).is_some_and(|(found, wanted)| found.shape == wanted.shape)
    };
    [Preset::reference(), Preset::starter()].into_iter().find(fits).unwrap_or_else(Preset::reference)
}

struct Transfer<'a> {
    file: &'a CheckpointFile,
    preset: Preset,
    shapes: BTreeMap<String, Vec<usize>>,
    used: BTreeSet<String>,
    values: BTreeMap<String, Vec<f32>>,
}

impl Transfer<'_> {
    /// The sides that our tensor has.
    fn sides(&self, ours: &str) -> Result<Vec<usize>, ImportError> {
        self.shapes.get(ours).cloned().ok_or_else(|| ImportError::Missing { name: ours.to_owned() })
    }

    fn find(&mut self, name: &str, shape: &[usize]) -> Result<TensorEntry, ImportError> {
        let entry = self.file.tensors.iter().find(|tensor| tensor.name == name);
        let entry = entry.ok_or_else(|| ImportError::Missing { name: name.to_owned() })?;
        if entry.shape != shape {
            return Err(ImportError::Shape {
                name: name.to_owned(),
                found: entry.shape.clone(),
                preset: self.preset.name,
                wanted: shape.to_vec(),
            });
        }
        if !self.used.insert(name.to_owned()) {
            return Err(ImportError::Twice { name: name.to_owned() });
        }
        Ok(entry.clone())
    }

    /// Numbers of a tensor that must have these sides, all of them finite.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let entry = self.find(name, shape)?;
        let values = self.file.values(&entry)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(ImportError::NotFinite { name: name.to_owned(), value: values[at], at }),
            None => Ok(values),
        }
    }

    fn copy(&mut self, theirs: &str, ours: &str) -> Result<(), ImportError> {
        let shape = self.sides(ours)?;
        let values = self.take(theirs, &shape)?;
        self.values.insert(ours.to_owned(), values);
        Ok(())
    }

    fn normalised(&mut self, WithNorm { conv, norm, ours }: &WithNorm) -> Result<(), ImportError> {
        self.copy(&format!("{conv}.weight"), &format!("{ours}.conv.weight"))?;
        self.copy(&format!("{norm}.weight"), &format!("{ours}.norm.scale"))?;
        self.copy(&format!("{norm}.bias"), &format!("{ours}.norm.shift"))?;
        let variance = format!("{ours}.norm.variance");
        self.copy(&format!("{norm}.running_var"), &variance)?;
        let below = self.values[&variance].iter().position(|value| *value < 0.0);
        if let Some(at) = below {
            let value = self.values[&variance][at];
            return Err(ImportError::NotFinite { name: format!("{norm}.running_var"), value, at });
        }
        let shape = self.sides(&variance)?;
        let bias = self.take(&format!("{conv}.bias"), &shape)?;
        let mean = self.take(&format!("{norm}.running_mean"), &shape)?;
        let mean = mean.iter().zip(bias).map(|(mean, bias)| narrow(f64::from(*mean) - f64::from(bias)));
        self.values.insert(format!("{ours}.norm.mean"), mean.collect());
        Ok(())
    }

    fn organs(&mut self, theirs: &str, ours: &str) -> Result<(), ImportError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let channels = self.sides(&format!("{ours}.weight"))?[1];
        for organ in Organ::ALL {
            let name = theirs.replace("{class}", &organ.class().to_string());
            weights.extend(self.take(&format!("{name}.weight"), &[1, channels, 1, 1, 1])?);
            biases.extend(self.take(&format!("{name}.bias"), &[1])?);
        }
        self.values.insert(format!("{ours}.weight"), weights);
        self.values.insert(format!("{ours}.bias"), biases);
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

    /// A checkpoint of the starter's sides under the published names; biases of convolutions are `bias`.
    fn published(bias: f32) -> Tensors {
        let (table, weights) = (NameTable::published(), Weights::start(&Preset::starter(), 8));
        let mut all = BTreeMap::new();
        let mut put = |theirs: String, ours: &str| {
            all.insert(theirs, (weights.shape(ours).to_vec(), weights.values(ours).to_vec()));
        };
        for (layers, running) in [(&table.normalised, true), (&table.contrast, false)] {
            for WithNorm { conv, norm, ours } in layers {
                put(format!("{conv}.weight"), &format!("{ours}.conv.weight"));
                put(format!("{conv}.bias"), &format!("{ours}.norm.shift"));
                put(format!("{norm}.weight"), &format!("{ours}.norm.scale"));
                put(format!("{norm}.bias"), &format!("{ours}.norm.shift"));
                if running {
                    put(format!("{norm}.running_mean"), &format!("{ours}.norm.mean"));
                    put(format!("{norm}.running_var"), &format!("{ours}.norm.variance"));
                }
            }
        }
        for layer in &table.plain {
            put(format!("{}.weight", layer.theirs), &format!("{}.weight", layer.ours));
            put(format!("{}.bias", layer.theirs), &format!("{}.bias", layer.ours));
        }
        for layer in table.normalised.iter().chain(&table.contrast) {
            all.get_mut(&format!("{}.bias", layer.conv)).unwrap().1.fill(bias);
        }
        let (rows, biases) = (weights.values("mask.organs.weight"), weights.values("mask.organs.bias"));
        let width = rows.len() / Organ::COUNT;
        for (at, row) in rows.chunks(width).enumerate() {
            let name = format!("mask_head.logits{}", at + 1);
            all.insert(format!("{name}.weight"), (vec![1, width, 1, 1, 1], row.to_vec()));
            all.insert(format!("{name}.bias"), (vec![1], vec![biases[at] + 1.0]));
        }
        all.insert("mask_head.logits29.bias".into(), (vec![1], vec![5.0]));
        all
    }

    fn stored(tensors: &Tensors, path: &Path) -> CheckpointFile {
        let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
        for (name, (shape, values)) in tensors {
            let start = body.len();
            body.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let described =
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, body.len()]});
            header.insert(name.clone(), described);
        }
        let header = serde_json::Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &body].concat();
        std::fs::write(path, bytes).unwrap();
        CheckpointFile::open(path, "state_dict").unwrap()
    }

    #[test]
    fn every_tensor_arrives_and_a_bias_goes_into_the_mean() {
        let dir = tempfile::tempdir().unwrap();
        let weights =
            transfer(&stored(&published(0.25), &dir.path().join("x")), &NameTable::published()).unwrap();
        let start = Weights::start(&Preset::starter(), 8);
        for parameter in start.parameters() {
            let (found, drawn) = (weights.values(&parameter.name), start.values(&parameter.name));
            let shift = match parameter.name.as_str() {
                name if name.ends_with("norm.mean") => -0.25,
                "mask.organs.bias" => 1.0,
                _ => 0.0,
            };
            assert!(found.iter().zip(drawn).all(|(a, b)| (a - b - shift).abs() < 1e-7), "{}", parameter.name);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut Tensors)| {
            let mut tensors = published(0.0);
            change(&mut tensors);
            transfer(&stored(&tensors, &dir.path().join("x")), &NameTable::published())
                .unwrap_err()
                .to_string()
        };
        let missing = refused(&|all| drop(all.remove("rcnn_head.fc2.bias")));
        assert!(missing.contains("no tensor rcnn_head.fc2.bias"), "{missing}");
        let more = refused(&|all| drop(all.insert("rpn.extra.bias".into(), (vec![1], vec![0.0]))));
        assert!(more.contains("1 tensors") && more.contains("rpn.extra.bias"), "{more}");
        let sides = refused(&|all| all.get_mut("rpn.logits.bias").unwrap().0 = vec![3, 4]);
        assert!(sides.contains("rpn.logits.bias") && sides.contains("[3, 4]"), "{sides}");
        let broken = refused(&|all| all.get_mut("rpn.deltas.bias").unwrap().1[5] = f32::NAN);
        assert!(broken.contains("rpn.deltas.bias holds NaN at position 5"), "{broken}");
        let below = refused(&|all| all.get_mut("feature_net.path1.1.running_var").unwrap().1[3] = -1.0);
        assert!(below.contains("running_var holds -1 at position 3"), "{below}");
    }
}
