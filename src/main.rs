//! Arguments -> command -> exit code; no other file ends the process.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = oarlock::cli::Cli::parse();
    // A service tells what it does; a command at the prompt says what matters itself.
    let is_service = matches!(cli.command, oarlock::cli::Command::Serve(_));
    oarlock::telemetry::start(if is_service { "info,ort=warn,dicom_ul=warn" } else { "warn,ort=error" });
    match oarlock::command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Prints an error with its chain of causes.
fn report(error: &(dyn Error + Send + Sync + 'static)) {
    let mut text = format!("oarlock: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("\n  because: {cause}"));
        source = cause.source();
    }
    drop(writeln!(std::io::stderr(), "{text}"));
}
