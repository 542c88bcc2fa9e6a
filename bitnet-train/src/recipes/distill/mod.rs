//! Distillation of a float teacher into a ternary student, in the three stages of BitDistill (arXiv 2510.13998).
//!
//! First, sub-norms are put into the student (`model.sub_norms`). Second, it is trained on plain text while they and the
//! quantization grow. Third, it learns from the teacher: `cross-entropy + logits·KL + attention·relations`. The loop is
//! [`Distill::train`](Recipe::train), the loss of the third stage `Lesson::loss`.

mod config;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, DecoderConfig, LoadOptions};
use bitnet_models::weights::{self, Checkpoint};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::course::{Course, Done};
use super::run::Run;
use super::step::{Part, language_modelling, step};
use super::{Control, Entry, Plan, Recipe, Summary, read, timed};
use crate::TrainError;
use crate::data::batches::{BatchTensors, Position, Prefetch};
use crate::data::shards::{TRAIN, TokenData};
use crate::data::tokenizer::TokenizerBundle;
use crate::losses::{Reduction, cross_entropy, divergence, relations};
use crate::metrics::Terms;
use crate::model::{Origin, check_vocabulary};
use crate::optimizer::Optimizer;

pub use config::{Distill, Distillation, Pretraining, Teacher};

/// The line in [`RECIPES`](super::RECIPES).
pub(super) const RECIPE: Entry = Entry {
    name: "distill",
    about: "a ternary model that learns from a float one, in three stages",
    read: |table, file| {
        let recipe: Distill = read::typed(table, file)?;
        recipe.check(file)?;
        Ok(Box::new(recipe))
    },
};

/// What has to stay as it is when a run is resumed, beside what always has to.
const FIXED: &[&str] = &["teacher", "pretraining.steps", "pretraining.data"];

impl Recipe for Distill {
    fn output(&self) -> &Path {
        &self.output
    }

    fn train(&self, devices: &[Device], control: Control<'_>) -> Result<Summary, TrainError> {
        let settings = self.settings();
        let [device] = devices else {
            return Err(TrainError::Request {
                what: "devices",
                found: devices.len().to_string(),
                expected: "one for this recipe, whose teacher is on the same".to_owned(),
                way_out: "Train on one device".to_owned(),
            });
        };
        let teacher = weights::open(&self.teacher.from)?;
        let tokenizer = TokenizerBundle::of(&*teacher)?;
        let data = self.data.prepared(tokenizer.clone())?;
        let plain = match &self.pretraining.data {
            Some(plain) => plain.prepared(tokenizer)?,
            None => data.clone(),
        };
        plain.expect_tokenizer(&data.tokenizer()?)?;

        let origin = Origin::open(&self.model)?;
        let run = Run::new(self, settings, &origin, &data, FIXED)?;
        let device = settings.autodiff(device);
        let (mut model, mut optimizer, mut state) = run.open::<Self>(control.resume, &device)?;
        let lesson = self.lesson(&*teacher, model.config(), Some(&data), &device)?;
        let mut course = Course::new(&run, settings, &data, &model, &state, control)?;

        while state.step < self.steps() && course.goes_on() {
            let stage = self.step(state.step);
            let config = self.data_of(stage.distils);
            let source = if stage.distils { &data } else { &plain };
            let batches = settings.batches(source, TRAIN, config, config.sampling)?;
            let mut ahead = Prefetch::new(Arc::new(batches), state.position, 2);
            while state.step < stage.end
                && course.goes_on()
                && let Some(batch) = ahead.next()
            {
                let now = self.step(state.step);
                course
                    .preparation(state.step, now.blend)
                    .apply(&mut model, 0);
                let (limit, at_once) = (self.optimizer.clip, settings.at_once());
                let mut terms = Terms::default();
                let loss = |model: &Decoder, part: &Part| match now.distils {
                    true => lesson.loss(model, part, &mut terms),
                    false => language_modelling(model, part),
                };
                let (next, learned) = step(
                    model,
                    &mut optimizer,
                    &batch,
                    at_once,
                    now.rates,
                    limit,
                    loss,
                );
                model = next;
                let done = Done {
                    learned,
                    terms: now.distils.then_some(terms),
                    rates: now.rates,
                    blend: now.blend,
                    counts: now.distils,
                    // Each stage begins at the beginning of its data.
                    position: match state.step + 1 == stage.end {
                        true => Position { epoch: 0, step: 0 },
                        false => ahead.position(),
                    },
                };
                course.after(&model, &optimizer, &mut state, &batch, done)?;
            }
        }
        course.end(&state)
    }

    fn plan(&self) -> Result<Plan, TrainError> {
        let settings = self.settings();
        let teacher = weights::open(&self.teacher.from)?;
        let teacher = architectures::read(&*teacher, Overrides::default())?;
        let (linear, rest) = teacher.parameters();
        let origin = Origin::open(&self.model)?;
        let (config, prepared) = settings.decoder(&origin, teacher.vocab_size)?;
        Ok(settings.plan(&config, prepared, 4 * (linear + rest)))
    }

    fn time_step(&self, device: &Device) -> Result<Duration, TrainError> {
        let settings = self.settings();
        let origin = Origin::open(&self.model)?;
        let teacher = weights::open(&self.teacher.from)?;
        let guess = architectures::read(&*teacher, Overrides::default())?.vocab_size;
        let (config, _) = settings.decoder(&origin, guess)?;
        let description = origin.describe(config.vocab_size, None);
        let device = settings.autodiff(device);
        let mut model = origin.load(&description, 0, &device)?;
        settings.prepare(&mut model)?;
        let lesson = self.lesson(&*teacher, &config, None, &device)?;
        let mut optimizer = Optimizer::new(&self.optimizer);
        let batch = settings.made_up(config.vocab_size);
        let (limit, at_once) = (self.optimizer.clip, settings.at_once());
        let rates = self.step(self.pretraining.steps).rates;
        Ok(timed(model, |model| {
            let loss =
                |model: &Decoder, part: &Part| lesson.loss(model, part, &mut Terms::default());
            step(model, &mut optimizer, &batch, at_once, rates, limit, loss).0
        }))
    }
}

impl Distill {
    /// Loads the teacher, and proves that this student can learn from it.
    fn lesson(
        &self,
        teacher: &dyn Checkpoint,
        student: &DecoderConfig,
        data: Option<&TokenData>,
        device: &Device,
    ) -> Result<Lesson<'_>, TrainError> {
        let config = architectures::read(teacher, Overrides::default())?;
        let refused = |what: &str, found: String, expected: String, way_out: &str| {
            Err(TrainError::File {
                path: self.teacher.from.clone(),
                what: what.to_owned(),
                found,
                expected,
                way_out: way_out.to_owned(),
            })
        };
        if let Some(data) = data {
            check_vocabulary(teacher, &config, data)?;
        }
        if !config.has_head {
            let (found, expected) = (
                "no output head".to_owned(),
                "one that predicts tokens".to_owned(),
            );
            let way_out = "It makes embeddings. Name another teacher";
            return refused("the teacher", found, expected, way_out);
        }
        let from_end = self.distillation.layer_from_end;
        let fewest = config.n_layers.min(student.n_layers);
        if from_end >= fewest {
            let (found, expected) = (from_end.to_string(), format!("less than {fewest}"));
            let way_out = "Choose a layer that both have";
            return refused("`distillation.layer_from_end`", found, expected, way_out);
        }
        let heads = self.distillation.relation_heads;
        let heads = heads.unwrap_or(student.n_kv_heads);
        let widths = [&config, student].map(|c| [c.n_heads, c.n_kv_heads].map(|n| n * c.head_dim));
        if let Some(width) = widths.iter().flatten().find(|&width| width % heads != 0) {
            let found = heads.to_string();
            let expected = format!("a divisor of {width}, the width of queries or keys");
            let way_out = "Choose one that divides the widths of both models";
            return refused("`distillation.relation_heads`", found, expected, way_out);
        }
        let options = LoadOptions::trainable();
        let mut teacher = Decoder::load(&config, teacher, &options, device, &mut |_, _| ())?;
        self.settings().prepare(&mut teacher)?;
        teacher.set_dropout(0.0);
        Ok(Lesson {
            config: &self.distillation,
            teacher: teacher.freeze(),
            heads,
        })
    }
}

/// What a student learns from its teacher.
#[derive(Debug)]
struct Lesson<'a> {
    config: &'a Distillation,
    /// On the student's device, without gradients.
    teacher: Decoder,
    heads: usize,
}

impl Lesson<'_> {
    /// `cross-entropy + logits·KL + attention·relations`: this part's contribution to the loss of the batch, and to its
    /// terms.
    fn loss(&self, student: &Decoder, part: &Part, terms: &mut Terms) -> Tensor<1> {
        let Distillation {
            logits: weight,
            temperature,
            attention,
            ..
        } = *self.config;
        let BatchTensors {
            inputs,
            targets,
            mask,
        } = part.tensors.clone();
        let (found, mine) = self.forward(student, inputs.clone());
        let (wanted, theirs) = self.forward(&self.teacher, inputs);
        let entropy = cross_entropy(found.clone(), targets, mask.clone(), Reduction::Sum);
        let entropy = entropy / part.targets;
        // Embeddings of one vocabulary may be padded to different sizes.
        let shared = found.dims()[2].min(wanted.dims()[2]);
        let [found, wanted] = [found, wanted].map(|logits| logits.narrow(2, 0, shared));
        let logits = divergence(found, wanted, mask, temperature, Reduction::Sum) / part.targets;
        let relations = relations(mine, theirs, self.heads) * part.share;
        for (term, loss) in [
            (&mut terms.cross_entropy, &entropy),
            (&mut terms.logits, &logits),
            (&mut terms.attention, &relations),
        ] {
            *term += f64::from(loss.clone().into_scalar::<f32>());
        }
        entropy + logits * weight + relations * attention
    }

    /// Logits, and queries, keys and values of the layer, heads joined: `[batch, seq_len, width]`.
    fn forward(&self, model: &Decoder, ids: Tensor<2, Int>) -> (Tensor<3>, [Tensor<3>; 3]) {
        let layers = &model.model.layers;
        let layer = layers.len() - 1 - self.config.layer_from_end;
        let (mut before, mut at) = (None, 0);
        let hidden = model.watch(ids, |h| {
            if at == layer {
                before = Some(h.clone());
            }
            at += 1;
        });
        let states = layers[layer].states(before.expect("the stream before each layer is shown"));
        let states = states.map(|heads| {
            let [batch, n_heads, seq_len, head_dim] = heads.dims();
            let width = n_heads * head_dim;
            heads.swap_dims(1, 2).reshape([batch, seq_len, width])
        });
        (model.logits(hidden), states)
    }
}
