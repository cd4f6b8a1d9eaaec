//! `oarlock runtime`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::RuntimeArgs;

/// Runs the command.
pub(super) fn run(_args: RuntimeArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
