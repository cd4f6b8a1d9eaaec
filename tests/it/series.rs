//! CT series of many makers: read to the unit and to the hundredth of a millimetre, or refused with the cause.

use std::error::Error;

use ndarray::Array3;
use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::volume::{HuVolume, hu_of_frame};
use oarlock::vocabulary::dicom::instance::{InstanceLimits, read_instance};
use oarlock::vocabulary::space::{Grid, VoxelPoint};

use crate::support::shared_data;

/// One row of the committed reference; its columns are described in `ct_table.py`.
struct Reference {
    kind: &'static str,
    path: &'static str,
    shape: Vec<f64>,
    spacing_mm: Vec<f64>,
    origin: Vec<f64>,
    directions: Vec<f64>,
    lowest: i64,
    highest: i64,
    sum: i64,
    voxels: Vec<([usize; 3], i16)>,
}

fn references() -> Vec<Reference> {
    let table = include_str!("../reference/ct_table.tsv");
    let numbers = |text: &str| text.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<f64>>();
    let row = |line: &'static str| {
        let c: Vec<&str> = line.split('\t').collect();
        let voxel = |text: &&str| {
            let (place, value) = text.split_once(" = ").unwrap();
            let place: Vec<usize> = place.split(' ').map(|n| n.parse().unwrap()).collect();
            ([place[0], place[1], place[2]], value.parse().unwrap())
        };
        Reference {
            kind: c[0],
            path: c[1],
            shape: numbers(c[2]),
            spacing_mm: numbers(c[3]),
            origin: numbers(c[4]),
            directions: numbers(c[5]),
            lowest: c[6].parse().unwrap(),
            highest: c[7].parse().unwrap(),
            sum: c[8].parse().unwrap(),
            voxels: c[9..].iter().map(voxel).collect(),
        }
    };
    table.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn check_hu(row: &Reference, hu: &Array3<i16>) {
    let values = || hu.iter().map(|hu| i64::from(*hu));
    let found = (values().min().unwrap(), values().max().unwrap(), values().sum::<i64>());
    assert_eq!(found, (row.lowest, row.highest, row.sum), "lowest, highest and sum of HU of {}", row.path);
    for (place, value) in &row.voxels {
        assert_eq!(hu[*place], *value, "HU at {place:?} (z, y, x) of {}", row.path);
    }
}

/// The far corner carries every error of spacing and direction with it.
fn check_grid(row: &Reference, grid: &Grid) {
    let shape: Vec<f64> = grid.shape().iter().map(|side| *side as f64).collect();
    assert_eq!(shape, row.shape, "shape of {}", row.path);
    let far: Vec<f64> = shape.iter().map(|side| side - 1.0).collect();
    let corner = grid.patient_from_voxel(VoxelPoint { z: far[0], y: far[1], x: far[2] });
    let origin = grid.origin();
    for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
        let step = |index: usize| row.directions[index * 3 + axis] * row.spacing_mm[2 - index];
        let wanted = row.origin[axis] + far[2] * step(0) + far[1] * step(1) + far[0] * step(2);
        let found = [corner.x, corner.y, corner.z][axis];
        assert!((found - wanted).abs() < 0.01, "far corner of {}: {name} {found} mm, not {wanted}", row.path);
        let found = [origin.x, origin.y, origin.z][axis];
        assert!((found - row.origin[axis]).abs() < 0.01, "origin of {}: {name} {found} mm", row.path);
    }
}

#[test]
fn regular_series_have_the_reference_grid_and_hu() {
    let Some(data) = shared_data("regular_series_have_the_reference_grid_and_hu") else { return };
    let rows: Vec<_> = references().into_iter().filter(|row| row.kind == "series").collect();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let series = CtSeries::from_folder(&data.join(row.path)).unwrap();
        check_grid(&row, &series.grid);
        assert_eq!(series.slices.len(), series.grid.shape()[0]);
        let volume = HuVolume::read(&series).unwrap();
        assert_eq!(volume.grid, series.grid);
        check_hu(&row, &volume.hu);
    }
}

#[test]
fn every_encoding_decodes_to_the_unit() {
    let Some(data) = shared_data("every_encoding_decodes_to_the_unit") else { return };
    let rows: Vec<_> = references()
        .into_iter()
        .filter(|row| row.kind == "instance")
        .filter(|row| !row.path.contains("1.2.840.10008.1.2.4.51"))
        .collect();
    assert!(rows.len() > 25, "{} rows", rows.len());
    for row in rows {
        let instance = read_instance(&data.join(row.path), InstanceLimits::default())
            .unwrap_or_else(|e| panic!("{}: {}", row.path, chain(&e)));
        let hu =
            hu_of_frame(&instance, 0, row.path).unwrap_or_else(|e| panic!("{}: {}", row.path, chain(&e)));
        check_hu(&row, &hu.insert_axis(ndarray::Axis(0)));
    }
}

/// The message of an error and of all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
/// Every folder that is no usable series, and what the message must say about it.
#[test]
fn what_is_refused_says_why() {
    let Some(data) = shared_data("what_is_refused_says_why") else { return };
    for (folder, reasons) in [
        (
            "ct-head-small-slicer",
            &["FrameOfReferenceUID (0020,0052) is missing", "CTHead1.dcm and 92 more"][..],
        ),
        (
            "ct-body-siemens-j2k-totalsegmentator",
            &[
                "SOPInstanceUID (0008,0018) is empty",
                "StudyInstanceUID (0020,000D) is empty",
                "SeriesInstanceUID (0020,000E) is empty",
                "and 19 more",
            ],
        ),
        ("ct-head-ge-tilt", &["gantry tilt 18.5 degrees", "uneven slice distances (1.08 to 7.00 mm)"]),
        ("ct-seg-3slice-dcmqi", &["only 3 slices (2.0 mm)"]),
        ("plastimatch-thorax", &["only 1 slice"]),
        ("rtstruct-only", &["only 1 slice"]),
        ("rt-utils/mock_data", &["only 2 slices (5.0 mm)"]),
        ("rt-utils/oriented_data", &["FrameOfReferenceUID (0020,0052) is missing"]),
        ("rt-utils/one_slice_data", &["FrameOfReferenceUID (0020,0052) is missing"]),
        ("rt-utils/empty", &["no CT series among 1 files", "modality RTSTRUCT"]),
        ("tricky/dicomdir-missing-slices", &["2 CT series", "(5 instances)", "(4 instances)"]),
        ("tricky/dicomdir-missing-slices/98892001_CT5N", &["16 rows x 16 columns", "only 5 slices"]),
        (
            "tricky/dicomdir-missing-slices/77654033_CT2",
            &["missing slices: the slices at -99.48 and 103.02 mm lie 202.50 mm apart, the others 1.25 mm"],
        ),
        ("tricky/dicomdir-missing-slices/98892001_CT2N", &["no CT series", "localizer"]),
        ("tricky/scout_philips", &["no CT series", "I10: localizer", "DIRFILE"]),
        ("tricky/pydicom", &["3 CT series"]),
        ("tricky/pydicom-data", &["4 CT series"]),
        ("tricky/transfer-syntaxes-ct", &["2 CT series"]),
        ("atlas", &["no CT series", "not a DICOM file"]),
    ] {
        let refused = CtSeries::from_folder(&data.join(folder)).expect_err(folder);
        let message = chain(&refused);
        for reason in reasons {
            assert!(message.contains(reason), "{folder} should say {reason:?}, said: {message}");
        }
    }
}

#[test]
fn single_files_are_refused_for_their_own_reason() {
    let Some(data) = shared_data("single_files_are_refused_for_their_own_reason") else { return };
    for (path, reason) in [
        ("tricky/pydicom/CT_small.dcm", "only 1 slice"),
        ("tricky/pydicom/J2K_pixelrep_mismatch.dcm", "only 1 slice"),
        ("tricky/pydicom-data/explicit_VR-UN.dcm", "only 1 slice"),
        ("tricky/pydicom-data/693_UNCR.dcm", "FrameOfReferenceUID (0020,0052) is missing"),
        ("tricky/pydicom-data/bad_sequence.dcm", "SOPInstanceUID (0008,0018) is not a UID"),
        ("tricky/pydicom-data/eCT_Supplemental.dcm", "enhanced CT multi-frame, not an original CT"),
        ("tricky/pydicom-data/JPGLosslessP14SV1_1s_1f_8b.dcm", "modality US"),
        (
            "tricky/transfer-syntaxes-ct/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
            "enhanced CT multi-frame, not an original CT",
        ),
    ] {
        let message = chain(&CtSeries::from_instances(&[data.join(path)]).expect_err(path));
        assert!(message.contains(reason), "{path} should say {reason:?}, said: {message}");
    }
}

#[test]
fn encodings_that_are_not_decoded_are_named() {
    let Some(data) = shared_data("encodings_that_are_not_decoded_are_named") else { return };
    let folder = data.join("tricky/transfer-syntaxes-ct");
    for (file, reason) in [
        (
            "CTImage.dcm_JPEGProcess6_8_1.2.840.10008.1.2.4.53.dcm",
            "(1.2.840.10008.1.2.4.53) is not decoded: it is retired",
        ),
        (
            "CTImage.dcm_JPEGProcess10_12_1.2.840.10008.1.2.4.55.dcm",
            "(1.2.840.10008.1.2.4.55) is not decoded: it is retired",
        ),
        ("CTImage.dcm_JPEGProcess1_1.2.840.10008.1.2.4.50.dcm", "BitsStored (0028,0101) is 8"),
    ] {
        let instance = read_instance(&folder.join(file), InstanceLimits::default()).unwrap();
        let message = chain(&hu_of_frame(&instance, 0, file).expect_err(file));
        assert!(message.contains(reason), "{file} should say {reason:?}, said: {message}");
    }
}

/// The multi-frame object of two frames, several fragments each and no offset table must not crash.
#[test]
fn fragments_without_an_offset_table_are_refused() {
    let Some(data) = shared_data("fragments_without_an_offset_table_are_refused") else { return };
    let path = data.join("tricky/transfer-syntaxes-ct/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm");
    let instance = read_instance(&path, InstanceLimits::default()).unwrap();
    hu_of_frame(&instance, 1, "CT0012").expect_err("no rescale, and frames that cannot be told apart");
}

/// Transforms of floating point and of libjpeg's integers may round a sample of 12 bits differently: one step of
/// it is 2.0002442 HU. Against the picture before compression: what the test data's description states.
#[test]
fn jpeg_extended_is_near_the_reference_decoder_and_the_original() {
    let Some(data) = shared_data("jpeg_extended_is_near_the_reference_decoder_and_the_original") else {
        return;
    };
    let row = references().into_iter().find(|row| row.path.contains("1.2.840.10008.1.2.4.51")).unwrap();
    let hu = |path: &str| {
        let instance = read_instance(&data.join(path), InstanceLimits::default()).unwrap();
        hu_of_frame(&instance, 0, path).unwrap()
    };
    let found = hu(row.path);
    for ([_, y, x], wanted) in &row.voxels {
        let off = found[[*y, *x]] - wanted;
        assert!(off.abs() <= 3, "row {y} column {x}: {off} HU off SimpleITK's");
    }
    let sum: i64 = found.iter().map(|hu| i64::from(*hu)).sum();
    let mean_off = (sum - row.sum) as f64 / found.len() as f64;
    assert!(mean_off.abs() < 0.05, "{mean_off} HU off on average");
    let original = hu("tricky/transfer-syntaxes-ct/CTImage.dcm");
    let worst = found.iter().zip(&original).map(|(a, b)| (a - b).abs()).max().unwrap();
    assert!(worst <= 36, "{worst} HU off the original");
}
