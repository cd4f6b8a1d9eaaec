//! The two formats of PyTorch: a zip archive with a pickle and the storages, and before it five pickles and the storages.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use super::ImportError;
use super::file::{TensorEntry, damaged};
use super::pickle::{self, Id, Pickle, Storage, Tensor, Value};

/// PyTorch's mark before its old format: a whole number of ten bytes.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version that every file of the old format states.
const LEGACY_PROTOCOL: i64 = 1001;
/// No directory of an archive is longer, bytes: a thousand storages take a tenth.
const LONGEST_DIRECTORY: u64 = 1 << 20;

/// Bytes that lie in the file one after the other.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    length: u64,
}

/// A file that gives no more bytes than it is told to: a directory of millions of entries is never held.
struct Rationed {
    file: BufReader<File>,
    left: Rc<Cell<u64>>,
}

impl Read for Rationed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.left.get()).unwrap_or(usize::MAX);
        if left == 0 && !into.is_empty() {
            return Err(std::io::Error::other("its directory is too long"));
        }
        let length = into.len().min(left);
        let found = self.file.read(&mut into[..length])?;
        self.left.set(self.left.get() - found as u64);
        Ok(found)
    }
}

impl Seek for Rationed {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

fn refused(path: &Path, at: u64, refused: pickle::Refused) -> ImportError {
    let pickle::Refused { offset, opcode, why } = refused;
    ImportError::Refused { path: path.to_owned(), offset: at + offset, opcode, why }
}

/// `NAME/data.pkl` and `NAME/data/KEY`, none of the latter compressed.
pub(super) fn archive(
    path: &Path,
    file: BufReader<File>,
    length: u64,
    state: &str,
) -> Result<Vec<TensorEntry>, ImportError> {
    let of_zip = |error: zip::result::ZipError| damaged(path, format!("an archive that is none ({error})"));
    let left = Rc::new(Cell::new(LONGEST_DIRECTORY));
    let mut archive = zip::ZipArchive::new(Rationed { file, left: Rc::clone(&left) }).map_err(of_zip)?;
    left.set(u64::MAX);
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
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            return Err(damaged(path, format!("{name} compressed, which PyTorch never does")));
        }
        let bytes = entry.size();
        let offset =
            entry.data_start().filter(|start| start.checked_add(bytes).is_some_and(|end| end <= length));
        match offset.filter(|_| entry.compressed_size() == bytes) {
            Some(offset) => Ok(Place { offset, length: bytes }),
            None => Err(damaged(path, format!("{name} of {bytes} bytes, which the file does not hold"))),
        }
    })
}

/// Five pickles (mark, version, system, the object, keys), then count and numbers of each storage in the keys' order.
pub(super) fn legacy(
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
    let storages: BTreeMap<&str, &Storage> = object
        .values
        .iter()
        .filter_map(|value| if let Value::Storage(storage) = value { Some(storage) } else { None })
        .map(|storage| (storage.key.as_str(), storage.as_ref()))
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
        file.read_exact(&mut count)
            .map_err(|error| damaged(path, format!("storage {key} that is cut short ({error})")))?;
        let bytes = storage.count.checked_mul(storage.elements.bytes() as u64);
        let end = bytes.and_then(|bytes| bytes.checked_add(at + 8));
        match end {
            Some(end) if end <= length && u64::from_le_bytes(count) == storage.count => {
                places.insert(key.clone(), Place { offset: at + 8, length: end - at - 8 });
                at = end;
            }
            _ => return Err(damaged(path, format!("storage {key} cut short or not as long as stated"))),
        }
    }
    state_dict(path, &object, state, |storage| {
        let place = places.get(&storage.key).copied();
        place.ok_or_else(|| damaged(path, format!("storage {} that is not in the file", storage.key)))
    })
}

/// The tensors of the dictionary under `state`, or of the whole dictionary.
fn state_dict(
    path: &Path,
    pickle: &Pickle,
    state: &str,
    mut place_of: impl FnMut(&Storage) -> Result<Place, ImportError>,
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
        let Value::Storage(storage) = &pickle.values[tensor.storage] else {
            return Err(damaged(path, format!("{name}, which has no storage")));
        };
        let place = place_of(storage)?;
        tensors.push(entry(path, name, tensor, storage, place)?);
    }
    Ok(tensors)
}

/// A tensor whose numbers lie one after the other inside its storage.
fn entry(
    path: &Path,
    name: &str,
    tensor: &Tensor,
    storage: &Storage,
    place: Place,
) -> Result<TensorEntry, ImportError> {
    let mut dense = 1_u64;
    for (side, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if *side > 1 && *stride != dense {
            let found = format!("{name}, a view with gaps (save it with .contiguous())");
            return Err(damaged(path, found));
        }
        dense = dense.saturating_mul(*side);
    }
    let width = storage.elements.bytes() as u64;
    let end = tensor.start.checked_add(dense).and_then(|end| end.checked_mul(width));
    let fits = tensor.shape.len() == tensor.strides.len() && end.is_some_and(|end| end <= place.length);
    let shape: Result<Vec<usize>, _> = tensor.shape.iter().map(|side| usize::try_from(*side)).collect();
    let Some(shape) = shape.ok().filter(|_| fits) else {
        return Err(damaged(path, format!("{name}, which reaches beyond its storage")));
    };
    let offset = place.offset + tensor.start * width;
    Ok(TensorEntry { name: name.to_owned(), shape, elements: storage.elements, offset })
}
