//! Quantization-aware training from nothing: float masters, ternary in every forward pass, straight-through gradients.
//!
//! The loop is [`Qat::train`]; what it does to a model in one step is [`step`]. With `model.ternary = false` the same code
//! trains the float twin. Source: arXiv 2402.17764; schedule and optimizer settings as in arXiv 2504.12285.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bitnet_models::TokenizerFiles;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, DecoderConfig};
use bitnet_models::weights::{self, Checkpoint, ConfigMap, PackOptions, Slot};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{Control, DataConfig, Ended, Entry, Plan, Progress, Recipe, Summary, read};
use crate::TrainError;
use crate::checkpoint::{self, Data, State};
use crate::data::batches::{Batch, BatchConfig, Batches, Packing, Prefetch, Sampling};
use crate::data::keyed;
use crate::data::shards::{TRAIN, TokenData, VALIDATION};
use crate::evaluate::evaluate;
use crate::losses::{Reduction, cross_entropy};
use crate::metrics::{Log, Row, Trits, replace};
use crate::model::{Masters, ModelConfig, set_blend, trainable};
use crate::optimizer::{Optimizer, OptimizerConfig, Rates, clip};
use crate::plot::{Panel, svg};
use crate::schedule::{Blend, Schedule};

/// The line in [`RECIPES`](super::RECIPES).
pub(super) const RECIPE: Entry = Entry {
    name: "qat",
    about: "a ternary model from nothing, by quantization-aware training",
    read: |table, file| {
        let recipe: Qat = read::typed(table, file)?;
        recipe.check(file)?;
        Ok(Box::new(recipe))
    },
};

/// Name of the metrics in the folder of a run.
pub const METRICS: &str = "metrics.jsonl";
/// Name of the curves.
pub const CURVES: &str = "curves.svg";
/// Name of the latest checkpoint.
pub const LAST: &str = "last";
/// Name of the checkpoint with the lowest validation loss.
pub const BEST: &str = "best";
/// Name of the model for inference.
pub const PACKED: &str = "model.bpk";
const CONFIG: &str = "config.toml";

/// Configuration of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qat {
    /// `qat`.
    pub recipe: String,
    /// The folder of the run.
    pub output: PathBuf,
    /// Of fresh weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Updates of the weights.
    pub steps: u64,
    /// Number format of embedding and head in the packed model: int8, int4, bf16, f16 or f32.
    #[serde(default = "int8")]
    pub packed_table: String,
    /// What to learn from.
    pub data: DataConfig,
    /// What learns.
    pub model: ModelConfig,
    /// How much it sees at once.
    pub batch: BatchShape,
    /// How it learns.
    pub optimizer: OptimizerConfig,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// The course of the quantization.
    #[serde(default)]
    pub blend: Blend,
    /// What is written down, and when.
    #[serde(default)]
    pub log: LogConfig,
    /// When to measure, and on how much.
    #[serde(default)]
    pub validation: ValidationConfig,
    /// When to save.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
}

fn int8() -> String {
    "int8".to_owned()
}

/// How much a step sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchShape {
    /// Rows of a step.
    pub rows: usize,
    /// Ids of a row.
    pub length: usize,
    /// Rows in memory at once; gradients of the others are added. All if not given.
    pub at_once: Option<usize>,
}

/// When lines are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between lines.
    pub every: u64,
    /// Steps between looks at the ternary weights.
    pub trits_every: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            every: 10,
            trits_every: 100,
        }
    }
}

/// When the validation loss is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between measurements.
    pub every: u64,
    /// Batches at most.
    pub batches: usize,
    /// Ends the run after so many measurements without a lower loss; 0 is never.
    pub patience: u32,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            every: 100,
            batches: 20,
            patience: 0,
        }
    }
}

/// When checkpoints are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; one is written at the end in any case.
    pub every: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500 }
    }
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Mean loss of the batch.
    pub loss: f64,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: f64,
}

impl Learned {
    /// Whether the numbers are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

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
    let device = model.device();
    let targets = batch.learned().max(1) as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut loss = 0.0;
    for part in batch.split(at_once) {
        let tensors = part.to_tensors(&device);
        let logits = model.forward(tensors.inputs);
        let sum = cross_entropy(logits, tensors.targets, tensors.mask, Reduction::Sum);
        let part = sum / targets;
        loss += f64::from(part.clone().into_scalar::<f32>());
        accumulator.accumulate(&model, GradientsParams::from_grads(part.backward(), &model));
    }
    let (gradients, gradient_norm) = clip(&model, accumulator.grads(), limit);
    let learned = Learned {
        loss,
        gradient_norm,
    };
    let model = match learned.is_finite() {
        true => optimizer.step(rates, model, gradients),
        false => model,
    };
    (model, learned)
}

impl Recipe for Qat {
    fn output(&self) -> &Path {
        &self.output
    }

    fn train(&self, device: &Device, control: Control<'_>) -> Result<Summary, TrainError> {
        let data = self.data.prepared()?;
        let run = Run::new(self, &data)?;
        let device = device.clone().autodiff();
        let (mut model, mut optimizer, mut state) = match control.resume {
            true => run.resume(&device)?,
            false => run.begin(&device)?,
        };
        let batches = Arc::new(self.batches(&data, TRAIN, self.data.sampling)?);
        let validation = match data.index().validation.tokens {
            0 => None,
            _ => Some(self.batches(&data, VALIDATION, Sampling::Sequential)?),
        };
        let mut log = Log::open(&self.output.join(METRICS), state.step, state.tokens)?;
        let mut seen = self.model.ternary.then(|| Trits::of(&model)).transpose()?;
        let mut latest = state.best;
        let mut ended = Ended::Finished;

        let mut ahead = Prefetch::new(Arc::clone(&batches), state.position, 2);
        while state.step < self.steps
            && ended == Ended::Finished
            && let Some(batch) = ahead.next()
        {
            let (rates, blend) = (self.rates(state.step), self.blend.at(state.step));
            if self.model.ternary {
                set_blend(&mut model, blend);
            }
            let limit = self.optimizer.clip;
            let (next, learned) = step(model, &mut optimizer, &batch, self.at_once(), rates, limit);
            model = next;
            if !learned.is_finite() {
                return Err(run.diverged(&model, Some(&batch), &state, learned.loss));
            }
            state.step += 1;
            state.tokens += batch.inputs.len() as u64;
            state.position = ahead.position();
            state.weight_decay = rates.weight_decay;

            let is_last = state.step == self.steps;
            let is_due = |every| is_last || state.step.is_multiple_of(every);
            let (logs, looks) = (is_due(self.log.every), is_due(self.log.trits_every));
            let (measures, saves) = (is_due(self.validation.every), is_due(self.checkpoint.every));

            let evaluation = validation.as_ref().filter(|_| measures);
            let evaluation = evaluation
                .map(|batches| evaluate(&model, batches, self.validation.batches, self.at_once()));
            if let Some(evaluation) = evaluation {
                if !evaluation.loss.is_finite() {
                    return Err(run.diverged(&model, None, &state, evaluation.loss));
                }
                latest = Some(evaluation.loss);
                // Before all is ternary, the loss is that of another, softer model.
                if blend == 1.0 || !self.model.ternary {
                    if state.best.is_none_or(|best| evaluation.loss < best) {
                        state.best = latest;
                        state.since_best = 0;
                        run.save(BEST, &model, &optimizer, &state)?;
                    } else {
                        state.since_best += 1;
                        let patience = self.validation.patience;
                        if patience > 0 && state.since_best >= patience {
                            ended = Ended::Early;
                        }
                    }
                }
            }
            let trits = match &mut seen {
                Some(before) if looks => {
                    let Ok(now) = Trits::of(&model) else {
                        return Err(run.diverged(&model, None, &state, learned.loss));
                    };
                    let changed = now.since(before);
                    *before = now;
                    Some(changed)
                }
                _ => None,
            };
            if logs || trits.is_some() || evaluation.is_some() {
                let tokens_per_second = log.speed(state.tokens);
                log.write(Row {
                    step: state.step,
                    tokens: state.tokens,
                    loss: learned.loss,
                    gradient_norm: learned.gradient_norm,
                    lr: rates.lr,
                    weight_decay: rates.weight_decay,
                    blend,
                    tokens_per_second,
                    validation_loss: evaluation.map(|evaluation| evaluation.loss),
                    trits,
                })?;
            }
            (control.progress)(&Progress {
                step: state.step,
                steps: self.steps,
                step_tokens: batch.inputs.len() as u64,
                loss: learned.loss,
                lr: rates.lr,
                validation_loss: latest,
            });
            if control.stop.load(Ordering::Relaxed) && !is_last && ended == Ended::Finished {
                ended = Ended::Stopped;
            }
            if saves || ended != Ended::Finished {
                run.save(LAST, &model, &optimizer, &state)?;
            }
        }

        replace(&self.output.join(CURVES), curves(log.rows()).as_bytes())?;
        let packed = match ended {
            Ended::Stopped => None,
            Ended::Finished | Ended::Early => Some(run.pack(&state)?),
        };
        Ok(Summary {
            ended,
            step: state.step,
            best: state.best,
            packed,
        })
    }

    fn plan(&self) -> Result<Plan, TrainError> {
        let existing = self.data.existing()?;
        let vocab_size = self.vocab_size(existing.as_ref());
        let (linear, rest) = self
            .decoder(&self.model.describe(vocab_size, None))?
            .parameters();
        let step_tokens = (self.batch.rows * self.batch.length) as u64;
        Ok(Plan {
            parameters: (linear, rest),
            vocab_size,
            prepared: existing.is_some(),
            bytes: 16 * (linear + rest) + self.activation_bytes(vocab_size),
            steps: self.steps,
            tokens: step_tokens * self.steps,
        })
    }

    fn time_step(&self, device: &Device) -> Result<Duration, TrainError> {
        let vocab_size = self.vocab_size(self.data.existing()?.as_ref());
        let description = self.model.describe(vocab_size, None);
        let slots = self.decoder(&description)?.slots();
        let masters = Masters::fresh(&slots, &description, &self.output, self.model.init_std, 0);
        let mut model = trainable(&masters, &device.clone().autodiff())?;
        let mut optimizer = Optimizer::new(&self.optimizer);
        let count = self.batch.rows * self.batch.length;
        let ids = |key| -> Vec<i32> {
            let id = |at| (keyed(key, at) % vocab_size as u64) as i32;
            (0..count as u64).map(id).collect()
        };
        let batch = Batch {
            inputs: ids(1),
            targets: ids(2),
            mask: None,
            shape: [self.batch.rows, self.batch.length],
        };
        let mut begun = Instant::now();
        for at in 0..=TIMED {
            if at == 1 {
                begun = Instant::now(); // the first one warms up
            }
            let limit = self.optimizer.clip;
            let rates = self.rates(0);
            let (next, _) = step(model, &mut optimizer, &batch, self.at_once(), rates, limit);
            model = next;
        }
        Ok(begun.elapsed() / TIMED)
    }
}

/// Steps that are timed.
const TIMED: u32 = 3;

impl Qat {
    /// Proves every setting that its type does not.
    fn check(&self, file: &str) -> Result<(), TrainError> {
        let Self {
            model,
            batch,
            optimizer,
            ..
        } = self;
        let require = |holds: bool, field: &str, found: String, expected: &str| match holds {
            true => Ok(()),
            false => Err(read::refused(file, field, &found, expected)),
        };
        for (field, size) in [
            ("model.hidden_size", model.hidden_size),
            ("model.intermediate_size", model.intermediate_size),
            ("model.n_layers", model.n_layers),
            ("model.n_heads", model.n_heads),
            ("model.n_kv_heads", model.n_kv_heads.unwrap_or(1)),
            ("model.context", model.context),
            ("batch.rows", batch.rows),
            ("batch.length", batch.length),
            ("batch.at_once", self.at_once()),
            ("validation.batches", self.validation.batches),
            ("steps", self.steps as usize),
            ("log.every", self.log.every as usize),
            ("log.trits_every", self.log.trits_every as usize),
            ("validation.every", self.validation.every as usize),
            ("checkpoint.every", self.checkpoint.every as usize),
        ] {
            require(size > 0, field, size.to_string(), "at least 1")?;
        }
        let heads = model.n_heads;
        let kv_heads = model.n_kv_heads.unwrap_or(heads);
        require(
            model.hidden_size.is_multiple_of(2 * heads),
            "model.n_heads",
            heads.to_string(),
            &format!(
                "a number of heads that divides hidden_size, {}, into even widths",
                model.hidden_size
            ),
        )?;
        require(
            heads.is_multiple_of(kv_heads),
            "model.n_kv_heads",
            kv_heads.to_string(),
            &format!("a divisor of n_heads, {heads}"),
        )?;
        require(
            batch.length <= model.context,
            "batch.length",
            batch.length.to_string(),
            &format!("at most model.context, {}", model.context),
        )?;
        for (field, value) in [
            ("optimizer.lr", optimizer.lr),
            ("optimizer.epsilon", optimizer.epsilon),
            ("model.init_std", model.init_std),
            ("model.norm_epsilon", model.norm_epsilon),
        ] {
            let holds = value.is_finite() && value > 0.0;
            require(holds, field, value.to_string(), "a number above 0")?;
        }
        for (field, value) in [
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.clip", optimizer.clip),
        ] {
            let holds = value.is_finite() && value >= 0.0;
            require(holds, field, value.to_string(), "a number from 0 up")?;
        }
        require(
            optimizer.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "optimizer.betas",
            format!("{:?}", optimizer.betas),
            "numbers from 0 to below 1",
        )?;
        require(
            self.data.sampling != Sampling::Sequential,
            "data.sampling",
            "sequential".to_owned(),
            "shuffled or random_windows: a sequential pass ends",
        )?;
        for (field, part) in self.schedule.parts() {
            let holds = (0.0..=1.0).contains(&part);
            require(holds, field, part.to_string(), "a part: 0 to 1")?;
        }
        require(
            self.schedule.warmup() < self.steps,
            "schedule.warmup",
            self.schedule.warmup().to_string(),
            &format!("fewer than steps, {}", self.steps),
        )?;
        if let Some(steepness) = self.blend.steepness() {
            let holds = steepness > 0.0 && steepness <= 100.0;
            let expected = "a number above 0, at most 100";
            require(holds, "blend.steepness", steepness.to_string(), expected)?;
        }
        require(
            self.blend.steps() < self.steps,
            "blend.steps",
            self.blend.steps().to_string(),
            &format!(
                "fewer than steps, {}: the run has to end ternary",
                self.steps
            ),
        )?;
        self.pack_options(file).map(|_| ())
    }

    fn pack_options(&self, file: &str) -> Result<PackOptions, TrainError> {
        let found = &self.packed_table;
        let expected = "int8, int4, bf16, f16 or f32";
        Ok(PackOptions {
            table: found
                .parse()
                .map_err(|_| read::refused(file, "packed_table", found, expected))?,
            tokenizer: None,
            tokenizer_config: None,
            overwrite: true,
        })
    }

    /// Learning rate and weight decay of a step.
    fn rates(&self, step: u64) -> Rates {
        let factors = self.schedule.at(step, self.steps);
        Rates {
            lr: self.optimizer.lr * factors.lr,
            weight_decay: self.optimizer.weight_decay * factors.weight_decay,
        }
    }

    fn at_once(&self) -> usize {
        self.batch.at_once.unwrap_or(self.batch.rows)
    }

    fn batches(
        &self,
        data: &TokenData,
        split: &str,
        sampling: Sampling,
    ) -> Result<Batches, TrainError> {
        // What is measured in order is not cut at random.
        let packing = match sampling {
            Sampling::RandomWindows => Packing::Stream,
            _ => self.data.packing,
        };
        BatchConfig::new(self.batch.rows, self.batch.length)
            .with_sampling(sampling)
            .with_packing(packing)
            .with_seed(self.seed)
            .init(data.split(split)?)
    }

    /// That of the data, or what it will be about.
    fn vocab_size(&self, data: Option<&TokenData>) -> usize {
        let wanted = self.data.vocab_size.unwrap_or(100);
        data.map_or(wanted, |data| data.index().vocab_size)
    }

    fn decoder(&self, description: &ConfigMap) -> Result<DecoderConfig, TrainError> {
        let masters = Masters::fresh(&[], description, &self.output, 0.0, 0);
        Ok(architectures::read(&masters, Overrides::default())?)
    }

    /// What stays in memory between forward and backward, roughly: a token leaves about 24 rows of the hidden size, 12 of
    /// the feed-forward block and two of attention weights in each layer, and four of logits.
    fn activation_bytes(&self, vocab_size: usize) -> u64 {
        let model = &self.model;
        let tokens = self.at_once().min(self.batch.rows) * self.batch.length;
        let attention = 2 * model.n_heads * self.batch.length;
        let layer = 24 * model.hidden_size + 12 * model.intermediate_size + attention;
        4 * (tokens * (model.n_layers * layer + 4 * vocab_size)) as u64
    }
}

/// What does not change during a run.
struct Run<'a> {
    recipe: &'a Qat,
    text: String,
    data: &'a TokenData,
    description: ConfigMap,
    slots: Vec<Slot>,
}

impl<'a> Run<'a> {
    fn new(recipe: &'a Qat, data: &'a TokenData) -> Result<Self, TrainError> {
        let bundle = data.tokenizer()?;
        let vocab_size = data.index().vocab_size;
        let description = recipe.model.describe(vocab_size, Some(bundle.tokenizer()));
        Ok(Self {
            slots: recipe.decoder(&description)?.slots(),
            text: toml::to_string_pretty(recipe).expect("a recipe is TOML"),
            recipe,
            data,
            description,
        })
    }

    /// A fresh model, in a folder that holds no run.
    fn begin(&self, device: &Device) -> Result<(Decoder, Optimizer, State), TrainError> {
        let Qat {
            output,
            model,
            optimizer,
            seed,
            ..
        } = self.recipe;
        if output.join(METRICS).exists() {
            return Err(TrainError::File {
                path: output.clone(),
                what: "the folder of the run".to_owned(),
                found: "a run in it".to_owned(),
                expected: "none".to_owned(),
                way_out: "Resume it, name another `output`, or remove it".to_owned(),
            });
        }
        fs::create_dir_all(output).map_err(TrainError::io("create", output))?;
        replace(&output.join(CONFIG), self.text.as_bytes())?;
        let (std, folder) = (model.init_std, &self.recipe.data.folder);
        let masters = Masters::fresh(&self.slots, &self.description, folder, std, *seed);
        let state = State::new(Data::of(self.data.index()), optimizer.weight_decay);
        Ok((
            trainable(&masters, device)?,
            Optimizer::new(optimizer),
            state,
        ))
    }

    /// Where the last checkpoint was.
    fn resume(&self, device: &Device) -> Result<(Decoder, Optimizer, State), TrainError> {
        let folder = self.recipe.output.join(LAST);
        let saved = checkpoint::load(&folder, &self.recipe.optimizer)?;
        let file = folder.join(checkpoint::RECIPE);
        let before: Qat = toml::from_str::<toml::Table>(&saved.recipe)
            .map_err(|error| {
                read::refused(
                    &file.display().to_string(),
                    "recipe",
                    error.message(),
                    "TOML",
                )
            })
            .and_then(|table| read::typed(table, &file.display().to_string()))?;
        let now = self.recipe;
        let order = |recipe: &Qat| (recipe.seed, recipe.data.sampling, recipe.data.packing);
        let same =
            before.model == now.model && before.batch == now.batch && order(&before) == order(now);
        let differs = |what: &str| TrainError::File {
            path: folder.clone(),
            what: what.to_owned(),
            found: "another one than that of the run so far".to_owned(),
            expected: "the same model, batch, seed and data".to_owned(),
            way_out: format!(
                "Set it back ({} is in the checkpoint), or start another run",
                checkpoint::RECIPE
            ),
        };
        if !same {
            return Err(differs("recipe"));
        }
        if saved.state.data != Data::of(self.data.index()) {
            return Err(differs("data"));
        }
        replace(&now.output.join(CONFIG), self.text.as_bytes())?;
        Ok((
            trainable(&*saved.model, device)?,
            saved.optimizer,
            saved.state,
        ))
    }

    fn masters(&self, model: &Decoder) -> Masters {
        Masters::of(model, &self.description, &self.recipe.data.folder)
    }

    /// Writes a checkpoint, unless it would be of no use.
    fn save(
        &self,
        name: &str,
        model: &Decoder,
        optimizer: &Optimizer,
        state: &State,
    ) -> Result<(), TrainError> {
        let masters = self.masters(model);
        if masters.first_not_finite(&self.slots).is_some() {
            return Err(self.diverged(model, None, state, f64::NAN));
        }
        let folder = self.recipe.output.join(name);
        checkpoint::save(&folder, &masters, &self.slots, optimizer, &self.text, state)
    }

    /// What went wrong first.
    fn diverged(
        &self,
        model: &Decoder,
        batch: Option<&Batch>,
        state: &State,
        loss: f64,
    ) -> TrainError {
        let masters = self.masters(model);
        let place = match (masters.first_not_finite(&self.slots), batch) {
            (Some(name), _) => format!("weight `{name}`"),
            (None, Some(batch)) => first_activation(model, batch),
            (None, None) => "an activation".to_owned(),
        };
        let last = self.recipe.output.join(LAST);
        let kept = match last.exists() {
            true => format!(
                "The checkpoint in {} is good: resume with a lower `optimizer.lr`",
                last.display()
            ),
            false => {
                "There is no checkpoint yet: start again with a lower `optimizer.lr`".to_owned()
            }
        };
        TrainError::Diverged {
            step: state.step,
            loss,
            place,
            kept,
        }
    }

    /// The best model, or the last one, as one file for inference.
    fn pack(&self, state: &State) -> Result<PathBuf, TrainError> {
        let output = &self.recipe.output;
        let folder = output.join(state.best.map_or(LAST, |_| BEST));
        let masters: Arc<dyn Checkpoint> = Arc::from(weights::open(&folder)?);
        let config = architectures::read(&*masters, Overrides::default())?;
        let mut options = self.recipe.pack_options(CONFIG)?;
        if let Some(files) = TokenizerFiles::of(&*masters)? {
            options.tokenizer = Some(files.tokenizer);
            options.tokenizer_config = Some(files.config);
        }
        let path = output.join(PACKED);
        weights::write_packed(&path, &masters, &config, &options, |_, _| ())?;
        Ok(path)
    }
}

/// The first part of the model that gives numbers that are not finite.
fn first_activation(model: &Decoder, batch: &Batch) -> String {
    let model = model.valid();
    let inputs = batch.to_tensors(&model.device()).inputs;
    let (mut at, mut first) = (0, None);
    model.watch(inputs, |hidden| {
        let finite = hidden.clone().into_data().iter::<f32>().all(f32::is_finite);
        if !finite && first.is_none() {
            first = Some(at);
        }
        at += 1;
    });
    match first {
        Some(0) => "the output of the embedding".to_owned(),
        Some(layer) => format!("the output of layer {}", layer - 1),
        None => "the logits or the gradients".to_owned(),
    }
}

fn curves(rows: &[Row]) -> String {
    let line = |of: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = rows
            .iter()
            .filter_map(|row| Some((row.step as f64, of(row)?)));
        points.collect()
    };
    let trits =
        |of: fn(&crate::metrics::TritMetrics) -> f64| line(&|row| row.trits.as_ref().map(of));
    svg(&[
        Panel {
            title: "loss",
            lines: vec![
                ("training", line(&|row| Some(row.loss))),
                ("validation", line(&|row| row.validation_loss)),
            ],
        },
        Panel {
            title: "learning rate",
            lines: vec![("", line(&|row| Some(row.lr)))],
        },
        Panel {
            title: "norm of the gradients",
            lines: vec![("", line(&|row| Some(row.gradient_norm)))],
        },
        Panel {
            title: "ternary weights",
            lines: vec![
                ("zero", trits(|t| t.zero)),
                ("flipped", trits(|t| t.flipped)),
            ],
        },
    ])
}
