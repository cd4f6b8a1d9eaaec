//! A structure set in the form of one destination: what the modules write, value by value.

use dicom_core::Tag;
use dicom_core::header::Header;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::characters::{CharacterSet, Unwritable};
use super::conformance::values::check_element;
use super::coordinates::Decimals;
use super::format::{Format, Names, Types};
use super::naming::{fit_label, fit_names};
use super::structure_set::{
    CodedConcept, Identity, InterpretedType, NotFound, Origin, Roi, StructureSet, needs_a_look,
};
use crate::pipeline::contours::{HoleForm, is_hole, with_holes};
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::Attribute;

/// What must agree with the CT whatever its values are.
const IDENTIFYING: [Tag; 12] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
];

/// A structure set as a destination gets it.
#[derive(Debug, Clone)]
pub(super) struct Written<'a> {
    pub(super) series: &'a CtSeries,
    /// Patient and study of the CT, without what must not be copied.
    pub(super) copied: InMemDicomObject,
    pub(super) identity: &'a Identity,
    pub(super) origin: &'a Origin,
    pub(super) characters: CharacterSet,
    pub(super) label: String,
    pub(super) description: String,
    /// Series Description.
    pub(super) series_description: String,
    pub(super) rois: Vec<WrittenRoi<'a>>,
    /// What was changed or left out, one sentence each.
    pub(super) notes: Vec<String>,
}

/// One ROI as a destination gets it.
#[derive(Debug, Clone)]
pub(super) struct WrittenRoi<'a> {
    pub(super) name: String,
    pub(super) color: [u8; 3],
    pub(super) interpreted_type: InterpretedType,
    pub(super) code: Option<&'a CodedConcept>,
    pub(super) laterality: Option<&'a CodedConcept>,
    /// ROI Generation Description.
    pub(super) generation: String,
    /// ROI Description.
    pub(super) remark: Option<String>,
    pub(super) geometric_type: &'static str,
    pub(super) contours: Vec<WrittenContour>,
}

/// One contour as a destination gets it.
#[derive(Debug, Clone)]
pub(super) struct WrittenContour {
    /// Plane of the series.
    pub(super) slice: usize,
    /// Contour Data.
    pub(super) data: String,
    /// Points in it.
    pub(super) n_points: usize,
}

impl<'a> Written<'a> {
    /// # Errors
    /// [`Unwritable`]: a text that the CT's character set cannot hold.
    pub(super) fn of(set: &'a StructureSet, format: &Format) -> Result<Self, Unwritable> {
        let series = &set.series;
        let is_found = |roi: &Roi| !roi.contours.contours.is_empty();
        let missing: Vec<&Roi> = set.rois.iter().filter(|roi| !is_found(roi)).collect();
        let written: Vec<&Roi> =
            set.rois.iter().filter(|roi| is_found(roi) || format.not_found == NotFound::EmptyRoi).collect();
        let wanted: Vec<&str> = written.iter().map(|roi| roi.name.as_str()).collect();
        let (names, mut notes) = fit_names(&wanted, format.longest_name, format.names == Names::Ascii);
        let characters = CharacterSet::of(&series.patient_and_study, set.character_set.as_deref());
        for name in &names {
            characters.check(name)?;
        }
        if !missing.is_empty() {
            let what = match format.not_found {
                NotFound::LeaveOut => "left out, nothing found",
                NotFound::EmptyRoi => "without contours, nothing found",
            };
            let missing: Vec<&str> = missing.iter().map(|roi| roi.name.as_str()).collect();
            notes.push(format!("{what}: {}", missing.join(", ")));
        }
        let copied = copied(series, &characters, &mut notes);
        let decimals = Decimals::of(&series.grid, format.decimals);
        let mut n_thin = 0;
        let mut rois = Vec::with_capacity(written.len());
        for (roi, name) in written.into_iter().zip(names) {
            let contours = with_holes(&roi.contours, &series.grid, format.holes);
            let has_holes = contours.contours.iter().any(|contour| is_hole(contour, &series.grid));
            let as_text = contours.contours.iter().filter_map(|contour| {
                let (data, n_points) = decimals.contour(contour, series)?;
                Some(WrittenContour { slice: contour.slice, data, n_points })
            });
            let as_text: Vec<WrittenContour> = as_text.collect();
            n_thin += contours.contours.len() - as_text.len();
            rois.push(WrittenRoi {
                name,
                color: roi.color,
                interpreted_type: match format.types {
                    Types::Organ if roi.interpreted_type != InterpretedType::External => {
                        InterpretedType::Organ
                    }
                    _ => roi.interpreted_type,
                },
                code: roi.code.as_ref(),
                laterality: roi.laterality.as_ref(),
                generation: set.generation_text_of(roi),
                remark: StructureSet::remark(roi),
                geometric_type: if has_holes && format.holes == HoleForm::Xor {
                    "CLOSEDPLANAR_XOR"
                } else {
                    "CLOSED_PLANAR"
                },
                contours: as_text,
            });
        }
        if n_thin > 0 {
            notes
                .push(format!("{n_thin} contours are thinner than a coordinate's last decimal and left out"));
        }
        let doubtful: Vec<&str> = set
            .rois
            .iter()
            .zip(&rois_by_source(set, &rois))
            .filter(|(roi, _)| needs_a_look(roi))
            .filter_map(|(_, name)| *name)
            .collect();
        let description = set.text(format.description.as_deref(), &doubtful);
        let label = fit_label(format.label.as_deref().unwrap_or(&set.description.label));
        for text in [&description, &label] {
            characters.check(text)?;
        }
        Ok(Self {
            series,
            copied,
            identity: &set.identity,
            origin: &set.description.origin,
            characters,
            label,
            description,
            series_description: set.generation_text(),
            rois,
            notes,
        })
    }
}

/// Patient and study of the CT. An optional attribute whose value breaks PS3.5 would make the structure set break it too,
/// so it stays behind; what identifies patient and study is copied whatever it is.
fn copied(series: &CtSeries, characters: &CharacterSet, notes: &mut Vec<String>) -> InMemDicomObject {
    let identifies = |tag| IDENTIFYING.contains(&tag);
    InMemDicomObject::from_element_iter(series.patient_and_study.iter().filter_map(|element| {
        let tag = element.tag();
        match check_element(element, characters) {
            Err(why) if !identifies(tag) => {
                notes.push(format!("{} of the CT {why} and is left out", Attribute(tag)));
                None
            }
            _ => Some(element.clone()),
        }
    }))
}

/// The written name of each ROI of the set, `None` for one that is left out.
fn rois_by_source<'r>(set: &StructureSet, rois: &'r [WrittenRoi<'_>]) -> Vec<Option<&'r str>> {
    let all = rois.len() == set.rois.len();
    let mut names = rois.iter().map(|roi| roi.name.as_str());
    let is_written = |roi: &Roi| all || !roi.contours.contours.is_empty();
    set.rois.iter().map(|roi| if is_written(roi) { names.next() } else { None }).collect()
}
