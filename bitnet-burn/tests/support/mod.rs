//! Runs the program as a user does, and keeps what it said.

#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) mod hub;
#[cfg(unix)]
pub(crate) mod live;

/// What a run said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// The program, without the settings of whoever runs the tests, and on the CPU unless it is told otherwise: the drivers of
/// a GPU may print what they like.
pub(crate) fn program<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-burn"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["HF_", "RUST_LOG", "BITNET_", "CLICOLOR"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || name.to_ascii_uppercase().ends_with("_PROXY")
        {
            command.env_remove(name);
        }
    }
    command.env("BITNET_DEVICE", "cpu");
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Run {
    program(arguments)
        .output()
        .expect("the program starts")
        .into()
}

/// Runs a command with this text on its stdin.
pub(crate) fn run_with_input(mut command: Command, input: &str) -> Run {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that does not read to the end is no failure of the test.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends").into()
}

/// A small checkpoint with a chat template.
pub(crate) fn checkpoint() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-models/tests/fixtures");
    let root = std::env::var_os("BITNET_FIXTURES").map_or(own, PathBuf::from);
    root.join("models/tiny-2b4t-packed")
}
