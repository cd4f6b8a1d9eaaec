//! NRRD (with Slicer's segment names) and MHA: volumes in.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::Path;

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::error::ConvertError;
use super::volume::{Geometry, Kind, Storage, Volume, Voxel, read_voxels, shape_of};
use crate::vocabulary::space::{PatientPoint, PatientVector};

/// Longest text header, bytes: Slicer writes a few kB.
const LONGEST_HEADER: usize = 1 << 20;

struct Header<'a> {
    path: &'a Path,
    fields: BTreeMap<String, String>,
}

impl Header<'_> {
    fn wrong(&self, wanted: &'static str, found: impl Into<String>) -> ConvertError {
        ConvertError::Header { path: self.path.to_owned(), wanted, found: found.into() }
    }

    fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    fn numbers<T: std::str::FromStr>(&self, key: &str) -> Vec<T> {
        let text = self.get(key).replace(['(', ')', ','], " ");
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }
}

/// One header line without its end; `None` at the end of the file.
fn line(reader: &mut impl BufRead, left: &mut usize, path: &Path) -> Result<Option<String>, ConvertError> {
    let failed = |source| ConvertError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let most = u64::try_from(*left).unwrap_or(u64::MAX);
    let n = reader.by_ref().take(most).read_until(b'\n', &mut bytes).map_err(failed)?;
    *left -= n;
    let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
    Ok((n > 0).then_some(text))
}

/// Reads an attached NRRD, raw or gzip; segment names and values where Slicer wrote them.
pub(crate) fn read_nrrd<V: Voxel>(mut reader: impl BufRead, path: &Path) -> Result<Volume<V>, ConvertError> {
    let mut header = Header { path, fields: BTreeMap::new() };
    let mut left = LONGEST_HEADER;
    let magic = line(&mut reader, &mut left, path)?.unwrap_or_default();
    if !magic.starts_with("NRRD000") {
        return Err(
            header.wrong("wanted NRRD000n on the first line", magic.chars().take(16).collect::<String>())
        );
    }
    while let Some(text) = line(&mut reader, &mut left, path)?.filter(|text| !text.is_empty()) {
        let pair = text.split_once(":=").or_else(|| text.split_once(':'));
        if let (false, Some((key, value))) = (text.starts_with('#'), pair) {
            header.fields.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    if !header.get("data file").is_empty() || !header.get("datafile").is_empty() {
        return Err(header.wrong("wanted the voxels in the same file", "a data file of its own"));
    }
    let shape = shape_of(&header.numbers("sizes"), path)?;
    let kind = match header.get("type") {
        "uchar" | "unsigned char" | "uint8" | "uint8_t" => Kind::U8,
        "signed char" | "int8" | "int8_t" => Kind::I8,
        "ushort" | "unsigned short" | "uint16" | "uint16_t" => Kind::U16,
        "short" | "short int" | "signed short" | "int16" | "int16_t" => Kind::I16,
        "uint" | "unsigned int" | "uint32" | "uint32_t" => Kind::U32,
        "int" | "signed int" | "int32" | "int32_t" => Kind::I32,
        "float" => Kind::F32,
        "double" => Kind::F64,
        other => return Err(header.wrong("wanted a type of plain numbers", other)),
    };
    let ras = match header.get("space") {
        "left-posterior-superior" | "LPS" => false,
        "right-anterior-superior" | "RAS" => true,
        other => {
            return Err(
                header.wrong("wanted space left-posterior-superior or right-anterior-superior", other)
            );
        }
    };
    let geometry = geometry(&header, "space directions", "space origin", ras)?;
    let big_endian = header.get("endian") == "big";
    let storage = Storage { kind, big_endian, slope: 1.0, intercept: 0.0 };
    let voxels = match header.get("encoding") {
        "raw" => read_voxels(reader, shape, storage, path)?,
        "gzip" | "gz" => read_voxels(MultiGzDecoder::new(reader), shape, storage, path)?,
        other => return Err(header.wrong("wanted encoding raw or gzip", other)),
    };
    Ok(Volume { path: path.to_owned(), voxels, geometry, names: segment_names(&header) })
}

/// Slicer's `SegmentN_Name` for `SegmentN_LabelValue`.
fn segment_names(header: &Header<'_>) -> BTreeMap<u16, String> {
    let mut names = BTreeMap::new();
    for (key, value) in header.fields.iter().filter(|(key, _)| key.starts_with("segment")) {
        let label = key.strip_suffix("_name").map(|stem| format!("{stem}_labelvalue"));
        if let Some(label) = label.and_then(|key| header.get(&key).parse().ok()) {
            names.insert(label, value.clone());
        }
    }
    names
}

/// Reads an MHA with its voxels in the file, raw or zlib. Its world is LPS.
pub(crate) fn read_mha<V: Voxel>(mut reader: impl BufRead, path: &Path) -> Result<Volume<V>, ConvertError> {
    let mut header = Header { path, fields: BTreeMap::new() };
    let mut left = LONGEST_HEADER;
    while let Some(text) = line(&mut reader, &mut left, path)? {
        let Some((key, value)) = text.split_once('=') else {
            return Err(
                header.wrong("wanted lines of key = value", text.chars().take(16).collect::<String>())
            );
        };
        let key = key.trim().to_lowercase();
        let last = key == "elementdatafile";
        header.fields.insert(key, value.trim().to_owned());
        if last {
            break;
        }
    }
    if header.get("elementdatafile") != "LOCAL" {
        return Err(header.wrong("wanted the voxels in the same file (LOCAL)", header.get("elementdatafile")));
    }
    let shape = shape_of(&header.numbers("dimsize"), path)?;
    let kind = match header.get("elementtype") {
        "MET_UCHAR" => Kind::U8,
        "MET_CHAR" => Kind::I8,
        "MET_USHORT" => Kind::U16,
        "MET_SHORT" => Kind::I16,
        "MET_UINT" => Kind::U32,
        "MET_INT" => Kind::I32,
        "MET_FLOAT" => Kind::F32,
        "MET_DOUBLE" => Kind::F64,
        other => return Err(header.wrong("wanted an element type of plain numbers", other)),
    };
    let spacing: Vec<f64> = header.numbers("elementspacing");
    let unit = geometry(&header, "transformmatrix", "offset", false)?;
    let [i, j, k] = <[f64; 3]>::try_from(spacing).map_err(|_other| {
        header.wrong("wanted three numbers in ElementSpacing", header.get("elementspacing"))
    })?;
    let steps = [unit.steps[0] * i, unit.steps[1] * j, unit.steps[2] * k];
    let geometry = Geometry { origin: unit.origin, steps };
    let yes = |key: &str| header.get(key).eq_ignore_ascii_case("true");
    let storage = Storage {
        kind,
        big_endian: yes("binarydatabyteordermsb") || yes("elementbyteordermsb"),
        slope: 1.0,
        intercept: 0.0,
    };
    let voxels = if yes("compresseddata") {
        read_voxels(ZlibDecoder::new(reader), shape, storage, path)?
    } else {
        read_voxels(reader, shape, storage, path)?
    };
    Ok(Volume { path: path.to_owned(), voxels, geometry, names: BTreeMap::new() })
}

fn geometry(header: &Header<'_>, steps: &str, origin: &str, ras: bool) -> Result<Geometry, ConvertError> {
    let sign = if ras { -1.0 } else { 1.0 };
    let (m, o): (Vec<f64>, Vec<f64>) = (header.numbers(steps), header.numbers(origin));
    let (Ok(m), Ok(o)) = (<[f64; 9]>::try_from(m), <[f64; 3]>::try_from(o)) else {
        return Err(
            header.wrong("wanted nine numbers for the axes and three for the origin", header.get(steps))
        );
    };
    let axis = |n: usize| PatientVector::lps(sign * m[3 * n], sign * m[3 * n + 1], m[3 * n + 2]);
    Ok(Geometry {
        origin: PatientPoint::lps_mm(sign * o[0], sign * o[1], o[2]),
        steps: [axis(0), axis(1), axis(2)],
    })
}
