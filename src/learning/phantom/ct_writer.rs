//! A scan as the Part 10 files of a CT series.

use std::path::{Path, PathBuf};

use dicom_core::value::{PixelFragmentSequence, PrimitiveValue};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemElement;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use rayon::prelude::*;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{PhantomError, Scan, rle};
use crate::vocabulary::dicom::{
    FrameOfReferenceUid, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SeriesInstanceUid,
    SopInstanceUid, StudyInstanceUid,
};

/// Transfer syntaxes in which a phantom can be written: Implicit and Explicit VR Little Endian, Deflated, Explicit VR
/// Big Endian, RLE Lossless.
pub const WRITABLE_TRANSFER_SYNTAXES: [&str; 5] = [
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.2",
    uids::RLE_LOSSLESS,
];

/// HU of the stored value 0.
const INTERCEPT: i16 = -1024;

/// Whose scan it is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhantomIdentity {
    /// Patient's Name; nobody's.
    pub patient_name: String,
    /// Patient ID.
    pub patient_id: String,
    /// Study Instance UID.
    pub study_instance_uid: StudyInstanceUid,
    /// Series Instance UID.
    pub series_instance_uid: SeriesInstanceUid,
    /// Frame of Reference UID.
    pub frame_of_reference_uid: FrameOfReferenceUid,
    /// One SOP Instance UID per slice.
    pub sop_instance_uids: Vec<SopInstanceUid>,
    /// When it was made.
    pub made: OffsetDateTime,
}

impl PhantomIdentity {
    /// A new identity for a scan of `n_slices`, from a source of random bits.
    #[must_use]
    pub fn mint(name: &str, n_slices: usize, mut bits: impl FnMut() -> u128, made: OffsetDateTime) -> Self {
        Self {
            patient_name: format!("PHANTOM^{name}"),
            patient_id: format!("PHANTOM-{name}"),
            study_instance_uid: StudyInstanceUid::mint(bits()),
            series_instance_uid: SeriesInstanceUid::mint(bits()),
            frame_of_reference_uid: FrameOfReferenceUid::mint(bits()),
            sop_instance_uids: (0..n_slices).map(|_| SopInstanceUid::mint(bits())).collect(),
            made,
        }
    }
}

/// Writes `CT0001.dcm` and so on into a folder that is empty or not there yet; gives the files in order of slice.
///
/// # Errors
/// [`PhantomError`]: the folder is not empty, no encoder, the disk.
pub fn write_ct_series(
    scan: &Scan,
    identity: &PhantomIdentity,
    transfer_syntax: &str,
    folder: &Path,
) -> Result<Vec<PathBuf>, PhantomError> {
    if !WRITABLE_TRANSFER_SYNTAXES.contains(&transfer_syntax) {
        return Err(PhantomError::TransferSyntax { uid: transfer_syntax.chars().take(64).collect() });
    }
    let failed = |source| PhantomError::Write { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    if std::fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(PhantomError::NotEmpty { path: folder.to_owned() });
    }
    (0..scan.geometry.shape[0])
        .into_par_iter()
        .map(|slice| {
            let path = folder.join(format!("CT{:04}.dcm", slice + 1));
            let encode = |error: Box<dyn std::error::Error + Send + Sync>| PhantomError::Encode(error);
            let meta = FileMetaTableBuilder::new()
                .media_storage_sop_class_uid(uids::CT_IMAGE_STORAGE)
                .media_storage_sop_instance_uid(identity.sop_instance_uids[slice].as_str())
                .transfer_syntax(transfer_syntax)
                .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
                .implementation_version_name(IMPLEMENTATION_VERSION_NAME);
            let file = instance(scan, identity, slice, transfer_syntax).with_meta(meta);
            let file = file.map_err(|error| encode(error.into()))?;
            let mut bytes = Vec::new();
            file.write_all(&mut bytes).map_err(|error| encode(error.into()))?;
            std::fs::write(&path, bytes)
                .map_err(|source| PhantomError::Write { path: path.clone(), source })?;
            Ok(path)
        })
        .collect()
}

fn instance(
    scan: &Scan,
    identity: &PhantomIdentity,
    slice: usize,
    transfer_syntax: &str,
) -> InMemDicomObject {
    let geometry = &scan.geometry;
    let [_, rows, columns] = geometry.shape;
    let [slice_mm, row_mm, column_mm] = geometry.spacing_mm;
    let origin = geometry.patient_from_stack([slice as f64, 0.0, 0.0]);
    let [_, down, across] = geometry.directions();
    let date = identity.made.format(format_description!("[year][month][day]")).unwrap_or_default();
    let time = identity.made.format(format_description!("[hour][minute][second]")).unwrap_or_default();
    let number = (slice + 1).to_string();
    let texts: [(Tag, VR, String); 43] = [
        (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL".into()),
        (tags::INSTANCE_CREATION_DATE, VR::DA, date.clone()),
        (tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE.into()),
        (tags::SOP_INSTANCE_UID, VR::UI, identity.sop_instance_uids[slice].as_str().into()),
        (tags::STUDY_DATE, VR::DA, date.clone()),
        (tags::SERIES_DATE, VR::DA, date.clone()),
        (tags::ACQUISITION_DATE, VR::DA, date.clone()),
        (tags::CONTENT_DATE, VR::DA, date.clone()),
        (tags::STUDY_TIME, VR::TM, time.clone()),
        (tags::CONTENT_TIME, VR::TM, time.clone()),
        (tags::ACCESSION_NUMBER, VR::SH, String::new()),
        (tags::MODALITY, VR::CS, "CT".into()),
        (tags::MANUFACTURER, VR::LO, "Oarlock phantom".into()),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, String::new()),
        (tags::SERIES_DESCRIPTION, VR::LO, "Phantom, not a patient".into()),
        (tags::MANUFACTURER_MODEL_NAME, VR::LO, "phantom".into()),
        (tags::PATIENT_NAME, VR::PN, identity.patient_name.clone()),
        (tags::PATIENT_ID, VR::LO, identity.patient_id.clone()),
        (tags::PATIENT_BIRTH_DATE, VR::DA, String::new()),
        (tags::PATIENT_SEX, VR::CS, "O".into()),
        // Not a paired body part, so that Laterality is not wanted (PS3.3 C.7.3.1).
        (tags::BODY_PART_EXAMINED, VR::CS, "HEADNECK".into()),
        (tags::SLICE_THICKNESS, VR::DS, decimal(slice_mm)),
        (tags::KVP, VR::DS, "120".into()),
        (tags::SOFTWARE_VERSIONS, VR::LO, env!("CARGO_PKG_VERSION").into()),
        (tags::GANTRY_DETECTOR_TILT, VR::DS, decimal(geometry.tilt_deg)),
        (tags::PATIENT_POSITION, VR::CS, geometry.position.code().into()),
        (tags::STUDY_INSTANCE_UID, VR::UI, identity.study_instance_uid.as_str().into()),
        (tags::SERIES_INSTANCE_UID, VR::UI, identity.series_instance_uid.as_str().into()),
        (tags::STUDY_ID, VR::SH, "1".into()),
        (tags::SERIES_NUMBER, VR::IS, "1".into()),
        (tags::ACQUISITION_NUMBER, VR::IS, "1".into()),
        (tags::INSTANCE_NUMBER, VR::IS, number),
        (tags::IMAGE_POSITION_PATIENT, VR::DS, decimals(&[origin.x, origin.y, origin.z])),
        (
            tags::IMAGE_ORIENTATION_PATIENT,
            VR::DS,
            decimals(&[across.x, across.y, across.z, down.x, down.y, down.z]),
        ),
        (tags::FRAME_OF_REFERENCE_UID, VR::UI, identity.frame_of_reference_uid.as_str().into()),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO, String::new()),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into()),
        (tags::PIXEL_SPACING, VR::DS, decimals(&[row_mm, column_mm])),
        (tags::WINDOW_CENTER, VR::DS, "40".into()),
        (tags::WINDOW_WIDTH, VR::DS, "400".into()),
        (tags::RESCALE_INTERCEPT, VR::DS, INTERCEPT.to_string()),
        (tags::RESCALE_SLOPE, VR::DS, "1".into()),
        (tags::RESCALE_TYPE, VR::LO, "HU".into()),
    ];
    let mut object = InMemDicomObject::new_empty();
    for (tag, vr, value) in texts {
        // Several values in one: the backslash parts them.
        let values = value.split('\\').map(str::to_owned).collect();
        let value = if value.is_empty() { PrimitiveValue::Empty } else { PrimitiveValue::Strs(values) };
        object.put(DataElement::new(tag, vr, value));
    }
    let side = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let numbers = [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, side(rows)),
        (tags::COLUMNS, side(columns)),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ];
    for (tag, value) in numbers {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    object.put(pixel_data(scan, slice, columns, transfer_syntax));
    object
}

fn pixel_data(scan: &Scan, slice: usize, columns: usize, transfer_syntax: &str) -> InMemElement {
    let stored = |hu: &i16| u16::try_from(i32::from(*hu) - i32::from(INTERCEPT)).unwrap_or(0);
    let pixels: Vec<u16> = scan.hu.index_axis(ndarray::Axis(0), slice).iter().map(stored).collect();
    if transfer_syntax == uids::RLE_LOSSLESS {
        let fragments = PixelFragmentSequence::new(vec![0_u32], vec![rle::encode(&pixels, columns)]);
        return DataElement::new(tags::PIXEL_DATA, VR::OB, fragments);
    }
    DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into()))
}

/// A number of at most 16 characters (PS3.5, DS).
fn decimal(value: f64) -> String {
    let text = format!("{value:.8}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    let text: String = text.chars().take(16).collect();
    if text == "-0" { "0".to_owned() } else { text }
}

fn decimals(values: &[f64]) -> String {
    values.iter().map(|value| decimal(*value)).collect::<Vec<_>>().join("\\")
}

#[cfg(test)]
mod tests {
    use super::super::{Bodies, ScanGeometry, scan};
    use super::*;
    use crate::pipeline::contours::{FillRule, fill};
    use crate::pipeline::rtstruct::{self, Identity};
    use crate::pipeline::series::CtSeries;
    use crate::pipeline::volume::HuVolume;
    use crate::service::mint::Mint;
    use crate::settings::StructureTemplate;
    use crate::vocabulary::space::{PatientPoint, VoxelPoint};

    fn geometry(code: &str) -> ScanGeometry {
        ScanGeometry {
            shape: [34, 61, 70],
            spacing_mm: [5.0, 2.7, 2.9],
            centre: PatientPoint::lps_mm(3.5, -4.25, 6.0),
            position: code.parse().unwrap(),
            turned_deg: [9.0, -4.0],
            tilt_deg: 0.0,
        }
    }

    /// In every transfer syntax and patient position: the same HU to the unit, the same places, and the truth's
    /// contours filled again are its masks, voxel by voxel.
    #[test]
    fn what_is_written_is_read_back_and_the_truth_with_it() {
        let codes = ["HFS", "FFP", "HFDR", "FFS", "HFP"];
        for (syntax, code) in WRITABLE_TRANSFER_SYNTAXES.into_iter().zip(codes) {
            let folder = tempfile::tempdir().unwrap();
            let geometry = geometry(code);
            let scan = scan(&Bodies, &geometry, 12.0, 4).unwrap();
            let mut mint = Mint::fixed(77, OffsetDateTime::UNIX_EPOCH);
            let identity = PhantomIdentity::mint("1", 34, || mint.bits(), OffsetDateTime::UNIX_EPOCH);
            let ct = folder.path().join("ct");
            write_ct_series(&scan, &identity, syntax, &ct).unwrap();
            let series = CtSeries::from_folder(&ct).unwrap();
            let volume = HuVolume::read(&series).unwrap();
            assert_eq!(volume.hu, scan.hu, "{syntax} {code}");
            let place = VoxelPoint { z: 31.0, y: 7.0, x: 64.0 };
            let wanted = geometry.patient_from_stack([31.0, 7.0, 64.0]);
            let found = series.grid.patient_from_voxel(place);
            assert!(found.distance_mm(wanted) < 1e-3, "{syntax} {code}: {found:?} is not {wanted:?}");

            let template = StructureTemplate::shipped().unwrap();
            let made = Identity::mint(|| mint.bits(), OffsetDateTime::UNIX_EPOCH);
            let truth = super::super::truth_structure_set(&scan, &series, &template, made).unwrap();
            let path = folder.path().join("truth.dcm");
            std::fs::write(&path, truth.bytes).unwrap();
            let (rois, warnings) = rtstruct::read(&path).unwrap().on_series(&series);
            assert_eq!((rois.len(), warnings.len()), (6, 0));
            for ((name, contours), (structure, mask)) in rois.iter().zip(&scan.truth) {
                assert_eq!(*name, structure.name);
                let back = fill(contours, &series.grid, FillRule::EvenOdd);
                assert_eq!(
                    back.to_whole(geometry.shape),
                    mask.to_whole(geometry.shape),
                    "{name} {syntax} {code}"
                );
            }
        }
    }

    #[test]
    fn a_folder_in_use_and_an_unknown_syntax_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("other"), "x").unwrap();
        let scan = scan(&Bodies, &ScanGeometry { shape: [2, 5, 7], ..geometry("HFS") }, 0.0, 1).unwrap();
        let identity = PhantomIdentity::mint("1", 2, || 9, OffsetDateTime::UNIX_EPOCH);
        let write =
            |syntax: &str, to: &Path| write_ct_series(&scan, &identity, syntax, to).unwrap_err().to_string();
        assert!(write(uids::EXPLICIT_VR_LITTLE_ENDIAN, folder.path()).contains("not empty"));
        assert!(write("1.2.3", &folder.path().join("new")).contains("1.2.840.10008.1.2.5"));
    }

    #[test]
    fn decimals_fit_a_ds() {
        assert_eq!(decimals(&[-1.0 / 3.0, 2.5, -0.0]), "-0.33333333\\2.5\\0");
        assert!(decimal(-12_345.678_912_345).len() <= 16);
    }
}
