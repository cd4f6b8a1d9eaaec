//! Anybody's RTSTRUCT: named contours, what they refer to, and what is odd about them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dicom_dictionary_std::tags;

use super::error::RtstructError;
use crate::pipeline::contours::{FillRule, PlanarContour, RoiContours};
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::dicom::instance::{InstanceLimits, read_instance};
use crate::vocabulary::space::PatientPoint;

/// A contour further from every plane than this part of the slice distance is left out; planning systems that
/// interpolate between slices write such.
const OFF_PLANE: f64 = 0.25;

/// An ROI of somebody's structure set, in the patient.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadRoi {
    /// ROI Number.
    pub number: i64,
    /// ROI Name; the number as text where it has none.
    pub name: String,
    /// ROI Display Color, where it has one.
    pub color: Option<[u8; 3]>,
    /// Closed rings, each at least three points.
    pub rings: Vec<Vec<PatientPoint>>,
}

/// Somebody's structure set.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadStructureSet {
    /// Structure Set Label; empty where it has none.
    pub label: String,
    /// ROIs in file order, those without contours too.
    pub rois: Vec<ReadRoi>,
    /// Frames of reference named anywhere.
    pub frame_of_reference_uids: BTreeSet<String>,
    /// CT series named in the references.
    pub series_uids: BTreeSet<String>,
    /// Images named by the series and by contours.
    pub image_uids: BTreeSet<String>,
    /// What is odd, one sentence each.
    pub warnings: Vec<String>,
}

/// How nested rings of others are meant: all writers we know nest rings for holes, and keyholes are the same under
/// both rules.
pub const FILL_RULE: FillRule = FillRule::EvenOdd;

/// Reads an RTSTRUCT from a file.
///
/// # Errors
/// [`RtstructError`]: not DICOM, damaged or nested too deep, not a structure set, no ROI list.
pub fn read(path: &Path) -> Result<ReadStructureSet, RtstructError> {
    let instance_error = |source| RtstructError::Instance { path: path.to_owned(), source };
    let instance = read_instance(path, InstanceLimits::default()).map_err(instance_error)?;
    let data_set = instance.data_set().map_err(instance_error)?;
    let name = path.display().to_string();
    let top = Attributes::new(&data_set, &name);
    let modality = top.optional_text(tags::MODALITY).unwrap_or_else(|| "no Modality".to_owned());
    if modality != "RTSTRUCT" {
        return Err(RtstructError::NotAStructureSet { path: path.to_owned(), found: modality });
    }
    let attribute = |source| RtstructError::Attribute { path: path.to_owned(), source };
    let mut set = ReadStructureSet {
        label: top.optional_text(tags::STRUCTURE_SET_LABEL).unwrap_or_default(),
        rois: Vec::new(),
        frame_of_reference_uids: BTreeSet::new(),
        series_uids: BTreeSet::new(),
        image_uids: BTreeSet::new(),
        warnings: Vec::new(),
    };
    set.frame_of_reference_uids.extend(top.optional_text(tags::FRAME_OF_REFERENCE_UID));
    for roi in top.items(tags::STRUCTURE_SET_ROI_SEQUENCE).map_err(attribute)? {
        let number = roi.integer(tags::ROI_NUMBER).map_err(attribute)?;
        let name = roi.optional_text(tags::ROI_NAME).unwrap_or_else(|| number.to_string());
        set.frame_of_reference_uids.extend(roi.optional_text(tags::REFERENCED_FRAME_OF_REFERENCE_UID));
        set.rois.push(ReadRoi { number, name, color: None, rings: Vec::new() });
    }
    set.read_references(&top);
    set.read_contours(&top);
    Ok(set)
}

fn items<'a>(attributes: &Attributes<'a>, tag: dicom_core::Tag) -> Vec<Attributes<'a>> {
    attributes.items(tag).unwrap_or_default()
}

impl ReadStructureSet {
    fn read_references(&mut self, top: &Attributes<'_>) {
        for frame in items(top, tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE) {
            self.frame_of_reference_uids.extend(frame.optional_text(tags::FRAME_OF_REFERENCE_UID));
            for study in items(&frame, tags::RT_REFERENCED_STUDY_SEQUENCE) {
                for series in items(&study, tags::RT_REFERENCED_SERIES_SEQUENCE) {
                    self.series_uids.extend(series.optional_text(tags::SERIES_INSTANCE_UID));
                    for image in items(&series, tags::CONTOUR_IMAGE_SEQUENCE) {
                        self.image_uids.extend(image.optional_text(tags::REFERENCED_SOP_INSTANCE_UID));
                    }
                }
            }
        }
    }

    fn read_contours(&mut self, top: &Attributes<'_>) {
        let place: BTreeMap<i64, usize> =
            self.rois.iter().enumerate().map(|(index, roi)| (roi.number, index)).collect();
        for item in items(top, tags::ROI_CONTOUR_SEQUENCE) {
            let number = item.integer(tags::REFERENCED_ROI_NUMBER).unwrap_or(-1);
            let Some(index) = place.get(&number).copied() else {
                self.warnings.push(format!("contours for ROI {number}, which the ROI list does not have"));
                continue;
            };
            self.rois[index].color = item.numbers::<3>(tags::ROI_DISPLAY_COLOR).ok().and_then(color);
            let name = self.rois[index].name.clone();
            for (n, contour) in items(&item, tags::CONTOUR_SEQUENCE).iter().enumerate() {
                for image in items(contour, tags::CONTOUR_IMAGE_SEQUENCE) {
                    self.image_uids.extend(image.optional_text(tags::REFERENCED_SOP_INSTANCE_UID));
                }
                match ring(contour) {
                    Ok(points) => self.rois[index].rings.push(points),
                    Err(why) => {
                        self.warnings.push(format!("contour {} of {name:?} is left out: {why}", n + 1))
                    }
                }
            }
        }
    }

    /// The contours on the planes of a CT series, in file order, and what did not fit.
    #[must_use]
    pub fn on_series(&self, series: &CtSeries) -> (Vec<(String, RoiContours)>, Vec<String>) {
        let mut warnings = Vec::new();
        let frame = series.frame_of_reference_uid.as_str();
        if !self.frame_of_reference_uids.is_empty() && !self.frame_of_reference_uids.contains(frame) {
            warnings.push("the structure set has another frame of reference than the CT".to_owned());
        }
        if !self.series_uids.is_empty() && !self.series_uids.contains(series.series_instance_uid.as_str()) {
            warnings.push("the structure set names another series than this CT".to_owned());
        }
        let mut placed = Vec::with_capacity(self.rois.len());
        for roi in &self.rois {
            let contours: Vec<PlanarContour> =
                roi.rings.iter().filter_map(|ring| on_plane(ring, series)).collect();
            let lost = roi.rings.len() - contours.len();
            if lost > 0 {
                warnings.push(format!(
                    "{lost} of {} contours of {:?} lie on no plane of the CT",
                    roi.rings.len(),
                    roi.name
                ));
            }
            placed.push((roi.name.clone(), RoiContours { contours }));
        }
        (placed, warnings)
    }
}

/// The ring on its nearest plane, `None` where it is too far off or not parallel.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a plane index, checked against the number of planes"
)]
fn on_plane(ring: &[PatientPoint], series: &CtSeries) -> Option<PlanarContour> {
    let heights = ring.iter().map(|p| series.grid.voxel_from_patient(*p).z);
    let (low, high) = heights.fold((f64::MAX, f64::MIN), |(l, h), z| (l.min(z), h.max(z)));
    let plane = ((low + high) / 2.0).round();
    let fits = plane >= 0.0 && plane < series.grid.shape()[0] as f64;
    let near = (low - plane).abs() <= OFF_PLANE && (high - plane).abs() <= OFF_PLANE;
    (fits && near).then(|| PlanarContour { slice: plane as usize, points: ring.to_vec() })
}

/// The points of a contour, without a last point that repeats the first.
fn ring(contour: &Attributes<'_>) -> Result<Vec<PatientPoint>, String> {
    let kind = contour.optional_text(tags::CONTOUR_GEOMETRIC_TYPE).unwrap_or_default();
    if !matches!(kind.as_str(), "CLOSED_PLANAR" | "CLOSEDPLANAR_XOR" | "") {
        return Err(format!("its geometric type is {kind}"));
    }
    let element = contour.data_set().get(tags::CONTOUR_DATA).ok_or("it has no points")?;
    let numbers =
        element.to_multi_float64().map_err(|_not_numbers| "its coordinates are no numbers".to_owned())?;
    let (triples, rest) = numbers.as_chunks::<3>();
    if !rest.is_empty() || !numbers.iter().all(|n| n.is_finite()) {
        return Err("its coordinates are not finite triples".to_owned());
    }
    let mut points: Vec<PatientPoint> =
        triples.iter().map(|[x, y, z]| PatientPoint::lps_mm(*x, *y, *z)).collect();
    if points.len() > 1 && points.first() == points.last() {
        points.pop();
    }
    if points.len() < 3 { Err(format!("it has {} points, a ring has 3", points.len())) } else { Ok(points) }
}

fn color(values: [f64; 3]) -> Option<[u8; 3]> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0..=255")]
    let byte = |v: f64| (0.0..=255.0).contains(&v).then_some(v as u8);
    Some([byte(values[0])?, byte(values[1])?, byte(values[2])?])
}
