//! The model that comes with this crate: stories and dialogues from a small world, by a ternary decoder of 6.8 million
//! parameters. `models/README.md` is its card.

use bitnet_models::decoder::LoadOptions;
use bitnet_models::weights::{Checkpoint, embedded};
use bitnet_models::{Model, ModelError};
use burn::tensor::Device;

/// Name on the command line and in messages.
pub const NAME: &str = "storyteller";

static FILE: &[u8] = include_bytes!("../models/storyteller.bpk");

/// Its weights and tokenizer.
///
/// # Errors
///
/// None but faults of this crate: the file is proven as any other is.
pub fn checkpoint() -> Result<Box<dyn Checkpoint>, ModelError> {
    embedded(NAME, FILE)
}

/// Loads it.
///
/// # Errors
///
/// As [`checkpoint`].
pub fn load(device: &Device) -> Result<Model, ModelError> {
    let checkpoint = checkpoint()?;
    Model::from_checkpoint(
        &*checkpoint,
        device,
        &LoadOptions::default(),
        &mut |_, _| (),
    )
}
