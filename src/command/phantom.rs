//! `oarlock phantom`.

use super::{CommandResult, RuntimeChoice};
use crate::cli::PhantomArgs;

/// Runs the command.
pub(super) fn run(_args: PhantomArgs, _runtime: &RuntimeChoice) -> CommandResult {
    Err("this command is not built yet".into())
}
