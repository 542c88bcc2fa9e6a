//! Grouped-query attention with optional norms, over whole sequences or over a cache.
//!
//! Under autodiff, whole sequences run on Burn's operations and are differentiable; everything else runs
//! [`cached_attention`]. Both compute the same numbers, and a test compares them. Keys and values are cached after their
//! rotation.

use bitnet_kernels::{
    CacheFormat, CacheTensor, cached_attention, causal_mix, causal_scores, causal_softmax,
};
use burn::module::Module;
use burn::nn::{Dropout, RmsNorm};
use burn::tensor::{DType, Int, Tensor};

use super::precision::narrowed;
use super::{BitLinear, Rotation, rms_norm, rms_norm_blended};

/// What precedes the tokens of a forward pass.
#[derive(Debug)]
pub enum Past<'a> {
    /// Nothing: each row of the batch is a whole sequence, padded at its end.
    Nothing,
    /// Cached keys and values; row `b` continues at position `starts[b]`.
    Cache {
        /// Keys and values of this layer. Left empty if the forward pass panics.
        cache: &'a mut Option<CacheTensor>,
        /// `[batch]`.
        starts: &'a Tensor<1, Int>,
    },
}

/// Causal self-attention of a decoder layer.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `n_heads · head_dim` rows.
    pub q_proj: BitLinear,
    /// Keys, `n_kv_heads · head_dim` rows.
    pub k_proj: BitLinear,
    /// Values, as many rows as the keys.
    pub v_proj: BitLinear,
    /// Back to the residual stream.
    pub o_proj: BitLinear,
    /// Norm of each query head.
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head.
    pub k_norm: Option<RmsNorm>,
    /// Norm of the joined heads.
    pub attn_sub_norm: Option<RmsNorm>,
    /// How much of that norm is applied, 0 to 1.
    pub sub_norm_blend: f64,
    /// Of attention weights, while training.
    pub dropout: Dropout,
    /// Number format of products while training; f32 if not given.
    #[module(skip)]
    pub products: Option<DType>,
    /// Width of a head.
    #[module(skip)]
    pub head_dim: usize,
}

impl Attention {
    /// Attends.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, seq_len, hidden_size]`, normed
    /// - output: the same
    pub fn forward(&self, x: Tensor<3>, rotation: &Rotation, past: Past<'_>) -> Tensor<3> {
        let [q, k, v] = self.states(x);
        let (q, k) = (rotation.apply(q), rotation.apply(k));
        let scale = (self.head_dim as f64).powf(-0.5);

        let o = match past {
            Past::Nothing if q.is_autodiff() => {
                // Values are narrowed as they lie, `[batch, seq_len, heads, head_dim]`: products can read them so.
                let v = narrowed(v.swap_dims(1, 2), self.products).swap_dims(1, 2);
                let [q, k] = [q, k].map(|x| narrowed(x, self.products));
                attention(q, k, v, scale, &self.dropout)
            }
            Past::Nothing => {
                // Burn's products of f32 are rounded to TF32 on NVIDIA GPUs, which moves logits by 0.5; ours are not.
                let [batch, n_kv_heads, seq_len, head_dim] = k.dims();
                let device = k.device();
                let format = CacheFormat::F32;
                let empty = CacheTensor::new(format, batch, n_kv_heads, seq_len, head_dim, &device);
                cached_attention(q, k, v, empty, Tensor::zeros([batch], &device), scale).0
            }
            Past::Cache { cache, starts } => {
                let taken = cache.take().expect("each layer has its cache");
                let (o, filled) = cached_attention(q, k, v, taken, starts.clone(), scale);
                *cache = Some(filled);
                o
            }
        }; // [batch, n_heads, seq_len, head_dim]

        let [batch, n_heads, seq_len, head_dim] = o.dims();
        let o = o
            .swap_dims(1, 2)
            .reshape([batch, seq_len, n_heads * head_dim])
            .cast(DType::F32);
        let o = match &self.attn_sub_norm {
            Some(norm) => rms_norm_blended(norm, o, self.sub_norm_blend),
            None => o,
        };
        self.o_proj.forward(o)
    }

    /// Queries, keys and values, not rotated yet.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, seq_len, hidden_size]`, normed
    /// - output: `[batch, heads, seq_len, head_dim]` each; keys and values have `n_kv_heads`
    pub fn states(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let normed = |norm: &Option<RmsNorm>, x: Tensor<4>| match norm {
            Some(norm) => rms_norm(norm, x),
            None => x,
        };
        let [q, k, v] = BitLinear::forward_triple([&self.q_proj, &self.k_proj, &self.v_proj], x);
        let [q, k, v] = [q, k, v].map(|x| self.heads(x));
        let (q, k) = (normed(&self.q_norm, q), normed(&self.k_norm, k));
        [q, k, v].map(|x| x.swap_dims(1, 2))
    }

    /// `[batch, seq_len, heads · head_dim]` to `[batch, seq_len, heads, head_dim]`.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq_len, width] = x.dims();
        x.reshape([batch, seq_len, width / self.head_dim, self.head_dim])
    }
}

/// `softmax(q·kᵀ·scale + causal mask)·v`, the query heads of one group side by side so that keys are not repeated.
fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64, dropout: &Dropout) -> Tensor<4> {
    let [batch, n_heads, seq_len, head_dim] = q.dims();
    let n_kv_heads = k.dims()[1];
    let q = q.reshape([batch, n_kv_heads, n_heads / n_kv_heads * seq_len, head_dim]);
    let scores = causal_scores(q, k); // [batch, n_kv_heads, group·seq_len, seq_len]
    let weights = dropout.forward(causal_softmax(scores, scale));
    causal_mix(weights, v).reshape([batch, n_heads, seq_len, head_dim])
}
