//! One CT instance: which planes it holds, where they lie, and whether it is a CT image at all.

use std::path::Path;

use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};

use super::CtSlice;
use super::error::{AsideReason, Cause};
use crate::vocabulary::dicom::attribute::{AttributeError, Attributes};
use crate::vocabulary::dicom::instance::{Instance, InstanceError, InstanceLimits, read_attributes};
use crate::vocabulary::dicom::{FrameOfReferenceUid, SeriesInstanceUid, StudyInstanceUid};
use crate::vocabulary::space::{PatientPoint, PatientVector};

/// What a file turned out to be.
pub(super) enum Found {
    Aside(AsideReason),
    Slices {
        /// Series Instance UID as text, to group by; may be empty.
        series: String,
        planes: Result<Vec<Plane>, Vec<Cause>>,
    },
}

/// One plane of a series as its attributes describe it.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) slice: CtSlice,
    pub(super) name: String,
    pub(super) study: StudyInstanceUid,
    pub(super) series: SeriesInstanceUid,
    pub(super) frame_of_reference: FrameOfReferenceUid,
    /// Centre of the first pixel.
    pub(super) position: PatientPoint,
    /// Where the column index grows.
    pub(super) row_direction: PatientVector,
    /// Where the row index grows.
    pub(super) column_direction: PatientVector,
    /// Distance between rows, then between columns.
    pub(super) pixel_spacing_mm: [f64; 2],
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) tilt_degrees: Option<f64>,
    pub(super) patient: Patient,
}

/// What tells patients apart, as the bytes that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patient([Option<String>; 3]);

/// Image Type values of pictures whose pixels are no longer a slice of the patient.
const RENDERED: [&str; 7] =
    ["MIP", "MINIP", "MAXIP", "MPR THICK RANGES", "PROJECTION IMAGE", "VRT", "SCREEN SAVE"];

const GROUPS_READ: [u16; 6] = [0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x5200];

/// Reads one file as far as its place in a series goes; pixel data stays untouched.
pub(super) fn read(path: &Path, limits: InstanceLimits) -> Result<Found, InstanceError> {
    let instance = match read_attributes(path, limits) {
        Ok(instance) => instance,
        Err(InstanceError::NotDicom) => return Ok(Found::Aside(AsideReason::NotDicom)),
        Err(error) => return Err(error),
    };
    let data_set = instance.data_set_of_bytes(|tag| GROUPS_READ.contains(&tag.0))?;
    let name = path.display().to_string();
    let attributes = Attributes::new(&data_set, &name);
    if let Some(reason) = aside(&instance, attributes) {
        return Ok(Found::Aside(reason));
    }
    let series = attributes.optional_text(tags::SERIES_INSTANCE_UID).unwrap_or_default();
    let enhanced = attributes.has(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        || sop_class(&instance, attributes) != uids::CT_IMAGE_STORAGE;
    let planes = if enhanced { frames(path, &name, attributes) } else { single(path, &name, attributes) };
    Ok(Found::Slices { series, planes })
}

fn sop_class(instance: &Instance, attributes: Attributes<'_>) -> String {
    attributes
        .optional_text(tags::SOP_CLASS_UID)
        .or_else(|| instance.media_storage_sop_class().map(str::to_owned))
        .unwrap_or_default()
}

fn aside(instance: &Instance, attributes: Attributes<'_>) -> Option<AsideReason> {
    let class = sop_class(instance, attributes);
    let ct = [
        uids::CT_IMAGE_STORAGE,
        uids::ENHANCED_CT_IMAGE_STORAGE,
        uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
    ];
    if !ct.contains(&class.as_str()) {
        let modality = attributes.optional_text(tags::MODALITY).unwrap_or_else(|| "none".to_owned());
        return Some(AsideReason::OtherModality { modality });
    }
    let image_type = attributes.texts(tags::IMAGE_TYPE);
    if image_type.iter().any(|value| value == "LOCALIZER") {
        return Some(AsideReason::Localizer);
    }
    let rendered = image_type.into_iter().find(|value| RENDERED.contains(&value.as_str()));
    rendered.map(|image_type| AsideReason::Rendered { image_type })
}

/// Gathers every fault of an instance, so that a person is told of all at once.
#[derive(Default)]
struct Faults(Vec<Cause>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, AttributeError>) -> Option<T> {
        result.map_err(|error| self.0.push(Cause::Attribute { error, n_more: 0 })).ok()
    }
}

/// The attributes that a whole instance shares.
struct Common {
    sop_class_uid: crate::vocabulary::dicom::SopClassUid,
    sop_instance_uid: crate::vocabulary::dicom::SopInstanceUid,
    study: StudyInstanceUid,
    series: SeriesInstanceUid,
    frame_of_reference: FrameOfReferenceUid,
    rows: u16,
    columns: u16,
}

fn common(attributes: Attributes<'_>, faults: &mut Faults) -> Option<Common> {
    let sop_class_uid = faults.keep(attributes.uid(tags::SOP_CLASS_UID));
    let sop_instance_uid = faults.keep(attributes.uid(tags::SOP_INSTANCE_UID));
    let study = faults.keep(attributes.uid(tags::STUDY_INSTANCE_UID));
    let series = faults.keep(attributes.uid(tags::SERIES_INSTANCE_UID));
    let frame_of_reference = faults.keep(attributes.uid(tags::FRAME_OF_REFERENCE_UID));
    let rows = faults.keep(attributes.unsigned_short(tags::ROWS));
    let columns = faults.keep(attributes.unsigned_short(tags::COLUMNS));
    Some(Common {
        sop_class_uid: sop_class_uid?,
        sop_instance_uid: sop_instance_uid?,
        study: study?,
        series: series?,
        frame_of_reference: frame_of_reference?,
        rows: rows?,
        columns: columns?,
    })
}

fn single(path: &Path, name: &str, attributes: Attributes<'_>) -> Result<Vec<Plane>, Vec<Cause>> {
    let mut faults = Faults::default();
    let common = common(attributes, &mut faults);
    let place = Place::read(attributes, attributes, attributes, &mut faults);
    match (common, place) {
        (Some(common), Some(place)) if faults.0.is_empty() => {
            Ok(vec![plane(path, name.to_owned(), attributes, &common, place, None)])
        }
        _ => Err(faults.0),
    }
}

/// Frames of an enhanced CT: place and size come from functional groups, a frame's own before the shared ones
/// (PS3.3 C.7.6.16).
fn frames<'a>(path: &Path, name: &str, attributes: Attributes<'a>) -> Result<Vec<Plane>, Vec<Cause>> {
    let image_type = attributes.texts(tags::IMAGE_TYPE);
    let original = image_type.first().is_some_and(|value| value == "ORIGINAL");
    let a_volume = image_type.get(2).is_none_or(|value| value == "VOLUME" || value == "AXIAL");
    if !(original && a_volume) {
        let image_type = image_type.join("\\");
        return Err(vec![Cause::NotOriginal { image_type, instance: name.to_owned() }]);
    }
    let mut faults = Faults::default();
    let common = common(attributes, &mut faults);
    let shared = faults.keep(attributes.item(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE));
    let frames = faults.keep(attributes.items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE));
    let (Some(common), Some(shared), Some(frames)) = (common, shared, frames) else { return Err(faults.0) };
    let group = |frame: &Attributes<'a>, tag: Tag| frame.item(tag).or_else(|_| shared.item(tag));
    let mut planes = Vec::with_capacity(frames.len());
    for (idx, frame) in frames.iter().enumerate() {
        let position = faults.keep(group(frame, tags::PLANE_POSITION_SEQUENCE));
        let orientation = faults.keep(group(frame, tags::PLANE_ORIENTATION_SEQUENCE));
        let measures = faults.keep(group(frame, tags::PIXEL_MEASURES_SEQUENCE));
        let (Some(position), Some(orientation), Some(measures)) = (position, orientation, measures) else {
            return Err(faults.0);
        };
        let Some(place) = Place::read(position, orientation, measures, &mut faults) else {
            return Err(faults.0);
        };
        planes.push(plane(path, format!("{name} frame {}", idx + 1), attributes, &common, place, Some(idx)));
    }
    if faults.0.is_empty() { Ok(planes) } else { Err(faults.0) }
}

struct Place {
    position: PatientPoint,
    row_direction: PatientVector,
    column_direction: PatientVector,
    pixel_spacing_mm: [f64; 2],
}

impl Place {
    fn read(
        position: Attributes<'_>,
        orientation: Attributes<'_>,
        measures: Attributes<'_>,
        faults: &mut Faults,
    ) -> Option<Self> {
        let position = faults.keep(position.numbers::<3>(tags::IMAGE_POSITION_PATIENT));
        let orientation = faults.keep(orientation.numbers::<6>(tags::IMAGE_ORIENTATION_PATIENT));
        let spacing = faults.keep(measures.numbers::<2>(tags::PIXEL_SPACING));
        let [x, y, z] = position?;
        let [rx, ry, rz, cx, cy, cz] = orientation?;
        Some(Self {
            position: PatientPoint::lps_mm(x, y, z),
            row_direction: PatientVector::lps(rx, ry, rz),
            column_direction: PatientVector::lps(cx, cy, cz),
            pixel_spacing_mm: spacing?,
        })
    }
}

fn plane(
    path: &Path,
    name: String,
    attributes: Attributes<'_>,
    common: &Common,
    place: Place,
    frame: Option<usize>,
) -> Plane {
    let patient = [tags::PATIENT_ID, tags::PATIENT_NAME, tags::PATIENT_BIRTH_DATE];
    Plane {
        slice: CtSlice {
            path: path.to_owned(),
            sop_class_uid: common.sop_class_uid.clone(),
            sop_instance_uid: common.sop_instance_uid.clone(),
            frame,
            position: place.position,
        },
        name,
        study: common.study.clone(),
        series: common.series.clone(),
        frame_of_reference: common.frame_of_reference.clone(),
        position: place.position,
        row_direction: place.row_direction,
        column_direction: place.column_direction,
        pixel_spacing_mm: place.pixel_spacing_mm,
        rows: common.rows,
        columns: common.columns,
        tilt_degrees: attributes.number(tags::GANTRY_DETECTOR_TILT).ok(),
        patient: Patient(patient.map(|tag| attributes.optional_text(tag))),
    }
}
