//! Quantization-aware training: float masters, ternary in every forward pass, straight-through gradients.
//!
//! From nothing or from a checkpoint. The loop is [`Qat::train`](Recipe::train); what it does to a model in one step is
//! [`step`]. With `model.ternary = false` the same code trains the float twin. Source: arXiv 2402.17764; schedule and
//! optimizer settings as in arXiv 2504.12285.

mod config;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitnet_models::decoder::Decoder;
use burn::tensor::Device;

use super::course::{Course, Done};
use super::replicas::{self, Replicas};
use super::run::Run;
use super::step::{self, language_modelling};
use super::{Control, Entry, Plan, Recipe, Summary, read, timed};
use crate::TrainError;
use crate::data::batches::{Batch, Prefetch};
use crate::data::shards::TRAIN;
use crate::model::Origin;
use crate::optimizer::{Optimizer, Rates};

pub use super::run::{BEST, CURVES, LAST, METRICS, PACKED};
pub use super::settings::{BatchShape, CheckpointConfig, LogConfig, Precision, ValidationConfig};
pub use super::step::Learned;
pub use config::Qat;

/// The line in [`RECIPES`](super::RECIPES).
pub(super) const RECIPE: Entry = Entry {
    name: "qat",
    about: "a ternary model by quantization-aware training, from nothing or from a checkpoint",
    read: |table, file| {
        let recipe: Qat = read::typed(table, file)?;
        recipe.check(file)?;
        Ok(Box::new(recipe))
    },
};

/// One step: forward, loss, backward, in parts of `at_once` rows; then clip and update. Where the loss or the gradients
/// are not finite, the model stays as it was.
pub fn step(
    model: Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    at_once: usize,
    rates: Rates,
    limit: f64,
) -> (Decoder, Learned) {
    let loss = language_modelling;
    step::step(model, optimizer, batch, at_once, rates, limit, loss)
}

impl Recipe for Qat {
    fn output(&self) -> &Path {
        &self.output
    }

    fn train(&self, devices: &[Device], control: Control<'_>) -> Result<Summary, TrainError> {
        let settings = self.settings();
        replicas::check(devices, settings.batch.rows)?;
        let devices: Vec<Device> = devices
            .iter()
            .map(|device| settings.autodiff(device))
            .collect();
        let origin = Origin::open(&self.model)?;
        let data = self.data.prepared(origin.tokenizer()?)?;
        let run = Run::new(self, settings, &origin, &data, &[])?;
        let (mut model, mut optimizer, mut state) =
            run.open::<Self>(control.resume, &devices[0])?;
        let (limit, at_once) = (self.optimizer.clip, settings.at_once());
        let replicas = Replicas::new(&devices, &model, &optimizer, at_once, limit);
        let mut course = Course::new(&run, settings, &data, &model, &state, control)?;
        let gradual = self.model.ternary() || origin.inserts_sub_norms();

        let batches = settings.batches(&data, TRAIN, &self.data, self.data.sampling)?;
        let mut ahead = Prefetch::new(Arc::new(batches), state.position, 2);
        while state.step < self.steps
            && course.goes_on()
            && let Some(batch) = ahead.next()
        {
            let rates = self.rates(state.step);
            let blend = match gradual {
                true => self.blend.at(state.step),
                false => 1.0,
            };
            let preparation = course.preparation(state.step, blend);
            let (next, learned) = replicas.step(model, &mut optimizer, &batch, preparation, rates);
            model = next;
            let done = Done {
                learned,
                terms: None,
                rates,
                blend,
                counts: blend == 1.0,
                position: ahead.position(),
            };
            course.after(&model, &optimizer, &mut state, &batch, done)?;
        }
        course.end(&state)
    }

    fn plan(&self) -> Result<Plan, TrainError> {
        let settings = self.settings();
        let (config, prepared) =
            settings.decoder(&Origin::open(&self.model)?, self.vocab_guess())?;
        Ok(settings.plan(&config, prepared, 0))
    }

    fn time_step(&self, device: &Device) -> Result<Duration, TrainError> {
        let settings = self.settings();
        let origin = Origin::open(&self.model)?;
        let (config, _) = settings.decoder(&origin, self.vocab_guess())?;
        let description = origin.describe(config.vocab_size, None);
        let mut model = origin.load(&description, 0, &settings.autodiff(device))?;
        settings.prepare(&mut model)?;
        let mut optimizer = Optimizer::new(&self.optimizer);
        let batch = settings.made_up(config.vocab_size);
        let (rates, limit, at_once) = (self.rates(0), self.optimizer.clip, settings.at_once());
        Ok(timed(model, |model| {
            step(model, &mut optimizer, &batch, at_once, rates, limit).0
        }))
    }
}
