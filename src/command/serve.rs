//! `oarlock serve`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::ServeArgs;

/// Runs the command.
pub(super) fn run(_args: ServeArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
