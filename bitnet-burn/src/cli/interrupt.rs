//! Ctrl-C: the first asks to stop and keep what is done, the second leaves at once. Either way the exit code is 130.
//!
//! Only commands that can stop halfway call [`flag`]; in the others Ctrl-C ends the program as usual. One that did stop
//! halfway says so with [`Interrupted`] after it has kept what is done.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::terminal;

/// A command that Ctrl-C stopped halfway.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

static STOP: AtomicBool = AtomicBool::new(false);

/// Becomes true with the first Ctrl-C. Catches Ctrl-C from the first call on.
///
/// # Errors
///
/// The system's, if it installs no handler.
pub(crate) fn flag() -> anyhow::Result<&'static AtomicBool> {
    static INSTALL: Once = Once::new();
    let mut installed = Ok(());
    INSTALL.call_once(|| {
        installed = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            terminal::note("\nstopping; Ctrl-C again leaves at once");
        });
    });
    installed.context("cannot catch Ctrl-C")?;
    Ok(&STOP)
}

/// Something is being done again: the next Ctrl-C asks to stop, as if there had been none before.
pub(crate) fn rearm() {
    STOP.store(false, Ordering::Relaxed);
}

/// Nothing is being done: the next Ctrl-C leaves at once, as there is nothing to stop.
pub(crate) fn idle() {
    STOP.store(true, Ordering::Relaxed);
}
