//! `oarlock evaluate`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::EvaluateArgs;

/// Runs the command.
pub(super) fn run(_args: EvaluateArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
