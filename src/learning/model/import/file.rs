//! Checkpoint files of other programs: which tensors are in them, and their numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::pickle::ElementType;
use super::{ImportError, pytorch};

/// A tensor of a checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// Its sides.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub elements: ElementType,
    /// The byte of the file at which they begin.
    pub(super) offset: u64,
}

/// A checkpoint of another program, its tensors listed, their numbers still on disk.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    /// Which format it is of.
    pub format: &'static str,
    /// Its tensors, in the file's order; no two of one name, each wholly inside the file.
    pub tensors: Vec<TensorEntry>,
}

/// No header of the safetensors format is longer, bytes.
const LONGEST_HEADER: u64 = 1 << 20;
/// No tensor has more numbers: ten times the largest of the published network.
const MOST_NUMBERS: usize = 1 << 28;

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
            return Err(damaged(path, format!("{length} bytes")));
        }
        file.read_exact(&mut first).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (format, tensors) = match first {
            [b'P', b'K', 3, 4, ..] => ("PyTorch archive", pytorch::archive(path, file, length, state)?),
            [0x80, 2..=4, ..] => ("PyTorch, old format", pytorch::legacy(path, file, length, state)?),
            [.., b'{'] => ("safetensors", safetensors(path, file, length)?),
            _ => {
                let found = "neither a PyTorch file nor a safetensors file".to_owned();
                return Err(damaged(path, found));
            }
        };
        let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(damaged(path, format!("two tensors of the name {}", pair[0])));
        }
        Ok(Self { path: path.to_owned(), format, tensors })
    }

    /// The numbers of a tensor, C order.
    ///
    /// # Errors
    /// [`ImportError`] where they cannot be read or are whole numbers.
    pub fn values(&self, tensor: &TensorEntry) -> Result<Vec<f32>, ImportError> {
        let failed = |source| ImportError::Read { path: self.path.clone(), source };
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
        let count = tensor.shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
        let Some(mut left) = count.filter(|count| *count <= MOST_NUMBERS) else {
            return Err(damaged(&self.path, format!("more than {MOST_NUMBERS} numbers in {}", tensor.name)));
        };
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(tensor.offset)).map_err(failed)?;
        let mut values = Vec::with_capacity(left);
        let mut piece = vec![0; left.min(PIECE) * width];
        while left > 0 {
            let bytes = &mut piece[..left.min(PIECE) * width];
            file.read_exact(bytes).map_err(|error| {
                damaged(&self.path, format!("{} that is cut short ({error})", tensor.name))
            })?;
            values.extend(bytes.chunks_exact(width).map(one));
            left -= left.min(PIECE);
        }
        Ok(values)
    }
}

/// How many numbers are read at a time.
const PIECE: usize = 1 << 16;

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
fn single(value: f64) -> f32 {
    value as f32
}

pub(super) fn damaged(path: &Path, found: String) -> ImportError {
    ImportError::Damaged { path: path.to_owned(), found }
}

/// Eight bytes length, a JSON object with type, sides and place of each tensor, the numbers.
fn safetensors(path: &Path, mut file: BufReader<File>, length: u64) -> Result<Vec<TensorEntry>, ImportError> {
    /// A tensor, or the text that may stand beside them, which has none of these.
    #[derive(serde::Deserialize)]
    struct Described {
        dtype: Option<String>,
        shape: Option<Vec<usize>>,
        data_offsets: Option<[u64; 2]>,
    }
    let failed = |source| ImportError::Read { path: path.to_owned(), source };
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).map_err(failed)?;
    let header_length = u64::from_le_bytes(bytes);
    if header_length > LONGEST_HEADER.min(length - 8) {
        return Err(damaged(path, format!("a header of {header_length} bytes")));
    }
    let header: BTreeMap<String, Described> = serde_json::from_reader((&mut file).take(header_length))
        .map_err(|error| damaged(path, format!("a header that describes no tensors ({error})")))?;
    let mut tensors = Vec::new();
    for (name, described) in header {
        if name == "__metadata__" {
            continue;
        }
        let (Some(dtype), Some(shape), Some([start, end])) =
            (described.dtype, described.shape, described.data_offsets)
        else {
            return Err(damaged(path, format!("{name} without type, sides or place")));
        };
        let elements = match dtype.as_str() {
            "F16" => ElementType::F16,
            "BF16" => ElementType::BF16,
            "F32" => ElementType::F32,
            "F64" => ElementType::F64,
            "I64" | "U64" => ElementType::Whole(8),
            "I32" | "U32" => ElementType::Whole(4),
            "I16" | "U16" => ElementType::Whole(2),
            "I8" | "U8" | "BOOL" => ElementType::Whole(1),
            other => return Err(damaged(path, format!("{name} with elements of type {other}"))),
        };
        let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
        let wanted = count.and_then(|count| count.checked_mul(elements.bytes()));
        let found = end.checked_sub(start).filter(|_| end <= length - 8 - header_length);
        if wanted.map(|wanted| wanted as u64) != found || found.is_none() {
            return Err(damaged(path, format!("{name}, which does not lie in the file as stated")));
        }
        tensors.push(TensorEntry { name, shape, elements, offset: 8 + header_length + start });
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
            let attempt = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                let file = CheckpointFile::open(&path, "state_dict");
                let numbers =
                    file.map(|file| file.tensors.iter().map(|t| file.values(t)).collect::<Vec<_>>());
                numbers.is_ok_and(|all| all.iter().filter(|values| values.is_ok()).count() == 3)
            };
            assert!(attempt(&whole));
            for length in 0..whole.len() {
                assert!(!attempt(&whole[..length]), "{name} cut to {length} bytes gives all its numbers");
            }
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xa5;
                attempt(&bytes);
            }
        }
    }

    #[test]
    fn a_tensor_longer_than_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let header = r#"{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 16]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 16]].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = CheckpointFile::open(&path, "").unwrap_err().to_string();
        assert!(error.contains("a, which does not lie in the file"), "{error}");
    }
}
