//! `oarlock send`.
//!
//! Exit code 0: everything is stored. 1: something is not, and each such file is named. 2: wrong arguments.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use super::tls::tls_client;
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::SendArgs;
use crate::pipeline::delivery::{Kind, Scu, ScuError, ScuTimeouts, kind_of};

/// File meta information is shorter than this.
const HEAD: u64 = 8_192;

/// Runs the command.
pub(super) fn run(args: SendArgs, _runtime: &RuntimeChoice) -> CommandResult {
    let sent = send_all(&args)?;
    say(format_args!(
        "{} of {} instances are stored at {}",
        sent.n_files - sent.n_failed,
        sent.n_files,
        args.to
    ));
    if sent.n_other > 0 {
        say(format_args!("{} other files were passed over", sent.n_other));
    }
    Ok(if sent.n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of the files of a folder.
pub(super) struct Sent {
    /// DICOM files.
    pub(super) n_files: usize,
    /// Of those, not stored.
    pub(super) n_failed: usize,
    /// Files that are no DICOM.
    pub(super) n_other: usize,
}

/// Sends every DICOM file at or below a path over one association.
pub(super) fn send_all(args: &SendArgs) -> Result<Sent, Box<dyn std::error::Error + Send + Sync>> {
    let (files, n_other) = dicom_files(&args.path)?;
    if files.is_empty() {
        return Err(format!("{} holds no DICOM file (Part 10)", args.path.display()).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let n_failed = runtime.block_on(send(args, &files))?;
    Ok(Sent { n_files: files.len(), n_failed, n_other })
}

/// Sends the files over one association and counts those that were not stored.
async fn send(
    args: &SendArgs,
    files: &[(PathBuf, Kind)],
) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let tls = tls_client(&args.tls)?;
    let kinds: BTreeSet<Kind> = files.iter().map(|(_, kind)| kind.clone()).collect();
    let mut scu =
        Scu::open_with(&args.to, &args.ae_title, &kinds, ScuTimeouts::default(), tls.as_ref()).await?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} instances, {eta} left")?;
    let progress = ProgressBar::new(u64::try_from(files.len())?).with_style(style);
    let mut n_failed = 0;
    for (path, _) in files {
        match scu.store(&fs::read(path)?).await {
            Ok(_stored) => {}
            Err(error @ (ScuError::Refused { .. } | ScuError::NoContext { .. } | ScuError::DataSet(_))) => {
                n_failed += 1;
                progress.suspend(|| say(format_args!("{}: {error}", path.display())));
            }
            Err(error) => return Err(error.into()),
        }
        progress.inc(1);
    }
    scu.release().await;
    progress.finish_and_clear();
    Ok(n_failed)
}

/// All Part 10 files at or below a path, sorted, with what they are; and how many files are none.
fn dicom_files(path: &Path) -> std::io::Result<(Vec<(PathBuf, Kind)>, usize)> {
    let (mut folders, mut paths) = (Vec::new(), Vec::new());
    if path.is_dir() {
        folders.push(path.to_owned())
    } else {
        paths.push(path.to_owned())
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A link is followed only where the user named it, so that no loop can arise.
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { paths.push(entry.path()) }
        }
    }
    paths.sort();
    let (mut files, mut n_other) = (Vec::new(), 0);
    for path in paths {
        let mut head = Vec::new();
        fs::File::open(&path)?.take(HEAD).read_to_end(&mut head)?;
        match kind_of(&head) {
            Ok(kind) => files.push((path, kind)),
            Err(_none) => n_other += 1,
        }
    }
    Ok((files, n_other))
}
