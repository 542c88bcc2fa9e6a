//! The proof of what the types of a configuration do not prove.
//!
//! Invariant: settings that passed [`Settings::check`] can be run; one that makes no sense was refused by its name.

use bitnet_kernels::ActivationQuantizer;

use super::read;
use super::settings::Settings;
use crate::TrainError;
use crate::model::ModelConfig;
use crate::schedule::{Blend, Schedule};

/// Refuses a setting of `file`, by name, unless `holds`.
pub(super) fn require(
    file: &str,
    holds: bool,
    field: &str,
    found: impl ToString,
    expected: &str,
) -> Result<(), TrainError> {
    match holds {
        true => Ok(()),
        false => Err(read::refused(file, field, &found.to_string(), expected)),
    }
}

/// Proves the settings of a stage of so many steps; names of fields begin with `section`.
pub(super) fn check_stage(
    file: &str,
    section: &str,
    steps: u64,
    schedule: &Schedule,
    blend: &Blend,
) -> Result<(), TrainError> {
    let field = |name: &str| format!("{section}{name}");
    require(file, steps > 0, &field("steps"), steps, "at least 1")?;
    for (name, part) in schedule.parts() {
        let holds = (0.0..=1.0).contains(&part);
        require(file, holds, &field(name), part, "a part: 0 to 1")?;
    }
    require(
        file,
        schedule.warmup() < steps,
        &field("schedule.warmup"),
        schedule.warmup(),
        &format!("fewer than steps, {steps}"),
    )?;
    if let Some(steepness) = blend.steepness() {
        let holds = steepness > 0.0 && steepness <= 100.0;
        let expected = "a number above 0, at most 100";
        require(file, holds, &field("blend.steepness"), steepness, expected)?;
    }
    require(
        file,
        blend.steps() < steps,
        &field("blend.steps"),
        blend.steps(),
        &format!("fewer than steps, {steps}: the run has to end ternary"),
    )
}

impl Settings<'_> {
    /// Proves every setting that its type does not.
    pub(super) fn check(&self, file: &str) -> Result<(), TrainError> {
        let Self {
            batch, optimizer, ..
        } = self;
        let require = |holds: bool, field: &str, found: String, expected: &str| {
            require(file, holds, field, found, expected)
        };
        self.check_model(file)?;
        for (field, size) in [
            ("batch.rows", batch.rows),
            ("batch.length", batch.length),
            ("batch.at_once", self.at_once()),
            ("validation.batches", self.validation.batches),
            ("log.every", self.log.every as usize),
            ("log.trits_every", self.log.trits_every as usize),
            ("validation.every", self.validation.every as usize),
            ("checkpoint.every", self.checkpoint.every as usize),
        ] {
            require(size > 0, field, size.to_string(), "at least 1")?;
        }
        for (field, value) in [
            ("optimizer.lr", optimizer.lr),
            ("optimizer.epsilon", optimizer.epsilon),
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
        self.data.check(file, "data.")?;
        self.pack_options(file).map(|_| ())
    }

    fn check_model(&self, file: &str) -> Result<(), TrainError> {
        let require = |holds: bool, field: &str, found: String, expected: &str| {
            require(file, holds, field, found, expected)
        };
        let dropout = self.model.dropout();
        require(
            (0.0..1.0).contains(&dropout),
            "model.dropout",
            dropout.to_string(),
            "a part: 0 to below 1",
        )?;
        if let Some(bits) = self.model.activation_bits() {
            let holds = ActivationQuantizer::from_bits(bits).is_some();
            require(holds, "model.activation_bits", bits.to_string(), "8 or 4")?;
        }
        let model = match self.model {
            ModelConfig::Fresh(model) => model,
            ModelConfig::Start(model) => {
                let size = self.data.vocab_size;
                return require(
                    size.is_none(),
                    "data.vocab_size",
                    size.unwrap_or_default().to_string(),
                    &format!("nothing: the tokens are those of {}", model.from.display()),
                );
            }
        };
        for (field, size) in [
            ("model.hidden_size", model.hidden_size),
            ("model.intermediate_size", model.intermediate_size),
            ("model.n_layers", model.n_layers),
            ("model.n_heads", model.n_heads),
            ("model.n_kv_heads", model.n_kv_heads.unwrap_or(1)),
            ("model.context", model.context),
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
        for (field, value) in [
            ("model.init_std", model.init_std),
            ("model.norm_epsilon", model.norm_epsilon),
        ] {
            let holds = value.is_finite() && value > 0.0;
            require(holds, field, value.to_string(), "a number above 0")?;
        }
        self.check_length(file, model.context)
    }

    /// Proves that rows fit into the context of the model.
    pub(super) fn check_length(&self, file: &str, context: usize) -> Result<(), TrainError> {
        require(
            file,
            self.batch.length <= context,
            "batch.length",
            self.batch.length,
            &format!("at most model.context, {context}"),
        )
    }
}
