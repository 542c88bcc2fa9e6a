//! Downloads a model into the cache: resumed where it was interrupted, checked, visible only when it is whole.
//!
//! Bytes are appended to `blobs/<etag>.incomplete`, under a lock that Python's client takes too. A broken connection is
//! resumed at once by an HTTP range, a stopped program by the next call. Size and SHA-256 are checked before the file
//! gets its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::cache::create_parent;
use super::choose::{Want, choose};
use super::client::{Client, Contents, Transient};
use super::{Cache, Model, Settings, resolve::resolve_in};
use crate::cli::terminal::{bytes_bar, size};

/// Failed attempts in a row after which we give up. Progress sets the count back.
const ATTEMPTS: u32 = 5;
/// The pause after the first failure; it doubles with each.
const PAUSE: Duration = Duration::from_millis(250);

/// Downloads the wanted files of `model`, and returns what [`resolve`](super::resolve) finds from now on.
///
/// # Errors
///
/// No connection, a refusal of the server, damaged contents, or `stop`. What was downloaded is kept for the next call.
pub(crate) fn pull(
    model: &Model,
    want: &Want,
    settings: &Settings,
    stop: &AtomicBool,
    quiet: bool,
) -> anyhow::Result<PathBuf> {
    let cache = &settings.cache;
    if settings.offline {
        return match cache.find(model) {
            Some(_) => resolve_in(&model.to_string(), cache),
            None => bail!(
                "model `{model}` is not in {}, and offline (--offline or HF_HUB_OFFLINE) nothing is downloaded",
                cache.root().display()
            ),
        };
    }
    let client = Client::new(settings)?;
    let listing = client.list(model)?;
    let files = choose(&listing.files, want).with_context(|| format!("model `{model}`"))?;
    for file in &files {
        let contents = persist(stop, || client.contents(model, &listing.commit, file))?;
        let transfer = Transfer {
            client: &client,
            cache,
            model,
            commit: &listing.commit,
            file,
            contents: &contents,
            stop,
        };
        transfer
            .run(quiet)
            .with_context(|| format!("cannot download `{file}`"))?;
        cache.link(&model.repo, &listing.commit, file, &contents.etag)?;
    }
    cache.set_ref(&model.repo, model.revision(), &listing.commit)?;
    resolve_in(&model.to_string(), cache)
        .or_else(|_| Ok(cache.snapshot(&model.repo, &listing.commit)))
}

/// Tries again while the failure may pass.
fn persist<T>(
    stop: &AtomicBool,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut failed = 0;
    loop {
        match attempt() {
            Err(error) => pause(error, &mut failed, stop)?,
            done => return done,
        }
    }
}

/// Waits before the next attempt, or returns the error if there is none.
fn pause(error: anyhow::Error, failed: &mut u32, stop: &AtomicBool) -> anyhow::Result<()> {
    *failed += 1;
    if *failed >= ATTEMPTS
        || error.downcast_ref::<Transient>().is_none()
        || stop.load(Ordering::Relaxed)
    {
        return Err(error);
    }
    log::info!("{:#}; trying again", error);
    std::thread::sleep(PAUSE * 2u32.pow(*failed - 1));
    Ok(())
}

/// One file on its way.
struct Transfer<'a> {
    client: &'a Client,
    cache: &'a Cache,
    model: &'a Model,
    commit: &'a str,
    file: &'a str,
    contents: &'a Contents,
    stop: &'a AtomicBool,
}

impl Transfer<'_> {
    fn run(&self, quiet: bool) -> anyhow::Result<()> {
        let blob = self.cache.blob(&self.model.repo, &self.contents.etag);
        let _lock = self.lock()?;
        if blob.exists() {
            log::info!("{}: already here", self.file);
            return Ok(());
        }
        let partial = blob.with_file_name(format!("{}.incomplete", self.contents.etag));
        create_parent(&partial)
            .with_context(|| format!("{}: cannot make its folder", partial.display()))?;
        let bar = bytes_bar(self.file, self.contents.size, quiet);
        let fetched = self.fetch(&partial, &bar);
        bar.finish_and_clear();
        fetched?;
        if let Err(damage) = self.check(&partial) {
            fs::remove_file(&partial)
                .with_context(|| format!("{}: cannot remove", partial.display()))?;
            return Err(damage);
        }
        fs::rename(&partial, &blob)
            .with_context(|| format!("{}: cannot name the finished file", blob.display()))?;
        log::info!("{}: downloaded", self.file);
        Ok(())
    }

    /// Waits for another program that downloads the same contents.
    fn lock(&self) -> anyhow::Result<File> {
        let path = self.cache.lock(&self.model.repo, &self.contents.etag);
        let open = || -> io::Result<File> {
            create_parent(&path)?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    log::warn!("{}: another program downloads it; waiting", self.file);
                    file.lock()?;
                }
                // Not every file system has locks; Python's client goes on without them, too.
                Err(TryLockError::Error(error)) => {
                    log::debug!("{}: no lock: {error}", path.display())
                }
                Ok(()) => (),
            }
            Ok(file)
        };
        open().with_context(|| format!("{}: cannot lock", path.display()))
    }

    /// Appends to `partial` until it is whole.
    fn fetch(&self, partial: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
        let expected = self.contents.size;
        let mut failed = 0;
        loop {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(partial)
                .with_context(|| format!("{}: cannot open", partial.display()))?;
            let here = file
                .metadata()
                .with_context(|| format!("{}: cannot read", partial.display()))?
                .len();
            if Some(here) == expected {
                return Ok(());
            }
            // More than the whole cannot be a part of it.
            let start = if expected.is_some_and(|expected| here > expected) {
                0
            } else {
                here
            };
            let failure = match self.append(&mut file, here, start, bar) {
                Ok(end) if expected.is_none_or(|expected| end >= expected) => return Ok(()),
                Ok(end) => anyhow::Error::new(Transient::new(format!(
                    "the connection ended at {}",
                    size(end)
                ))),
                Err(error) => error,
            };
            if file.metadata().is_ok_and(|data| data.len() > here) {
                failed = 0;
            }
            pause(failure, &mut failed, self.stop)?;
        }
    }

    /// One connection's worth of bytes. Returns the length of the file, `here` before.
    fn append(
        &self,
        file: &mut File,
        here: u64,
        start: u64,
        bar: &ProgressBar,
    ) -> anyhow::Result<u64> {
        let (start, mut body) = self
            .client
            .open(self.model, self.commit, self.file, start)?;
        if start != here {
            file.set_len(start)
                .context("cannot shorten the unfinished file")?;
        }
        bar.set_position(start);
        bar.reset_eta();
        let mut reader = body.as_reader();
        let mut buffer = vec![0; 1 << 18];
        let mut end = start;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                bail!(
                    "stopped; {} are kept, and the same command goes on from there",
                    size(end)
                );
            }
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    return Err(Transient::new(format!("the connection broke: {error}")).into());
                }
            };
            file.write_all(&buffer[..count])
                .context("cannot write; is the disk full?")?;
            end += count as u64;
            bar.set_position(end);
        }
        file.sync_all().context("cannot write; is the disk full?")?;
        Ok(end)
    }

    fn check(&self, partial: &Path) -> anyhow::Result<()> {
        let damaged = |what: &str, found: String, expected: String| {
            anyhow::anyhow!(
                "{what}: found {found}, expected {expected}. The file was thrown away; try again"
            )
        };
        let mut file =
            File::open(partial).with_context(|| format!("{}: cannot open", partial.display()))?;
        let found = file
            .metadata()
            .with_context(|| format!("{}: cannot read", partial.display()))?
            .len();
        if let Some(expected) = self.contents.size.filter(|&expected| expected != found) {
            return Err(damaged(
                "size",
                format!("{found} bytes"),
                format!("{expected}"),
            ));
        }
        if let Some(expected) = &self.contents.sha256 {
            let mut hash = Sha256::new();
            io::copy(&mut file, &mut hash)
                .with_context(|| format!("{}: cannot read", partial.display()))?;
            let found: String = hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if found != *expected {
                return Err(damaged("SHA-256", found, expected.clone()));
            }
        }
        Ok(())
    }
}
