//! `oarlock runtime`.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandResult, RuntimeChoice, say};
use crate::cli::{RuntimeAction, RuntimeArgs};
use crate::engine::runtime::library::{self, LibraryError, Release, install};
use crate::engine::runtime::package_index::IndexSettings;
use crate::engine::runtime::session::Runtime;

/// Runs the command.
pub(super) fn run(args: RuntimeArgs, choice: &RuntimeChoice) -> CommandResult {
    let RuntimeAction::Install { cuda } = args.action;
    if choice.offline {
        return Err(LibraryError::Offline.into());
    }
    let library = fetch(Release::of_this_machine(cuda)?)?;
    let runtime = Runtime::start(&library)?;
    say(format_args!("ONNX Runtime is at {}", library.display()));
    say(runtime.version());
    Ok(ExitCode::SUCCESS)
}

/// Fetches a release into our data folder, saying so, unless it is there.
pub(super) fn fetch(release: &'static Release) -> Result<PathBuf, LibraryError> {
    let folder = library::folder()?;
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta} left");
    let bar =
        ProgressBar::new(release.size()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut is_announced = false;
    let library = install(release, &folder, &IndexSettings::of_user(), &mut |n| {
        if !is_announced {
            is_announced = true;
            let line = format!(
                "fetching {} ({} MB) once into {}",
                release.name,
                release.size() / 1_000_000,
                folder.display()
            );
            if bar.is_hidden() { super::tell(line) } else { bar.println(line) }
        }
        bar.set_position(n);
    });
    bar.finish_and_clear();
    library
}
