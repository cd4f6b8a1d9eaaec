//! `oarlock echo`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::EchoArgs;

/// Runs the command.
pub(super) fn run(_args: EchoArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
