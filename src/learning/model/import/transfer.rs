//! Tensors of a checkpoint -> ours, each used once.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckpointFile, ImportError, TensorEntry};
use crate::engine::graph::preset::{N_CLASSES, WIDTHS};
use crate::engine::graph::{Preset, Weights};
use crate::settings::{NameTable, Plain, WithNorm};
use crate::vocabulary::organ::Organ;

/// Bias of a class that the checkpoint does not have: its probability is zero, the others' are what they were.
const NO_SUCH_CLASS: f32 = -1e4;

/// The weights of a checkpoint; their preset is read off the sides of its tensors.
///
/// A checkpoint of fewer organs becomes a network of all 28 that never finds the others.
/// A convolution's bias in front of a batch norm is taken off the running mean, in `f64`; in front of a local contrast
/// norm it is cancelled by the norm's own mean and is left out.
///
/// # Errors
/// [`ImportError`]: a tensor that is missing, has other sides, is used twice, is not a number, or is left over.
pub fn transfer(file: &CheckpointFile, table: &NameTable) -> Result<Weights, ImportError> {
    let classes = table.classes().map_err(|found| ImportError::Organs { found })?;
    let preset = preset_of(file, table)?;
    let needed = Weights::needed(&preset);
    let mut transfer = Transfer {
        file,
        shapes: needed.into_iter().map(|parameter| (parameter.name, parameter.shape)).collect(),
        preset,
        classes,
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
    for Plain { theirs, ours } in &table.plain {
        for part in ["weight", "bias"] {
            let (theirs, ours) = (format!("{theirs}.{part}"), format!("{ours}.{part}"));
            match ours.as_str() {
                "refinement.classes.weight" => transfer.of_classes(&theirs, &ours, 1, 0.0)?,
                "refinement.classes.bias" => transfer.of_classes(&theirs, &ours, 1, NO_SUCH_CLASS)?,
                "refinement.boxes.weight" | "refinement.boxes.bias" => {
                    transfer.of_classes(&theirs, &ours, 6, 0.0)?;
                }
                _ => transfer.copy(&theirs, &ours)?,
            }
        }
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

/// Layers that give the widths, in the order of [`WIDTHS`], and the axis of their weight that does; then the stages that
/// are counted.
const GIVES_WIDTH: [(&str, usize); 11] = [
    ("stem.1", 0),
    ("stage2.1.first", 0),
    ("stage4.1.first", 0),
    ("stage8.1.first", 0),
    ("stage16.1.first", 0),
    ("rise", 1),
    ("merge8.1.first", 0),
    ("proposal.shared", 0),
    ("refinement.first", 0),
    ("refinement.second", 0),
    ("mask.up8", 0),
];
const GIVES_BLOCKS: [&str; 5] = ["stage2.", "stage4.", "stage8.", "stage16.", "merge8."];

/// The preset that the widths of the layers make: `starter` where all are its own, else a descendant of `reference`.
fn preset_of(file: &CheckpointFile, table: &NameTable) -> Result<Preset, ImportError> {
    let with_norm = table.normalised.iter().chain(&table.contrast).map(|layer| (&layer.conv, &layer.ours));
    let layers: Vec<_> =
        with_norm.chain(table.plain.iter().map(|layer| (&layer.theirs, &layer.ours))).collect();
    let mut widths = [0; WIDTHS.len()];
    for ((key, width), (ours, axis)) in WIDTHS.into_iter().zip(&mut widths).zip(GIVES_WIDTH) {
        let theirs =
            layers.iter().find(|(_, name)| *name == ours).map(|(theirs, _)| format!("{theirs}.weight"));
        let theirs = theirs
            .ok_or_else(|| ImportError::Widths { key, found: format!("nowhere: no layer is our {ours}") })?;
        let entry = file.tensors.iter().find(|tensor| tensor.name == theirs);
        let entry = entry.ok_or_else(|| ImportError::Missing { name: theirs.clone() })?;
        let side = entry.shape.get(axis).copied();
        *width = side.ok_or_else(|| ImportError::Widths {
            key,
            found: format!("not in {theirs} {:?}", entry.shape),
        })?;
    }
    for (count, stage) in widths[GIVES_WIDTH.len()..].iter_mut().zip(GIVES_BLOCKS) {
        *count =
            layers.iter().filter(|(_, ours)| ours.starts_with(stage) && ours.ends_with(".first")).count();
    }
    let preset = Preset::reference().with_widths(widths).ok_or_else(|| {
        let key = WIDTHS[widths.iter().position(|width| *width == 0).unwrap_or_default()];
        ImportError::Widths { key, found: format!("{widths:?} in all, in the order {WIDTHS:?}") }
    })?;
    Ok([Preset::starter()].into_iter().find(|starter| starter.widths() == widths).unwrap_or(preset))
}

struct Transfer<'a> {
    file: &'a CheckpointFile,
    preset: Preset,
    shapes: BTreeMap<String, Vec<usize>>,
    /// The organs in the order of the checkpoint's classes.
    classes: Vec<Organ>,
    used: BTreeSet<String>,
    values: BTreeMap<String, Vec<f32>>,
}

impl Transfer<'_> {
    /// The sides that our tensor has.
    fn sides(&self, ours: &str) -> Result<Vec<usize>, ImportError> {
        let preset = || self.preset.name.clone();
        let missing = || ImportError::NoSuchLayer { ours: ours.to_owned(), preset: preset() };
        self.shapes.get(ours).cloned().ok_or_else(missing)
    }

    fn find(&mut self, name: &str, shape: &[usize]) -> Result<TensorEntry, ImportError> {
        let entry = self.file.tensors.iter().find(|tensor| tensor.name == name);
        let entry = entry.ok_or_else(|| ImportError::Missing { name: name.to_owned() })?;
        if entry.shape != shape {
            return Err(ImportError::Shape {
                name: name.to_owned(),
                found: entry.shape.clone(),
                preset: self.preset.name.clone(),
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

    /// Rows of background and of each class of the checkpoint, `rows` for each, to where ours are; rows of the other
    /// classes are `absent`.
    fn of_classes(&mut self, theirs: &str, ours: &str, rows: usize, absent: f32) -> Result<(), ImportError> {
        let mut shape = self.sides(ours)?;
        let row = shape.iter().skip(1).product::<usize>() * rows;
        shape[0] = (1 + self.classes.len()) * rows;
        let found = self.take(theirs, &shape)?;
        let mut values = vec![absent; N_CLASSES * row];
        let places = std::iter::once(0).chain(self.classes.iter().map(|organ| organ.class()));
        for (own, class) in found.chunks(row).zip(places) {
            values[class * row..(class + 1) * row].copy_from_slice(own);
        }
        self.values.insert(ours.to_owned(), values);
        Ok(())
    }

    fn organs(&mut self, theirs: &str, ours: &str) -> Result<(), ImportError> {
        let channels = self.sides(&format!("{ours}.weight"))?[1];
        let (mut weights, mut biases) = (vec![0.0; Organ::COUNT * channels], vec![0.0; Organ::COUNT]);
        for (at, organ) in self.classes.clone().into_iter().enumerate() {
            let name = theirs.replace("{class}", &(at + 1).to_string());
            let row = self.take(&format!("{name}.weight"), &[1, channels, 1, 1, 1])?;
            weights[organ.index() * channels..][..channels].copy_from_slice(&row);
            biases[organ.index()] = self.take(&format!("{name}.bias"), &[1])?[0];
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
        named(&Weights::start(&Preset::starter(), 8), bias)
    }

    fn named(weights: &Weights, bias: f32) -> Tensors {
        let table = NameTable::published();
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
    fn widths_are_read_off_the_sides() {
        let dir = tempfile::tempdir().unwrap();
        let widths = [3, 5, 6, 6, 6, 4, 10, 7, 9, 8, 11, 2, 2, 3, 3, 3];
        let preset = Preset::reference().with_widths(widths).unwrap();
        let start = Weights::start(&preset, 4);
        let file = stored(&named(&start, 0.0), &dir.path().join("x"));
        let weights = transfer(&file, &NameTable::published()).unwrap();
        assert_eq!(weights.preset(), &preset);
        assert_eq!(weights.values("mask.up2.conv.weight"), start.values("mask.up2.conv.weight"));
        // One layer of another width than all others ask for.
        let mut tensors = named(&start, 0.0);
        tensors.get_mut("mask_head.up3.1.weight").unwrap().0 = vec![11, 27, 11, 1, 1];
        let error = transfer(&stored(&tensors, &dir.path().join("y")), &NameTable::published())
            .unwrap_err()
            .to_string();
        assert!(error.contains("mask_head.up3.1.weight") && error.contains("mask=11"), "{error}");
    }

    /// Two organs in an order of their own: their rows go where ours are, the other classes cannot win.
    #[test]
    fn a_checkpoint_of_fewer_organs_finds_these_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = published(0.0);
        let rows = |all: &mut Tensors, name: &str, count: usize| {
            let (shape, values) = all.get_mut(name).unwrap();
            let row = values.len() / shape[0];
            shape[0] = count;
            values.truncate(count * row);
            values.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
        };
        for (name, count) in [("logit", 3), ("delta", 18)] {
            rows(&mut tensors, &format!("rcnn_head.{name}.weight"), count);
            rows(&mut tensors, &format!("rcnn_head.{name}.bias"), count);
        }
        for class in 3..=28 {
            tensors.retain(|name, _| !name.starts_with(&format!("mask_head.logits{class}.")));
        }
        let mut table = NameTable::published();
        table.organs.classes = vec!["Mandible".to_owned(), "Brain stem".to_owned()];
        let weights = transfer(&stored(&tensors, &dir.path().join("x")), &table).unwrap();
        let bias = weights.values("refinement.classes.bias");
        assert_eq!((bias[0], bias[Organ::Mandible.class()], bias[Organ::BrainStem.class()]), (0.0, 1.0, 2.0));
        assert_eq!(bias[Organ::Larynx.class()], NO_SUCH_CLASS);
        let boxes = weights.values("refinement.boxes.bias");
        assert_eq!(boxes[6 * Organ::BrainStem.class()..][..6], [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
        let filters = weights.values("mask.organs.weight");
        let (_, first) = &tensors["mask_head.logits1.weight"];
        assert_eq!(&filters[Organ::Mandible.index() * first.len()..][..first.len()], first.as_slice());
        assert!(filters[..first.len()].iter().all(|weight| weight.abs() < 1e-12));
        let error =
            transfer(&stored(&published(0.0), &dir.path().join("y")), &table).unwrap_err().to_string();
        assert!(error.contains("rcnn_head.logit.weight") && error.contains("[3, 128]"), "{error}");
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
