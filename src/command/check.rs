//! `oarlock check`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::CheckArgs;

/// Runs the command.
pub(super) fn run(_args: CheckArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
