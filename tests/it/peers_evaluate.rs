//! Our figures against those of the published packages, on the same masks.

use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::Array3;
use oarlock::learning::evaluate::compare;
use oarlock::vocabulary::space::{Grid, PatientPoint, RegionMask};

use crate::support::everything_must_be_here;

/// Python of `tests/peers/install` with DeepMind's and MedPy's packages, or `None` with a visible line.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/python/bin/python");
    let has = |python: &Path| {
        let asked = Command::new(python).args(["-c", "import surface_distance, medpy"]).output();
        asked.is_ok_and(|said| said.status.success())
    };
    if has(&python) {
        return Some(python);
    }
    assert!(!everything_must_be_here(), "surface-distance and medpy are missing; run tests/peers/install");
    eprintln!("SKIPPED evaluation against published packages: they are not installed (tests/peers/install)");
    None
}

const SHAPE: [usize; 3] = [14, 19, 23];
const SPACING_MM: [f64; 3] = [2.5, 0.9, 1.3];

/// Noise has every way in which eight voxels can be inside; blobs are what organs look like; one pair is far apart.
fn pairs() -> Vec<[Array3<bool>; 2]> {
    let mut state = 7_u64;
    let mut noise = |part: u64| {
        Array3::from_shape_simple_fn(SHAPE, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 100 < part
        })
    };
    let blob = |centre: [f64; 3], radius: f64| {
        Array3::from_shape_fn(SHAPE, |(z, y, x)| {
            let away = |axis: usize| ([z, y, x][axis] as f64 - centre[axis]) * SPACING_MM[axis];
            (0..3).map(|axis| away(axis).powi(2)).sum::<f64>() < radius * radius
        })
    };
    vec![
        [noise(50), noise(50)],
        [noise(8), noise(90)],
        [blob([6.0, 9.0, 10.0], 7.0), blob([6.5, 8.0, 11.5], 6.2)],
        [blob([1.0, 2.0, 2.0], 3.0), blob([12.0, 17.0, 21.0], 2.0)],
        [blob([0.0, 0.0, 0.0], 6.0), blob([13.0, 18.0, 22.0], 30.0)],
    ]
}

#[test]
fn figures_are_those_of_the_published_packages() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.bin");
    let pairs = pairs();
    let bytes: Vec<u8> =
        pairs.iter().flatten().flat_map(|mask| mask.iter().map(|inside| u8::from(*inside))).collect();
    std::fs::write(&path, bytes).unwrap();
    let said = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/evaluate.py"))
        .arg(&path)
        .args(SHAPE.map(|n| n.to_string()))
        .args(SPACING_MM.map(|mm| mm.to_string()))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let peers: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let grid = Grid::axial(SHAPE, SPACING_MM, PatientPoint::lps_mm(0.0, 0.0, 0.0)).unwrap();
    for (n, [a, b]) in pairs.iter().enumerate() {
        let [truth, predicted] = [a, b].map(|mask| RegionMask::from_whole(mask.view()));
        let found = compare(&truth, &predicted, &grid);
        let distances = found.distances.unwrap();
        let surface = found.surface_dice.unwrap();
        let near = |name: &str, found: f64, wanted: &serde_json::Value, tolerance: f64| {
            let wanted = wanted.as_f64().unwrap_or_else(|| panic!("pair {n}: no {name} in {peers:#}"));
            assert!((found - wanted).abs() < tolerance, "pair {n}, {name}: {found}, the package {wanted}");
        };
        let peer = &peers[n];
        near("DSC", found.dice.unwrap(), &peer["dice"], 1e-12);
        near("HD", distances.largest_mm, &peer["hd_mm"], 1e-9);
        near("mean distance", distances.mean_mm, &peer["mean_mm"], 1e-9);
        for (mm, found) in surface.into_iter().enumerate() {
            near("surface DSC", found, &peer["surface_dice"][mm], 1e-9);
        }
        if peer.get("monai_hd95_mm").is_some() {
            near("MONAI's 95 % HD", distances.hd95_mm, &peer["monai_hd95_mm"], 1e-4);
            for (mm, found) in surface.into_iter().enumerate() {
                near("MONAI's surface DSC", found, &peer["monai_surface_dice"][mm], 1e-6);
            }
        } else {
            eprintln!("SKIPPED MONAI: it is not installed beside surface-distance and medpy");
        }
    }
}
