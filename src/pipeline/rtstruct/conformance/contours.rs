//! ROIs and their contours: numbers and names fit together, and every point lies on its image.

use std::collections::BTreeSet;

use dicom_dictionary_std::tags;

use super::super::characters::CharacterSet;
use super::super::encode::Encoding;
use super::super::format::Format;
use super::super::structure_set::NOT_FOUND_REMARK;
use super::against_ct::image_of;
use super::{Gate, items};
use crate::pipeline::series::CtSeries;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::space::PatientPoint;

/// A contour lies this close to its image plane, mm: coordinates are rounded to 0.0001 mm, three of them.
const PLANE_TOLERANCE_MM: f64 = 2e-4;

/// Longest value of a VR with a 16-bit length field (PS3.5 7.1.2).
const LONGEST_EXPLICIT_VALUE: usize = 65534;

impl Gate {
    /// Names and numbers; gives the numbers back.
    pub(super) fn rois(
        &mut self,
        top: &Attributes<'_>,
        series: &CtSeries,
        format: &Format,
        characters: &CharacterSet,
    ) -> BTreeSet<i64> {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        for roi in items(top, tags::STRUCTURE_SET_ROI_SEQUENCE) {
            let number = roi.integer(tags::ROI_NUMBER).unwrap_or(0);
            let name = roi.optional_text(tags::ROI_NAME).unwrap_or_default();
            let name = characters.text(&dicom_core::PrimitiveValue::from(name));
            self.rule(number >= 1 && numbers.insert(number), || {
                format!("ROI Number {number} is below 1 or there twice")
            });
            let longest = format.longest_name;
            self.rule(name.chars().count() <= longest, || {
                format!("ROI name {name:?} is over {longest} characters")
            });
            self.rule(names.insert(name.to_lowercase()), || format!("ROI name {name:?} is there twice"));
            let frame = roi.optional_text(tags::REFERENCED_FRAME_OF_REFERENCE_UID);
            self.rule(frame.as_deref() == Some(series.frame_of_reference_uid.as_str()), || {
                format!("ROI {number} is in another frame of reference")
            });
        }
        numbers
    }

    pub(super) fn contours(
        &mut self,
        top: &Attributes<'_>,
        series: &CtSeries,
        numbers: &BTreeSet<i64>,
        format: &Format,
    ) {
        let says_empty = |roi: &Attributes<'_>| {
            roi.optional_text(tags::ROI_DESCRIPTION)
                .is_some_and(|remark| remark.starts_with(NOT_FOUND_REMARK))
        };
        let said_empty: BTreeSet<i64> = items(top, tags::STRUCTURE_SET_ROI_SEQUENCE)
            .iter()
            .filter(|roi| says_empty(roi))
            .filter_map(|roi| roi.integer(tags::ROI_NUMBER).ok())
            .collect();
        let mut seen = BTreeSet::new();
        for roi in items(top, tags::ROI_CONTOUR_SEQUENCE) {
            let number = roi.integer(tags::REFERENCED_ROI_NUMBER).unwrap_or(0);
            self.rule(numbers.contains(&number), || format!("contours for ROI {number}, which is not there"));
            self.rule(seen.insert(number), || format!("contours of ROI {number} are there twice"));
            let color = roi.numbers::<3>(tags::ROI_DISPLAY_COLOR);
            let in_range = |c: &[f64; 3]| c.iter().all(|v| (0.0..=255.0).contains(v));
            self.rule(!roi.has(tags::ROI_DISPLAY_COLOR) || color.is_ok_and(|c| in_range(&c)), || {
                format!("the color of ROI {number} is not three numbers from 0 to 255")
            });
            let contours = items(&roi, tags::CONTOUR_SEQUENCE);
            self.rule(contours.is_empty() == said_empty.contains(&number), || {
                format!("ROI {number} has no contours and does not say so, or has some and says so")
            });
            self.one_geometric_type(&contours, number);
            for (index, contour) in contours.iter().enumerate() {
                if let Err(sentence) = check_contour(contour, series, format) {
                    self.broken.push(format!("contour {} of ROI {number}: {sentence}", index + 1));
                }
            }
        }
        self.rule(seen == *numbers, || "an ROI has no item in ROI Contour Sequence".to_owned());
    }

    /// XOR joins all contours of an ROI, so all are of it or none (PS3.3 C.8.8.6.3).
    fn one_geometric_type(&mut self, contours: &[Attributes<'_>], number: i64) {
        let types: BTreeSet<_> =
            contours.iter().filter_map(|c| c.optional_text(tags::CONTOUR_GEOMETRIC_TYPE)).collect();
        self.rule(types.len() <= 1, || format!("the contours of ROI {number} have several geometric types"));
        let contour_numbers: Vec<_> =
            contours.iter().filter_map(|c| c.integer(tags::CONTOUR_NUMBER).ok()).collect();
        let distinct: BTreeSet<_> = contour_numbers.iter().collect();
        self.rule(distinct.len() == contour_numbers.len(), || {
            format!("a Contour Number of ROI {number} is there twice")
        });
    }

    pub(super) fn observations(&mut self, top: &Attributes<'_>, numbers: &BTreeSet<i64>) {
        let items = items(top, tags::RTROI_OBSERVATIONS_SEQUENCE);
        let all = |tag| items.iter().filter_map(|item| item.integer(tag).ok()).collect::<BTreeSet<i64>>();
        self.rule(all(tags::REFERENCED_ROI_NUMBER) == *numbers && items.len() == numbers.len(), || {
            "observations and ROIs do not match one to one".to_owned()
        });
        self.rule(all(tags::OBSERVATION_NUMBER).len() == items.len(), || {
            "Observation Number is there twice".to_owned()
        });
    }
}

fn check_contour(contour: &Attributes<'_>, series: &CtSeries, format: &Format) -> Result<(), String> {
    let [image] = items(contour, tags::CONTOUR_IMAGE_SEQUENCE)[..] else {
        return Err("names no image, or several".to_owned());
    };
    let plane = image_of(&image, series).map_err(|sentence| format!("its image {sentence}"))?;
    let element = contour.data_set().get(tags::CONTOUR_DATA);
    let Some(text) = element.and_then(|e| e.to_str().ok()) else { return Err("has no points".to_owned()) };
    if format.encoding == Encoding::Explicit && text.len() > LONGEST_EXPLICIT_VALUE {
        return Err(format!("{} bytes of Contour Data do not fit explicit VR", text.len()));
    }
    let mut coordinates = Vec::new();
    for value in text.trim_end_matches([' ', '\0']).split('\\') {
        match value.parse::<f64>() {
            Ok(number) if number.is_finite() => coordinates.push(number),
            _ => return Err("a coordinate is no number".to_owned()),
        }
    }
    let (points, rest) = coordinates.as_chunks::<3>();
    let said = contour.integer(tags::NUMBER_OF_CONTOUR_POINTS).unwrap_or(-1);
    if !rest.is_empty() || usize::try_from(said) != Ok(points.len()) || points.len() < 3 {
        let found = coordinates.len();
        return Err(format!("{said} points said, {found} coordinates there; at least 3 points"));
    }
    let same = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
    if same(&points[0], &points[points.len() - 1]) {
        return Err("the first point is there again at the end".to_owned());
    }
    on_plane(points, plane, series, format.decimals)
}

/// Every point on the plane of the image and inside its pixels.
#[expect(clippy::cast_precision_loss, reason = "rows and columns of an image")]
fn on_plane(points: &[[f64; 3]], plane: usize, series: &CtSeries, decimals: u8) -> Result<(), String> {
    let [_, n_rows, n_columns] = series.grid.shape().map(|n| n as f64);
    let spacing = series.grid.spacing_mm();
    let off_grid_mm = series.off_grid_mm(plane);
    let slack_mm = 10_f64.powi(-i32::from(decimals)) + PLANE_TOLERANCE_MM;
    for [x, y, z] in points {
        let v = series.grid.voxel_from_patient(PatientPoint::lps_mm(*x, *y, *z));
        let off_mm = ((v.z - plane as f64) * spacing[0] - off_grid_mm).abs();
        if off_mm > PLANE_TOLERANCE_MM {
            return Err(format!("a point lies {off_mm:.4} mm off the plane of its image"));
        }
        let (slack_y, slack_x) = (slack_mm / spacing[1], slack_mm / spacing[2]);
        let inside = |value: f64, count: f64, slack: f64| value > -0.5 - slack && value < count - 0.5 + slack;
        if !(inside(v.y, n_rows, slack_y) && inside(v.x, n_columns, slack_x)) {
            return Err(format!("a point lies outside the image (row {:.2}, column {:.2})", v.y, v.x));
        }
    }
    Ok(())
}
