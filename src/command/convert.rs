//! `oarlock convert`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::ConvertArgs;

/// Runs the command.
pub(super) fn run(_args: ConvertArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
