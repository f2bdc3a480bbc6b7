//! What the command line answers: help, the manual page, the completions. Their readers are programs (man, a shell), so it
//! is they who judge.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::gateway::run_to_end;
use support::process;
use support::skip::{self, Want};

/// What the binary answers on standard output; it must succeed and say nothing else.
#[track_caller]
fn answer(arguments: &[&str]) -> String {
    let output = run_to_end(arguments);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{arguments:?}");
    text(&output.stdout).to_owned()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is told is text")
}

/// Puts an answer into a file of the target folder, for a program that reads files.
fn in_file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    fs::write(&path, text).expect("the target folder can be written");
    path.to_str().expect("the target folder's path is text").to_owned()
}

#[test]
fn help_tells_the_commands_exit_codes_signals_files_an_example_and_where_the_documents_are() {
    let help = answer(&["--help"]);
    for told in [
        "Usage: spliceway [COMMAND]",
        "  run ",
        "  check ",
        "  man ",
        "  completions ",
        "Exit codes:\n  0 ",
        "\n  78 ",
        "  SIGTERM, SIGINT ",
        "  SIGUSR1 ",
        "  SIGHUP ",
        "SPLICEWAY_LOG",
        "/etc/spliceway/gateway.toml",
        "Example:\n  spliceway check gateway.toml",
        "docs/configuration.md",
    ] {
        assert!(help.contains(told), "no {told:?} in\n{help}");
    }
    assert_eq!(answer(&["help"]), help);
    for document in help.split_whitespace().filter(|word| word.starts_with("docs/")) {
        assert!(Path::new(document).exists(), "{document} is not there");
    }
}

#[test]
fn a_command_has_its_own_help() {
    for command in ["run", "check", "man", "completions"] {
        let help = answer(&["help", command]);
        assert!(help.contains(&format!("Usage: spliceway {command}")), "{help}");
        assert_eq!(answer(&[command, "--help"]), help);
    }
}

#[test]
fn version_is_the_name_and_the_number() {
    assert_eq!(answer(&["--version"]), concat!("spliceway ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// groff is what man calls; its warnings are what `man --warnings` shows.
#[test]
fn the_manual_page_renders_without_a_warning() {
    if Command::new("groff").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip::unless_listed(Want::Groff, "this machine has no groff");
    }
    let page = in_file("spliceway.1", &answer(&["man"]));
    let output = process::run_to_end(Command::new("groff").args(["-man", "-ww", "-z", &page]));
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let plain = process::run_to_end(Command::new("groff").args(["-man", "-Tascii", "-P-cbou", &page]));
    let plain = text(&plain.stdout);
    for title in
        ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXIT STATUS", "SIGNALS", "FILES", "EXAMPLE"]
    {
        assert!(plain.lines().any(|line| line == title), "no {title} in\n{plain}");
    }
    fs::remove_file(page).expect("it was written");
}

/// What bash offers for the words of a command line, of which the last is being written.
fn completed(words: &[&str]) -> Vec<String> {
    let script = in_file(&format!("{}.bash", words.join("-").replace('/', "")), &answer(&["completions", "bash"]));
    let complete = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _spliceway spliceway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        # Where the script has nothing to offer, bash does what it was told to do then.
        if [[ ${#COMPREPLY[@]} == 0 && $(complete -p spliceway) == *' -o default '* ]]; then
            COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        fi
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", complete, "bash", &script]).args(words);
    let output = process::run_to_end(&mut bash);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{words:?}");
    fs::remove_file(script).expect("it was written");
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_files_by_the_script() {
    assert_eq!(completed(&["spliceway", "che"]), ["check"]);
    assert_eq!(completed(&["spliceway", "completions", "ba"]), ["bash"]);
    assert_eq!(completed(&["spliceway", "check", "config/min"]), ["config/minimal.toml"]);
    assert!(completed(&["spliceway", "--v"]).contains(&"--version".to_owned()));
}

#[test]
fn there_are_completions_for_every_shell_that_is_offered() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = answer(&["completions", shell]);
        assert!(script.contains("spliceway") && script.contains("completions"), "{shell}");
    }
    let output = run_to_end(&["completions", "sh"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("[possible values: bash, elvish, fish, powershell, zsh]"), "{output:?}");
}

/// `spliceway man | head` is no failure; a full disk is one.
#[test]
fn what_cannot_be_printed_is_told_and_a_closed_pipe_is_not() {
    let run = |line: &str| {
        process::run_to_end(Command::new("bash").args(["-c", line, "bash", env!("CARGO_BIN_EXE_spliceway")]))
    };
    for command in ["man", "completions bash"] {
        let full = run(&format!("\"$1\" {command} > /dev/full"));
        assert_eq!(full.status.code(), Some(1), "{full:?}");
        assert!(text(&full.stderr).contains("No space left on device"), "{full:?}");
        let closed = run(&format!("\"$1\" {command} | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!((closed.status.code(), text(&closed.stderr)), (Some(0), ""));
    }
}
