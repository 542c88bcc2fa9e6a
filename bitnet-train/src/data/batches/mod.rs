//! What a step of training sees: rows of ids with the ids that follow them.
//!
//! A batch is a pure function of data, configuration and [`Position`]: resuming is starting at a position, and the
//! ranks of a data-parallel run take disjoint rows of the same global batch. No order is stored; it is computed, place
//! by place.

mod batch;
mod prefetch;
mod rows;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::random::{Permutation, keyed};
use super::shards::Tokens;
use crate::TrainError;
use rows::Rows;

pub use batch::{Batch, BatchTensors};
pub use prefetch::Prefetch;

/// In which order rows are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Every row once an epoch, in another order each time; rows that fill no whole batch at its end wait for the next.
    #[default]
    Shuffled,
    /// Every row once, in order, then the end; the last batch is filled up with rows that are not learned. For
    /// validation.
    Sequential,
    /// Windows that begin anywhere, drawn with replacement. For small data, where few rows would always be cut alike.
    RandomWindows,
}

/// How documents become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One after the other, cut every `seq_len` ids; no id is lost but the last few. For pre-training.
    #[default]
    Stream,
    /// Whole where they fit: a document that would be cut begins a new row, what remains of the old one is not learned.
    /// For conversations.
    Whole,
}

/// Configuration of [`Batches`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchConfig {
    /// Rows of a global batch, over all ranks.
    pub batch_size: usize,
    /// Ids of a row.
    pub seq_len: usize,
    /// The order of rows.
    pub sampling: Sampling,
    /// The cutting of rows.
    pub packing: Packing,
    /// Another seed, another order.
    pub seed: u64,
    /// Which part of each batch is ours, below `world`.
    pub rank: usize,
    /// How many share a batch.
    pub world: usize,
}

impl BatchConfig {
    /// Shuffled rows of a stream, for one process.
    pub const fn new(batch_size: usize, seq_len: usize) -> Self {
        Self {
            batch_size,
            seq_len,
            sampling: Sampling::Shuffled,
            packing: Packing::Stream,
            seed: 0,
            rank: 0,
            world: 1,
        }
    }

    /// Another order.
    pub const fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Another way of cutting.
    pub const fn with_packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Another seed.
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// One rank of several.
    pub const fn with_rank(mut self, rank: usize, world: usize) -> Self {
        self.rank = rank;
        self.world = world;
        self
    }

    /// The batches of a split, which ranks and configurations may share.
    ///
    /// # Errors
    /// When the data has less than a sequence or a batch, or the settings contradict each other.
    pub fn init(&self, tokens: impl Into<Arc<Tokens>>) -> Result<Batches, TrainError> {
        self.check()?;
        let tokens = tokens.into();
        let rows = match (self.sampling, self.packing) {
            (Sampling::RandomWindows, _) => Rows::windows(tokens, self.seq_len),
            (_, Packing::Stream) => Rows::stream(tokens, self.seq_len),
            (_, Packing::Whole) => Rows::whole(tokens, self.seq_len),
        };
        let too_short = |found: String, expected: String| TrainError::Request {
            what: "data",
            found,
            expected,
            way_out: "Shorten the sequences or the batch, or prepare more data".to_owned(),
        };
        if rows.len() == 0 {
            let found = format!("{} ids", rows.tokens().len());
            let expected = format!(
                "at least {}, for one sequence and the id behind it",
                self.seq_len + 1
            );
            return Err(too_short(found, expected));
        }
        if self.sampling == Sampling::Shuffled && rows.len() < self.batch_size as u64 {
            let found = format!("{} sequences", rows.len());
            return Err(too_short(
                found,
                format!("at least {}, one batch", self.batch_size),
            ));
        }
        Ok(Batches {
            config: *self,
            rows,
        })
    }

    fn check(&self) -> Result<(), TrainError> {
        let refuse = |what, found: String, expected: &str| {
            Err(TrainError::Request {
                what,
                found,
                expected: expected.to_owned(),
                way_out: "Correct the configuration of the batches".to_owned(),
            })
        };
        let Self {
            batch_size,
            seq_len,
            sampling,
            packing,
            rank,
            world,
            ..
        } = *self;
        if batch_size == 0 || seq_len == 0 {
            return refuse(
                "shape of a batch",
                format!("{batch_size} × {seq_len}"),
                "at least one row of one id",
            );
        }
        if world == 0 || rank >= world || batch_size % world != 0 {
            let found = format!("rank {rank} of {world} with {batch_size} rows");
            return refuse(
                "share of a batch",
                found,
                "a rank below their number, and a number that divides the rows",
            );
        }
        if sampling == Sampling::RandomWindows && packing == Packing::Whole {
            return refuse(
                "packing",
                "whole documents in random windows".to_owned(),
                "a stream",
            );
        }
        Ok(())
    }
}

/// Where a run is: the next batch to be seen. All that a checkpoint needs to know of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the data that are done.
    pub epoch: u64,
    /// Batches of this epoch that were seen.
    pub step: u64,
}

/// The batches of a split.
#[derive(Debug)]
pub struct Batches {
    config: BatchConfig,
    rows: Rows,
}

impl Batches {
    /// The configuration.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// Batches of an epoch; with random windows, as many as see about every id once.
    pub fn steps_per_epoch(&self) -> u64 {
        let batch = self.config.batch_size as u64;
        match self.config.sampling {
            Sampling::Shuffled => self.rows.len() / batch,
            Sampling::Sequential => self.rows.len().div_ceil(batch),
            Sampling::RandomWindows => self
                .rows
                .tokens()
                .len()
                .div_ceil(batch * self.config.seq_len as u64),
        }
    }

    /// The position of the `step`th batch of a run.
    pub fn position(&self, step: u64) -> Position {
        let epoch = self.steps_per_epoch();
        Position {
            epoch: step / epoch,
            step: step % epoch,
        }
    }

    /// The position behind this one.
    pub fn after(&self, position: Position) -> Position {
        let Position { epoch, step } = position;
        if step + 1 < self.steps_per_epoch() {
            Position {
                epoch,
                step: step + 1,
            }
        } else {
            Position {
                epoch: epoch + 1,
                step: 0,
            }
        }
    }

    /// Whether there is a batch: a sequential pass ends.
    pub fn has(&self, position: Position) -> bool {
        self.config.sampling != Sampling::Sequential || position.epoch == 0
    }

    /// Our rows of the batch at a position.
    pub fn batch(&self, position: Position) -> Batch {
        let BatchConfig {
            batch_size,
            seq_len,
            rank,
            world,
            ..
        } = self.config;
        let share = batch_size / world;
        let masked = self.rows.is_masked() || self.config.sampling == Sampling::Sequential;
        let mut batch = Batch::with_room(share, seq_len, masked);
        for place in rank * share..(rank + 1) * share {
            let row = self.row(position, place as u64);
            self.rows.read(row, &mut batch);
        }
        batch
    }

    /// The row at a place of the global batch; `None` behind the last row.
    fn row(&self, position: Position, place: u64) -> Option<u64> {
        let Position { epoch, step } = position;
        let nth = step * self.config.batch_size as u64 + place;
        let key = keyed(self.config.seed, epoch);
        match self.config.sampling {
            Sampling::Sequential => Some(nth).filter(|&row| row < self.rows.len()),
            Sampling::Shuffled => Some(Permutation::new(key, self.rows.len()).at(nth)),
            // The high half of a product: uniform, up to one part in 2⁶⁴ / rows.
            Sampling::RandomWindows => {
                Some(((u128::from(keyed(key, nth)) * u128::from(self.rows.len())) >> 64) as u64)
            }
        }
    }

    /// All batches from the first on: without end unless sequential.
    pub fn iter(&self) -> impl Iterator<Item = Batch> {
        self.iter_from(Position::default())
    }

    /// All batches from a position on.
    pub fn iter_from(&self, position: Position) -> impl Iterator<Item = Batch> {
        let mut next = position;
        std::iter::from_fn(move || {
            let position = next;
            next = self.after(position);
            self.has(position).then(|| self.batch(position))
        })
    }
}
