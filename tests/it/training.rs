//! `oarlock train` as a process that is killed, stopped, starved of disk and fed with rubbish, and goes on.
//!
//! Every run is of the same recipe on the same made-up patients on one thread; whatever happened to it, its last
//! checkpoint must be that of the run that nothing happened to, byte by byte.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use oarlock::learning::train::Checkpoint;

use crate::support::Process;

const STEPS: u64 = 6;
/// Voxels `(z, y, x)` and spacing, mm, of a patient.
const SHAPE: [usize; 3] = [36, 40, 44];
const SPACING: [f32; 3] = [3.0, 3.5, 3.5];

/// A NIfTI-1 file of axes to the patient's left, posterior, superior; `code` and `bits` are of its data type.
fn nifti(path: &Path, code: i16, bits: i16, voxels: &[u8]) {
    let mut header = vec![0_u8; 352];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(0, &348_i32.to_le_bytes());
    let [d, h, w] = SHAPE.map(|side| i16::try_from(side).unwrap());
    for (n, size) in [3, w, h, d, 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * n, &size.to_le_bytes());
    }
    put(70, &code.to_le_bytes());
    put(72, &bits.to_le_bytes());
    let [z, y, x] = SPACING;
    for (n, size) in [1.0, x, y, z].into_iter().enumerate() {
        put(76 + 4 * n, &size.to_le_bytes());
    }
    put(108, &352_f32.to_le_bytes());
    put(112, &1_f32.to_le_bytes());
    put(254, &1_i16.to_le_bytes());
    for (row, (axis, size)) in [(0, -x), (1, -y), (2, z)].into_iter().enumerate() {
        put(280 + 16 * row + 4 * axis, &size.to_le_bytes());
    }
    put(344, b"n+1\0");
    let file = std::fs::File::create(path).unwrap();
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    out.write_all(&header).and_then(|()| out.write_all(voxels)).unwrap();
    out.finish().unwrap();
}

/// A brick of an organ: its bit, its HU, first voxel and sides `(z, y, x)`.
type Brick = (u8, i16, [usize; 3], [usize; 3]);

/// A body of water with organs of plausible size, moved a little from patient to patient.
fn patient(folder: &Path, number: usize) {
    let bricks: [Brick; 5] = [
        (16, 700, [8 + number, 6, 12], [10, 10, 14]),
        (8, 90, [16, 16, 30 - number], [8, 7, 7]),
        (4, 90, [16 + number, 16, 6], [8, 7, 7]),
        (2, 40, [0, 26, 20], [36, 4, 4]),
        (32, 60, [2, 12, 18], [8, 9, 9]),
    ];
    // The second patient's larynx was not drawn.
    let bricks = if number == 1 { &bricks[..4] } else { &bricks[..] };
    let (mut ct, mut labels) = (Vec::new(), Vec::new());
    for z in 0..SHAPE[0] {
        for y in 0..SHAPE[1] {
            for x in 0..SHAPE[2] {
                let inside = |(_, _, first, sides): &&Brick| {
                    (0..3).all(|axis| (first[axis]..first[axis] + sides[axis]).contains(&[z, y, x][axis]))
                };
                let found: Vec<&Brick> = bricks.iter().filter(inside).collect();
                labels.push(found.iter().fold(0, |bits, brick| bits | brick.0));
                let air = (y as f64 - 19.5).powi(2) / 361.0 + (x as f64 - 21.5).powi(2) / 441.0 > 1.0;
                let tissue = i16::try_from((z * 7 + y * 3 + x) % 11).unwrap();
                let hu = found.last().map_or(if air { -1024 } else { tissue }, |brick| brick.1);
                ct.extend((hu + 1024).to_le_bytes());
            }
        }
    }
    std::fs::create_dir_all(folder).unwrap();
    nifti(&folder.join("ct_raw.nii.gz"), 4, 16, &ct);
    nifti(&folder.join("labels.nii.gz"), 2, 8, &labels);
}

/// Makes the patients of a run in a folder, and its recipe.
fn set_up(folder: &Path) -> PathBuf {
    for (part, n_patients) in [("train", 3), ("validation", 2)] {
        let mut manifest = "patient,z_lo,z_hi\n".to_owned();
        for number in 0..n_patients {
            patient(&folder.join(part).join(format!("pt_{number}")), number);
            manifest.push_str(&format!("pt_{number},0,{}\n", SHAPE[0] - 1));
        }
        std::fs::write(folder.join(part).join("manifest.csv"), manifest).unwrap();
    }
    let recipe = folder.join("recipe.yaml");
    std::fs::write(&recipe, RECIPE).unwrap();
    recipe
}

/// Validated at step 4 only, so that an end by signal at another step stops at once.
const RECIPE: &str = "
name: tiny
preset: starter
seed: 5
output: out
threads: 1
sources:
  open_kbp_train: train
  open_kbp_validation: validation
  validation_patients: 1
  open_kbp_share: 1
  atlases: []
  atlas_share: 0
  rare_organs: 1
crop: [16, 32, 48]
augment: {share: 0.8, rotation_deg: 8, scaling: 0.08, shift_mm: [9, 8, 8], elastic_mm: 3, plane_elastic_mm: 2,
  plane_elastic_smoothness_mm: 15, mirror: 0.5, shift_hu: 15, noise_hu: 10}
steps: 6
optimizer: {learning_rate: 0.002, warm_up_steps: 2, decay_from_step: 4, weight_decay: 0.0001, longest_gradient: 10,
  weight_average: 0.9}
heads: {refinement_from_step: 1, refinement_boxes: 8, mask_from_step: 2, mask_boxes: 2, largest_mask_box: 40000}
rhythm: {checkpoint_steps: 2, validation_steps: 4, validation_from_step: 4, log_steps: 1}
";

/// A folder with patients and recipe.
struct Run(tempfile::TempDir);

impl Run {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_up(folder.path());
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
        command.current_dir(self.0.path()).args(["train", "--config", "recipe.yaml"]).args(arguments);
        command
    }

    fn train(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Fresh where there is no checkpoint yet, else from the last one.
    fn start(&self) -> Process {
        let arguments: &[&str] = if self.checkpoints().is_empty() { &[] } else { &["--resume"] };
        let mut command = self.command(arguments);
        Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn checkpoints(&self) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(self.path("out")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let step = |name: String| name.strip_prefix("step-")?.strip_suffix(".checkpoint")?.parse().ok();
        let mut steps: Vec<u64> = names.filter_map(step).collect();
        steps.sort_unstable();
        steps
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.path("out").join(format!("step-{step:08}.checkpoint"))
    }

    /// Which file the log is, so that one written anew is told from the one before.
    fn log_file(&self) -> Option<u64> {
        std::fs::metadata(self.path("out").join("log.jsonl")).ok().map(|file| file.ino())
    }

    /// Steps in the log, in its order.
    fn logged(&self) -> Vec<u64> {
        self.log()
            .iter()
            .filter(|line| line["case"].is_string())
            .map(|l| l["step"].as_u64().unwrap())
            .collect()
    }

    fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path("out").join("log.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The log without the times, which differ.
    fn log_without_times(&self) -> Vec<serde_json::Value> {
        let mut lines = self.log();
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| !key.ends_with("_s"));
        }
        lines
    }

    fn wait_for_step(&self, step: u64, process: &mut Child) {
        let began = Instant::now();
        while self.logged().last().copied().unwrap_or(0) < step && process.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(900), "step {step} never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last state, the log and the model are those of the unbroken run.
    fn assert_as_unbroken(&self) {
        let unbroken = unbroken();
        let bytes = |run: &Run| std::fs::read(run.checkpoint(STEPS)).unwrap();
        assert!(bytes(self) == bytes(unbroken), "the last checkpoint differs from the unbroken run's");
        let best = |run: &Run| std::fs::read(run.path("out").join("best.checkpoint")).unwrap();
        assert!(best(self) == best(unbroken), "the best checkpoint differs from the unbroken run's");
        assert_eq!(self.log_without_times(), unbroken.log_without_times());
        let trunk = |run: &Run| std::fs::read(run.path("out/model/tiny.trunk.onnx")).unwrap();
        assert!(trunk(self) == trunk(unbroken), "the model differs from the unbroken run's");
        assert!(std::fs::read_to_string(self.path("out/report.html")).unwrap().contains("6 of 6"));
        let left: Vec<_> = std::fs::read_dir(self.path("out")).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.iter().all(|path| path.extension().is_none_or(|end| end != "part")), "{left:?}");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn unbroken() -> &'static Run {
    static UNBROKEN: OnceLock<Run> = OnceLock::new();
    UNBROKEN.get_or_init(|| {
        let run = Run::new();
        let done = run.train(&[]);
        assert!(done.status.success(), "{}", text(&done));
        assert!(text(&done).contains("waiting for data"), "{}", text(&done));
        assert_eq!(run.logged(), (1..=STEPS).collect::<Vec<_>>());
        assert_eq!(run.checkpoints(), [4, 6]);
        run
    })
}

/// SIGKILL while it loads, in the first steps, in a validation, in the writing of a checkpoint, wherever it falls.
#[test]
fn a_run_killed_anywhere_ends_as_the_unbroken_run() {
    let run = Run::new();
    // Steps beyond the last checkpoint (none: while it loads), and milliseconds after the last of them.
    for (steps, ms) in [(0, 150), (1, 3), (2, 20), (2, 60), (1, 140), (2, 1)] {
        let from = run.checkpoints().last().copied().unwrap_or(0);
        let before = run.log_file();
        let mut process = run.start();
        // A run that goes on begins by writing the log anew.
        while steps > 0 && run.log_file() == before && process.0.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        run.wait_for_step(from + steps, &mut process.0);
        std::thread::sleep(Duration::from_millis(ms));
        drop(process);
    }
    let done = run.train(if run.checkpoints().is_empty() { &[] } else { &["--resume"] });
    assert!(done.status.success(), "{}", text(&done));
    run.assert_as_unbroken();
}

/// No file may be longer than 4 MB (`RLIMIT_FSIZE`), a checkpoint is: the disk refuses in the middle of it.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let run = Run::new();
    let begun = run.train(&["--until", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let good = std::fs::read(run.checkpoint(1)).unwrap();
    assert!(good.len() > 8 << 20);
    let binary = env!("CARGO_BIN_EXE_oarlock");
    let script = format!("trap '' XFSZ; ulimit -f 8192; exec '{binary}' train --config recipe.yaml --resume");
    let starved = Command::new("sh").args(["-c", &script]).current_dir(run.0.path()).output().unwrap();
    assert_eq!(starved.status.code(), Some(1), "{}", text(&starved));
    assert!(
        text(&starved).contains("free some space") && text(&starved).contains("--resume"),
        "{}",
        text(&starved)
    );
    assert_eq!(run.checkpoints(), [1]);
    assert!(std::fs::read(run.checkpoint(1)).unwrap() == good);
    let done = run.train(&["--resume"]);
    assert!(done.status.success(), "{}", text(&done));
    run.assert_as_unbroken();
}

/// All patients turn to rubbish while the run is at its first steps; it names one, keeps its state, and goes on once they
/// are back. With the rubbish still there it does not start.
#[test]
fn a_patient_that_breaks_in_mid_run_is_named_and_the_run_goes_on() {
    let run = Run::new();
    let mut process = run.command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    run.wait_for_step(1, &mut process);
    let files: Vec<PathBuf> = (0..3).map(|n| run.path(&format!("train/pt_{n}/labels.nii.gz"))).collect();
    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    files.iter().for_each(|file| std::fs::write(file, "rubbish").unwrap());
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("labels.nii.gz"), "{said}");
    let last = *run.logged().last().unwrap();
    assert!(last < STEPS && run.checkpoints().last() == Some(&last), "{last} {:?}", run.checkpoints());

    let refused = run.train(&["--resume"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("3 patients cannot be used"), "{}", text(&refused));
    files.iter().zip(whole).for_each(|(file, bytes)| std::fs::write(file, bytes).unwrap());
    let done = run.train(&["--resume"]);
    assert!(done.status.success(), "{}", text(&done));
    run.assert_as_unbroken();
}

#[test]
fn ctrl_c_and_sigterm_stop_after_the_step_with_a_checkpoint() {
    let run = Run::new();
    for (name, code, step) in [("-INT", 130, 1), ("-TERM", 143, 4)] {
        let mut process = run.start();
        run.wait_for_step(step, &mut process.0);
        signal(&process.0, name);
        assert_eq!(process.0.wait().unwrap().code(), Some(code));
        let last = *run.logged().last().unwrap();
        assert!(last >= step && last < STEPS, "{last}");
        assert_eq!(run.checkpoints().last(), Some(&last));
        assert!(!run.path("out/model").exists());
    }
    let done = run.train(&["--resume"]);
    assert!(done.status.success(), "{}", text(&done));
    run.assert_as_unbroken();
}

/// Nothing is half written, and what is there already is not touched.
#[test]
fn what_cannot_be_trained_is_told_before_anything_is_written() {
    let run = Run::new();
    std::fs::write(run.path("recipe.yaml"), RECIPE.replace("weight_decay", "weight_decoy")).unwrap();
    let refused = run.train(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("weight_decoy"), "{}", text(&refused));
    assert!(!run.path("out").exists());
    std::fs::write(run.path("recipe.yaml"), RECIPE).unwrap();
    let refused = run.train(&["--resume"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("start without --resume"), "{}", text(&refused));
    assert!(!run.path("out").exists());

    let begun = run.train(&["--until", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let refused = run.train(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("--resume, or name another `output`"), "{}", text(&refused));

    let mut broken = Checkpoint::read(&run.checkpoint(1)).unwrap();
    broken.weights.values_mut("merge8.1.first.norm.scale")[3] = f32::NAN;
    broken.write(&run.path("out"), &Checkpoint::step_name(1)).unwrap();
    let before = std::fs::read(run.checkpoint(1)).unwrap();
    let refused = run.train(&["--resume"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("merge8.1.first.norm.scale holds NaN"), "{}", text(&refused));
    assert_eq!(run.checkpoints(), [1]);
    assert!(std::fs::read(run.checkpoint(1)).unwrap() == before);
}

/// The process that takes the steps is the one that was started, with a heap that is kept, or with the heap that somebody
/// chose for it.
#[cfg(target_env = "gnu")]
#[test]
fn training_keeps_its_heap_unless_somebody_has_chosen() {
    let heap = |chosen: Option<&str>| {
        let run = Run::new();
        let mut command = run.command(&[]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).env_remove("GLIBC_TUNABLES");
        command.envs(chosen.map(|chosen| ("GLIBC_TUNABLES", chosen)));
        let mut process = Process(command.spawn().unwrap());
        run.wait_for_step(1, &mut process.0);
        assert!(!run.logged().is_empty(), "no step was taken");
        let environment = std::fs::read(format!("/proc/{}/environ", process.0.id())).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let heap = environment
            .split('\0')
            .find_map(|entry| entry.strip_prefix("GLIBC_TUNABLES="))
            .map(str::to_owned);
        heap.unwrap_or_default()
    };
    assert!(heap(None).contains("glibc.malloc.mmap_max=0"));
    assert_eq!(heap(Some("glibc.malloc.arena_max=2")), "glibc.malloc.arena_max=2");
}
