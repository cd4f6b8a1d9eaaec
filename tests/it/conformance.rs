//! The gate before sending: each rule broken once, and every fault that dciodvfy sees is seen by it too.

use std::path::Path;
use std::process::Command;

use dicom_core::value::{DataSetSequence, Value};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileDicomObject, InMemDicomObject};
use ndarray::{Array3, s};
use oarlock::pipeline::contours::{HoleForm, contours_of_mask};
use oarlock::pipeline::rtstruct::{
    Description, Encoding, Format, Identity, NotFound, Origin, Roi, RtstructError, StructureSet, conformance,
};
use oarlock::pipeline::series::CtSeries;
use oarlock::settings::StructureTemplate;
use oarlock::settings::destinations::FormatChoice;
use oarlock::vocabulary::organ::Organ;
use oarlock::vocabulary::space::RegionMask;

use crate::anatomy::small_scan;
use crate::support::peer;

/// A parotid with a hole, and a lens; the chiasm is not found.
pub(crate) fn structure_set(series: &CtSeries) -> StructureSet {
    let template = StructureTemplate::shipped().unwrap();
    let mut whole = Array3::from_elem(series.grid.shape(), false);
    whole.slice_mut(s![10..13, 30..41, 40..53]).fill(true);
    whole.slice_mut(s![11..12, 33..36, 44..49]).fill(false);
    let contours = |whole: &Array3<bool>| {
        contours_of_mask(&RegionMask::from_whole(whole.view()), &series.grid, HoleForm::Xor)
    };
    let parotid = template.entry(Organ::ParotidL).roi(contours(&whole));
    whole.fill(false);
    whole.slice_mut(s![14..16, 20..23, 40..45]).fill(true);
    let lens = template.entry(Organ::LensL).roi(contours(&whole));
    let chiasm = template.entry(Organ::OpticChiasm).roi(Default::default());
    let origin = Origin::Masks { source: "test".to_owned() };
    let description = Description { label: "Oarlock".to_owned(), origin };
    let mut bits = 5_u128;
    let mint = || {
        bits += 1;
        bits
    };
    let identity = Identity::mint(mint, time::OffsetDateTime::UNIX_EPOCH);
    StructureSet::describe(series, vec![parotid, lens, chiasm], description, identity)
}

fn open(bytes: &[u8]) -> FileDicomObject<InMemDicomObject> {
    dicom_object::from_reader(bytes).unwrap()
}

fn close(object: &FileDicomObject<InMemDicomObject>) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.write_all(&mut bytes).unwrap();
    bytes
}

fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

/// Changes item `index` of a sequence.
fn in_item(
    object: &mut InMemDicomObject,
    path: &[(Tag, usize)],
    change: &mut dyn FnMut(&mut InMemDicomObject),
) {
    let Some(((tag, index), rest)) = path.split_first() else { return change(object) };
    let element = object.element(*tag).unwrap().clone();
    let mut items = element.items().unwrap().to_vec();
    in_item(&mut items[*index], rest, change);
    object.put(DataElement::new(*tag, VR::SQ, Value::from(DataSetSequence::from(items))));
}

const ROI: (Tag, usize) = (tags::STRUCTURE_SET_ROI_SEQUENCE, 0);
const OBSERVED: (Tag, usize) = (tags::RTROI_OBSERVATIONS_SEQUENCE, 0);
const DRAWN: (Tag, usize) = (tags::ROI_CONTOUR_SEQUENCE, 0);
const CONTOUR: (Tag, usize) = (tags::CONTOUR_SEQUENCE, 0);
const FRAME: (Tag, usize) = (tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, 0);
const STUDY: (Tag, usize) = (tags::RT_REFERENCED_STUDY_SEQUENCE, 0);
const SERIES: (Tag, usize) = (tags::RT_REFERENCED_SERIES_SEQUENCE, 0);
const IMAGE: (Tag, usize) = (tags::CONTOUR_IMAGE_SEQUENCE, 0);

/// Where, which attribute, its VR, the value that breaks a rule, and a word of the sentence about it.
type Break = (&'static [(Tag, usize)], Tag, VR, &'static str, &'static str);

const BREAKS: [Break; 43] = [
    (&[], tags::MODALITY, VR::CS, "CT", "not on its list"),
    (&[], tags::APPROVAL_STATUS, VR::CS, "APPROVED", "not on its list"),
    (&[], tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.2", "not on its list"),
    (&[], tags::SOP_INSTANCE_UID, VR::UI, "1.2.3", "another instance"),
    (&[], tags::STRUCTURE_SET_LABEL, VR::SH, "seventeen letters", "16 are allowed"),
    (&[], tags::STRUCTURE_SET_LABEL, VR::SH, "", "has no value"),
    (&[], tags::STRUCTURE_SET_DATE, VR::DA, "1970-1-1", "date YYYYMMDD"),
    (&[], tags::STRUCTURE_SET_TIME, VR::TM, "25", "time HHMMSS"),
    (&[], tags::SERIES_DESCRIPTION, VR::LO, "bell\u{7}", "control character"),
    (&[], tags::SERIES_NUMBER, VR::IS, "one", "whole number"),
    (&[], tags::PATIENT_NAME, VR::PN, "Somebody^Else", "PatientName (0010,0010) is not that of the CT"),
    (&[], tags::PATIENT_ID, VR::LO, "other", "PatientID (0010,0020) is not that of the CT"),
    (&[], tags::PATIENT_SEX, VR::CS, "F", "PatientSex (0010,0040) is not that of the CT"),
    (&[], tags::PATIENT_BIRTH_DATE, VR::DA, "19010203", "PatientBirthDate (0010,0030) is not that of the CT"),
    (&[], tags::ACCESSION_NUMBER, VR::SH, "77", "AccessionNumber (0008,0050) is not that of the CT"),
    (&[], tags::STUDY_DATE, VR::DA, "19010203", "StudyDate (0008,0020) is not that of the CT"),
    (&[], tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3", "StudyInstanceUID is not that of the CT"),
    (&[], tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.3", "frame of reference is not that of the CT"),
    (&[FRAME], tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.3", "referenced frame of reference"),
    (&[FRAME, STUDY], tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2.3", "referenced study"),
    (&[FRAME, STUDY, SERIES], tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3", "referenced series"),
    (&[FRAME, STUDY, SERIES, IMAGE], tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2.3", "not in the series"),
    (&[FRAME, STUDY, SERIES, IMAGE], tags::REFERENCED_SOP_CLASS_UID, VR::UI, "1.2.3", "another SOP class"),
    (&[FRAME, STUDY, SERIES, IMAGE], tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.02.3", "is no UID"),
    (&[ROI], tags::ROI_NUMBER, VR::IS, "0", "below 1"),
    (&[ROI], tags::ROI_NUMBER, VR::IS, "2", "there twice"),
    (&[ROI], tags::ROI_NAME, VR::LO, "", "has no value"),
    (&[ROI], tags::ROI_NAME, VR::LO, "LENS_l", "there twice"),
    (&[ROI], tags::ROI_NAME, VR::LO, "seventeen letters", "over 16"),
    (&[ROI], tags::REFERENCED_FRAME_OF_REFERENCE_UID, VR::UI, "1.2.3", "another frame"),
    (&[ROI], tags::ROI_GENERATION_ALGORITHM, VR::CS, "GUESSED", "not on its list"),
    (&[ROI], tags::ROI_DESCRIPTION, VR::ST, "not found", "says so"),
    (&[OBSERVED], tags::REFERENCED_ROI_NUMBER, VR::IS, "9", "one to one"),
    (&[OBSERVED], tags::OBSERVATION_NUMBER, VR::IS, "2", "Observation Number is there twice"),
    (&[OBSERVED], tags::RTROI_INTERPRETED_TYPE, VR::CS, "GLAND", "not on its list"),
    (&[DRAWN], tags::REFERENCED_ROI_NUMBER, VR::IS, "9", "which is not there"),
    (&[DRAWN], tags::ROI_DISPLAY_COLOR, VR::IS, "1\\2\\256", "from 0 to 255"),
    (&[DRAWN, CONTOUR], tags::CONTOUR_GEOMETRIC_TYPE, VR::CS, "POINT", "not on its list"),
    (&[DRAWN, CONTOUR], tags::NUMBER_OF_CONTOUR_POINTS, VR::IS, "3", "points said"),
    (&[DRAWN, CONTOUR], tags::CONTOUR_DATA, VR::DS, "0\\0\\0\\1\\0\\0", "points said"),
    (&[DRAWN, CONTOUR], tags::CONTOUR_NUMBER, VR::IS, "2", "Contour Number of ROI 1 is there twice"),
    (&[DRAWN, CONTOUR, IMAGE], tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, "1.2.3", "not in the series"),
    (&[DRAWN, CONTOUR], tags::CONTOUR_GEOMETRIC_TYPE, VR::CS, "CLOSEDPLANAR_XOR", "several geometric types"),
];

fn said(series: &CtSeries, bytes: &[u8]) -> String {
    conformance::check(bytes, series, &Format::default()).join("\n")
}

#[test]
fn each_rule_that_is_broken_is_named_and_holds_the_object_back() {
    let folder = tempfile::tempdir().unwrap();
    let series = small_scan(folder.path());
    let good = structure_set(&series).encode(&Format::default()).unwrap();
    assert_eq!(said(&series, &good.bytes), "");
    for (path, tag, vr, value, word) in BREAKS {
        let mut object = open(&good.bytes);
        in_item(&mut object, path, &mut |item| put(item, tag, vr, value));
        let said = said(&series, &close(&object));
        assert!(said.contains(word), "{tag} = {value:?}: wanted {word:?}, said {said:?}");
    }
}

/// Explicit VR says of each element what it is, and that can be wrong.
#[test]
fn an_element_under_another_vr_is_held_back() {
    let folder = tempfile::tempdir().unwrap();
    let series = small_scan(folder.path());
    let format = Format { encoding: Encoding::Explicit, ..Format::default() };
    let good = structure_set(&series).encode(&format).unwrap();
    let mut object = open(&good.bytes);
    put(&mut object, tags::MANUFACTURER, VR::ST, "Oarlock");
    let said = conformance::check(&close(&object), &series, &format).join("\n");
    assert!(said.contains("Manufacturer (0008,0070) has VR ST"), "{said}");
    let implicit = conformance::check(&good.bytes, &series, &Format::default()).join("\n");
    assert!(implicit.contains("transfer syntax"), "{implicit}");
}

/// Coordinates: each fault moves a real contour by its own distance.
#[test]
fn a_contour_off_its_image_is_held_back() {
    let folder = tempfile::tempdir().unwrap();
    let series = small_scan(folder.path());
    let good = structure_set(&series).encode(&Format::default()).unwrap();
    let moved = |change: &dyn Fn(&mut Vec<f64>)| {
        let mut object = open(&good.bytes);
        in_item(&mut object, &[DRAWN, CONTOUR], &mut |contour| {
            let mut points = contour.element(tags::CONTOUR_DATA).unwrap().to_multi_float64().unwrap();
            change(&mut points);
            let texts: Vec<String> =
                points.iter().map(|p| format!("{p:.6}").chars().take(16).collect()).collect();
            put(contour, tags::CONTOUR_DATA, VR::DS, &texts.join("\\"));
            let n_points = (points.len() / 3).to_string();
            put(contour, tags::NUMBER_OF_CONTOUR_POINTS, VR::IS, &n_points);
        });
        said(&series, &close(&object))
    };
    assert_eq!(moved(&|_| {}), "");
    let off = moved(&|points| points[2] += 0.01);
    assert!(off.contains("mm off the plane"), "{off}");
    let outside = moved(&|points| points[0] += 5_000.0);
    assert!(outside.contains("outside the image"), "{outside}");
    let closed = moved(&|points| {
        let first = [points[0], points[1], points[2]];
        points.extend(first);
    });
    assert!(closed.contains("again at the end"), "{closed}");
    let long = {
        let mut object = open(&good.bytes);
        in_item(&mut object, &[DRAWN, CONTOUR], &mut |contour| {
            let data = contour.element(tags::CONTOUR_DATA).unwrap().to_str().unwrap().into_owned();
            let first = data.split('\\').next().unwrap();
            let padded = format!(
                "{first}{}",
                if first.contains('.') { "0" } else { ".0" }.to_owned() + &"0".repeat(16)
            );
            put(contour, tags::CONTOUR_DATA, VR::DS, &data.replacen(first, &padded, 1));
        });
        said(&series, &close(&object))
    };
    assert!(long.contains("at most 16 characters"), "{long}");
}

/// Takes away and empties every element, at the top and in the first items below: what dciodvfy calls an error that was
/// none before must be a broken rule.
#[test]
fn what_dciodvfy_finds_is_found() {
    let Some(dciodvfy) = peer("conformance", "dciodvfy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let series = small_scan(&folder.path().join("ct"));
    let good = structure_set(&series).encode(&Format::default()).unwrap();
    let path = folder.path().join("rtss.dcm");
    let errors = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let said = Command::new(&dciodvfy).arg(&path).output().unwrap();
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|line| line.starts_with("Error")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(errors(&good.bytes), Vec::<String>::new());
    let levels: [&[(Tag, usize)]; 12] = [
        &[],
        &[FRAME],
        &[FRAME, STUDY],
        &[FRAME, STUDY, SERIES],
        &[FRAME, STUDY, SERIES, IMAGE],
        &[ROI],
        &[OBSERVED],
        &[OBSERVED, (tags::RTROI_IDENTIFICATION_CODE_SEQUENCE, 0)],
        &[DRAWN],
        &[DRAWN, CONTOUR],
        &[DRAWN, CONTOUR, IMAGE],
        &[(tags::RTROI_OBSERVATIONS_SEQUENCE, 1), (tags::RTROI_IDENTIFICATION_CODE_SEQUENCE, 0)],
    ];
    let (mut n_tried, mut n_errors, mut missed) = (0, 0, Vec::new());
    for level in levels {
        let mut elements = Vec::new();
        in_item(&mut open(&good.bytes), level, &mut |item| {
            elements = item.iter().map(|e| (dicom_core::header::Header::tag(e), e.vr())).collect();
        });
        for (tag, vr) in elements {
            for empty in [false, true] {
                let mut object = open(&good.bytes);
                in_item(&mut object, level, &mut |item| {
                    if !empty {
                        item.remove_element(tag);
                    } else if vr == VR::SQ {
                        item.put(DataElement::new(tag, vr, Value::from(DataSetSequence::empty())));
                    } else {
                        item.put(DataElement::new(tag, vr, PrimitiveValue::Empty));
                    }
                });
                let bytes = close(&object);
                let errors = errors(&bytes);
                n_tried += 1;
                n_errors += usize::from(!errors.is_empty());
                if !errors.is_empty() && said(&series, &bytes).is_empty() {
                    missed.push(format!("{level:?} {tag} {empty}: {}", errors.join(" / ")));
                }
            }
        }
    }
    eprintln!(
        "{n_tried} changes, {n_errors} are errors to dciodvfy, {} of them not to the gate",
        missed.len()
    );
    assert!(n_errors > 20 && missed.is_empty(), "{}", missed.join("\n"));
}

fn clean(path: &Path, ct: &Path) {
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/conformance");
    let said = Command::new(conformance).args([path, ct]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
}

fn named(name: &str) -> Format {
    FormatChoice::named(name).unwrap().resolved(NotFound::LeaveOut)
}

#[test]
fn every_format_is_clean_and_has_a_uid_for_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let ct = folder.path().join("ct");
    let series = small_scan(&ct);
    let set = structure_set(&series);
    let formats = [
        Format::default(),
        named("eclipse"),
        named("raystation"),
        Format { holes: HoleForm::Xor, ..Format::default() },
        Format { holes: HoleForm::Separate, encoding: Encoding::Explicit, ..named("eclipse") },
        Format { not_found: NotFound::EmptyRoi, ..named("eclipse") },
    ];
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let checked =
        ["dciodvfy", "dcentvfy"].map(|program| peer("formats", program)).iter().all(Option::is_some);
    for format in &formats {
        let encoded = set.encode(format).unwrap();
        assert_eq!(encoded, set.encode(format).unwrap(), "twice the same");
        let mut said = Vec::new();
        let syntax = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
        open(&encoded.bytes).write_dataset_with_ts(&mut said, &syntax).unwrap();
        made.push((encoded.sop_instance_uid.to_string(), said));
        let path = folder.path().join("rtss.dcm");
        std::fs::write(&path, &encoded.bytes).unwrap();
        // The dciodvfy of 2022 does not know the XOR of newer editions.
        if checked && format.holes != HoleForm::Xor {
            clean(&path, &ct);
        }
        let object = open(&encoded.bytes);
        assert_eq!(
            object.meta().media_storage_sop_instance_uid.trim_end_matches('\0'),
            encoded.sop_instance_uid.as_str()
        );
        let drawn = object.element(tags::ROI_CONTOUR_SEQUENCE).unwrap().items().unwrap();
        let contours = drawn[0].element(tags::CONTOUR_SEQUENCE).unwrap().items().unwrap();
        let kind =
            contours[0].element(tags::CONTOUR_GEOMETRIC_TYPE).unwrap().to_str().unwrap().trim().to_owned();
        let wanted = match format.holes {
            HoleForm::Keyhole => (3, "CLOSED_PLANAR"),
            HoleForm::Xor => (4, "CLOSEDPLANAR_XOR"),
            HoleForm::Separate => (4, "CLOSED_PLANAR"),
        };
        assert_eq!((contours.len(), kind.as_str()), wanted);
        assert_eq!(drawn.len(), if format.not_found == NotFound::EmptyRoi { 3 } else { 2 });
        let lens = drawn[1].element(tags::CONTOUR_SEQUENCE).unwrap().items().unwrap();
        let kind = lens[0].element(tags::CONTOUR_GEOMETRIC_TYPE).unwrap().to_str().unwrap().trim().to_owned();
        assert_eq!(kind, "CLOSED_PLANAR", "an ROI without holes needs no XOR");
    }
    for (n, (uid, object)) in made.iter().enumerate() {
        assert!(uid.len() <= 64);
        let others = &made[..n];
        assert!(others.iter().all(|(other, o)| (other == uid) == (o == object)), "{n}: {uid}");
    }
    let uid = |n: usize| &made[n].0;
    assert!(uid(0) == uid(2), "RayStation's form of these names is the generic one");
    let differ: std::collections::BTreeSet<_> = made.iter().map(|(uid, _)| uid).collect();
    assert!(differ.len() >= 4, "{differ:?}");
}

/// A name that the CT's character set cannot hold is refused, and said which.
#[test]
fn a_name_beyond_the_cts_character_set_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let series = small_scan(folder.path());
    let set = structure_set(&series);
    let roi = Roi { name: "Ohrspeicheldr\u{fc}se".to_owned(), ..set.rois()[0].clone() };
    let origin = Origin::Masks { source: "test".to_owned() };
    let make = || {
        let identity = Identity::mint(|| 7, time::OffsetDateTime::UNIX_EPOCH);
        let description = Description { label: "Oarlock".to_owned(), origin: origin.clone() };
        StructureSet::describe(&series, vec![roi.clone()], description, identity)
    };
    let refused = make().encode(&Format::default()).unwrap_err();
    assert!(matches!(refused, RtstructError::Characters(_)), "{refused}");
    let latin = make().in_character_set(Some("ISO_IR 100".to_owned())).encode(&Format::default()).unwrap();
    let object = open(&latin.bytes);
    let name = object.element(tags::STRUCTURE_SET_ROI_SEQUENCE).unwrap().items().unwrap()[0].clone();
    assert_eq!(name.element(tags::ROI_NAME).unwrap().to_str().unwrap().trim(), "Ohrspeicheldr\u{fc}se");
    let bytes = latin.bytes.windows(6).any(|w| w == b"dr\xfcse ");
    assert!(bytes || latin.bytes.windows(5).any(|w| w == b"dr\xfcse"), "Latin-1 on the wire");
}
