//! The weights of one preset: names, shapes, how they start, and the file that carries them.
//!
//! The file is in the safetensors layout: an eight-byte little-endian length, a JSON object with type, shape and place of
//! each tensor, then the bytes. Its metadata names the preset and the SHA-256 of the bytes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::layers::narrow;
use super::{Preset, uanet};

/// No header is longer than this, in bytes: some hundred tensors, a hundred bytes each, and room.
const LONGEST_HEADER: u64 = 1 << 20;
/// No file is longer than this, in bytes: several times the largest preset.
const LONGEST_FILE: u64 = 1 << 30;

/// Whether the optimiser changes a tensor or the data does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Has a gradient; Adam changes it.
    Trained,
    /// Running mean or variance of a batch norm; a training graph returns its new value.
    Running,
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// Normal with variance `2 / fan_in` (He et al. 2015, eq. 10).
    He {
        /// Inputs that one output sums.
        fan_in: usize,
    },
    /// Every element this.
    Value(f32),
}

/// One tensor that a preset needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Stable name: `stage2.1.first.conv.weight`.
    pub name: String,
    /// Sides; `(out, in, kz, ky, kx)` for convolutions, `(out, in)` for full layers.
    pub shape: Vec<usize>,
    /// Who changes it.
    pub role: Role,
    /// How it starts.
    pub start: Start,
}

/// Why weights could not be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file could not be read or written.
    #[error("cannot {operation} the weights {}; check that the disk has room and the folder may be used", path.display())]
    File {
        /// `read` or `write`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a weight file, or broken.
    #[error("wanted a weight file, found {found} in {}; fetch or train the model again", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// A tensor is missing, has another shape, or is not known.
    #[error(
        "weights of the preset {preset} do not fit: wanted {wanted} for {name}, found {found}; use the weights of this preset"
    )]
    Unfit {
        /// Which preset was wanted.
        preset: String,
        /// Which tensor.
        name: String,
        /// Its shape in the preset, or that it is unknown.
        wanted: String,
        /// What is there.
        found: String,
    },
}

/// All weights of one preset; every name is there with its shape, in the order of [`Weights::parameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    preset: Preset,
    parameters: Vec<Parameter>,
    values: BTreeMap<String, Vec<f32>>,
}

impl Weights {
    /// The starting weights that a seed gives; the same on every machine.
    #[must_use]
    pub fn start(preset: &Preset, seed: u64) -> Self {
        let mut random = Pcg64::seed_from_u64(seed);
        let parameters = uanet::parameters(preset);
        let values = parameters
            .iter()
            .map(|parameter| (parameter.name.clone(), parameter.draw(&mut random)))
            .collect();
        Self { preset: preset.clone(), parameters, values }
    }

    /// Every tensor that a preset needs, in the network's order.
    #[must_use]
    pub fn needed(preset: &Preset) -> Vec<Parameter> {
        uanet::parameters(preset)
    }

    /// Weights by name, each in C order.
    ///
    /// # Errors
    /// [`WeightsError::Unfit`] where a tensor is missing, of another size, or unknown to the preset.
    pub fn new(preset: &Preset, values: BTreeMap<String, Vec<f32>>) -> Result<Self, WeightsError> {
        let parameters = uanet::parameters(preset);
        let unfit = |name: &str, wanted: String, found: String| WeightsError::Unfit {
            preset: preset.name.clone(),
            name: name.to_owned(),
            wanted,
            found,
        };
        for parameter in &parameters {
            let wanted = parameter.shape.iter().product::<usize>();
            match values.get(&parameter.name) {
                None => {
                    return Err(unfit(
                        &parameter.name,
                        format!("{:?}", parameter.shape),
                        "nothing".to_owned(),
                    ));
                }
                Some(found) if found.len() != wanted => {
                    let found = format!("{} elements", found.len());
                    return Err(unfit(&parameter.name, format!("{:?}", parameter.shape), found));
                }
                Some(_) => {}
            }
        }
        if let Some(name) =
            values.keys().find(|name| parameters.iter().all(|parameter| parameter.name != **name))
        {
            return Err(unfit(name, "no such tensor".to_owned(), "one".to_owned()));
        }
        Ok(Self { preset: preset.clone(), parameters, values })
    }

    /// The same weights for a preset that differs in grid, anchors and window alone; `None` where a layer differs.
    #[must_use]
    pub fn for_preset(&self, preset: &Preset) -> Option<Self> {
        Self::new(preset, self.values.clone()).ok()
    }

    /// Which preset they belong to.
    #[must_use]
    pub fn preset(&self) -> &Preset {
        &self.preset
    }

    /// Every tensor, in the network's order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The sides of a tensor.
    ///
    /// # Panics
    /// As [`Weights::values`].
    #[must_use]
    pub fn shape(&self, name: &str) -> &[usize] {
        let parameter = self.parameters.iter().find(|parameter| parameter.name == name);
        &parameter.expect("names come from the preset's own parameters").shape
    }

    /// The values of a tensor, C order.
    ///
    /// # Panics
    /// If the preset has no such tensor: names come from [`Weights::parameters`], so that would be our bug.
    #[must_use]
    pub fn values(&self, name: &str) -> &[f32] {
        self.values.get(name).expect("names come from the preset's own parameters")
    }

    /// The values of a tensor, to be changed.
    ///
    /// # Panics
    /// As [`Weights::values`].
    pub fn values_mut(&mut self, name: &str) -> &mut [f32] {
        self.values.get_mut(name).expect("names come from the preset's own parameters")
    }

    /// How many numbers there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.values.values().map(Vec::len).sum()
    }

    /// Writes the weights: aside, synced, renamed, so that a file of this name is always whole.
    ///
    /// # Errors
    /// [`WeightsError::File`] where the disk refuses.
    pub fn save(&self, path: &Path) -> Result<(), WeightsError> {
        let failed = |source| WeightsError::File { operation: "write", path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&self.to_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads weights written by [`Weights::save`].
    ///
    /// # Errors
    /// Where the file cannot be read, is broken, or does not fit the preset that it names.
    pub fn load(path: &Path) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::File { operation: "read", path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LONGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(&bytes, path)
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 * self.count());
        let mut header = Map::new();
        for parameter in &self.parameters {
            let start = body.len();
            body.extend(self.values(&parameter.name).iter().flat_map(|value| value.to_le_bytes()));
            let place =
                json!({"dtype": "F32", "shape": parameter.shape, "data_offsets": [start, body.len()]});
            header.insert(parameter.name.clone(), place);
        }
        let digest = hex(&Sha256::digest(&body));
        header.insert("__metadata__".to_owned(), json!({"preset": self.preset.name, "sha256": digest}));
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(body);
        file
    }

    /// Weights from a file's bytes; `path` is for the error messages.
    ///
    /// # Errors
    /// Where the bytes are broken or do not fit the preset that they name.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, WeightsError> {
        let broken = |found: &str| WeightsError::Broken { path: path.to_owned(), found: found.to_owned() };
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| broken("fewer than eight bytes"))?;
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER {
            return Err(broken("a header of more than a megabyte"));
        }
        let length = usize::try_from(length).map_err(|_too_long| broken("a header that is too long"))?;
        let (header, body) = rest.split_at_checked(length).ok_or_else(|| broken("a cut header"))?;
        let header: Map<String, Value> = serde_json::from_slice(header)
            .map_err(|error| broken(&format!("a header that is no JSON ({error})")))?;
        let metadata = |key: &str| header.get("__metadata__")?.get(key)?.as_str();
        let preset = metadata("preset").and_then(Preset::named).ok_or_else(|| broken("no known preset"))?;
        if metadata("sha256") != Some(hex(&Sha256::digest(body)).as_str()) {
            return Err(broken("bytes that differ from their SHA-256"));
        }
        let (mut values, mut shapes) = (BTreeMap::new(), BTreeMap::new());
        for (name, place) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let offset = |at| usize::try_from(place.get("data_offsets")?.get(at)?.as_u64()?).ok();
            let bytes = offset(0).zip(offset(1)).and_then(|(start, end)| body.get(start..end));
            let bytes = bytes.filter(|_| place.get("dtype").and_then(Value::as_str) == Some("F32"));
            let (numbers, surplus) =
                bytes.ok_or_else(|| broken(&format!("no F32 bytes for {name}")))?.as_chunks();
            if !surplus.is_empty() {
                return Err(broken(&format!("a cut number in {name}")));
            }
            let sides: Option<Vec<usize>> =
                place.get("shape").and_then(|sides| serde_json::from_value(sides.clone()).ok());
            shapes.insert(name.clone(), sides.unwrap_or_default());
            values.insert(name.clone(), numbers.iter().map(|number| f32::from_le_bytes(*number)).collect());
        }
        let weights = Self::new(&preset, values)?;
        for parameter in &weights.parameters {
            let found = shapes.get(&parameter.name);
            if found != Some(&parameter.shape) {
                return Err(WeightsError::Unfit {
                    preset: preset.name.clone(),
                    name: parameter.name.clone(),
                    wanted: format!("{:?}", parameter.shape),
                    found: format!("{:?}", found.cloned().unwrap_or_default()),
                });
            }
        }
        Ok(weights)
    }

    /// Weight and bias of a convolution with the batch norm after it folded in, computed in `f64`.
    ///
    /// `channel_axis` says which axis of the weight is the output channel.
    pub(super) fn folded(&self, name: &str, channel_axis: usize, epsilon: f64) -> (Vec<f32>, Vec<f32>) {
        let weight = format!("{name}.conv.weight");
        let of =
            |what: &str| self.values(&format!("{name}.norm.{what}")).iter().map(|&value| f64::from(value));
        let factors: Vec<_> =
            of("scale").zip(of("variance")).map(|(scale, var)| scale / (var + epsilon).sqrt()).collect();
        let bias = of("shift")
            .zip(of("mean"))
            .zip(&factors)
            .map(|((shift, mean), factor)| narrow(shift - mean * factor));
        let bias = bias.collect();
        let shape = &self
            .parameters
            .iter()
            .find(|parameter| parameter.name == weight)
            .expect("a preset's name")
            .shape;
        let behind: usize = shape[channel_axis + 1..].iter().product();
        let channels = shape[channel_axis];
        let values = self.values(&weight).iter().enumerate();
        let weight =
            values.map(|(at, &value)| narrow(f64::from(value) * factors[at / behind % channels])).collect();
        (weight, bias)
    }
}

impl Parameter {
    fn draw(&self, random: &mut Pcg64) -> Vec<f32> {
        let count = self.shape.iter().product();
        match self.start {
            Start::Value(value) => vec![value; count],
            Start::He { fan_in } => {
                let deviation = (2.0 / fan_in as f64).sqrt();
                let normal = Normal::new(0.0, deviation).expect("a deviation is finite and not negative");
                (0..count).map(|_| narrow(normal.sample(random))).collect()
            }
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_from_their_file_as_they_were() {
        let weights = Weights::start(&Preset::starter(), 7);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        weights.save(&path).unwrap();
        assert_eq!(Weights::load(&path).unwrap(), weights);
    }

    #[test]
    fn a_broken_file_is_refused() {
        let bytes = Weights::start(&Preset::starter(), 7).to_bytes();
        let path = Path::new("w");
        for cut in [0, 5, 100, bytes.len() - 1] {
            assert!(
                matches!(Weights::from_bytes(&bytes[..cut], path), Err(WeightsError::Broken { .. })),
                "{cut}"
            );
        }
        let mut flipped = bytes;
        *flipped.last_mut().unwrap() ^= 1;
        assert!(Weights::from_bytes(&flipped, path).unwrap_err().to_string().contains("SHA-256"));
        assert!(Weights::from_bytes(&[0xff; 64], path).is_err());
        let mut turned = Weights::start(&Preset::starter(), 7).to_bytes();
        let from = b"\"shape\":[24,64,";
        let at = turned.windows(from.len()).position(|part| part == from).unwrap();
        turned[at..at + from.len()].copy_from_slice(b"\"shape\":[64,24,");
        assert!(
            Weights::from_bytes(&turned, path).unwrap_err().to_string().contains("wanted [24, 64, 3, 3, 3]")
        );
    }

    #[test]
    fn a_missing_or_surplus_tensor_is_named() {
        let preset = Preset::starter();
        let mut values = Weights::start(&preset, 1).values;
        let taken = values.remove("stem.1.conv.weight").unwrap();
        assert!(
            Weights::new(&preset, values.clone()).unwrap_err().to_string().contains("stem.1.conv.weight")
        );
        values.insert("stem.1.conv.weight".to_owned(), taken);
        values.insert("other".to_owned(), vec![]);
        assert!(Weights::new(&preset, values).unwrap_err().to_string().contains("other"));
    }

    /// A changed number here means that the architecture changed, and no weight file fits any more.
    #[test]
    fn each_preset_has_its_count_of_numbers() {
        let count = |preset: &Preset| {
            uanet::parameters(preset).iter().map(|p| p.shape.iter().product::<usize>()).sum()
        };
        let counts: [usize; 2] = [count(&Preset::starter()), count(&Preset::reference())];
        assert_eq!(counts, [3_104_503, 19_830_211]);
    }
}
