//! Derived structures against a second program, and templates from the command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::Array3;
use oarlock::pipeline::contours::{FillRule, HoleForm, contours_of_mask, fill};
use oarlock::pipeline::rtstruct;
use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::structures::{Directions, Margin, with_margin};
use oarlock::vocabulary::space::{Grid, PatientPoint, RegionMask};

use crate::support::everything_must_be_here;

/// A Python with SciPy, or `None` with a visible line.
fn python() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/python/bin/python");
    let usable = |python: &PathBuf| {
        Command::new(python).args(["-c", "import scipy"]).output().is_ok_and(|o| o.status.success())
    };
    let found = std::env::var_os("OARLOCK_PYTHON").map(PathBuf::from).into_iter().chain([ours]).find(usable);
    if found.is_none() {
        assert!(!everything_must_be_here(), "no Python with SciPy; run tests/peers/install");
        eprintln!("SKIPPED margins: no Python with SciPy (tests/peers/install)");
    }
    found
}

/// Three lumps and a tube with a hole, nothing symmetric.
fn lumps(shape: [usize; 3], spacing: [f64; 3]) -> Array3<bool> {
    let ball = |p: [f64; 3], c: [f64; 3], r: f64| {
        (0..3).map(|a| ((p[a] - c[a]) * spacing[a]).powi(2)).sum::<f64>().sqrt() < r
    };
    Array3::from_shape_fn(shape, |(z, y, x)| {
        let p = [z as f64, y as f64, x as f64];
        let tube = ((p[1] - 40.0) * spacing[1]).hypot((p[2] - 55.0) * spacing[2]);
        ball(p, [9.0, 25.0, 30.0], 9.0)
            || ball(p, [12.0, 31.0, 38.0], 6.5)
            || ball(p, [16.0, 20.0, 60.0], 4.0)
            || ((5..14).contains(&z) && tube < 8.0 && tube > 3.5)
    })
}

#[test]
fn a_margin_agrees_with_scipys_distances() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (shape, spacing) in [([26, 66, 84], [2.0, 0.9, 1.1]), ([30, 60, 70], [1.0, 0.5, 0.55])] {
        let mask = lumps(shape, spacing);
        let grid = Grid::axial(shape, spacing, PatientPoint::lps_mm(-31.0, 7.5, 112.25)).unwrap();
        let [input, output] = ["mask.bin", "distances.bin"].map(|name| folder.path().join(name));
        std::fs::write(&input, mask.iter().map(|v| u8::from(*v)).collect::<Vec<_>>()).unwrap();
        let numbers = shape.iter().map(ToString::to_string).chain(spacing.iter().map(ToString::to_string));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/margin.py");
        let done = Command::new(&python).arg(script).arg(&input).args(numbers).arg(&output).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let distances: Vec<f32> = std::fs::read(&output)
            .unwrap()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let roi = contours_of_mask(&RegionMask::from_whole(mask.view()), &grid, HoleForm::Xor);
        for mm in [2.0, 5.0, 8.0] {
            let ours = with_margin(&roi, &Margin::Grow(Directions::all(mm)), &grid).unwrap();
            let ours = fill(&ours, &grid, FillRule::EvenOdd).to_whole(shape);
            let (mut n_inside, mut n_other, mut worst) = (0, 0, 0.0_f64);
            for (ours, distance) in ours.iter().zip(&distances) {
                let theirs = f64::from(*distance) <= mm;
                n_inside += usize::from(theirs);
                if *ours != theirs {
                    n_other += 1;
                    worst = worst.max((f64::from(*distance) - mm).abs());
                }
            }
            let part = n_other as f64 / n_inside as f64;
            eprintln!(
                "{spacing:?} mm, margin {mm} mm: {n_other} of {n_inside} voxels differ, all within {worst:.2} mm"
            );
            // Between slices we slope where SciPy has steps of a slice.
            assert!(worst < 0.75 && part < 0.08, "{part:.3} {worst:.2}");
        }
    }
}

fn oarlock(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_oarlock")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {said}");
    said
}

/// The truth of a phantom through masks and a template: the derived structures are there, of the right size, and clean.
#[test]
fn convert_makes_the_structures_of_a_template() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let phantom = path("phantom");
    oarlock(&[
        "phantom",
        "-o",
        &phantom,
        "--kind",
        "patient",
        "--slices",
        "70",
        "--spacing",
        "3",
        "1.5",
        "1.5",
        "--size",
        "200",
        "200",
    ]);
    let find = |name: &str| {
        crate::wire::all_files(folder.path())
            .into_iter()
            .find(|p| p.ends_with(name))
            .map(|p| p.display().to_string())
    };
    let ct = find("ct").unwrap_or_else(|| format!("{phantom}/ct"));
    let truth = crate::wire::files(Path::new(&phantom), "dcm")
        .into_iter()
        .find(|p| rtstruct::read(p).is_ok())
        .expect("the phantom's truth");
    let masks = path("masks/");
    oarlock(&["convert", &truth.display().to_string(), "--ct", &ct, "-o", &masks]);
    let made = path("made.dcm");
    let said = oarlock(&[
        "convert",
        &masks,
        "--ct",
        &ct,
        "-o",
        &made,
        "--template",
        "head-and-neck-planning",
        "--format",
        "eclipse",
    ]);
    let series = CtSeries::from_folder(Path::new(&ct)).unwrap();
    let (rois, warnings) = rtstruct::read(Path::new(&made)).unwrap().on_series(&series);
    assert!(warnings.is_empty(), "{warnings:?}");
    let cm3 = |name: &str| {
        let found = rois.iter().find(|(roi, _)| roi == name);
        let (_, contours) = found.unwrap_or_else(|| panic!("{name} is missing: {said}"));
        let mask = fill(contours, &series.grid, rtstruct::FILL_RULE);
        mask.n_voxels() as f64 * series.grid.voxel_volume_mm3() / 1000.0
    };
    let (left, right, both) = (cm3("Parotid_L"), cm3("Parotid_R"), cm3("Parotids"));
    assert!((both / (left + right) - 1.0).abs() < 0.01, "{left:.1} + {right:.1} is not {both:.1} cm3");
    let (cord, prv) = (cm3("SpinalCord"), cm3("SpinalCord_PRV05"));
    assert!(prv > 2.5 * cord && prv < 8.0 * cord, "cord {cord:.1}, with 5 mm {prv:.1} cm3");
    assert!(cm3("BODY") > 2_000.0, "{:.0} cm3", cm3("BODY"));
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/conformance");
    if crate::support::peer("templates", "dciodvfy").is_some() && python().is_some() {
        let said = Command::new(conformance).args([&made, &ct]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }
    // Another language, in the bytes of the CT's own set.
    oarlock(&["convert", &masks, "--ct", &ct, "-o", &made, "--template", "kopf-hals"]);
    let names: Vec<String> =
        rtstruct::read(Path::new(&made)).unwrap().rois.into_iter().map(|roi| roi.name).collect();
    assert!(names.contains(&"R\u{fc}ckenmark".to_owned()), "{names:?}");
}
