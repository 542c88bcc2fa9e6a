//! `Generation`: an iterator of tokens over one or more prompts.
//!
//! A step is taken only when a token is asked for. Rows stop one by one; the others go on. What a row gets depends on its
//! own prompt, seed and number alone, not on the rows beside it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::{Sampler, SamplingConfig, Session, StopConditions, StopReason};
use crate::ModelError;

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Which prompt it continues.
    pub row: usize,
    /// The id.
    pub id: u32,
    /// Its log-probability, if [`SamplingConfig::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The most likely ids with theirs, best first.
    pub top: Vec<(u32, f32)>,
    /// Set on the last token of a row.
    pub stop: Option<StopReason>,
}

/// What a generation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Tokens of the prompts that were fed.
    pub prompt_tokens: usize,
    /// Tokens of the prompts that the session remembered.
    pub reused_tokens: usize,
    /// Time until the first token.
    pub prefill: Duration,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Time of all steps after the first token.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill.as_secs_f64()
    }

    /// Tokens per second after the first of each of `rows`.
    pub fn decode_rate(&self, rows: usize) -> f64 {
        self.new_tokens.saturating_sub(rows) as f64 / self.decode.as_secs_f64()
    }
}

#[derive(Debug)]
struct Row {
    sampler: Sampler,
    /// Prompt and generated tokens.
    context: Vec<u32>,
    prompt_len: usize,
    /// Tokens that the session has not been fed.
    waiting: usize,
    active: bool,
}

/// Generates; see [`Iterator`].
#[derive(Debug)]
pub struct Generation<'s, 'm> {
    session: &'s mut Session<'m>,
    rows: Vec<Row>,
    stop: StopConditions,
    ready: VecDeque<Token>,
    started: Instant,
    timings: Timings,
    failed: bool,
}

impl<'s, 'm> Generation<'s, 'm> {
    /// Prepares to continue `prompts`, one for each row of the session. What the session remembers of the beginning of
    /// a prompt is not fed again.
    ///
    /// # Errors
    ///
    /// Settings that make no sense, an empty prompt, a model without an output head.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many prompts as rows.
    pub fn new(
        session: &'s mut Session<'m>,
        prompts: &[&[u32]],
        sampling: &SamplingConfig,
        stop: &StopConditions,
    ) -> Result<Self, ModelError> {
        assert_eq!(
            prompts.len(),
            session.batch(),
            "a prompt for each row of the session"
        );
        session.decoder().check_head()?;
        let vocab = session.decoder().config().vocab_size;
        let sampler = Sampler::new(sampling, vocab)?.with_eos(&stop.eos);
        let mut timings = Timings::default();
        let mut rows = Vec::with_capacity(prompts.len());
        for (row, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(ModelError::Request {
                    what: "prompt",
                    found: "no tokens".into(),
                    expected: "at least one".into(),
                    way_out: "Give some text; the beginning-of-text token alone is enough".into(),
                });
            }
            let kept = session.rewind(row, prompt);
            timings.reused_tokens += kept;
            timings.prompt_tokens += prompt.len() - kept;
            rows.push(Row {
                sampler: sampler.clone().with_sequence(row as u64),
                context: prompt.to_vec(),
                prompt_len: prompt.len(),
                waiting: prompt.len() - kept,
                active: stop.max_new_tokens > 0,
            });
        }
        Ok(Self {
            session,
            rows,
            stop: stop.clone(),
            ready: VecDeque::new(),
            started: Instant::now(),
            timings,
            failed: false,
        })
    }

    /// Numbers the sequences from `first` on instead of 0, so that a prompt of a long list draws the same whatever batch
    /// it stands in.
    #[must_use]
    pub fn with_first_sequence(self, first: u64) -> Self {
        self.with_sequences(first..)
    }

    /// Numbers the sequences one by one, as [`with_first_sequence`](Self::with_first_sequence) for rows that are not
    /// neighbours.
    #[must_use]
    pub fn with_sequences(mut self, numbers: impl IntoIterator<Item = u64>) -> Self {
        for (number, row) in numbers.into_iter().zip(&mut self.rows) {
            row.sampler = row.sampler.clone().with_sequence(number);
        }
        self
    }

    /// Ends a row from outside, as a stop string does. Tokens of it that are ready are dropped.
    pub fn stop(&mut self, row: usize) {
        self.rows[row].active = false;
        self.ready.retain(|token| token.row != row);
    }

    /// What it has taken so far.
    pub const fn timings(&self) -> Timings {
        self.timings
    }

    /// Feeds what waits and chooses the next token of each active row.
    fn step(&mut self) -> Result<(), ModelError> {
        let begun = Instant::now();
        let waiting: Vec<&[u32]> = self
            .rows
            .iter()
            .map(|row| match row.active {
                true => &row.context[row.context.len() - row.waiting..],
                false => &[][..],
            })
            .collect();
        let hidden = self.session.feed(&waiting)?;
        let active: Vec<usize> = (0..self.rows.len())
            .filter(|&row| self.rows[row].active)
            .collect();
        let hidden = if active.len() == self.rows.len() {
            hidden
        } else {
            let rows = active.iter().map(|&row| hidden.clone().narrow(0, row, 1));
            Tensor::cat(rows.collect(), 0)
        };
        let decoder = self.session.decoder();
        let logits = match self.rows[0].sampler.leading() {
            Some(leading) => decoder.leading(hidden, leading),
            None => decoder.logits(hidden),
        };
        let logits = logits.into_data();
        let mut logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
        let vocab = logits.len() / active.len();
        for (&number, logits) in active.iter().zip(logits.chunks_exact_mut(vocab)) {
            let row = &mut self.rows[number];
            let n_generated = row.context.len() - row.prompt_len;
            let choice = row.sampler.sample(logits, &row.context, n_generated)?;
            row.context.push(choice.id);
            row.waiting = 1;
            let stop = self
                .stop
                .reason(choice.id, n_generated + 1, self.started.elapsed());
            row.active = stop.is_none();
            self.ready.push_back(Token {
                row: number,
                id: choice.id,
                logprob: choice.logprob,
                top: choice.top,
                stop,
            });
        }
        if self.timings.new_tokens == 0 {
            self.timings.prefill = begun.elapsed();
        } else {
            self.timings.decode += begun.elapsed();
        }
        self.timings.new_tokens += active.len();
        Ok(())
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<Token, ModelError>;

    /// The next token: those of one step in the order of their rows. After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let hungry = self.ready.is_empty() && self.rows.iter().any(|row| row.active);
        if hungry
            && !self.failed
            && let Err(error) = self.step()
        {
            self.failed = true;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}
