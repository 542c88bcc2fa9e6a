//! No gradients: a cache exists for inference.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{FloatTensor, IntTensor};

use crate::ops::attention::Attended;
use crate::{AttentionOps, AttentionSpec};

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn cached_attention(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: AttentionSpec,
    ) -> Attended<Self> {
        panic!(
            "cached attention on an autodiff device: a key/value cache is for inference and has no gradients. Train with attention without a cache, or move the model off autodiff (`model.valid()`)"
        )
    }
}
