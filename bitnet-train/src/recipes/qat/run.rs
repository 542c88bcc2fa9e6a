//! The folder of a run: how it begins, where it goes on, what is saved, and what is said when numbers fail.
//!
//! Invariant: a checkpoint that is written is finite, and the one before it stays until then.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_models::TokenizerFiles;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::Decoder;
use bitnet_models::weights::{self, Checkpoint, ConfigMap, Slot};
use burn::module::Module;
use burn::tensor::Device;

use super::Qat;
use crate::TrainError;
use crate::checkpoint::{self, Data, State};
use crate::data::batches::Batch;
use crate::data::shards::TokenData;
use crate::metrics::{Row, TritMetrics, replace};
use crate::model::{Masters, trainable};
use crate::optimizer::Optimizer;
use crate::plot::{Panel, svg};
use crate::recipes::read;

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

/// What does not change during a run.
pub(super) struct Run<'a> {
    recipe: &'a Qat,
    text: String,
    data: &'a TokenData,
    description: ConfigMap,
    slots: Vec<Slot>,
}

impl<'a> Run<'a> {
    /// Of this recipe with this data.
    pub(super) fn new(recipe: &'a Qat, data: &'a TokenData) -> Result<Self, TrainError> {
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
    pub(super) fn begin(&self, device: &Device) -> Result<(Decoder, Optimizer, State), TrainError> {
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
    pub(super) fn resume(
        &self,
        device: &Device,
    ) -> Result<(Decoder, Optimizer, State), TrainError> {
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
    pub(super) fn save(
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
    pub(super) fn diverged(
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
    pub(super) fn pack(&self, state: &State) -> Result<PathBuf, TrainError> {
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

/// The curves of a run.
pub(super) fn curves(rows: &[Row]) -> String {
    let line = |of: &dyn Fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = rows
            .iter()
            .filter_map(|row| Some((row.step as f64, of(row)?)));
        points.collect()
    };
    let trits = |of: fn(&TritMetrics) -> f64| line(&|row| row.trits.as_ref().map(of));
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
