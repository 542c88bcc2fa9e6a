//! What happens between the steps of any training: measuring, keeping the best, writing down, saving, stopping.
//!
//! A recipe's loop decides what a step is, and tells [`Course::after`] what it found. Invariant: everything that a
//! resumed run needs is in the [`State`] when a checkpoint is written.

use std::sync::atomic::Ordering;

use super::run::{BEST, CURVES, LAST, METRICS, Run, curves};
use super::settings::Settings;
use super::step::Learned;
use super::{Control, Ended, Progress, Summary};
use crate::TrainError;
use crate::checkpoint::State;
use crate::data::batches::{Batch, Batches, Position, Sampling};
use crate::data::keyed;
use crate::data::shards::{TokenData, VALIDATION};
use crate::evaluate::evaluate;
use crate::metrics::{Log, Row, Terms, Trits, replace};
use crate::optimizer::{Optimizer, Rates};
use bitnet_models::decoder::Decoder;

/// A run from step to step.
#[derive(Debug)]
pub(super) struct Course<'a, 'c> {
    run: &'a Run<'a>,
    settings: Settings<'a>,
    control: Control<'c>,
    validation: Option<Batches>,
    log: Log,
    seen: Option<Trits>,
    latest: Option<f64>,
    ended: Option<Ended>,
}

/// What was done in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) learned: Learned,
    /// What the loss consists of, where it has parts.
    pub(super) terms: Option<Terms>,
    pub(super) rates: Rates,
    pub(super) blend: f64,
    /// Whether the model can already be the best one. Before all is ternary, its loss is that of another, softer model.
    pub(super) counts: bool,
    /// The batch that comes next.
    pub(super) position: Position,
}

/// How a model is before a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preparation {
    blend: Option<f64>,
    sub_norm_blend: Option<f64>,
    seed: u64,
}

impl Preparation {
    #[cfg(test)]
    pub(super) const fn of(blend: Option<f64>, sub_norm_blend: Option<f64>, seed: u64) -> Self {
        Self {
            blend,
            sub_norm_blend,
            seed,
        }
    }

    /// Makes replica `number` of a model so; 0 is the only one where there is one device.
    pub(super) fn apply(&self, model: &mut Decoder, number: usize) {
        if let Some(blend) = self.blend {
            model.set_blend(blend);
        }
        if let Some(blend) = self.sub_norm_blend {
            model.set_sub_norm_blend(blend);
        }
        model.device().seed(match number {
            0 => self.seed,
            _ => keyed(self.seed, number as u64), // other rows, so other places to drop
        });
    }
}

impl<'a, 'c> Course<'a, 'c> {
    pub(super) fn new(
        run: &'a Run<'a>,
        settings: Settings<'a>,
        data: &TokenData,
        model: &Decoder,
        state: &State,
        control: Control<'c>,
    ) -> Result<Self, TrainError> {
        let validation = match data.index().validation.tokens {
            0 => None,
            _ => {
                let order = Sampling::Sequential;
                Some(settings.batches(data, VALIDATION, settings.data, order)?)
            }
        };
        Ok(Self {
            log: Log::open(&settings.output.join(METRICS), state.step, state.tokens)?,
            seen: settings
                .model
                .ternary()
                .then(|| Trits::of(model))
                .transpose()?,
            latest: state.best,
            ended: None,
            run,
            settings,
            control,
            validation,
        })
    }

    /// Whether there is another step to do.
    pub(super) fn goes_on(&self) -> bool {
        self.ended.is_none()
    }

    /// What the model is in this step: so far quantized, and what it drops a function of seed and step.
    pub(super) fn preparation(&self, step: u64, blend: f64) -> Preparation {
        Preparation {
            blend: self.settings.model.ternary().then_some(blend),
            sub_norm_blend: self.run.inserts_sub_norms().then_some(blend),
            seed: keyed(self.settings.seed, step),
        }
    }

    /// After a step: counts it, and does what is due.
    pub(super) fn after(
        &mut self,
        model: &Decoder,
        optimizer: &Optimizer,
        state: &mut State,
        batch: &Batch,
        done: Done,
    ) -> Result<(), TrainError> {
        let Settings {
            steps,
            log,
            validation,
            checkpoint,
            ..
        } = self.settings;
        let Done { learned, rates, .. } = done;
        if !learned.is_finite() {
            return Err(self.run.diverged(model, Some(batch), state, learned.loss));
        }
        state.step += 1;
        state.tokens += batch.inputs.len() as u64;
        state.position = done.position;
        state.weight_decay = rates.weight_decay;

        let is_last = state.step == steps;
        let is_due = |every| is_last || state.step.is_multiple_of(every);
        let (logs, looks) = (is_due(log.every), is_due(log.trits_every));
        let (measures, saves) = (is_due(validation.every), is_due(checkpoint.every));

        let measured = match measures {
            true => self.measure(model, optimizer, state, done.counts)?,
            false => None,
        };
        let trits = match &mut self.seen {
            Some(before) if looks => {
                let Ok(now) = Trits::of(model) else {
                    return Err(self.run.diverged(model, None, state, learned.loss));
                };
                let changed = now.since(before);
                *before = now;
                Some(changed)
            }
            _ => None,
        };
        if logs || trits.is_some() || measured.is_some() {
            let tokens_per_second = self.log.speed(state.tokens);
            self.log.write(Row {
                step: state.step,
                tokens: state.tokens,
                loss: learned.loss,
                terms: done.terms,
                gradient_norm: learned.gradient_norm,
                lr: rates.lr,
                weight_decay: rates.weight_decay,
                blend: done.blend,
                tokens_per_second,
                validation_loss: measured,
                trits,
            })?;
        }
        (self.control.progress)(&Progress {
            step: state.step,
            steps,
            step_tokens: batch.inputs.len() as u64,
            loss: learned.loss,
            lr: rates.lr,
            validation_loss: self.latest,
        });
        if self.ended.is_none() {
            let stops = self.control.stop.load(Ordering::Relaxed);
            self.ended = match (is_last, stops) {
                (true, _) => Some(Ended::Finished),
                (false, true) => Some(Ended::Stopped),
                (false, false) => None,
            };
        }
        match saves || self.ended.is_some() {
            true => self.run.save(LAST, model, optimizer, state),
            false => Ok(()),
        }
    }

    /// The loss on the validation data. The best model so far is kept; too many worse ones end the run.
    fn measure(
        &mut self,
        model: &Decoder,
        optimizer: &Optimizer,
        state: &mut State,
        counts: bool,
    ) -> Result<Option<f64>, TrainError> {
        let Some(batches) = &self.validation else {
            return Ok(None);
        };
        let limit = self.settings.validation.batches;
        let loss = evaluate(model, batches, limit, self.settings.at_once()).loss;
        if !loss.is_finite() {
            return Err(self.run.diverged(model, None, state, loss));
        }
        self.latest = Some(loss);
        if counts && state.best.is_none_or(|best| loss < best) {
            state.best = Some(loss);
            state.since_best = 0;
            self.run.save(BEST, model, optimizer, state)?;
        } else if counts {
            state.since_best += 1;
            let patience = self.settings.validation.patience;
            if patience > 0 && state.since_best >= patience {
                self.ended = Some(Ended::Early);
            }
        }
        Ok(Some(loss))
    }

    /// After the last step: the curves, and the packed model unless more steps are to come.
    pub(super) fn end(self, state: &State) -> Result<Summary, TrainError> {
        let path = self.settings.output.join(CURVES);
        replace(&path, curves(self.log.rows()).as_bytes())?;
        let ended = self.ended.unwrap_or(Ended::Finished);
        let packed = match ended {
            Ended::Stopped => None,
            Ended::Finished | Ended::Early => Some(self.run.pack(state)?),
        };
        Ok(Summary {
            ended,
            step: state.step,
            best: state.best,
            packed,
        })
    }
}
