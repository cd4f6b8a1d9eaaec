//! The whole chain among real peers: dcmtk sends a real CT to `oarlock serve`, Orthanc and dcmtk's storescp each get a
//! structure set, dicom3tools and our own rules find it clean, plastimatch reads it back.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dicom_object::InMemDicomObject;
use oarlock::convert::read_masks;
use oarlock::learning::evaluate::dice;
use oarlock::pipeline::contours::fill;
use oarlock::pipeline::rtstruct;
use oarlock::pipeline::series::CtSeries;
use oarlock::vocabulary::space::{PatientPoint, RegionMask, VoxelPoint};

use crate::support::{Process, free_port, peer, shared_data, start};
use crate::wire::{all_files, wait_for};

/// The data set of every DICOM file below a folder whose modality is RTSTRUCT.
fn structure_sets(folder: &Path) -> Vec<(PathBuf, InMemDicomObject)> {
    let is_one = |object: &InMemDicomObject| {
        object.element_by_name("Modality").is_ok_and(|e| e.to_str().is_ok_and(|m| m.trim() == "RTSTRUCT"))
    };
    let read = |path: PathBuf| {
        let object = dicom_object::open_file(&path).ok()?.into_inner();
        is_one(&object).then_some((path, object))
    };
    all_files(folder).into_iter().filter_map(read).collect()
}

fn centre(mask: &RegionMask, grid: &oarlock::vocabulary::space::Grid) -> PatientPoint {
    let (mut n, mut sum) = (0.0, [0.0; 3]);
    for ((z, y, x), _) in mask.voxels.indexed_iter().filter(|(_, inside)| **inside) {
        let [z0, y0, x0] = mask.region.start;
        let v = VoxelPoint { z: (z + z0) as f64, y: (y + y0) as f64, x: (x + x0) as f64 };
        let p = grid.patient_from_voxel(v);
        n += 1.0;
        sum = [sum[0] + p.x, sum[1] + p.y, sum[2] + p.z];
    }
    PatientPoint::lps_mm(sum[0] / n, sum[1] / n, sum[2] / n)
}

/// `oarlock serve` with two destinations, and the port it took.
fn serve(folder: &Path, orthanc: u16, storescp: u16) -> (Process, u16) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["serve", "--port", "0", "--quiet-time", "1", "--data-dir"])
        .arg(folder)
        .args([
            "--to",
            &format!("ORTHANC@127.0.0.1:{orthanc}"),
            "--to",
            &format!("STORESCP@127.0.0.1:{storescp}"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    (Process(child), port.unwrap_or_else(|| panic!("serve said {line:?}")))
}

#[test]
fn a_real_ct_becomes_a_clean_structure_set_at_two_real_peers() {
    let test = "real peers";
    let (Some(data), Some(storescu), Some(storescp), Some(orthanc), Some(plastimatch)) = (
        shared_data(test),
        peer(test, "storescu"),
        peer(test, "storescp"),
        peer(test, "Orthanc"),
        peer(test, "plastimatch"),
    ) else {
        return;
    };
    if [peer(test, "dciodvfy"), peer(test, "dcentvfy")].contains(&None) {
        return;
    }
    let ct = data.join("radiomics-phantom/pat_1/ct");
    let folder = tempfile::tempdir().unwrap();
    let (at_orthanc, at_storescp) = (folder.path().join("orthanc"), folder.path().join("storescp"));
    std::fs::create_dir_all(&at_orthanc).unwrap();
    std::fs::create_dir_all(&at_storescp).unwrap();
    let (orthanc_port, storescp_port) = (free_port(), free_port());
    let settings = serde_json::json!({
        "DicomPort": orthanc_port, "HttpServerEnabled": false, "DicomAlwaysAllowStore": true,
        "DicomAlwaysAllowEcho": true, "StorageDirectory": at_orthanc, "IndexDirectory": at_orthanc, "Plugins": [],
    });
    let config = folder.path().join("orthanc.json");
    std::fs::write(&config, settings.to_string()).unwrap();
    let _orthanc = start(&orthanc, &[&config.display().to_string()], orthanc_port);
    let out = at_storescp.display().to_string();
    let _storescp =
        start(&storescp, &["-fe", ".dcm", "-od", &out, &storescp_port.to_string()], storescp_port);
    let (mut service, port) = serve(&folder.path().join("oarlock"), orthanc_port, storescp_port);

    let sent = Command::new(storescu)
        .args(["+sd", "+r", "-aec", "OARLOCK", "127.0.0.1", &port.to_string()])
        .arg(&ct)
        .status()
        .unwrap();
    assert!(sent.success());
    let one = |folder: &Path| wait_for("a structure set", || structure_sets(folder).pop());
    let ((path, by_dcmtk), (_, by_orthanc)) = (one(&at_storescp), one(&at_orthanc));
    service.0.kill().unwrap();
    assert_eq!(by_dcmtk, by_orthanc, "both peers hold the same data set");

    let said = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/conformance"))
        .args([&path, &ct])
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );

    let back = folder.path().join("back");
    let converted = Command::new(plastimatch)
        .args(["convert", "--prefix-format", "mha", "--input"])
        .arg(&path)
        .arg("--referenced-ct")
        .arg(&ct)
        .arg("--output-prefix")
        .arg(&back)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    let series = CtSeries::from_folder(&ct).unwrap();
    let (theirs, _) = read_masks(&back, &series.grid).unwrap();
    let (ours, warnings) = rtstruct::read(&path).unwrap().on_series(&series);
    assert!(warnings.is_empty(), "{warnings:?}");
    let mut n_compared = 0;
    for (name, contours) in &ours {
        let mask = fill(contours, &series.grid, rtstruct::FILL_RULE);
        // A border of one voxel is most of a small organ, and each program draws it by its own rule.
        if mask.n_voxels() < 500 {
            continue;
        }
        let other =
            theirs.iter().find(|other| other.name == *name).unwrap_or_else(|| panic!("{name} is missing"));
        let overlap = dice(&mask, &other.mask).unwrap();
        let apart = centre(&mask, &series.grid).distance_mm(centre(&other.mask, &series.grid));
        assert!(overlap > 0.93 && apart < 0.6, "{name}: DSC {overlap:.3}, {apart:.2} mm apart");
        n_compared += 1;
    }
    assert!(n_compared >= 4, "{n_compared} of {} structures were compared", ours.len());
}
