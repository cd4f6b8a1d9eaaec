//! `oarlock compare`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::CompareArgs;

/// Runs the command.
pub(super) fn run(_args: CompareArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
