//! NumPy archives: arrays by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// No array has more bytes: the feature map of a whole scan, some times over.
const MOST_BYTES: u64 = 4 << 30;
/// No header of an array is longer, bytes.
const LONGEST_HEADER: usize = 1 << 16;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NpzError {
    /// The disk refused.
    #[error("cannot {operation} {}: check the path and the free space", path.display())]
    Disk {
        /// Which operation.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not an archive of arrays.
    #[error("wanted a NumPy archive (numpy.savez), found {found} in {}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
}

/// An array in C order; numbers of any type are held as `f32`, whole ones up to 2^24 exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Sides.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Vec<f32>,
}

/// Arrays by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Arrays(BTreeMap<String, Array>);

impl Arrays {
    /// These arrays.
    #[must_use]
    pub fn of(arrays: impl IntoIterator<Item = (String, Array)>) -> Self {
        Self(arrays.into_iter().collect())
    }

    /// The array of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.0.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.0.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// Reads the arrays that are `wanted` of what `numpy.savez` or `numpy.savez_compressed` wrote; also the names of the
    /// others.
    ///
    /// # Errors
    /// [`NpzError`] where the file is no such archive or an array has another type than whole or real numbers.
    pub fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<(Self, Vec<String>), NpzError> {
        let damaged = |found: String| NpzError::Damaged { path: path.to_owned(), found };
        let failed = |source| NpzError::Disk { operation: "read", path: path.to_owned(), source };
        let file = BufReader::new(File::open(path).map_err(failed)?);
        let mut archive = zip::ZipArchive::new(file).map_err(|error| damaged(error.to_string()))?;
        let (mut arrays, mut others) = (BTreeMap::new(), Vec::new());
        for at in 0..archive.len() {
            let entry = archive.by_index(at).map_err(|error| damaged(error.to_string()))?;
            let name = entry.name().map_err(|error| damaged(error.to_string()))?.into_owned();
            let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
            if !wanted(&name) {
                others.push(name);
                continue;
            }
            let array = read_array(entry).map_err(|found| damaged(format!("{name}: {found}")))?;
            arrays.insert(name, array);
        }
        Ok((Self(arrays), others))
    }

    /// Writes all arrays as `f32`, aside and renamed.
    ///
    /// # Errors
    /// [`NpzError::Disk`].
    pub fn write(&self, path: &Path) -> Result<(), NpzError> {
        let failed = |source| NpzError::Disk { operation: "write", path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut aside = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let mut archive = zip::ZipWriter::new(BufWriter::new(aside.as_file_mut()));
        let plain = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .large_file(true);
        for (name, array) in &self.0 {
            archive.start_file(format!("{name}.npy"), plain).map_err(|error| failed(error.into()))?;
            write_array(&mut archive, array).map_err(failed)?;
        }
        archive.finish().map_err(|error| failed(error.into()))?.flush().map_err(failed)?;
        aside.as_file().sync_all().map_err(failed)?;
        aside.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Source of the format: `numpy.lib.format`, versions 1 and 2.
fn read_array(mut entry: impl Read) -> Result<Array, String> {
    let mut read = |bytes: &mut [u8]| entry.read_exact(bytes).map_err(|error| error.to_string());
    let mut start = [0; 8];
    read(&mut start)?;
    if start[..6] != *b"\x93NUMPY" {
        return Err("no array of NumPy".to_owned());
    }
    let length = if start[6] == 1 {
        let mut length = [0; 2];
        read(&mut length)?;
        u16::from_le_bytes(length).into()
    } else {
        let mut length = [0; 4];
        read(&mut length)?;
        usize::try_from(u32::from_le_bytes(length)).map_err(|error| error.to_string())?
    };
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let mut header = vec![0; length];
    read(&mut header)?;
    let header = String::from_utf8_lossy(&header).into_owned();
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    let kind = after("'descr':").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default().to_owned();
    let order = after("'fortran_order':").unwrap_or_default();
    let first_axis_fastest = order.starts_with("True");
    if !first_axis_fastest && !order.starts_with("False") {
        return Err("a header without fortran_order".to_owned());
    }
    let sides = after("'shape':").and_then(|rest| rest.split(['(', ')']).nth(1)).unwrap_or_default();
    let shape: Result<Vec<usize>, _> =
        sides.split(',').map(str::trim).filter(|side| !side.is_empty()).map(str::parse).collect();
    let shape = shape.map_err(|error| format!("sides {sides}: {error}"))?;
    let (width, one): (usize, fn(&[u8]) -> f32) = match kind.as_str() {
        "<f2" => (2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
        "<f4" => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        "<f8" => (8, |b| narrow(f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))),
        "<i2" => (2, |b| f32::from(i16::from_le_bytes([b[0], b[1]]))),
        "<i4" => (4, |b| narrow(f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])))),
        "<i8" => (8, |b| whole(i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))),
        "<u2" => (2, |b| f32::from(u16::from_le_bytes([b[0], b[1]]))),
        "|i1" => (1, |b| f32::from(i8::from_le_bytes([b[0]]))),
        "|u1" | "|b1" => (1, |b| f32::from(b[0])),
        other => {
            return Err(format!("numbers of type {other:?}; save it as float32 or int16"));
        }
    };
    let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
    let bytes = count.and_then(|count| u64::try_from(count.checked_mul(width)?).ok());
    let (Some(count), Some(_)) = (count, bytes.filter(|bytes| *bytes <= MOST_BYTES)) else {
        return Err(format!("sides {shape:?}, more than {MOST_BYTES} bytes"));
    };
    // Grown as bytes come, so that sides that lie about a short file take no memory.
    let (mut values, mut piece) = (Vec::new(), vec![0; width << 14]);
    let mut left = count;
    while left > 0 {
        let bytes = &mut piece[..left.min(1 << 14) * width];
        read(bytes)?;
        values.extend(bytes.chunks_exact(width).map(one));
        left -= left.min(1 << 14);
    }
    if first_axis_fastest {
        let backwards: Vec<usize> = shape.iter().rev().copied().collect();
        let array = ndarray::ArrayD::from_shape_vec(backwards, values).map_err(|error| error.to_string())?;
        values = array.reversed_axes().iter().copied().collect();
    }
    Ok(Array { shape, values })
}

fn write_array(to: &mut impl Write, array: &Array) -> Result<(), std::io::Error> {
    let sides: Vec<String> = array.shape.iter().map(|side| format!("{side},")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sides.join(" "));
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(std::io::Error::other)?;
    to.write_all(b"\x93NUMPY\x01\x00")?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    for piece in array.values.chunks(1 << 14) {
        let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
        to.write_all(&bytes)?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "a rounding to f32 is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn whole(value: i64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let array = Array { shape: vec![2, 3], values: vec![1.0, -2.5, 3.0, 1e9, 0.0, 7.25] };
        let empty = Array { shape: vec![0, 8], values: Vec::new() };
        let arrays = Arrays::of([("a".to_owned(), array), ("none".to_owned(), empty)]);
        arrays.write(&path).unwrap();
        assert_eq!(Arrays::read(&path, |_| true).unwrap(), (arrays, Vec::new()));
        let (some, others) = Arrays::read(&path, |name| name == "a").unwrap();
        assert_eq!((some.iter().count(), others), (1, vec!["none".to_owned()]));
    }

    /// What `numpy.save` writes of a transposed array: [[1, 3, 5], [2, 4, 6]] by columns.
    #[test]
    fn columns_before_rows_are_put_in_order() {
        let header = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        let numbers = (1_i16..7).flat_map(i16::to_le_bytes).collect::<Vec<_>>();
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &numbers].concat();
        let array = read_array(bytes.as_slice()).unwrap();
        assert_eq!((array.shape, array.values), (vec![2, 3], vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
    }

    #[test]
    fn sides_that_lie_take_no_memory() {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 1000, 1000), }\n";
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([0; 64]);
        assert!(read_array(bytes.as_slice()).is_err());
    }
}
