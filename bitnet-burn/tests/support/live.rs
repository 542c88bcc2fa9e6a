//! A program that runs beside its test: what it has said so far, lines to it, and Ctrl-C.
//!
//! Waiting is for something to be said, never for a time; what does not come within `PATIENCE` fails the test and ends
//! the program.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Run, program};

/// Far more than any step takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a running program has said on one of its outputs.
#[derive(Debug)]
pub(crate) struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                shared
                    .lock()
                    .expect("no panic beside")
                    .extend_from_slice(&piece[..count]);
            }
        });
        Self { text, reader }
    }

    pub(crate) fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no panic beside")).into_owned()
    }

    fn whole(self) -> String {
        self.reader.join().expect("no panic beside");
        let text = std::mem::take(&mut *self.text.lock().expect("no panic beside"));
        String::from_utf8(text).expect("the program prints UTF-8")
    }
}

/// A program in progress.
#[derive(Debug)]
pub(crate) struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Live {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = program(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self {
            stdin: child.stdin.take(),
            stdout: Output::new(child.stdout.take().expect("piped")),
            stderr: Output::new(child.stderr.take().expect("piped")),
            child,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("piped");
        writeln!(stdin, "{line}").expect("the program reads");
    }

    /// Waits until this holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                self.child.kill().expect("our own child");
                let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
                panic!("waited in vain for {what}: {out:?} {err:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn until_stderr_has(&mut self, text: &str, times: usize) {
        self.until(text, |live| {
            live.stderr.so_far().matches(text).count() >= times
        });
    }

    pub(crate) fn until_stdout_has_more_than(&mut self, length: usize) {
        self.until("more text", |live| {
            live.stdout.so_far().trim_end().len() > length
        });
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    pub(crate) fn interrupt(&self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).expect("an id of a process"));
        kill(id, Signal::SIGINT).expect("our own child");
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Run {
        drop(self.stdin.take());
        self.until("the end", Self::has_ended);
        let status = self.child.wait().expect("our own child");
        assert_eq!(status.signal(), None, "it ends by itself");
        Run {
            code: status.code(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
        }
    }
}
