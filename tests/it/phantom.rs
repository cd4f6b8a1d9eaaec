//! Phantoms as other programs see them.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use oarlock::pipeline::series::CtSeries;
use oarlock::pipeline::volume::HuVolume;
use oarlock::vocabulary::space::VoxelPoint;

use crate::support::peer;

/// dicom3tools finds no fault with the CT, nor the conformance rules with its structure set; plastimatch reads the same
/// HU at the same places.
#[test]
fn others_see_in_a_phantom_what_was_written() {
    let test = "phantom";
    if peer(test, "dcentvfy").is_none() {
        return;
    }
    let (Some(dciodvfy), Some(plastimatch)) = (peer(test, "dciodvfy"), peer(test, "plastimatch")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let phantom = folder.path().join("phantom");
    let made = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["phantom", "--kind", "bodies", "--size", "81", "95", "--slices", "33"])
        .args(["--spacing", "5", "2.1", "2.3", "--output"])
        .arg(&phantom)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (ct, truth) = (phantom.join("ct"), phantom.join("truth.dcm"));

    let checked = Command::new(dciodvfy).arg(ct.join("CT0017.dcm")).output().unwrap();
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("CTImage") && !said.contains("Error"), "{said}");
    let conformance = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/conformance");
    let checked = Command::new(conformance).args([&truth, &ct]).output().unwrap();
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");

    let image = folder.path().join("ct.mha");
    let converted = Command::new(plastimatch)
        .args(["convert", "--output-type", "short", "--input"])
        .arg(&ct)
        .arg("--output-img")
        .arg(&image)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    let (head, theirs) = meta_image(&std::fs::read(&image).unwrap());
    let series = CtSeries::from_folder(&ct).unwrap();
    let ours = HuVolume::read(&series).unwrap();
    assert_eq!(head["DimSize"], [95.0, 81.0, 33.0]);
    assert_eq!(head["TransformMatrix"], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let first = series.grid.patient_from_voxel(VoxelPoint { z: 0.0, y: 0.0, x: 0.0 });
    let last = series.grid.patient_from_voxel(VoxelPoint { z: 32.0, y: 80.0, x: 94.0 });
    let (offset, spacing) = (&head["Offset"], &head["ElementSpacing"]);
    for (axis, (first, last)) in
        [(first.x, last.x), (first.y, last.y), (first.z, last.z)].into_iter().enumerate()
    {
        let theirs_last = offset[axis] + spacing[axis] * (head["DimSize"][axis] - 1.0);
        assert!(
            (offset[axis] - first).abs() < 1e-3 && (theirs_last - last).abs() < 1e-3,
            "axis {axis}: {head:?}"
        );
    }
    assert!(ours.hu.iter().copied().eq(theirs), "plastimatch reads other HU");
}

/// Numbers of the header by key, and the voxels, `x` fastest.
fn meta_image(bytes: &[u8]) -> (HashMap<String, Vec<f64>>, Vec<i16>) {
    let mut head = HashMap::new();
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let (key, value) = line.split_once('=').unwrap();
        let (key, value) = (key.trim(), value.trim());
        if key == "ElementDataFile" {
            assert_eq!(value, "LOCAL");
            return (head, rest.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect());
        }
        assert!(key != "CompressedData" || value == "False");
        head.insert(key.to_owned(), value.split_whitespace().filter_map(|v| v.parse().ok()).collect());
    }
}
