//! `oarlock demo`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::comparison_table::number;
use super::contouring::{contourer, load_model};
use super::phantom::{self, PATIENT_SCAN};
use super::send::send_all;
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{DemoArgs, SendArgs, TlsArgs};
use crate::learning::evaluate::{Comparison, HeldOut, Spread, compare};
use crate::learning::phantom::{ATTRIBUTION, Patient, ScanGeometry, scan, shipped_anatomy};
use crate::picture::{Outline, sheet};
use crate::pipeline::contours::fill;
use crate::pipeline::rtstruct;
use crate::pipeline::series::CtSeries;
use crate::pipeline::volume::HuVolume;
use crate::service::Service;
use crate::settings::service::DestinationSettings;
use crate::settings::{ServiceSettings, StructureTemplate, Template, USUAL_TEMPLATE};
use crate::vocabulary::dicom::Peer;
use crate::vocabulary::organ::Organ;
use crate::vocabulary::space::{PatientPoint, RegionMask};

/// The file that says that a folder is ours to clear.
const MARK: &str = "made-by-oarlock-demo.txt";

/// Which patient the demo shows.
const SEED: u64 = 28;

const QUIET_S: f64 = 1.0;

/// Longest wait for the structure set.
const PATIENCE: Duration = Duration::from_secs(600);

type Failure = Box<dyn Error + Send + Sync>;

/// Runs the command.
pub(super) fn run(args: DemoArgs, runtime: &RuntimeChoice) -> CommandResult {
    let started = Instant::now();
    let out = clear(&args.out)?;
    let template = StructureTemplate::shipped()?;
    let (ct, truth) = match &args.ct {
        Some(ct) => {
            say(format_args!("1. The CT series in {}", ct.display()));
            (ct.clone(), None)
        }
        None => {
            say("1. A CT of a made-up patient, whose organs are known exactly");
            let moving = super::spinner("scanning the patient");
            let written = make_patient(&out)?;
            moving.finish_and_clear();
            say(format_args!("   {}", written.ct.display()));
            (written.ct, written.truth)
        }
    };
    let series = CtSeries::from_folder(&ct)?;

    say("2. Oarlock listens, and so does a second Store SCP in the place of the planning system");
    let model = load_model(runtime, &ServiceSettings::default().network.model)?;
    let provider = model.network.provider();
    let planning_system = Service::start(&settings(&out.join("planning-system"), "TPS", None)?, None)?;
    let to = format!("TPS@{}", planning_system.address()).parse()?;
    let ours = settings(&out.join("oarlock"), "OARLOCK", Some(to))?;
    let usual = Template::load(USUAL_TEMPLATE)?;
    let service = Service::start(&ours, Some(contourer(model, usual, Vec::new(), runtime)))?;
    say(format_args!("   OARLOCK@{} ({provider}), TPS@{}", service.address(), planning_system.address()));

    say(format_args!("3. C-STORE of {} slices", series.slices.len()));
    let began = Instant::now();
    let sent = send_all(&SendArgs {
        path: ct,
        to: format!("OARLOCK@{}", service.address()).parse()?,
        ae_title: "SCANNER".parse()?,
        tls: TlsArgs::default(),
    })?;
    if sent.n_failed > 0 {
        return Err(format!(
            "{} of {} instances were refused by our own SCP; please report this",
            sent.n_failed, sent.n_files
        )
        .into());
    }
    let stored = Instant::now();
    say(format_args!(
        "   {} instances durable on disk after {:.1} s",
        sent.n_files,
        (stored - began).as_secs_f64()
    ));

    say(format_args!(
        "4. The series is complete after {QUIET_S} s without anything new; then it is contoured and delivered"
    ));
    let moving = super::spinner("contouring");
    let delivered = wait(&out, stored)?;
    moving.finish_and_clear();
    let took_s = stored.elapsed().as_secs_f64();
    service.stop();
    planning_system.stop();
    let structure_set = out.join("structure_set.dcm");
    fs::copy(&delivered, &structure_set)?;
    let read = rtstruct::read(&structure_set)?;
    intact(&delivered, &out.join("oarlock/results"))?;
    say(format_args!(
        "   an RTSTRUCT with {} of {} ROIs arrived {:.1} s after the last slice, {QUIET_S} s of them quiet time",
        read.rois.len(),
        Organ::COUNT,
        took_s
    ));
    say("   it is the one that was sent, byte by byte");
    let missing: Vec<&str> = Organ::ALL
        .into_iter()
        .map(|organ| template.entry(organ).roi_name.as_str())
        .filter(|name| !read.rois.iter().any(|roi| roi.name == *name))
        .collect();
    if !missing.is_empty() {
        say(format_args!("   the model did not find: {}", missing.join(", ")));
    }

    let truth = truth.map(|_| HeldOut::Dicom(out.join("phantom")).read(&template, true)).transpose()?;
    let volume = match &truth {
        Some(case) => case.volume.clone(),
        None => HuVolume::read(&series)?,
    };
    let (rois, warnings) = read.on_series(&series);
    if !warnings.is_empty() {
        return Err(format!("the structure set does not fit the CT: {}", warnings.join("; ")).into());
    }
    let masks: Vec<(String, RegionMask)> = rois
        .par_iter()
        .map(|(name, roi)| (name.clone(), fill(roi, &volume.grid, rtstruct::FILL_RULE)))
        .collect();
    let mut outlines = Vec::new();
    let mut compared = Vec::new();
    for organ in Organ::ALL {
        let entry = template.entry(organ);
        let found = masks.iter().find(|(name, _)| *name == entry.roi_name).map(|(_, mask)| mask.clone());
        let mask = found
            .unwrap_or_else(|| RegionMask::from_whole(ndarray::Array3::from_elem([1, 1, 1], false).view()));
        let known = truth.as_ref().and_then(|case| case.truth.get(&organ)).cloned();
        let legend = match &known {
            Some(known) => {
                let comparison = compare(known, &mask, &volume.grid);
                compared.push((entry.roi_name.clone(), comparison));
                format!("{:16} DSC {}", entry.roi_name, number(comparison.dice, 2))
            }
            None if mask.n_voxels() > 0 => entry.roi_name.clone(),
            None => format!("{:16} not found", entry.roi_name),
        };
        outlines.push(Outline { legend, color: entry.color, mask, truth: known });
    }
    if truth.is_some() {
        say("5. Compared with the truth");
        table(&compared);
    }
    let mut notes = vec!["R right, L left, A anterior".to_owned(), "P posterior, H head, F feet".to_owned()];
    if truth.is_some() {
        notes.push("CT: made-up patient".to_owned());
    }
    let picture = out.join("picture.png");
    fs::write(&picture, sheet(&volume, &outlines, "Oarlock demo", &notes)?)?;
    say("");
    say(format_args!("all in {:.0} s", started.elapsed().as_secs_f64()));
    say(format_args!("structure set  {}", structure_set.display()));
    say(format_args!("picture        {}", picture.display()));
    if truth.is_some() {
        say(format_args!("CT and truth   {}", out.join("phantom").display()));
        say(
            "The model was trained on other poses of the same anatomy: this shows that the chain works, not how well the",
        );
        say("model does on patients; for that see `oarlock model show starter`.");
        say(ATTRIBUTION);
    }
    say("Research software: not for clinical use without review.");
    Ok(ExitCode::SUCCESS)
}

/// The folder of the demo, emptied of what an earlier demo left.
fn clear(out: &Path) -> Result<PathBuf, Failure> {
    if out.is_dir() && fs::read_dir(out)?.next().is_some() {
        if !out.join(MARK).is_file() {
            return Err(format!(
                "{} holds something that is not from a demo: name another folder with --out",
                out.display()
            )
            .into());
        }
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    fs::write(out.join(MARK), "The next demo clears this folder.\n")?;
    Ok(out.canonicalize()?)
}

fn make_patient(out: &Path) -> Result<phantom::WrittenPhantom, Failure> {
    let (shape, spacing_mm) = PATIENT_SCAN;
    let geometry = ScanGeometry {
        shape,
        spacing_mm,
        centre: PatientPoint::lps_mm(0.0, 0.0, 0.0),
        position: "HFS".parse()?,
        turned_deg: [0.0; 2],
        tilt_deg: 0.0,
    };
    let scan = scan(&Patient::draw(shipped_anatomy()?, SEED), &geometry, 12.0, SEED)?;
    phantom::write(&scan, "DEMO", "1.2.840.10008.1.2.1", &out.join("phantom"))
}

fn settings(folder: &Path, ae_title: &str, to: Option<Peer>) -> Result<ServiceSettings, Failure> {
    let mut settings = ServiceSettings { data_dir: Some(folder.to_owned()), ..ServiceSettings::default() };
    settings.ae_title = ae_title.parse()?;
    settings.listen.port = 0;
    settings.listen.min_free_mb = 200;
    settings.series.quiet_time_s = QUIET_S;
    settings.delivery.first_retry_s = 1.0;
    settings.destinations = to.into_iter().map(DestinationSettings::from).collect();
    Ok(settings)
}

/// Waits for the one structure set that arrives, or for the reason why none does.
fn wait(out: &Path, since: Instant) -> Result<PathBuf, Failure> {
    let (arrived, jobs) = (out.join("planning-system/instances"), out.join("oarlock/jobs"));
    while since.elapsed() < PATIENCE {
        if let Some(path) = files(&arrived, "dcm").pop() {
            return Ok(path);
        }
        for record in files(&jobs, "json") {
            let text = fs::read_to_string(&record)?;
            if text.contains("\"refused\"") || text.contains("\"failed\"") {
                return Err(format!("the series was not contoured: {text}").into());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("no structure set after {} s; look at the log with OARLOCK_LOG=info", PATIENCE.as_secs())
        .into())
}

/// Checks that what arrived has the data set of the one structure set that was written, byte by byte: only the file
/// meta information in front may differ, as it names who sent it.
fn intact(arrived: &Path, results: &Path) -> Result<(), Failure> {
    let written = files(results, "dcm");
    let [written] = written.as_slice() else {
        return Err(format!("{} structure sets in {}, wanted one", written.len(), results.display()).into());
    };
    let (ours, theirs) = (fs::read(written)?, fs::read(arrived)?);
    match (after_meta(&ours), after_meta(&theirs)) {
        (Some(ours), Some(theirs)) if ours == theirs => Ok(()),
        _ => Err(format!(
            "{} arrived and differs from {}; please report this",
            arrived.display(),
            written.display()
        )
        .into()),
    }
}

/// The data set of a Part 10 file: what follows the file meta information (PS3.10 7.1), whose length stands behind the
/// preamble, the prefix and the head of its first element.
fn after_meta(file: &[u8]) -> Option<&[u8]> {
    const LENGTH_AT: usize = 128 + 4 + 8;
    let length = file.get(LENGTH_AT..LENGTH_AT + 4)?.try_into().map(u32::from_le_bytes).ok()?;
    let start = usize::try_from(length).ok()?.checked_add(LENGTH_AT + 4)?;
    file.get(start..).filter(|data_set| !data_set.is_empty())
}

/// Files with this ending below a folder.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    found
}

fn table(compared: &[(String, Comparison)]) {
    super::comparison_table::comparison_lines(compared)
        .iter()
        .for_each(|line| say(format_args!("   {line}")));
    let dice: Vec<f64> = compared.iter().filter_map(|(_, c)| c.dice).collect();
    let hd95: Vec<f64> = compared.iter().filter_map(|(_, c)| c.distances).map(|d| d.hd95_mm).collect();
    let mean = |values: &[f64]| Spread::of(values).map(|s| s.mean);
    say(format_args!(
        "   mean DSC {}, mean 95 % HD {} mm (A truth, B ours)",
        number(mean(&dice), 3),
        number(mean(&hd95), 1)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_of_the_data_set_is_seen_and_another_sender_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        fs::create_dir(&results).unwrap();
        let file = |meta: &[u8], data_set: &[u8]| {
            let length = u32::try_from(meta.len()).unwrap().to_le_bytes();
            [&[0_u8; 128][..], b"DICM\x02\0\0\0UL\x04\0", &length, meta, data_set].concat()
        };
        fs::write(results.join("v1.dcm"), file(b"ours", b"contours")).unwrap();
        let arrived = folder.path().join("arrived.dcm");
        fs::write(&arrived, file(b"OARLOCK", b"contours")).unwrap();
        assert!(intact(&arrived, &results).is_ok());
        for broken in [file(b"ours", b"contourz"), file(b"ours", b""), b"DICM".to_vec()] {
            fs::write(&arrived, broken).unwrap();
            assert!(intact(&arrived, &results).is_err());
        }
    }
}
