//! `Session`: rows of tokens with their cache, fed in chunks.
//!
//! The tokens that a row has been fed are remembered, so that the next prompt of a conversation feeds only what is new.
//! A full row is an error, or slides if a window was asked for.

use bitnet_kernels::CacheFormat;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::decoder::{Cache, Decoder};

/// How much a session remembers, and in what form.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ContextOptions {
    /// Positions of each row.
    pub capacity: usize,
    /// Number format of keys and values.
    pub cache: CacheFormat,
    /// Tokens fed at once; more is faster until the products are, and takes more memory.
    pub chunk: usize,
    /// Instead of refusing more tokens than `capacity`, forgets the oldest but for this many first ones (attention sinks;
    /// 4 are enough, arXiv 2309.17453).
    pub sinks: Option<usize>,
}

impl ContextOptions {
    /// This many positions in half precision, fed 256 at once, without sliding.
    pub const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            cache: CacheFormat::F16,
            chunk: 256,
            sinks: None,
        }
    }
}

/// Sequences in progress.
#[derive(Debug)]
pub struct Session<'m> {
    decoder: &'m Decoder,
    cache: Cache,
    tokens: Vec<Vec<u32>>,
    options: ContextOptions,
}

impl<'m> Session<'m> {
    /// Allocates the cache of `batch` empty rows.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] if an option makes no sense.
    pub fn new(
        decoder: &'m Decoder,
        batch: usize,
        options: ContextOptions,
    ) -> Result<Self, ModelError> {
        let ContextOptions {
            capacity, chunk, ..
        } = options;
        let refuse = |what, found: String, expected: &str, way_out: &str| {
            Err(ModelError::Request {
                what,
                found,
                expected: expected.to_owned(),
                way_out: way_out.to_owned(),
            })
        };
        if chunk == 0 {
            return refuse(
                "chunk",
                "0 tokens".into(),
                "at least 1",
                "512 is a good size",
            );
        }
        if let Some(sinks) = options.sinks
            && sinks + 2 > capacity
        {
            return refuse(
                "attention sinks",
                format!("{sinks} of {capacity} positions"),
                "at least two positions fewer than the context",
                "Use 4 sinks, or a longer context",
            );
        }
        let config = decoder.config();
        let cache = Cache::new(config, batch, capacity, options.cache, &decoder.device())?;
        Ok(Self {
            decoder,
            cache,
            tokens: vec![Vec::new(); batch],
            options,
        })
    }

    /// The model.
    pub const fn decoder(&self) -> &'m Decoder {
        self.decoder
    }

    /// The cache.
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The tokens that a row remembers.
    pub fn tokens(&self, row: usize) -> &[u32] {
        &self.tokens[row]
    }

    /// Rows.
    pub fn batch(&self) -> usize {
        self.tokens.len()
    }

    /// Forgets what of a row does not begin `prompt`, and returns how many tokens of it remain: `prompt[returned..]` is
    /// what must be fed. At least the last token must, as its logits are needed.
    pub fn rewind(&mut self, row: usize, prompt: &[u32]) -> usize {
        let same = self.tokens[row].iter().zip(prompt);
        let common = same.take_while(|(a, b)| a == b).count();
        let kept = common.min(prompt.len().saturating_sub(1));
        self.tokens[row].truncate(kept);
        self.cache.truncate(row, kept);
        kept
    }

    /// Makes row `i` a copy of what was row `from[i]`.
    pub fn select(&mut self, from: &[usize]) {
        self.cache.select(from);
        self.tokens = from.iter().map(|&row| self.tokens[row].clone()).collect();
    }

    /// Feeds tokens to each row, and returns the hidden state of the last token of each.
    ///
    /// # Shapes
    ///
    /// - rows: a list for each row, of any lengths; a row without tokens stays as it is
    /// - output: `[batch, hidden_size]`; that of a row without tokens means nothing
    ///
    /// # Errors
    ///
    /// [`ModelError::ContextOverflow`], before anything is fed; ids outside the vocabulary.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many lists as rows, or all are empty.
    pub fn feed(&mut self, rows: &[&[u32]]) -> Result<Tensor<2>, ModelError> {
        let mut last: Option<Tensor<2>> = None;
        self.feed_each(rows, |_, hidden, lengths| {
            // [batch, hidden_size], each row's last token; rows that ended in an earlier chunk keep theirs.
            let picked: Vec<Tensor<2>> = (0..lengths.len())
                .map(|row| match (lengths[row], &last) {
                    (0, Some(last)) => last.clone().narrow(0, row, 1),
                    (length, _) => hidden
                        .clone()
                        .narrow(0, row, 1)
                        .narrow(1, length.saturating_sub(1), 1)
                        .squeeze_dim(1),
                })
                .collect();
            last = Some(Tensor::cat(picked, 0));
            Ok(())
        })?;
        Ok(last.expect("at least one token was fed"))
    }

    /// Feeds tokens to each row, and shows the hidden states of each chunk: the offset of the chunk, the states
    /// `[batch, chunk, hidden_size]`, and how many tokens of it each row has.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed), and those of `seen`.
    pub fn feed_each(
        &mut self,
        rows: &[&[u32]],
        mut seen: impl FnMut(usize, Tensor<3>, &[usize]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let vocab = self.decoder.config().vocab_size;
        if let Some(id) = rows
            .iter()
            .copied()
            .flatten()
            .find(|&&id| id as usize >= vocab)
        {
            return Err(ModelError::Request {
                what: "token id",
                found: id.to_string(),
                expected: format!("less than the vocabulary of {vocab}"),
                way_out: "The tokenizer belongs to another model".into(),
            });
        }
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        assert!(longest > 0, "there is a token to feed");
        if self.options.sinks.is_none() {
            self.check_room(rows)?;
        }
        let mut at = 0;
        while at < longest {
            let chunk = self.make_room(rows, at).min(longest - at);
            let parts: Vec<&[u32]> = rows
                .iter()
                .map(|row| &row[at.min(row.len())..(at + chunk).min(row.len())])
                .collect();
            let hidden = self.decoder.step(&parts, &mut self.cache)?;
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            for (tokens, part) in self.tokens.iter_mut().zip(&parts) {
                tokens.extend_from_slice(part);
            }
            seen(at, hidden, &lengths)?;
            at += chunk;
        }
        Ok(())
    }

    fn check_room(&self, rows: &[&[u32]]) -> Result<(), ModelError> {
        let held = self.cache.lengths().iter();
        let needed = held.zip(rows).map(|(held, row)| held + row.len()).max();
        match needed {
            Some(needed) if needed > self.options.capacity => Err(ModelError::ContextOverflow {
                capacity: self.options.capacity,
                needed,
            }),
            _ => Ok(()),
        }
    }

    /// Slides rows that are full, and returns how many tokens can be fed at once.
    fn make_room(&mut self, rows: &[&[u32]], at: usize) -> usize {
        let ContextOptions {
            capacity, chunk, ..
        } = self.options;
        let Some(sinks) = self.options.sinks else {
            return chunk;
        };
        let mut room = chunk;
        for (row, part) in rows.iter().enumerate() {
            if part.len() <= at {
                continue;
            }
            let mut held = self.cache.lengths()[row];
            if held == capacity {
                // Half of what can go goes, so that sliding, which costs a pass over the cache, is rare.
                let dropped = (capacity - sinks).div_ceil(2);
                self.cache.slide(row, sinks, dropped, self.decoder.config());
                self.tokens[row].drain(sinks..sinks + dropped);
                held -= dropped;
            }
            room = room.min(capacity - held);
        }
        room
    }
}
