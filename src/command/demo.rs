//! `oarlock demo`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::DemoArgs;

/// Runs the command.
pub(super) fn run(_args: DemoArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
