//! The command line as a person meets it.

use std::process::Command;

#[test]
fn help_names_every_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for command in
        ["demo", "serve", "segment", "convert", "train", "evaluate", "phantom", "send", "echo", "check"]
    {
        assert!(text.contains(command), "{command} is missing in\n{text}");
    }
}
