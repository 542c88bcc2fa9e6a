//! The model that is trained: a decoder with float masters, of any size or from a checkpoint.
//!
//! [`Masters`] are its weights on the host, fresh or of a trained decoder, as a checkpoint: what loads a model is what
//! saves it. Invariant: the parameters of [`trainable`] models are numbered in reading order, in every process alike.

mod config;
mod masters;
mod origin;

use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::weights::Checkpoint;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Tensor};

pub use config::{FreshModel, ModelConfig, StartModel};
pub use masters::Masters;
pub use origin::{Origin, Start, check_vocabulary};

/// A decoder with trainable f32 parameters.
///
/// # Errors
///
/// The checkpoint's.
pub fn trainable(checkpoint: &dyn Checkpoint, device: &Device) -> Result<Decoder, ModelError> {
    let config = architectures::read(checkpoint, Overrides::default())?;
    let options = LoadOptions::trainable();
    let decoder = Decoder::load(&config, checkpoint, &options, device, &mut |_, _| ())?;
    Ok(decoder.map(&mut Numbering(0)))
}

struct Numbering(u64);

impl ModuleMapper for Numbering {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(self.0), tensor, mapper)
    }
}
