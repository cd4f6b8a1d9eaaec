//! Checkpoint files of other programs: which tensors are in them, and their numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::ImportError;
use super::pickle::{self, ElementType, Id, Pickle, Value};

/// Where a tensor's numbers lie.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Bytes of the file itself.
    Offset(u64),
    /// Bytes of an entry of the archive.
    Entry { name: String, start: u64 },
}

/// A tensor of a checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// Its sides.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub elements: ElementType,
    place: Place,
}

/// A checkpoint of another program, its tensors listed, their numbers still on disk.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    /// Which format it is of.
    pub format: &'static str,
    /// Its tensors, in the file's order.
    pub tensors: Vec<TensorEntry>,
}

/// No header of the safetensors format is longer, bytes.
const LONGEST_HEADER: u64 = 1 << 20;
/// PyTorch's mark before its old format: a whole number of ten bytes.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version that every file of the old format states.
const LEGACY_PROTOCOL: i64 = 1001;

impl CheckpointFile {
    /// Lists the tensors of a PyTorch file (archive or old format) or a safetensors file.
    ///
    /// `state` is the key of the state dict in the saved dictionary; the dictionary itself where there is no such key.
    ///
    /// # Errors
    /// [`ImportError`] where the file is none of these, is damaged, or could do anything but hold numbers.
    pub fn open(path: &Path, state: &str) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut first = [0; 9];
        let length = file.get_ref().metadata().map_err(failed)?.len();
        if length < 9 {
            return Err(damaged(path, format!("{length} bytes are no checkpoint")));
        }
        file.read_exact(&mut first).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (format, tensors) = match first {
            [b'P', b'K', 3, 4, ..] => ("PyTorch archive", archive(path, file, state)?),
            [0x80, 2..=4, ..] => ("PyTorch, old format", legacy(path, file, length, state)?),
            [.., b'{'] => ("safetensors", safetensors(path, file, length)?),
            _ => {
                let found = "neither a PyTorch file nor a safetensors file".to_owned();
                return Err(damaged(path, found));
            }
        };
        Ok(Self { path: path.to_owned(), format, tensors })
    }

    /// The numbers of a tensor, C order.
    ///
    /// # Errors
    /// [`ImportError`] where they cannot be read or are whole numbers.
    pub fn values(&self, tensor: &TensorEntry) -> Result<Vec<f32>, ImportError> {
        let failed = |source| ImportError::Read { path: self.path.clone(), source };
        let mut file = BufReader::new(File::open(&self.path).map_err(failed)?);
        match &tensor.place {
            Place::Offset(offset) => {
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                self.numbers(tensor, file)
            }
            Place::Entry { name, start } => {
                let of_zip = |error: zip::result::ZipError| damaged(&self.path, error.to_string());
                let mut archive = zip::ZipArchive::new(file).map_err(of_zip)?;
                let mut entry = archive.by_name(name).map_err(of_zip)?;
                std::io::copy(&mut entry.by_ref().take(*start), &mut std::io::sink()).map_err(failed)?;
                self.numbers(tensor, entry)
            }
        }
    }

    /// The next numbers of a source, read in pieces: the bytes are never there as a whole.
    fn numbers(&self, tensor: &TensorEntry, mut source: impl Read) -> Result<Vec<f32>, ImportError> {
        let one: fn(&[u8]) -> f32 = match tensor.elements {
            ElementType::F16 => |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            ElementType::BF16 => |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            ElementType::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            ElementType::F64 => {
                |b| single(f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            }
            ElementType::Whole(_) => {
                return Err(damaged(&self.path, format!("{} holds whole numbers", tensor.name)));
            }
        };
        let width = tensor.elements.bytes();
        // The listing has made sure that the file is as long as the sides ask for.
        let mut left: usize = tensor.shape.iter().product();
        let mut values = Vec::with_capacity(left);
        let mut piece = vec![0; PIECE * width];
        while left > 0 {
            let bytes = &mut piece[..left.min(PIECE) * width];
            source.read_exact(bytes).map_err(|error| {
                damaged(&self.path, format!("{} that is cut short ({error})", tensor.name))
            })?;
            values.extend(bytes.chunks_exact(width).map(one));
            left -= left.min(PIECE);
        }
        Ok(values)
    }
}

/// How many numbers are read at a time.
const PIECE: usize = 1 << 14;

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
fn single(value: f64) -> f32 {
    value as f32
}

fn damaged(path: &Path, found: String) -> ImportError {
    ImportError::Damaged { path: path.to_owned(), found }
}

fn refused(path: &Path, at: u64, refused: pickle::Refused) -> ImportError {
    let pickle::Refused { offset, opcode, why } = refused;
    ImportError::Refused { path: path.to_owned(), offset: at + offset, opcode, why }
}

/// `NAME/data.pkl` and `NAME/data/KEY`, none of them compressed.
fn archive(path: &Path, file: BufReader<File>, state: &str) -> Result<Vec<TensorEntry>, ImportError> {
    let of_zip = |error: zip::result::ZipError| damaged(path, error.to_string());
    let mut archive = zip::ZipArchive::new(file).map_err(of_zip)?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>().map_err(of_zip)?;
    let main = names.iter().find(|name| name.ends_with("/data.pkl"));
    let main = main.ok_or_else(|| damaged(path, "an archive without data.pkl".to_owned()))?;
    let prefix = main.trim_end_matches("data.pkl");
    let order = format!("{prefix}byteorder");
    if names.contains(&order) {
        let mut text = String::new();
        let entry = archive.by_name(&order).map_err(of_zip)?;
        let read = entry.take(16).read_to_string(&mut text);
        if read.is_err() || text.trim() != "little" {
            return Err(damaged(path, format!("bytes in the order {text:?}, only `little` is read")));
        }
    }
    let pickle = {
        let entry = archive.by_name(main).map_err(of_zip)?;
        pickle::read(BufReader::new(entry)).map_err(|why| refused(path, 0, why))?
    };
    state_dict(path, &pickle, state, |storage| {
        let name = format!("{prefix}data/{}", storage.key);
        let entry = archive.by_name(&name).map_err(of_zip)?;
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(damaged(path, format!("{name} is compressed, which PyTorch never does")));
        }
        Ok((entry.size(), Place::Entry { name, start: 0 }))
    })
}

/// Five pickles (mark, version, system, the object, keys), then count and numbers of each storage in the keys' order.
fn legacy(
    path: &Path,
    mut file: BufReader<File>,
    length: u64,
    state: &str,
) -> Result<Vec<TensorEntry>, ImportError> {
    let failed = |source| ImportError::Read { path: path.to_owned(), source };
    let mut at = 0;
    let mut next = |file: &mut BufReader<File>| {
        let found = pickle::read(&mut *file).map_err(|why| refused(path, at, why))?;
        at += found.length;
        Ok::<_, ImportError>((found, at))
    };
    let (magic, _) = next(&mut file)?;
    let (version, _) = next(&mut file)?;
    let known = matches!(&magic.values[magic.top], Value::Long(bytes) if *bytes == LEGACY_MAGIC)
        && version.values[version.top] == Value::Int(LEGACY_PROTOCOL);
    if !known {
        return Err(damaged(path, "a pickle, but none that PyTorch wrote".to_owned()));
    }
    next(&mut file)?;
    let (object, _) = next(&mut file)?;
    let (keys, mut at) = next(&mut file)?;
    let Value::List(list) = &keys.values[keys.top] else {
        return Err(damaged(path, "no list of storages".to_owned()));
    };
    // How wide the numbers of a storage are, only the object says.
    let storages: BTreeMap<&str, &pickle::Storage> = object
        .values
        .iter()
        .filter_map(|value| if let Value::Storage(storage) = value { Some(storage) } else { None })
        .map(|storage| (storage.key.as_str(), storage))
        .collect();
    let mut places = BTreeMap::new();
    for id in list {
        let Value::Text(key) = &keys.values[*id] else {
            return Err(damaged(path, "a storage without a key".to_owned()));
        };
        let storage = storages.get(key.as_str());
        let storage = storage.ok_or_else(|| damaged(path, format!("storage {key} that nothing uses")))?;
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        file.read_exact(&mut count).map_err(failed)?;
        let bytes = storage.count.checked_mul(storage.elements.bytes() as u64);
        let end = bytes.and_then(|bytes| bytes.checked_add(at + 8));
        match end {
            Some(end) if end <= length && u64::from_le_bytes(count) == storage.count => {
                places.insert(key.clone(), (end - at - 8, Place::Offset(at + 8)));
                at = end;
            }
            _ => return Err(damaged(path, format!("storage {key} is cut short or not as long as stated"))),
        }
    }
    state_dict(path, &object, state, |storage| {
        let place = places.get(&storage.key).cloned();
        place.ok_or_else(|| damaged(path, format!("storage {} is not in the file", storage.key)))
    })
}

/// The tensors of the dictionary under `state`, or of the whole dictionary.
fn state_dict(
    path: &Path,
    pickle: &Pickle,
    state: &str,
    mut place_of: impl FnMut(&pickle::Storage) -> Result<(u64, Place), ImportError>,
) -> Result<Vec<TensorEntry>, ImportError> {
    let pairs = |id: Id| match &pickle.values[id] {
        Value::Dict(pairs) => Ok(pairs),
        _ => Err(damaged(path, "something other than a dictionary of tensors".to_owned())),
    };
    let named = |key: &Id, name: &str| matches!(&pickle.values[*key], Value::Text(text) if text == name);
    let whole = pairs(pickle.top)?;
    let inner = whole.iter().find(|(key, _)| named(key, state));
    let of_state = inner.map_or(Ok(whole), |(_, value)| pairs(*value))?;
    let mut tensors = Vec::new();
    for (key, value) in of_state {
        let Value::Text(name) = &pickle.values[*key] else {
            return Err(damaged(path, "a key that is no text".to_owned()));
        };
        let Value::Tensor(tensor) = &pickle.values[*value] else {
            return Err(damaged(path, format!("{name}, which is no tensor")));
        };
        tensors.push(entry(path, name, tensor, &mut place_of)?);
    }
    Ok(tensors)
}

fn entry(
    path: &Path,
    name: &str,
    tensor: &pickle::Tensor,
    place_of: &mut impl FnMut(&pickle::Storage) -> Result<(u64, Place), ImportError>,
) -> Result<TensorEntry, ImportError> {
    let mut dense = 1_u64;
    for (side, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if *side > 1 && *stride != dense {
            let found = format!("{name} is a view with gaps; save it with .contiguous()");
            return Err(damaged(path, found));
        }
        dense = dense.saturating_mul(*side);
    }
    let (bytes, place) = place_of(&tensor.storage)?;
    let width = tensor.storage.elements.bytes() as u64;
    let end = tensor.start.checked_add(dense).and_then(|end| end.checked_mul(width));
    let fits = tensor.shape.len() == tensor.strides.len() && end.is_some_and(|end| end <= bytes);
    let shape: Result<Vec<usize>, _> = tensor.shape.iter().map(|side| usize::try_from(*side)).collect();
    let Some(shape) = shape.ok().filter(|_| fits) else {
        return Err(damaged(path, format!("{name} reaches beyond its storage")));
    };
    let skip = tensor.start * width;
    let place = match place {
        Place::Offset(offset) => Place::Offset(offset + skip),
        Place::Entry { name, start } => Place::Entry { name, start: start + skip },
    };
    Ok(TensorEntry { name: name.to_owned(), shape, elements: tensor.storage.elements, place })
}

/// Eight bytes length, a JSON object with type, sides and place of each tensor, the numbers.
fn safetensors(path: &Path, mut file: BufReader<File>, length: u64) -> Result<Vec<TensorEntry>, ImportError> {
    #[derive(serde::Deserialize)]
    struct Described {
        dtype: String,
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let failed = |source| ImportError::Read { path: path.to_owned(), source };
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).map_err(failed)?;
    let header_length = u64::from_le_bytes(bytes);
    if header_length > LONGEST_HEADER.min(length - 8) {
        return Err(damaged(path, format!("a header of {header_length} bytes")));
    }
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_reader((&mut file).take(header_length))
            .map_err(|error| damaged(path, format!("a header that is no JSON object ({error})")))?;
    let mut tensors = Vec::new();
    for (name, described) in header {
        if name == "__metadata__" {
            continue;
        }
        let described: Described =
            serde_json::from_value(described).map_err(|error| damaged(path, format!("{name}: {error}")))?;
        let elements = match described.dtype.as_str() {
            "F16" => ElementType::F16,
            "BF16" => ElementType::BF16,
            "F32" => ElementType::F32,
            "F64" => ElementType::F64,
            "I64" | "U64" => ElementType::Whole(8),
            "I32" | "U32" => ElementType::Whole(4),
            "I16" | "U16" => ElementType::Whole(2),
            "I8" | "U8" | "BOOL" => ElementType::Whole(1),
            other => return Err(damaged(path, format!("{name} has elements of type {other}"))),
        };
        let count = described.shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
        let wanted = count.and_then(|count| count.checked_mul(elements.bytes()));
        let [start, end] = described.data_offsets;
        let found = end.checked_sub(start).filter(|_| end <= length - 8 - header_length);
        if wanted.map(|wanted| wanted as u64) != found || found.is_none() {
            return Err(damaged(path, format!("{name} does not lie in the file as stated")));
        }
        let place = Place::Offset(8 + header_length + start);
        tensors.push(TensorEntry { name, shape: described.shape, elements, place });
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/checkpoints").join(name)
    }

    /// Files that PyTorch wrote: tests/reference/checkpoints/make.py.
    #[test]
    fn both_formats_of_pytorch_are_read() {
        for name in ["small.zip.pth", "small.old.pth"] {
            let file = CheckpointFile::open(&fixture(name), "state_dict").unwrap();
            let names: Vec<&str> = file.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert_eq!(names, ["a", "b", "n", "c"], "{name}");
            assert_eq!(file.tensors[0].shape, [2, 3]);
            assert_eq!(file.values(&file.tensors[0]).unwrap(), [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], "{name}");
            assert_eq!(file.values(&file.tensors[1]).unwrap(), [1.5, -2.25], "{name}");
            assert_eq!(file.values(&file.tensors[3]).unwrap(), [0.5, 1.5, 2.5], "{name}");
            assert!(file.values(&file.tensors[2]).is_err(), "{name}: a counter is no weight");
        }
    }

    /// Each file is cut everywhere and has each of its bytes turned over: an error or the tensors, never a panic.
    #[test]
    fn damaged_files_are_refused_or_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for name in ["small.zip.pth", "small.old.pth"] {
            let whole = std::fs::read(fixture(name)).unwrap();
            let mut refused = 0;
            let mut attempt = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                match CheckpointFile::open(&path, "state_dict") {
                    Ok(file) => file.tensors.iter().for_each(|tensor| drop(file.values(tensor))),
                    Err(_) => refused += 1,
                }
            };
            for length in 0..whole.len() {
                attempt(&whole[..length]);
            }
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xa5;
                attempt(&bytes);
            }
            assert!(refused > whole.len() / 2, "{name}: {refused}");
        }
    }

    #[test]
    fn a_storage_longer_than_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let header = r#"{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 16]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 16]].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = CheckpointFile::open(&path, "").unwrap_err().to_string();
        assert!(error.contains("a does not lie in the file"), "{error}");
    }
}
