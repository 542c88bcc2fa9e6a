//! The gated feed-forward block: `down(norm(act(gate(x)) · up(x)))`.

use bitnet_kernels::{Activation, gated};
use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use super::{BitLinear, rms_norm_blended};

/// Feed-forward block of a decoder layer.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Gate, `intermediate_size` rows.
    pub gate_proj: BitLinear,
    /// Values, `intermediate_size` rows.
    pub up_proj: BitLinear,
    /// Back to the residual stream.
    pub down_proj: BitLinear,
    /// Norm of the gated values.
    pub ffn_sub_norm: Option<RmsNorm>,
    /// How much of that norm is applied, 0 to 1.
    pub sub_norm_blend: f64,
    /// Nonlinearity of the gate.
    #[module(skip)]
    pub activation: Activation,
}

impl FeedForward {
    /// Applies the block.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, seq_len, hidden_size]`, normed
    /// - output: the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [gate, up] = BitLinear::forward_pair([&self.gate_proj, &self.up_proj], x);
        let gated = gated(gate, up, self.activation);
        let gated = match &self.ffn_sub_norm {
            Some(norm) => rms_norm_blended(norm, gated, self.sub_norm_blend),
            None => gated,
        };
        self.down_proj.forward(gated)
    }
}
