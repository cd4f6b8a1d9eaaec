//! Series made for one fault each: 7 slices of 33 rows x 40 columns, 1.3 x 0.9 mm, 2.5 mm apart; nothing symmetric.

use std::path::{Path, PathBuf};

use dicom_dictionary_std::tags;
use oarlock::pipeline::series::{Cause, CtSeries, SeriesError};
use oarlock::pipeline::volume::{HuVolume, VolumeError, hu_of_frame};
use oarlock::vocabulary::dicom::instance::{InstanceLimits, parse_instance};
use oarlock::vocabulary::space::VoxelPoint;
use tempfile::TempDir;

const N_SLICES: usize = 7;
const ROWS: u16 = 33;
const COLUMNS: u16 = 40;
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// What a test may change about one slice.
#[derive(Clone)]
struct Slice {
    uid: String,
    study: String,
    frame_of_reference: String,
    patient_name: Vec<u8>,
    position: [f64; 3],
    orientation: [f64; 6],
    spacing: [f64; 2],
    rows: u16,
    columns: u16,
    slope: &'static str,
    intercept: &'static str,
    /// Stored value of the pixel at a row and a column.
    value: fn(u16, u16) -> i16,
    padding: Option<i16>,
}

fn regular() -> Vec<Slice> {
    let slice = |k: usize| Slice {
        uid: format!("1.2.3.{}", k + 1),
        study: "1.2.1".to_owned(),
        frame_of_reference: "1.2.2".to_owned(),
        patient_name: b"Doe^J".to_vec(),
        position: [-20.5, 7.25, 100.0 + 2.5 * k as f64],
        orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        spacing: [1.3, 0.9],
        rows: ROWS,
        columns: COLUMNS,
        slope: "2",
        intercept: "-1000",
        value: |row, column| i16::try_from(row).unwrap() * 10 + i16::try_from(column).unwrap() - 5,
        padding: None,
    };
    (0..N_SLICES).map(slice).collect()
}

/// The same slices laid along other directions: positions from where row, column and normal point.
fn turned(row: [f64; 3], column: [f64; 3]) -> Vec<Slice> {
    let normal = [
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    ];
    let mut slices = regular();
    for (k, slice) in slices.iter_mut().enumerate() {
        slice.position =
            std::array::from_fn(|axis| [11.0, -5.5, 300.0][axis] + normal[axis] * 2.5 * k as f64);
        slice.orientation = [row[0], row[1], row[2], column[0], column[1], column[2]];
    }
    slices
}

fn element(tag: u32, vr: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(tag >> 16).unwrap().to_le_bytes());
    bytes.extend(u16::try_from(tag & 0xFFFF).unwrap().to_le_bytes());
    bytes.extend(vr.as_bytes());
    let padded = value.len().next_multiple_of(2);
    if ["OB", "OW", "SQ", "UN"].contains(&vr) {
        bytes.extend([0, 0]);
        bytes.extend(u32::try_from(padded).unwrap().to_le_bytes());
    } else {
        bytes.extend(u16::try_from(padded).unwrap().to_le_bytes());
    }
    bytes.extend(value);
    bytes.resize(bytes.len() + padded - value.len(), if vr == "UI" { 0 } else { b' ' });
    bytes
}

fn item(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[0xFE, 0xFF, 0x00, 0xE0][..], &length, body].concat()
}

fn numbers(values: &[f64]) -> Vec<u8> {
    values.iter().map(f64::to_string).collect::<Vec<_>>().join("\\").into_bytes()
}

fn part10(data_set: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM");
    bytes.extend(element(0x0002_0010, "UI", b"1.2.840.10008.1.2.1"));
    bytes.extend(data_set.concat());
    bytes
}

fn encode(s: &Slice) -> Vec<u8> {
    let pixels = |row: u16| (0..s.columns).flat_map(move |column| (s.value)(row, column).to_le_bytes());
    let pixels: Vec<u8> = (0..s.rows).flat_map(pixels).collect();
    let mut data_set = vec![
        element(0x0008_0005, "CS", b"ISO_IR 192"),
        element(0x0008_0008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        element(0x0008_0016, "UI", CT.as_bytes()),
        element(0x0008_0018, "UI", s.uid.as_bytes()),
        element(0x0008_0050, "SH", b"A1"),
        element(0x0008_0060, "CS", b"CT"),
        element(0x0010_0010, "PN", &s.patient_name),
        element(0x0010_0020, "LO", b"P7"),
        element(0x0018_0050, "DS", b"5"),
        element(0x0020_000D, "UI", s.study.as_bytes()),
        element(0x0020_000E, "UI", b"1.2.9"),
        element(0x0020_0032, "DS", &numbers(&s.position)),
        element(0x0020_0037, "DS", &numbers(&s.orientation)),
        element(0x0020_0052, "UI", s.frame_of_reference.as_bytes()),
    ];
    data_set.extend(pixel_module(s.rows, s.columns, s.padding));
    data_set.extend([
        element(0x0028_0030, "DS", &numbers(&s.spacing)),
        element(0x0028_1052, "DS", s.intercept.as_bytes()),
        element(0x0028_1053, "DS", s.slope.as_bytes()),
        element(0x7FE0_0010, "OW", &pixels),
    ]);
    part10(&data_set)
}

fn pixel_module(rows: u16, columns: u16, padding: Option<i16>) -> Vec<Vec<u8>> {
    let short = |tag, value: u16| element(tag, "US", &value.to_le_bytes());
    let mut module = vec![
        short(0x0028_0002, 1),
        element(0x0028_0004, "CS", b"MONOCHROME2"),
        short(0x0028_0010, rows),
        short(0x0028_0011, columns),
        short(0x0028_0100, 16),
        short(0x0028_0101, 16),
        short(0x0028_0102, 15),
        short(0x0028_0103, 1),
    ];
    module.extend(padding.map(|padding| element(0x0028_0120, "SS", &padding.to_le_bytes())));
    module
}

/// Writes slice k as a file whose name sorts against its position.
fn write(slices: &[Slice]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (k, slice) in slices.iter().enumerate() {
        std::fs::write(name_of(folder.path(), k), encode(slice)).unwrap();
    }
    folder
}

fn name_of(folder: &Path, k: usize) -> PathBuf {
    folder.join(format!("{}.dcm", 50 - k))
}

fn read(slices: &[Slice]) -> Result<CtSeries, SeriesError> {
    CtSeries::from_folder(write(slices).path())
}

/// The only cause of a refusal.
fn cause(slices: &[Slice]) -> Cause {
    match read(slices) {
        Err(SeriesError::Refused { mut causes, .. }) => {
            assert_eq!(causes.len(), 1, "{causes:?}");
            causes.remove(0)
        }
        other => panic!("{other:?}"),
    }
}

/// A head-first supine, a feet-first decubitus and an oblique patient: pixel (row 20, column 30) of slice 5 lies
/// where Image Position, Orientation and Pixel Spacing put it (PS3.3 C.7.6.2.1.1).
#[test]
fn every_right_angled_orientation_is_followed() {
    let (c, s) = (0.8, 0.6);
    for slices in [
        regular(),
        turned([0.0, -1.0, 0.0], [1.0, 0.0, 0.0]),
        turned([-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]),
        turned([1.0, 0.0, 0.0], [0.0, -1.0, 0.0]),
        turned([c, s, 0.0], [-s * 0.28, c * 0.28, 0.96]),
    ] {
        let series = read(&slices).unwrap();
        assert_eq!(series.grid.shape(), [7, 33, 40]);
        assert!((series.grid.spacing_mm()[0] - 2.5).abs() < 1e-9);
        let Slice { position: p, orientation: o, .. } = &slices[5];
        let wanted: Vec<f64> =
            (0..3).map(|axis| p[axis] + o[axis] * 0.9 * 30.0 + o[axis + 3] * 1.3 * 20.0).collect();
        let found = series.grid.patient_from_voxel(VoxelPoint { z: 5.0, y: 20.0, x: 30.0 });
        for (found, wanted) in [found.x, found.y, found.z].into_iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted} for {o:?}");
        }
        let uids: Vec<_> = series.slices.iter().map(|s| s.sop_instance_uid.as_str().to_owned()).collect();
        assert_eq!(uids, ["1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4", "1.2.3.5", "1.2.3.6", "1.2.3.7"]);
    }
}

#[test]
fn a_missing_slice_is_counted() {
    let mut slices = regular();
    slices.push(Slice { uid: "1.2.3.8".into(), position: [-20.5, 7.25, 122.5], ..slices[0].clone() });
    slices.remove(3);
    let Cause::MissingSlices { below_mm, above_mm, gap_mm, spacing_mm, n_missing } = cause(&slices) else {
        panic!("another cause")
    };
    assert_eq!(
        (below_mm, above_mm, gap_mm, spacing_mm, n_missing),
        (105.0, 110.0, 5.0, 2.5, 3.0),
        "107.5, 117.5 and 120"
    );
}

#[test]
fn each_fault_has_its_cause() {
    type Case = (&'static str, fn(&mut Vec<Slice>), fn(&Cause) -> bool);
    let cases: [Case; 12] = [
        ("uneven", |s| s[4].position[2] += 0.4, |c| matches!(c, Cause::UnevenDistances { .. })),
        ("drift", |s| s[6].position[2] += 0.13, |c| matches!(c, Cause::UnevenDistances { .. })),
        ("displaced", |s| s[2].position[0] += 1.0, |c| matches!(c, Cause::Displaced { .. })),
        (
            "sheared",
            |s| s.iter_mut().for_each(|s| s.position[1] += (s.position[2] - 100.0) * 0.1),
            |c| matches!(c, Cause::Sheared { degrees, .. } if (degrees - 5.71).abs() < 0.01),
        ),
        ("turned", |s| s[1].orientation[1] = 0.01, |c| matches!(c, Cause::Orientation { .. })),
        ("matrix", |s| s[3].rows = 34, |c| matches!(c, Cause::Matrix { .. })),
        ("spacing", |s| s[3].spacing = [0.9, 1.3], |c| matches!(c, Cause::PixelSpacing { .. })),
        (
            "frames of reference",
            |s| s[5].frame_of_reference = "1.2.7".into(),
            |c| matches!(c, Cause::FramesOfReference { count: 2, .. }),
        ),
        ("studies", |s| s[5].study = "1.2.7".into(), |c| matches!(c, Cause::TwoStudies { .. })),
        ("patients", |s| s[5].patient_name = b"Roe^J".to_vec(), |c| matches!(c, Cause::TwoPatients { .. })),
        (
            "same place",
            |s| s.push(Slice { uid: "1.2.3.9".into(), ..s[3].clone() }),
            |c| matches!(c, Cause::DuplicatePosition { position_mm, .. } if *position_mm == 107.5),
        ),
        (
            "one uid, two contents",
            |s| s[6].uid = s[5].uid.clone(),
            |c| matches!(c, Cause::DuplicateUid { .. }),
        ),
    ];
    for (name, change, wanted) in cases {
        let mut slices = regular();
        change(&mut slices);
        let found = cause(&slices);
        assert!(wanted(&found), "{name}: {found}");
    }
}

#[test]
fn positions_rounded_by_the_scanner_still_make_a_grid() {
    let mut slices = regular();
    for (k, slice) in slices.iter_mut().enumerate() {
        slice.position[2] = (100.0 + k as f64 * 10.0 / 3.0 * 100.0).round() / 100.0;
        slice.orientation[2] = -1.2e-16;
    }
    assert!(read(&slices).is_ok());
}

#[test]
fn the_same_instance_twice_is_one_instance() {
    let folder = write(&regular());
    std::fs::copy(name_of(folder.path(), 2), folder.path().join("copy.dcm")).unwrap();
    assert_eq!(CtSeries::from_folder(folder.path()).unwrap().slices.len(), N_SLICES);
}

/// By hand: row 4, column 6 stores 10 * 4 + 6 - 5 = 41, and 2 * 41 - 1000 = -918 HU.
#[test]
fn stored_values_become_hu_and_padding_becomes_air() {
    let mut slices = regular();
    slices[2].padding = Some(41);
    slices[3].intercept = "-3000";
    let folder = write(&slices);
    let volume = HuVolume::read(&CtSeries::from_folder(folder.path()).unwrap()).unwrap();
    assert_eq!((volume.hu[[1, 4, 6]], volume.hu[[1, 6, 4]]), (-918, -882));
    assert_eq!((volume.hu[[2, 4, 6]], volume.hu[[2, 6, 4]]), (-1024, -882));
    assert_eq!(
        (volume.hu[[3, 4, 6]], volume.hu[[3, 32, 39]]),
        (-1024, -1024),
        "below -1024 there is nothing"
    );
}

#[test]
fn values_without_air_are_not_hu() {
    let mut slices = regular();
    slices.iter_mut().for_each(|slice| slice.intercept = "24");
    let folder = write(&slices);
    let refused = HuVolume::read(&CtSeries::from_folder(folder.path()).unwrap());
    assert!(matches!(refused, Err(VolumeError::NotHounsfield { lowest: 14, .. })), "{refused:?}");
}

#[test]
fn patient_and_study_are_copied_byte_for_byte() {
    let mut slices = regular();
    for slice in &mut slices {
        slice.patient_name = b"\x1b$B;3ED\x1b(B^\xc3\xbc ".to_vec();
    }
    let copied = read(&slices).unwrap().patient_and_study;
    assert_eq!(copied.get(tags::SPECIFIC_CHARACTER_SET).unwrap().to_str().unwrap(), "ISO_IR 192");
    assert_eq!(copied.get(tags::PATIENT_ID).unwrap().to_str().unwrap(), "P7");
    assert_eq!(copied.get(tags::ACCESSION_NUMBER).unwrap().to_str().unwrap(), "A1");
    assert!(copied.get(tags::ROWS).is_none() && copied.get(tags::SERIES_INSTANCE_UID).is_none());
    let mut written = Vec::new();
    let explicit = dicom_transfer_syntax_registry::entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
    copied.write_dataset_with_ts(&mut written, &explicit).unwrap();
    let name = element(0x0010_0010, "PN", &slices[0].patient_name);
    assert!(written.windows(name.len()).any(|window| window == name), "the name was changed on the way");
}

/// Frames in an order of their own, one rescale shared and one of a single frame.
fn enhanced(image_type: &str) -> Vec<u8> {
    let order = [3, 0, 5, 1, 6, 2, 4];
    let sequence = |tag, body: Vec<u8>| element(tag, "SQ", &item(&body));
    let rescale = |intercept: &str| {
        let body = [
            element(0x0028_1052, "DS", intercept.as_bytes()),
            element(0x0028_1053, "DS", b"1"),
            element(0x0028_1054, "LO", b"HU"),
        ];
        sequence(0x0028_9145, body.concat())
    };
    let shared = [
        sequence(0x0020_9116, element(0x0020_0037, "DS", b"1\\0\\0\\0\\1\\0")),
        sequence(0x0028_9110, element(0x0028_0030, "DS", b"1.3\\0.9")),
        rescale("-1000"),
    ];
    let frame = |k: &usize| {
        let position = numbers(&[-20.5, 7.25, 100.0 + 2.5 * *k as f64]);
        let mut body = sequence(0x0020_9113, element(0x0020_0032, "DS", &position));
        if *k == 5 {
            body.extend(rescale("-900"));
        }
        item(&body)
    };
    let frames: Vec<u8> = order.iter().flat_map(frame).collect();
    let words = order.iter().flat_map(|k| vec![i16::try_from(*k).unwrap(); usize::from(ROWS * COLUMNS)]);
    let pixels: Vec<u8> = words.flat_map(i16::to_le_bytes).collect();
    let mut data_set = vec![
        element(0x0008_0008, "CS", image_type.as_bytes()),
        element(0x0008_0016, "UI", b"1.2.840.10008.5.1.4.1.1.2.1"),
        element(0x0008_0018, "UI", b"1.2.3.1"),
        element(0x0008_0060, "CS", b"CT"),
        element(0x0020_000D, "UI", b"1.2.1"),
        element(0x0020_000E, "UI", b"1.2.9"),
        element(0x0020_0052, "UI", b"1.2.2"),
        element(0x0028_0008, "IS", b"7"),
    ];
    data_set.extend(pixel_module(ROWS, COLUMNS, None));
    data_set.extend([
        element(0x5200_9229, "SQ", &item(&shared.concat())),
        element(0x5200_9230, "SQ", &frames),
        element(0x7FE0_0010, "OW", &pixels),
    ]);
    data_set.sort();
    data_set.sort_by_key(|e| (u16::from_le_bytes([e[0], e[1]]), u16::from_le_bytes([e[2], e[3]])));
    part10(&data_set)
}

#[test]
fn an_original_enhanced_ct_is_read_frame_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("enhanced"), enhanced("ORIGINAL\\PRIMARY\\VOLUME\\NONE")).unwrap();
    let series = CtSeries::from_folder(folder.path()).unwrap();
    assert_eq!(series.slices.iter().map(|s| s.frame.unwrap()).collect::<Vec<_>>(), [1, 3, 5, 0, 6, 2, 4]);
    assert_eq!((series.grid.spacing_mm(), series.grid.origin().z), ([2.5, 1.3, 0.9], 100.0));
    let volume = HuVolume::read(&series).unwrap();
    let column: Vec<i16> = volume.hu.slice(ndarray::s![.., 20, 30]).to_vec();
    assert_eq!(column, [-1000, -999, -998, -997, -996, -895, -994]);
    std::fs::write(folder.path().join("enhanced"), enhanced("DERIVED\\PRIMARY\\VOLUME\\NONE")).unwrap();
    let refused = CtSeries::from_folder(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("enhanced CT multi-frame, not an original CT"), "{refused}");
}

#[test]
fn a_cut_at_any_place_is_an_answer() {
    let whole = encode(&regular()[0]);
    let pixels_start = whole.len() - usize::from(ROWS) * usize::from(COLUMNS) * 2;
    for cut in (0..pixels_start).chain([pixels_start + 1, whole.len() - 2, whole.len() - 1]) {
        let Ok(instance) = parse_instance(whole[..cut].to_vec(), InstanceLimits::default()) else { continue };
        assert!(hu_of_frame(&instance, 0, "cut").is_err(), "cut at {cut} gave pixels");
    }
    let instance = parse_instance(whole, InstanceLimits::default()).unwrap();
    assert_eq!(hu_of_frame(&instance, 0, "whole").unwrap()[[4, 6]], -918);
}

#[test]
fn a_folder_with_a_damaged_slice_is_refused_by_name() {
    let folder = write(&regular());
    let path = name_of(folder.path(), 4);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let refused = CtSeries::from_folder(folder.path());
    assert!(
        matches!(&refused, Err(SeriesError::Instance { path: named, .. }) if *named == path),
        "{refused:?}"
    );
}

#[test]
fn fifty_thousand_nested_sequences_are_refused() {
    let mut nest = Vec::new();
    for _ in 0..50_000 {
        nest.extend([0x08, 0x00, 0x40, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        nest.extend([0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    let refused = parse_instance(part10(&[nest]), InstanceLimits::default()).unwrap_err();
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("nest deeper than 64"), "{cause}");
}

#[test]
fn a_matrix_of_four_billion_pixels_is_refused() {
    let mut data_set = vec![element(0x0008_0016, "UI", CT.as_bytes())];
    data_set.extend(pixel_module(65535, 65535, None));
    data_set.extend([
        element(0x0028_1052, "DS", b"0"),
        element(0x0028_1053, "DS", b"1"),
        element(0x7FE0_0010, "OW", &[0; 64]),
    ]);
    let instance = parse_instance(part10(&data_set), InstanceLimits::default()).unwrap();
    let refused = hu_of_frame(&instance, 0, "huge").unwrap_err().to_string();
    assert_eq!(refused, "65535 rows x 65535 columns; 1 to 4096 on each side are accepted");
}
