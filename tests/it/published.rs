//! A checkpoint with the published names, imported and compared with the numbers of the network that it came from.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oarlock::engine::runtime::library::{Release, find, folder, install};
use oarlock::engine::runtime::package_index::IndexSettings;

use crate::support::everything_must_be_here;

/// The library of the other tests: the program runs with another home here and would not find it.
fn onnxruntime(test: &str) -> Option<PathBuf> {
    let fetched =
        || install(Release::of_this_machine(false)?, &folder()?, &IndexSettings::of_user(), &mut |_| {});
    match find(None).map_or_else(fetched, Ok) {
        Ok(library) => Some(library),
        Err(error) => {
            assert!(!everything_must_be_here(), "{test}: no ONNX Runtime: {error}");
            eprintln!("SKIPPED {test}: no ONNX Runtime: {error}");
            None
        }
    }
}

fn oarlock(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oarlock")).args(arguments).env("XDG_DATA_HOME", home).output().unwrap()
}

fn said(run: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
}

/// Names of the published network, few channels and three organs in an order of their own, random weights, in PyTorch's
/// old format; what PyTorch computes with it in float64. Made by `tests/reference/published_forward.py --narrow` with
/// PyTorch 2.15.0.
#[test]
fn an_imported_checkpoint_gives_the_numbers_of_the_original() {
    let Some(library) = onnxruntime("an_imported_checkpoint_gives") else { return };
    let home = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("config/published-uanet.yaml")).unwrap();
    let own =
        table.replace("  # classes: [Brain stem, Mandible] ", "  classes: [Mandible, Brainstem, Parotid_L] ");
    assert_ne!(own, table);
    let map = home.path().join("map.yaml");
    std::fs::write(&map, own).unwrap();
    let (map, library) = (map.to_str().unwrap(), library.to_str().unwrap());
    let of = |name: &str| root.join("tests/reference/narrow").join(name).to_str().unwrap().to_owned();
    let (checkpoint, expected) = (of("checkpoint.pth"), of("expected.npz"));

    let import = oarlock(home.path(), &["model", "import", &checkpoint, "--name", "narrow", "--map", map]);
    assert!(import.status.success(), "{}", said(&import));
    let told = said(&import);
    assert!(told.contains("reference(stem=4,stage2=5,stage4=6,"), "{told}");

    let verify = |more: &[&str]| {
        let all = [&["--onnxruntime", library, "model", "verify", "narrow", "--map", map][..], more].concat();
        oarlock(home.path(), &all)
    };
    let written = home.path().join("ours.npz");
    let run = verify(&["--expected", &expected, "--write", written.to_str().unwrap()]);
    let told = said(&run);
    assert!(run.status.success() && told.contains("12 arrays, 0 beyond 1e-3"), "{told}");
    assert!(told.contains("Mandible") && told.contains("% of voxels equal"), "{told}");
    // Nothing is equal to the last digit, so a tolerance of nothing is exceeded: exit code 1, not an error.
    let strict = verify(&["--expected", &expected, "--tolerance", "1e-12"]);
    assert_eq!(strict.status.code(), Some(1), "{}", said(&strict));
    assert!(said(&strict).contains("BEYOND"));

    // Without the list of organs the same file does not fit, and says where.
    let refused = oarlock(home.path(), &["model", "import", &checkpoint, "--name", "other"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("rcnn_head.logit.weight has the sides [4, 12]"), "{}", said(&refused));
}

/// The program of `tests/gpu/run` on the processor, on small volumes.
#[test]
fn a_second_look_is_joined_to_a_model_and_nothing_else_is() {
    let home = tempfile::tempdir().unwrap();
    let (closer, models) = (home.path().join("oarlock/models"), home.path().join("joined"));
    let [closer, models] = [&closer, &models].map(|folder| folder.to_str().unwrap());
    let graphs = oarlock(home.path(), &["model", "graphs", "--preset", "close-up", "-o", closer]);
    assert!(graphs.status.success(), "{}", said(&graphs));
    let join = |first: &str, second: &str| {
        oarlock(home.path(), &["model", "join", first, second, "--name", "both", "--into", models])
    };
    let joined = join("starter", closer);
    assert!(joined.status.success() && said(&joined).contains("calibrated anew"), "{}", said(&joined));
    let manifest = std::fs::read_to_string(format!("{models}/manifest.yaml")).unwrap();
    assert!(
        manifest.contains("close_up: close-up") && manifest.contains("both.close-up-trunk.onnx"),
        "{manifest}"
    );
    for (first, second) in [("starter", "starter"), (closer, closer)] {
        let refused = join(first, second);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("cannot look closer"), "{}", said(&refused));
    }
    let config = home.path().join("service.yaml");
    std::fs::write(&config, "network: {model: close-up-untrained}\n").unwrap();
    let alone = oarlock(home.path(), &["serve", "--port", "0", "--config", config.to_str().unwrap()]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(said(&alone).contains("oarlock model join"), "{}", said(&alone));
}

#[test]
fn the_parity_program_runs_without_a_gpu() {
    let Some(library) = onnxruntime("the_parity_program_runs") else { return };
    // Cargo builds examples beside the tests.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/gpu_parity");
    let run = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu/run"))
        .args(["--provider", "cpu", "--small"])
        .env("ORT_DYLIB_PATH", library)
        .env("OARLOCK_GPU_PARITY", program)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", said(&run));
    let result: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result["ok"], true, "{result}");
    for preset in ["starter", "reference"] {
        let trunk = &result["inference"][preset]["parts"]["trunk"];
        assert!(
            trunk["nodes"].as_u64().unwrap() > 50 && trunk["nodes_elsewhere"].as_array().unwrap().is_empty()
        );
        let step = &result["training"][preset]["backbone_step"];
        assert!(step["mixed_gradient_difference"]["device"].as_f64().unwrap() < 0.1, "{step}");
        assert!(result["seconds"][preset]["training_step"]["full"].as_f64().unwrap() > 0.0);
    }
}
