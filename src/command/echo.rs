//! `oarlock echo`.

use std::process::ExitCode;
use std::time::Instant;

use super::tls::tls_client;
use super::{CommandResult, RuntimeChoice, say};
use crate::cli::EchoArgs;
use crate::pipeline::delivery::{self, ScuTimeouts};

/// Runs the command.
pub(super) fn run(args: EchoArgs, _runtime: &RuntimeChoice) -> CommandResult {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tls = tls_client(&args.tls)?;
    let asked = delivery::echo_with(&args.peer, &args.ae_title, ScuTimeouts::default(), tls.as_ref());
    runtime.block_on(asked)?;
    say(format_args!("{} answers ({:.0} ms)", args.peer, started.elapsed().as_secs_f64() * 1e3));
    Ok(ExitCode::SUCCESS)
}
