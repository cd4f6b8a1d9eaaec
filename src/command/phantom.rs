//! `oarlock phantom`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{PhantomArgs, PhantomKind};
use crate::learning::dataset::LabelAtlas;
use crate::learning::phantom::{
    ATTRIBUTION, Bodies, Patient, PhantomIdentity, Scan, ScanGeometry, scan, shipped_anatomy,
    truth_structure_set, write_ct_series,
};
use crate::pipeline::rtstruct::Identity;
use crate::pipeline::series::CtSeries;
use crate::service::mint::Mint;
use crate::settings::StructureTemplate;
use crate::vocabulary::space::PatientPoint;

/// White noise of a scan, standard deviation, HU.
const NOISE_HU: f64 = 12.0;

/// Runs the command.
pub(super) fn run(args: PhantomArgs, _runtime: &RuntimeChoice) -> CommandResult {
    let geometry = geometry(&args)?;
    let moving = super::spinner(format!("scanning {} slices", geometry.shape[0]));
    let scan = match args.kind {
        PhantomKind::Bodies => scan(&Bodies, &geometry, NOISE_HU, args.seed)?,
        PhantomKind::Patient => {
            let anatomy = args.atlas.as_deref().map_or_else(shipped_anatomy, LabelAtlas::read)?;
            scan(&Patient::draw(anatomy, args.seed), &geometry, NOISE_HU, args.seed)?
        }
    };
    let name = format!("SEED {}", args.seed);
    let written = write(&scan, &name, &args.transfer_syntax, &args.output)?;
    moving.finish_and_clear();
    say(format_args!("{} CT slices in {}", geometry.shape[0], written.ct.display()));
    match written.truth {
        Some(path) => say(format_args!("the exact structure set: {}", path.display())),
        None => say(
            "no structure set: tilted slices are no regular grid, and Oarlock refuses them; use this series to see how others do",
        ),
    }
    if matches!(args.kind, PhantomKind::Patient) && args.atlas.is_none() {
        say(ATTRIBUTION);
    }
    Ok(ExitCode::SUCCESS)
}

/// Files of a phantom.
pub(super) struct WrittenPhantom {
    /// Folder of the CT series.
    pub(super) ct: PathBuf,
    /// Its structure set, where its slices make a grid.
    pub(super) truth: Option<PathBuf>,
}

/// Writes `ct/` and `truth.dcm` into a folder.
pub(super) fn write(
    scan: &Scan,
    name: &str,
    transfer_syntax: &str,
    folder: &Path,
) -> Result<WrittenPhantom, Box<dyn Error + Send + Sync>> {
    let mut mint = Mint::from_world();
    let made = mint.now();
    let identity = PhantomIdentity::mint(name, scan.geometry.shape[0], || mint.bits(), made);
    let ct = folder.join("ct");
    write_ct_series(scan, &identity, transfer_syntax, &ct)?;
    if scan.geometry.grid().is_none() {
        return Ok(WrittenPhantom { ct, truth: None });
    }
    let series = CtSeries::from_folder(&ct)?;
    let truth = folder.join("truth.dcm");
    let identity = Identity::mint(|| mint.bits(), made);
    let set = truth_structure_set(scan, &series, &StructureTemplate::shipped()?, identity)?;
    std::fs::write(&truth, set.bytes)
        .map_err(|error| format!("{} cannot be written ({error}): check the free space", truth.display()))?;
    Ok(WrittenPhantom { ct, truth: Some(truth) })
}

/// A head-and-neck scan, or one round the bodies, unless told otherwise.
fn geometry(args: &PhantomArgs) -> Result<ScanGeometry, Box<dyn Error + Send + Sync>> {
    let (shape, spacing_mm) = match args.kind {
        PhantomKind::Bodies => ([70, 200, 220], [2.5, 0.9, 1.0]),
        PhantomKind::Patient => PATIENT_SCAN,
    };
    let in_plane = match args.size.as_deref() {
        Some([rows, columns]) => [usize::from(*rows), usize::from(*columns)],
        _ => [shape[1], shape[2]],
    };
    let spacing_mm = match args.spacing.as_deref() {
        Some([slice, row, column]) => [*slice, *row, *column],
        _ => spacing_mm,
    };
    let geometry = ScanGeometry {
        shape: [args.slices.map_or(shape[0], usize::from), in_plane[0], in_plane[1]],
        spacing_mm,
        centre: PatientPoint::lps_mm(0.0, 0.0, 0.0),
        position: args.position.parse()?,
        turned_deg: [0.0; 2],
        tilt_deg: args.tilt,
    };
    geometry.check()?;
    Ok(geometry)
}

/// Slices, rows, columns and their spacing in mm of the usual scan of a patient: skull to upper chest.
pub(super) const PATIENT_SCAN: ([usize; 3], [f64; 3]) = ([134, 512, 512], [2.5, 0.976_562, 0.976_562]);
