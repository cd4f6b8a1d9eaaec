//! One file per command: what `main` calls once the arguments are parsed.

mod check;
mod compare;
mod comparison_table;
mod contouring;
mod convert;
mod dataset;
mod dataset_page;
mod demo;
mod echo;
mod evaluate;
mod explain;
mod jobs;
mod model;
mod phantom;
mod runtime;
mod segment;
mod send;
mod serve;
mod tls;
mod train;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::engine::runtime::library::{self, LibraryError, Release};
use crate::engine::runtime::session::Runtime;
use crate::platform::{KEPT_HEAP, KEPT_VOLUMES, NO_TELEMETRY, start_with};

/// What a command ends with: an exit code, or an error that `main` prints with its chain of causes.
pub type CommandResult = Result<ExitCode, Box<dyn Error + Send + Sync>>;

/// Where ONNX Runtime comes from, as the global arguments say.
#[derive(Debug, Clone, Default)]
pub struct RuntimeChoice {
    /// Library given by `--onnxruntime`.
    pub library: Option<std::path::PathBuf>,
    /// Whether `--offline` forbids fetching.
    pub offline: bool,
}

/// Starts ONNX Runtime: from the library that was named, else the one in our data folder, else it is fetched once.
fn start_runtime(choice: &RuntimeChoice) -> Result<Runtime, Box<dyn Error + Send + Sync>> {
    let library = match library::find(choice.library.as_deref()) {
        Some(library) => library,
        None if choice.offline => return Err(LibraryError::Offline.into()),
        None => runtime::fetch(Release::of_this_machine(false)?)?,
    };
    Ok(Runtime::start(&library)?)
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever the command could not do, with cause and remedy.
pub fn run(cli: Cli) -> CommandResult {
    let wanted: &[_] = match cli.command {
        Command::Train(_) => &[NO_TELEMETRY, KEPT_HEAP],
        Command::Dataset(_) => &[NO_TELEMETRY, KEPT_VOLUMES],
        _ => &[NO_TELEMETRY],
    };
    if let Err(error) = start_with(wanted) {
        let set: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
        tracing::warn!(%error, "could not start anew with another environment; set {} before the start", set.join(" "));
    }
    let runtime = RuntimeChoice { library: cli.onnxruntime, offline: cli.offline };
    match cli.command {
        Command::Demo(args) => demo::run(args, &runtime),
        Command::Serve(args) => serve::run(args, &runtime),
        Command::Segment(args) => segment::run(args, &runtime),
        Command::Convert(args) => convert::run(args, &runtime),
        Command::Compare(args) => compare::run(args, &runtime),
        Command::Dataset(args) => dataset::run(args),
        Command::Train(args) => train::run(args, &runtime),
        Command::Evaluate(args) => evaluate::run(args, &runtime),
        Command::Phantom(args) => phantom::run(args, &runtime),
        Command::Jobs(args) => jobs::run(args),
        Command::Send(args) => send::run(args, &runtime),
        Command::Echo(args) => echo::run(args, &runtime),
        Command::Check(args) => check::run(args, &runtime),
        Command::Runtime(args) => runtime::run(args, &runtime),
        Command::Model(args) => model::run(args, &runtime),
    }
}

/// Writes a line to standard output; a reader that has gone away (a closed pipe) is not an error.
pub fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Writes a line about the work itself to standard error, so that standard output stays what was asked for.
fn tell(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Something that moves on a terminal while work goes on that cannot be counted; nothing elsewhere.
fn spinner(message: impl Into<std::borrow::Cow<'static, str>>) -> indicatif::ProgressBar {
    let spinner = indicatif::ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}
