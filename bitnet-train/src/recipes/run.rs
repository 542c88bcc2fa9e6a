//! The folder of a run: how it begins, where it goes on, what is saved, and what is said when numbers fail.
//!
//! Invariant: a checkpoint that is written is finite, and the one before it stays until then.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_models::TokenizerFiles;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, DecoderConfig};
use bitnet_models::weights::{self, Checkpoint, ConfigMap};
use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::read;
use super::settings::Settings;
use crate::TrainError;
use crate::checkpoint::{self, Data, State};
use crate::data::batches::Batch;
use crate::data::shards::TokenData;
use crate::metrics::{Row, Terms, TritMetrics, replace};
use crate::model::{Masters, Origin, trainable};
use crate::optimizer::Optimizer;
use crate::plot::{Panel, svg};

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
/// What decides which numbers a step sees.
const ALWAYS_FIXED: &[&str] = &[
    "model",
    "batch.rows",
    "batch.length",
    "batch.at_once",
    "seed",
    "data.sampling",
    "data.packing",
];

/// What does not change during a run.
#[derive(Debug)]
pub(super) struct Run<'a> {
    settings: Settings<'a>,
    origin: &'a Origin<'a>,
    data: &'a TokenData,
    /// The recipe as it is run.
    text: Table,
    /// What of it has to stay as it is until the end.
    fixed: &'static [&'static str],
    description: ConfigMap,
    decoder: DecoderConfig,
}

impl<'a> Run<'a> {
    /// Of this recipe with this model and data. Keys of `fixed` may not change when the run is resumed.
    pub(super) fn new(
        recipe: &impl Serialize,
        settings: Settings<'a>,
        origin: &'a Origin<'a>,
        data: &'a TokenData,
        fixed: &'static [&'static str],
    ) -> Result<Self, TrainError> {
        origin.check(data)?;
        let description = origin.describe(data.index().vocab_size, Some(&data.tokenizer()?));
        let decoder = origin.decoder(&description)?;
        settings.check_length(CONFIG, decoder.max_positions)?;
        Ok(Self {
            decoder,
            text: Table::try_from(recipe).expect("a recipe is TOML"),
            settings,
            origin,
            data,
            fixed,
            description,
        })
    }

    /// Whether sub-norms are put into a model that had none.
    pub(super) const fn inserts_sub_norms(&self) -> bool {
        self.origin.inserts_sub_norms()
    }

    /// The model, its optimizer, and where the run is: at its beginning, or at its last checkpoint.
    pub(super) fn open<R: DeserializeOwned + Serialize>(
        &self,
        resume: bool,
        device: &Device,
    ) -> Result<(Decoder, Optimizer, State), TrainError> {
        let (mut model, optimizer, state) = match resume {
            true => self.resume::<R>(device)?,
            false => self.begin(device)?,
        };
        self.settings.prepare(&mut model)?;
        Ok((model, optimizer, state))
    }

    /// A first model, in a folder that holds no run.
    fn begin(&self, device: &Device) -> Result<(Decoder, Optimizer, State), TrainError> {
        let Settings {
            output,
            optimizer,
            seed,
            ..
        } = self.settings;
        if output.join(METRICS).exists() {
            return Err(TrainError::File {
                path: output.to_path_buf(),
                what: "the folder of the run".to_owned(),
                found: "a run in it".to_owned(),
                expected: "none".to_owned(),
                way_out: "Resume it, name another `output`, or remove it".to_owned(),
            });
        }
        let model = self.origin.load(&self.description, seed, device)?;
        fs::create_dir_all(output).map_err(TrainError::io("create", output))?;
        replace(&output.join(CONFIG), self.text().as_bytes())?;
        let state = State::new(Data::of(self.data.index()), optimizer.weight_decay);
        Ok((model, Optimizer::new(optimizer), state))
    }

    /// Where the last checkpoint was.
    fn resume<R: DeserializeOwned + Serialize>(
        &self,
        device: &Device,
    ) -> Result<(Decoder, Optimizer, State), TrainError> {
        let folder = self.settings.output.join(LAST);
        let saved = checkpoint::load(&folder, self.settings.optimizer)?;
        let file = folder.join(checkpoint::RECIPE).display().to_string();
        let before: R = toml::from_str::<Table>(&saved.recipe)
            .map_err(|error| read::refused(&file, "recipe", error.message(), "TOML"))
            .and_then(|table| read::typed(table, &file))?;
        let before = Table::try_from(&before).expect("a recipe is TOML");
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
        let same = |key: &&str| value(&before, key) == value(&self.text, key);
        if !ALWAYS_FIXED.iter().chain(self.fixed).all(same) {
            return Err(differs("recipe"));
        }
        if saved.state.data != Data::of(self.data.index()) {
            return Err(differs("data"));
        }
        let path = self.settings.output.join(CONFIG);
        replace(&path, self.text().as_bytes())?;
        let model = trainable(&*saved.model, device)?;
        Ok((model, saved.optimizer, saved.state))
    }

    fn text(&self) -> String {
        toml::to_string_pretty(&self.text).expect("a recipe is TOML")
    }

    fn masters(&self, model: &Decoder) -> Masters {
        Masters::of(model, &self.description, self.data.folder())
    }

    /// Writes a checkpoint, unless it would be of no use.
    pub(super) fn save(
        &self,
        name: &str,
        model: &Decoder,
        optimizer: &Optimizer,
        state: &State,
    ) -> Result<(), TrainError> {
        let masters = self.masters(model);
        if masters.first_not_finite(&self.decoder.slots()).is_some() {
            return Err(self.diverged(model, None, state, f64::NAN));
        }
        let folder = self.settings.output.join(name);
        let text = self.text();
        checkpoint::save(&folder, &masters, &self.decoder, optimizer, &text, state)
    }

    /// What went wrong first.
    pub(super) fn diverged(
        &self,
        model: &Decoder,
        batch: Option<&Batch>,
        state: &State,
        loss: f64,
    ) -> TrainError {
        let masters = self.masters(model);
        let place = match (masters.first_not_finite(&self.decoder.slots()), batch) {
            (Some(name), _) => format!("weight `{name}`"),
            (None, Some(batch)) => first_activation(model, batch),
            (None, None) => "an activation".to_owned(),
        };
        let last = self.settings.output.join(LAST);
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
    pub(super) fn pack(&self, state: &State) -> Result<PathBuf, TrainError> {
        let output = self.settings.output;
        let folder = output.join(state.best.map_or(LAST, |_| BEST));
        let masters: Arc<dyn Checkpoint> = Arc::from(weights::open(&folder)?);
        let config = architectures::read(&*masters, Overrides::default())?;
        let mut options = self.settings.pack_options(CONFIG)?;
        if let Some(files) = TokenizerFiles::of(&*masters)? {
            options.tokenizer = Some(files.tokenizer);
            options.tokenizer_config = Some(files.config);
        }
        let path = output.join(PACKED);
        weights::write_packed(&path, &masters, &config, &options, |_, _| ())?;
        Ok(path)
    }
}

/// What stands under a key with its sections before it.
fn value<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((section, rest)) => value(table.get(section)?.as_table()?, rest),
        None => table.get(key),
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

/// The curves of a run.
pub(super) fn curves(rows: &[Row]) -> String {
    let line = |of: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = rows
            .iter()
            .filter_map(|row| Some((row.step as f64, of(row)?)));
        points.collect()
    };
    let trits = |of: fn(&TritMetrics) -> f64| line(&|row| row.trits.as_ref().map(of));
    let terms = |of: fn(&Terms) -> f64| line(&|row| row.terms.as_ref().map(of));
    svg(&[
        Panel {
            title: "loss",
            lines: vec![
                ("training", line(&|row| Some(row.loss))),
                ("validation", line(&|row| row.validation_loss)),
            ],
        },
        Panel {
            title: "distance from the teacher",
            lines: vec![
                ("logits", terms(|t| t.logits)),
                ("attention", terms(|t| t.attention)),
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
