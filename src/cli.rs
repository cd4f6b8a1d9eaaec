//! The commands and their arguments; no behaviour.

mod jobs;
mod model;
mod tls;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::pipeline::anatomy::RuleChoice;
use crate::pipeline::contours::HoleForm;
use crate::vocabulary::dicom::{AeTitle, Peer};
pub use tls::TlsArgs;

pub use jobs::{JobsAction, JobsArgs, QuarantineAction};
pub use model::{ModelAction, ModelArgs, ModelImportArgs, ModelJoinArgs, ModelVerifyArgs};

/// DICOM-RT structure set generator: CT series in, 28 head-and-neck organs at risk as RTSTRUCT out.
///
/// Research software until a clinic has commissioned it: never treat from its contours unreviewed.
#[derive(Debug, Parser)]
#[command(name = "oarlock", version, max_term_width = 100)]
pub struct Cli {
    /// The ONNX Runtime library to load, instead of the one that is found or fetched.
    #[arg(long, global = true, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Never fetch anything from a package index.
    #[arg(long, global = true)]
    pub offline: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole chain on this machine without set-up: CT in, structure set out, compared with the truth.
    Demo(DemoArgs),
    /// Receive CT series, contour them, deliver structure sets.
    Serve(ServeArgs),
    /// Contour one series from a folder.
    Segment(SegmentArgs),
    /// Masks to a structure set, or a structure set to masks.
    Convert(ConvertArgs),
    /// Two structure sets or mask files, organ by organ: DSC, surface DSC, 95 % HD, added path length, volumes.
    Compare(CompareArgs),
    /// Cases to train and measure on: import, list, look, check, split, export.
    Dataset(DatasetArgs),
    /// Train a model from a recipe.
    ///
    /// Writes into the recipe's output folder: checkpoints, log.jsonl (a line per step and validation), report.html and, at
    /// the end, the model. Ctrl-C and SIGTERM stop it after the step with a checkpoint, exit codes 130 and 143; --resume
    /// goes on to the same numbers.
    Train(TrainArgs),
    /// A model on held-out cases: DSC, surface DSC, 95 % HD and more per organ, as a page with pictures.
    Evaluate(EvaluateArgs),
    /// A CT series with exactly known structure set.
    Phantom(PhantomArgs),
    /// What is in work, what failed and why; retry, send again, look at what is in quarantine.
    ///
    /// Works beside a running service, which sees a change within a second.
    ///
    /// Exit codes: 0 done; 1 there is no such series, version, delivery or instance, or it cannot
    /// be done in its state, and the message says which; 2 wrong arguments.
    ///
    /// Examples:
    ///   oarlock jobs list --state failed
    ///   oarlock jobs show 1.2.840.113619.2.55.3.604688.123
    ///   oarlock jobs retry --all-failed
    ///   oarlock jobs resend 1.2.840.113619.2.55.3.604688.123 --to ECLIPSE@10.0.0.5:104
    ///   oarlock jobs quarantine list
    #[command(verbatim_doc_comment)]
    Jobs(JobsArgs),
    /// Send the DICOM files of a folder to a peer.
    Send(SendArgs),
    /// Ask a peer whether it answers (C-ECHO).
    Echo(EchoArgs),
    /// Look at settings, models, runtime, peers and disk, and say what to do.
    Check(CheckArgs),
    /// ONNX Runtime on this machine.
    Runtime(RuntimeArgs),
    /// The models on this machine.
    Model(ModelArgs),
}

/// `oarlock demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder for everything the demo writes.
    #[arg(long, value_name = "DIR", default_value = "oarlock-demo")]
    pub out: PathBuf,
    /// A CT series of your own instead of the phantom patient.
    #[arg(long, value_name = "DIR")]
    pub ct: Option<PathBuf>,
}

/// `oarlock serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Settings; see config/service.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder that keeps instances, results and the outbox.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Our AE title.
    #[arg(long, value_name = "AET")]
    pub ae_title: Option<AeTitle>,
    /// Port to listen on; 0 takes a free one and says which.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Address of the web page, such as 127.0.0.1:8080.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<std::net::SocketAddr>,
    /// Where structure sets go; repeat for several.
    #[arg(long, value_name = "AET@HOST:PORT")]
    pub to: Vec<Peer>,
    /// A series is complete when nothing has come for this long.
    #[arg(long, value_name = "SECONDS")]
    pub quiet_time: Option<f64>,
}

/// `oarlock segment`.
#[derive(Debug, Args)]
pub struct SegmentArgs {
    /// Folder of one CT series.
    pub ct_dir: PathBuf,
    /// The RTSTRUCT to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Also write the masks as a label map.
    #[arg(long, value_name = "FILE")]
    pub masks: Option<PathBuf>,
    /// Model to use.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Also write a sheet of pictures (PNG).
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
    /// Which structures it holds and what they are called: a shipped template (head-and-neck, head-and-neck-planning,
    /// kopf-hals) or a file; see docs/templates.md.
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// Write it for this kind of receiver: generic, eclipse, raystation; see docs/destinations.md.
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// Rules of anatomy.
    #[command(flatten)]
    pub anatomy: AnatomyArgs,
    /// Machine-readable output.
    #[arg(long)]
    pub json: bool,
}

/// Which rules of anatomy are held against what the network finds.
#[derive(Debug, Clone, Default, Args)]
pub struct AnatomyArgs {
    /// Settings, of which `anatomy` and `structure_set` count; see config/service.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Rules to run instead of the settings': `all`, `none`, `only=RULE,...` or `without=RULE,...` of sides, one_piece,
    /// brain_stem_cord, exclusive, truncated.
    #[arg(long, value_name = "RULES")]
    pub anatomy: Option<RuleChoice>,
    /// Ask the network about the mirrored patient too and contour the mean of both answers: a little better, with a better
    /// doubt, for twice the network's time.
    #[arg(long)]
    pub mirror: bool,
}

/// `oarlock convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Masks (NIfTI, NRRD, MHA, a folder with one mask per organ) or an RTSTRUCT.
    pub input: PathBuf,
    /// Folder of the CT series they belong to.
    #[arg(long, value_name = "DIR")]
    pub ct: PathBuf,
    /// RTSTRUCT, label map, or (ending in `/`) a folder that gets one mask per ROI.
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub output: PathBuf,
    /// Structure template: a shipped one (head-and-neck, head-and-neck-planning, kopf-hals) or a file, which may also be
    /// a dictionary of organs like config/organs.yaml; see docs/templates.md.
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// Write it for this kind of receiver: generic, eclipse, raystation; see docs/destinations.md.
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// How holes are written, instead of as the format has it: keyhole, xor, separate.
    #[arg(long, value_name = "FORM")]
    pub holes: Option<HoleForm>,
}

/// `oarlock compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Reference: RTSTRUCT or masks.
    pub a: PathBuf,
    /// What is compared with it.
    pub b: PathBuf,
    /// Folder of the CT series.
    #[arg(long, value_name = "DIR")]
    pub ct: PathBuf,
    /// Machine-readable output.
    #[arg(long)]
    pub json: bool,
}

/// `oarlock train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The recipe; see config/train.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Go on from the last checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Begin with these weights: a checkpoint, a folder with a model, or a model's name (several times: their mean); the
    /// recipe's `start_from`.
    #[arg(long, value_name = "MODEL", conflicts_with = "resume")]
    pub from: Vec<PathBuf>,
    /// Stop after this step, with a checkpoint and a model.
    #[arg(long, value_name = "STEP", conflicts_with = "dry_run")]
    pub until: Option<u64>,
    /// Check recipe and patients, reckon the memory, and train nothing.
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
}

/// `oarlock dataset`.
#[derive(Debug, Args)]
pub struct DatasetArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DatasetAction,
}

/// What to do with data sets.
#[derive(Debug, Subcommand)]
pub enum DatasetAction {
    /// Import cases: DICOM CT and RTSTRUCT of any planning system, NIfTI or NRRD. Exit code 1: a case was refused.
    Add(DatasetAddArgs),
    /// Cases and organs.
    List {
        /// The data set.
        dataset: PathBuf,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Pictures and volumes of cases, with what is doubtful about them, as a page to look at.
    Show {
        /// The data set.
        dataset: PathBuf,
        /// Cases; all without any.
        cases: Vec<String>,
        /// Folder for index.html and the pictures; `pictures` in the data set without it.
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Draw anew which patients train, which choose the checkpoint, which measure the model.
    Split {
        /// The data set.
        dataset: PathBuf,
        /// Seed of the draw.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Part of the patients that choose the checkpoint.
        #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
        validation: f64,
        /// Part of the patients that measure the finished model.
        #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
        test: f64,
    },
    /// Read every case and say what is wrong. Exit code 1: something is.
    Check {
        /// The data set.
        dataset: PathBuf,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Write nnU-Net's raw folder.
    Export {
        /// The data set.
        dataset: PathBuf,
        /// Folder to write, such as nnUNet_raw/Dataset042_HeadNeck; it must be new or empty.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Organs, as in config/organs.yaml, such as ParotidL,ParotidR; without it those that every case annotates.
        #[arg(long, value_name = "ORGAN,...", value_delimiter = ',')]
        organs: Vec<String>,
    },
}

/// `oarlock dataset add`.
#[derive(Debug, Args)]
pub struct DatasetAddArgs {
    /// Folder that the cases come from.
    pub folder: PathBuf,
    /// The data set that they go to; made if it is not there.
    #[arg(long, value_name = "DATASET")]
    pub to: PathBuf,
    /// How the files lie.
    #[arg(long, value_enum, default_value_t = LayoutArg::Auto)]
    pub layout: LayoutArg,
    /// Map of names, a file or a shipped one: any, uanet-28, pddca, han-seg, totalsegmentator, deepmind-tcia, openkbp.
    #[arg(long, value_name = "NAME|FILE")]
    pub map: Option<PathBuf>,
    /// Licence and source, for the cards of models trained on it; without it what the map says.
    #[arg(long, value_name = "TEXT")]
    pub licence: Option<String>,
    /// Take structure sets with this Structure Set Label only.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Put all of them in this part instead of drawing one for each new patient.
    #[arg(long, value_enum)]
    pub part: Option<PartArg>,
    /// Take a case without its organs that are empty, outside the image or drawn twice, instead of refusing it.
    #[arg(long)]
    pub leave_out: bool,
    /// Believe every drawing, even one of half a litre: nothing is left out of training for its volume.
    #[arg(long)]
    pub as_drawn: bool,
    /// Read everything, say what would happen, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// How the files of a data set lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutArg {
    /// See what is there.
    Auto,
    /// CT series and structure sets, anywhere below the folder.
    Dicom,
    /// nnU-Net's raw folder: dataset.json, imagesTr, labelsTr.
    Nnunet,
    /// CASE/CASE_IMG_CT.nrrd, CASE/CASE_OAR_ORGAN.seg.nrrd.
    Hanseg,
    /// CASE/ct.nii.gz, CASE/segmentations/ORGAN.nii.gz.
    Totalsegmentator,
    /// CASE/img.nrrd, CASE/structures/ORGAN.nrrd: PDDCA and the 28-organ set of Ua-Net.
    Nrrd,
    /// manifest.csv, CASE/ct_raw.nii.gz, CASE/labels.nii.gz.
    Openkbp,
    /// One folder per case, as the map says under `files`.
    Files,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PartArg {
    /// To train on.
    Train,
    /// To choose the checkpoint.
    Validation,
    /// To measure the finished model.
    Test,
}

/// A part of a data set, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitArg {
    /// What trained.
    Train,
    /// What chose the checkpoint.
    Validation,
    /// What neither trained nor chose.
    Test,
    /// All cases.
    All,
}

/// `oarlock evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Model to use.
    #[arg(long, value_name = "NAME", default_value = "starter")]
    pub model: String,
    /// Cases: a data set (`oarlock dataset`), folders with a CT series and an RTSTRUCT each, or a part of the OpenKBP layout.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Which cases of a data set.
    #[arg(long, value_enum, default_value_t = SplitArg::Test)]
    pub split: SplitArg,
    /// Leave out this many cases at the start, such as those that training looked at to choose its checkpoint.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,
    /// Measure against drawings that are not believed too: OpenKBP holds cords of half a litre.
    #[arg(long)]
    pub as_drawn: bool,
    /// Look at this many cases only.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Rules of anatomy.
    #[command(flatten)]
    pub anatomy: AnatomyArgs,
    /// Learn from these cases what the model's contours are worth by their signs, and write it; beside the model as
    /// `NAME.doubt.yaml` it is used from then on. Asks the mirrored patient too.
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
    /// Machine-readable output.
    #[arg(long)]
    pub json: bool,
    /// Write a page with tables, box plots and the worst cases, and the same as CSV and JSON: into a folder, or beside
    /// each other where the name ends in .html.
    #[arg(long, value_name = "DIR|FILE.html")]
    pub report: Option<PathBuf>,
}

/// `oarlock phantom`.
#[derive(Debug, Args)]
pub struct PhantomArgs {
    /// Folder to write.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Same seed, same phantom.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// `bodies`: simple shapes for geometry; `patient`: an anatomy with all 28 organs.
    #[arg(long, value_enum, default_value_t = PhantomKind::Patient)]
    pub kind: PhantomKind,
    /// Patient Position, such as HFS, FFS, HFP, HFDR.
    #[arg(long, value_name = "CODE", default_value = "HFS")]
    pub position: String,
    /// Rows and columns.
    #[arg(long, value_name = "N", num_args = 2, value_names = ["ROWS", "COLUMNS"])]
    pub size: Option<Vec<u16>>,
    /// Slices.
    #[arg(long, value_name = "N")]
    pub slices: Option<u16>,
    /// Between slices, between rows, between columns, mm.
    #[arg(long, num_args = 3, value_names = ["SLICE", "ROW", "COLUMN"])]
    pub spacing: Option<Vec<f64>>,
    /// Gantry tilt in degrees.
    #[arg(long, value_name = "DEGREES", default_value_t = 0.0, allow_hyphen_values = true)]
    pub tilt: f64,
    /// Transfer syntax UID.
    #[arg(long, value_name = "UID", default_value = "1.2.840.10008.1.2.1")]
    pub transfer_syntax: String,
    /// Label atlas to draw patients from (a folder with labels.nii.gz and tissue.nii.gz) instead of the shipped one.
    #[arg(long, value_name = "DIR")]
    pub atlas: Option<PathBuf>,
}

/// What a phantom shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PhantomKind {
    /// Simple bodies at known millimetres; nothing symmetric.
    Bodies,
    /// A head and neck with all 28 organs.
    Patient,
}

/// `oarlock send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Folder or file.
    pub path: PathBuf,
    /// Receiver.
    #[arg(long, value_name = "AET@HOST:PORT")]
    pub to: Peer,
    /// Our AE title.
    #[arg(long, value_name = "AET", default_value = "OARLOCK")]
    pub ae_title: AeTitle,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// `oarlock echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// Peer to ask.
    pub peer: Peer,
    /// Our AE title.
    #[arg(long, value_name = "AET", default_value = "OARLOCK")]
    pub ae_title: AeTitle,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// `oarlock check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Settings; see config/service.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say which rule takes a series and why each other does not, and nothing else. A Series Instance UID that the service
    /// has received, or a folder with its instances.
    #[arg(long, value_name = "SERIES|FOLDER")]
    pub explain: Option<String>,
    /// Who sends the series of `--explain`, where it is a folder.
    #[arg(long, value_name = "AET", requires = "explain")]
    pub calling: Option<AeTitle>,
    /// Machine-readable output.
    #[arg(long)]
    pub json: bool,
}

/// `oarlock runtime`.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RuntimeAction,
}

/// What to do with ONNX Runtime.
#[derive(Debug, Subcommand)]
pub enum RuntimeAction {
    /// Fetch the pinned library from the Python package index, checked by SHA-256.
    Install {
        /// The CUDA build with its libraries.
        #[arg(long)]
        cuda: bool,
    },
}
