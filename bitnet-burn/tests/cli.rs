//! The program as a user meets it: help, exit codes, pipes, and what every command promises.

mod support;

use std::process::Stdio;

use support::{program, run};

/// Every command with its sub-commands, from the help itself, so that a new one is tested without a line here.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut at = 0;
    while at < found.len() {
        let path = found[at].clone();
        let help = help(&path);
        let listed = help.split("Commands:\n").nth(1).unwrap_or("").lines();
        let listed = listed.take_while(|line| !line.is_empty());
        // Continued descriptions are indented further.
        let names = listed.filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
        });
        for name in names
            .filter_map(|line| line.split(' ').next())
            .filter(|name| *name != "help")
        {
            found.push([path.clone(), vec![name.to_owned()]].concat());
        }
        at += 1;
    }
    found
}

fn help(path: &[String]) -> String {
    let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let run = run(&arguments);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr, "");
    run.stdout
}

#[test]
fn the_help_of_every_command_ends_with_examples_that_parse() {
    let commands = commands();
    for expected in ["doctor", "models pull", "completions"] {
        assert!(
            commands.iter().any(|path| path.join(" ") == expected),
            "{expected} in {commands:?}"
        );
    }
    for path in &commands {
        let help = help(path);
        let (_, examples) = help
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("no examples: {help}"));
        let called = format!("bitnet-burn {}", path.join(" "));
        assert!(
            examples.contains(called.trim_end()),
            "no example calls `{called}`: {help}"
        );
        assert!(help.contains("--device <DEVICE>"), "{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["doctor", "--nonsense"],
        &["doctor", "--device", "tpu"],
        &["models", "pull"],
    ] {
        let run = run(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert_eq!(run.stdout, "", "{arguments:?}");
        assert!(!run.stderr.is_empty());
    }
}

#[test]
fn version_and_help_are_success() {
    assert_eq!(
        run(&["--version"]).stdout,
        concat!("bitnet-burn ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(run(&["help", "models", "pull"]).code, Some(0));
}

#[test]
fn a_kernel_that_does_not_exist_is_exit_code_one_and_no_panic() {
    let mut command = program(&["doctor"]);
    let run: support::Run = command
        .env("BITNET_KERNEL", "abacus")
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.starts_with("error: ") && run.stderr.contains("abacus"),
        "{run:?}"
    );
    assert_eq!(run.stdout, "");
}

#[cfg(not(feature = "rocm"))]
#[test]
fn a_device_that_is_not_built_in_is_refused_with_its_feature() {
    let run = run(&["doctor", "--device", "rocm:1"]);
    assert!(
        run.code == Some(1) && run.stderr.contains("--features rocm"),
        "{run:?}"
    );
}

#[test]
fn the_doctor_finds_this_machine_in_order() {
    let run = run(&["doctor", "--device", "cpu"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout.contains("cpu/scalar") && run.stdout.contains("flex"),
        "{run:?}"
    );
    assert!(!run.stdout.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn the_doctor_answers_programs_in_json() {
    let run = run(&["doctor", "--json", "--device", "cpu", "--threads", "3"]);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&report["threads"], &report["device"]),
        (&3.into(), &"flex".into())
    );
    assert!(
        report["kernels"]
            .as_array()
            .unwrap()
            .contains(&report["kernel"])
    );
    assert!(
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["ok"] == true)
    );
    assert!(report["memory"]["total"].as_u64() > Some(1 << 24));
}

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = run(&["completions", shell]);
        assert_eq!(run.code, Some(0), "{run:?}");
        for (command, _) in commands().iter().filter_map(|path| path.split_first()) {
            assert!(run.stdout.contains(command.as_str()), "{shell}: {command}");
        }
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut command = program(&["completions", "bash"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn colours_come_when_asked_for() {
    let coloured = run(&["doctor", "--color", "always", "--device", "cpu"]);
    assert!(coloured.stdout.contains('\u{1b}'));
}
