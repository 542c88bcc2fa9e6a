//! Batches made ahead of time, on a thread of their own.
//!
//! What is seen is what [`Batches`] gives; only the waiting is gone. [`Prefetch::position`] is that of the batch that
//! comes next out of here, not of those made ahead: what a checkpoint stores.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::{Batch, Batches, Position};

/// An iterator of batches.
#[derive(Debug)]
pub struct Prefetch {
    batches: Arc<Batches>,
    position: Position,
    ready: Option<Receiver<Batch>>,
    maker: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// From a position on, at most `ahead` batches ahead.
    pub fn new(batches: Arc<Batches>, position: Position, ahead: usize) -> Self {
        let (sender, ready) = sync_channel(ahead);
        let source = Arc::clone(&batches);
        let maker = std::thread::spawn(move || {
            for batch in source.iter_from(position) {
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        Self {
            batches,
            position,
            ready: Some(ready),
            maker: Some(maker),
        }
    }

    /// The position of the next batch.
    pub fn position(&self) -> Position {
        self.position
    }
}

impl Iterator for Prefetch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if let Some(Ok(batch)) = self.ready.as_ref().map(Receiver::recv) {
            self.position = self.batches.after(self.position);
            return Some(batch);
        }
        // The maker is at its end, or has panicked, which must not look like an end.
        if let Some(Err(panic)) = self.maker.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // Without a receiver, the maker stops at its next batch.
        self.ready = None;
        if let Some(maker) = self.maker.take() {
            // A panic has nobody left to tell.
            let _ended = maker.join();
        }
    }
}
