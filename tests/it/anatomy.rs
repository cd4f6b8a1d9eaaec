//! The rules of anatomy down to the contours, and what a structure set says about doubtful organs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use dicom_object::InMemDicomObject;
use geo::{Area, BooleanOps, Coord, Euclidean, Length, LineString, Polygon};
use ndarray::Array3;
use oarlock::learning::phantom::{Bodies, PhantomIdentity, ScanGeometry, scan, write_ct_series};
use oarlock::pipeline::anatomy::{AnatomySettings, Finding, examine};
use oarlock::pipeline::contours::{
    HoleForm, RoiContours, TraceOptions, contours_of_mask, trace_all, volume_mm3,
};
use oarlock::pipeline::network::OrganMask;
use oarlock::pipeline::rtstruct::{self, Description, Format, Identity, NotFound, Origin, Roi, StructureSet};
use oarlock::pipeline::series::CtSeries;
use oarlock::settings::StructureTemplate;
use oarlock::vocabulary::organ::Organ;
use oarlock::vocabulary::space::{Grid, PatientPoint, PatientVector, VoxelBox, VoxelPoint};

use crate::support::peer;

/// A soft ball on the network's grid: one half at its surface, rising by 1 over `soft_mm`, never above `most`.
fn ball(
    organ: Organ,
    grid: &Grid,
    centre: PatientPoint,
    radius_mm: f64,
    soft_mm: f64,
    most: f64,
) -> OrganMask {
    let region = VoxelBox { start: [4, 8, 8], end: [36, 56, 64] };
    let probability = Array3::from_shape_fn(region.shape(), |(k, j, i)| {
        let v = VoxelPoint { z: (k + 4) as f64, y: (j + 8) as f64, x: (i + 8) as f64 };
        let depth_mm = radius_mm - grid.patient_from_voxel(v).distance_mm(centre);
        (0.5 + depth_mm / soft_mm).clamp(0.0, most) as f32
    });
    OrganMask { organ, detection_probability: 0.9, region, probability }
}

/// The rings of one slice as polygons in voxels of the slice.
fn polygons(roi: &RoiContours, grid: &Grid, slice: usize) -> Vec<Polygon<f64>> {
    let spacing = grid.spacing_mm();
    let on_slice = roi.contours.iter().filter(|contour| contour.slice == slice);
    on_slice
        .map(|contour| {
            let place = |p: &PatientPoint| {
                let v = grid.voxel_from_patient(*p);
                Coord { x: v.x * spacing[2], y: v.y * spacing[1] }
            };
            Polygon::new(LineString::new(contour.points.iter().map(place).collect()), Vec::new())
        })
        .collect()
}

/// Area shared by the contours of two organs, and the length of the shorter outline, over all slices, mm2 and mm.
fn shared(a: &RoiContours, b: &RoiContours, grid: &Grid) -> (f64, f64) {
    let (mut area, mut length) = (0.0, 0.0);
    for slice in 0..grid.shape()[0] {
        for a in polygons(a, grid, slice) {
            for b in polygons(b, grid, slice) {
                area += a.intersection(&b).unsigned_area();
                length += Euclidean.length(a.exterior()).min(Euclidean.length(b.exterior()));
            }
        }
    }
    (area, length)
}

/// Three balls in each other's way, traced on the finer planes of an oblique image. Without the rule the contours share
/// much; with it, no more than the simplification of the rings (0.03 mm on either side) can make them share, and what
/// all three cover together stays the same.
#[test]
fn contours_of_exclusive_organs_do_not_cross() {
    let network =
        Grid::axial([40, 64, 72], [3.0, 2.5, 2.5], PatientPoint::lps_mm(-90.0, -80.0, 0.0)).unwrap();
    let (sin, cos) = 0.3_f64.sin_cos();
    let directions = [
        PatientVector::lps(0.0, -sin, cos),
        PatientVector::lps(0.0, cos, sin),
        PatientVector::lps(1.0, 0.0, 0.0),
    ];
    let image =
        Grid::new([90, 150, 170], [1.9, 0.9, 1.1], PatientPoint::lps_mm(-92.0, -50.0, -20.0), directions);
    let image = image.unwrap();
    let at = PatientPoint::lps_mm;
    let masks = vec![
        ball(Organ::Larynx, &network, at(-8.0, 3.0, 61.0), 24.0, 12.0, 0.97),
        ball(Organ::Thyroid, &network, at(19.0, -6.0, 52.0), 21.0, 7.0, 1.0),
        ball(Organ::Trachea, &network, at(2.0, -20.0, 45.0), 15.0, 20.0, 0.8),
    ];
    let contours = |settings: &AnatomySettings| {
        let examined = examine(masks.clone(), &network, &image, settings, &BTreeSet::new());
        let traced = trace_all(&examined.masks, &network, &image, TraceOptions::DELIVERED);
        (traced.into_iter().map(|(_, contours)| contours).collect::<Vec<_>>(), examined.findings)
    };
    let (crossing, none) = contours(&AnatomySettings::NONE);
    let (apart, findings) = contours(&AnatomySettings { exclusive: true, ..AnatomySettings::NONE });
    assert!(none.is_empty() && findings.values().flatten().all(|f| matches!(f, Finding::Shared { .. })));
    let mut total = [0.0; 2];
    for (n, of) in [&crossing, &apart].into_iter().enumerate() {
        total[n] = of.iter().map(|roi| volume_mm3(roi, &image)).sum::<f64>();
    }
    let mut shared_mm3 = 0.0;
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let (area, _) = shared(&crossing[a], &crossing[b], &image);
        assert!(area > 500.0, "the test shares too little: {area} mm2");
        shared_mm3 += area * image.spacing_mm()[0];
        let (area, length) = shared(&apart[a], &apart[b], &image);
        assert!(area < 0.03 * length, "organs {a} and {b} share {area:.2} mm2 along {length:.0} mm");
    }
    // Voxels of two are counted twice before, those of three three times and in three pairs.
    assert!(total[1] < total[0] - 0.6 * shared_mm3 && total[1] > total[0] - 1.02 * shared_mm3, "{total:?}");
}

pub(crate) fn small_scan(folder: &Path) -> CtSeries {
    let geometry = ScanGeometry {
        shape: [33, 81, 95],
        spacing_mm: [5.0, 2.1, 2.3],
        centre: PatientPoint::lps_mm(0.0, 0.0, 0.0),
        position: "HFS".parse().unwrap(),
        turned_deg: [0.0; 2],
        tilt_deg: 0.0,
    };
    let scan = scan(&Bodies, &geometry, 10.0, 4).unwrap();
    let mut bits = 77_u128;
    let identity = PhantomIdentity::mint(
        "SMALL",
        33,
        || {
            bits += 1;
            bits
        },
        time::OffsetDateTime::UNIX_EPOCH,
    );
    write_ct_series(&scan, &identity, "1.2.840.10008.1.2.1", folder).unwrap();
    CtSeries::from_folder(folder).unwrap()
}

/// An eye with a remark, a lens without, and a chiasm that was not found.
fn structure_set(series: &CtSeries) -> StructureSet {
    let template = StructureTemplate::shipped().unwrap();
    let mut whole = Array3::from_elem(series.grid.shape(), false);
    whole.slice_mut(ndarray::s![10..14, 30..41, 40..53]).fill(true);
    let mask = oarlock::vocabulary::space::RegionMask::from_whole(whole.view());
    let contours = contours_of_mask(&mask, &series.grid, HoleForm::Xor);
    let roi = |organ, contours, remark: Option<&str>| Roi {
        remark: remark.map(str::to_owned),
        ..template.entry(organ).roi(contours)
    };
    let long = "volume 21.5 cm3, usual 4 to 13; \u{e9}t\u{e9}\\".to_owned() + &"x".repeat(2_000);
    let rois = vec![
        roi(Organ::EyeL, contours.clone(), Some(&long)),
        roi(Organ::LensL, contours, None),
        roi(Organ::OpticChiasm, RoiContours::default(), None),
    ];
    let description = Description {
        label: "Oarlock".to_owned(),
        origin: Origin::Model {
            name: "starter".to_owned(),
            fingerprint: "ab".repeat(32),
            provider: "CPU".to_owned(),
        },
    };
    let mut bits = 5_u128;
    let mut mint = || {
        bits += 1;
        bits
    };
    StructureSet::describe(
        series,
        rois,
        description,
        Identity::mint(&mut mint, time::OffsetDateTime::UNIX_EPOCH),
    )
}

fn text(object: &InMemDicomObject, keyword: &str) -> Option<String> {
    let element = object.element_by_name_opt(keyword).unwrap()?;
    Some(element.to_str().unwrap().trim_end().to_owned())
}

fn items<'a>(object: &'a InMemDicomObject, keyword: &str) -> &'a [InMemDicomObject] {
    object.element_by_name(keyword).unwrap().items().unwrap()
}

#[test]
fn a_structure_set_says_what_to_check_and_what_is_missing_and_stays_clean() {
    let folder = tempfile::tempdir().unwrap();
    let ct = folder.path().join("ct");
    let series = small_scan(&ct);
    for not_found in [NotFound::LeaveOut, NotFound::EmptyRoi] {
        let encoded = structure_set(&series).encode(&Format { not_found, ..Format::default() }).unwrap();
        let path = folder.path().join("rtss.dcm");
        std::fs::write(&path, &encoded.bytes).unwrap();
        let object = dicom_object::open_file(&path).unwrap().into_inner();
        let said = text(&object, "StructureSetDescription").unwrap();
        assert!(said.ends_with("Not found: OpticChiasm. Check first: Eye_L."), "{said}");
        let rois = items(&object, "StructureSetROISequence");
        let names: Vec<String> = rois.iter().map(|roi| text(roi, "ROIName").unwrap()).collect();
        let eye = text(&rois[0], "ROIDescription").unwrap();
        assert!(eye.starts_with("check: volume 21.5 cm3, usual 4 to 13; _t__") && eye.len() == 1024, "{eye}");
        let generated = text(&rois[0], "ROIGenerationDescription").unwrap();
        assert!(generated.starts_with("CHECK. Research") && generated.len() <= 64, "{generated}");
        assert_eq!(text(&rois[1], "ROIDescription"), None);
        let contours = items(&object, "ROIContourSequence");
        match not_found {
            NotFound::LeaveOut => assert_eq!(names, ["Eye_L", "Lens_L"]),
            NotFound::EmptyRoi => {
                assert_eq!(names, ["Eye_L", "Lens_L", "OpticChiasm"]);
                assert_eq!(text(&rois[2], "ROIDescription").unwrap(), "not found");
                assert!(contours[2].element_by_name_opt("ContourSequence").unwrap().is_none());
            }
        }
        let read = rtstruct::read(&path).unwrap();
        assert_eq!((read.rois.len(), read.rois[0].rings.len()), (names.len(), 4));
        let peers = ["dciodvfy", "dcentvfy"].map(|program| peer("doubt in a structure set", program));
        if peers.iter().all(Option::is_some) {
            let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/conformance");
            let said = Command::new(conformance).args([&path, &ct]).output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        }
    }
}
