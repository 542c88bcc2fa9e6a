//! The transformer that all supported families share: bricks of [`layers`](crate::layers), put together as a
//! [`DecoderConfig`] says.
//!
//! Residual stream, norms, rotation and attention are f32; the projections are exact integer products. A batch is rows of
//! tokens padded at their ends, so that no attention mask is needed: no token attends to what follows it.

mod cache;
mod config;
mod load;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, RmsNorm};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

pub use cache::Cache;
pub use config::{Activation, Biases, DecoderConfig, Masters, PROJECTIONS};
pub use load::LoadOptions;

use crate::layers::{Attention, FeedForward, Past, Rotation, Table, rms_norm};
use crate::weights::Role;
use crate::{BitLinear, ModelError};

/// A decoder-only language model. Paths of its parameters are the names of the published checkpoints.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Embedding, layers and final norm.
    pub model: Body,
    /// Output head, if it is not the embedding.
    pub lm_head: Option<Table>,
    #[module(skip)]
    config: DecoderConfig,
}

/// Everything below the output head.
#[derive(Module, Debug)]
pub struct Body {
    /// Token embeddings.
    pub embed_tokens: Table,
    /// Layers, in order.
    pub layers: Vec<Layer>,
    /// Final norm.
    pub norm: RmsNorm,
    /// Of embeddings, while training.
    pub dropout: Dropout,
}

/// One layer.
#[derive(Module, Debug)]
pub struct Layer {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Norm before the feed-forward block.
    pub post_attention_layernorm: RmsNorm,
    /// Feed-forward block.
    pub mlp: FeedForward,
    /// Of what each block adds to the residual stream, while training.
    pub dropout: Dropout,
}

impl Decoder {
    /// What the model is.
    pub const fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Logits of whole sequences, differentiable.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, seq_len]`, rows padded at their ends
    /// - output: `[batch, seq_len, vocab_size]`
    ///
    /// # Panics
    ///
    /// Panics if the model has no output head.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.logits(self.hidden(ids))
    }

    /// Hidden states of whole sequences after the final norm, differentiable.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, seq_len]`
    /// - output: `[batch, seq_len, hidden_size]`
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.watch(ids, |_| ())
    }

    /// As [`hidden`](Self::hidden), and shows the residual stream after the embedding and after each layer.
    pub fn watch(&self, ids: Tensor<2, Int>, mut seen: impl FnMut(&Tensor<3>)) -> Tensor<3> {
        let [_, seq_len] = ids.dims();
        let positions: Vec<usize> = (0..seq_len).collect();
        let rotation =
            self.config
                .rope
                .rotation(self.config.head_dim, &positions, 1, &ids.device());
        let h = self.model.embed_tokens.forward(ids);
        let mut h = self.model.dropout.forward(h);
        seen(&h);
        for layer in &self.model.layers {
            h = layer.forward(h, &rotation, Past::Nothing);
            seen(&h);
        }
        rms_norm(&self.model.norm, h)
    }

    /// Sets which part of embeddings, of attention weights and of what each block adds is dropped (arXiv 1207.0580): on
    /// autodiff devices alone, so that neither inference nor [`valid`](Module::valid) models drop anything. Default: 0.
    ///
    /// # Panics
    ///
    /// Panics if `probability` is not in 0..1.
    pub fn set_dropout(&mut self, probability: f64) {
        let dropout = DropoutConfig::new(probability).init();
        for layer in &mut self.model.layers {
            layer.dropout = dropout.clone();
            layer.self_attn.dropout = dropout.clone();
        }
        self.model.dropout = dropout;
    }

    /// Sets how much of each sub-norm is applied, for models that get theirs late: 0 computes what the model did without
    /// them, 1 (the default) is the norm.
    ///
    /// # Panics
    ///
    /// Panics if `lambda` is not in 0..=1.
    pub fn set_sub_norm_blend(&mut self, lambda: f64) {
        assert!(
            (0.0..=1.0).contains(&lambda),
            "a blend of {lambda}, expected 0 (no sub-norms) to 1"
        );
        for layer in &mut self.model.layers {
            layer.self_attn.sub_norm_blend = lambda;
            layer.mlp.sub_norm_blend = lambda;
        }
    }

    /// Sets the number format of all products while training: on autodiff devices alone. Parameters, gradients of them, norms
    /// and softmax stay f32. `None`, the default, is f32 throughout.
    pub fn set_products(&mut self, products: Option<DType>) {
        for layer in &mut self.model.layers {
            layer.self_attn.products = products;
            for projection in layer.projections_mut() {
                projection.set_products(products);
            }
        }
        let head = self
            .lm_head
            .as_mut()
            .unwrap_or(&mut self.model.embed_tokens);
        head.set_products(products);
    }

    /// Sets how far every projection is quantized, as [`BitLinear::set_blend`] does for one.
    ///
    /// # Panics
    ///
    /// Panics if `lambda` is not in 0..=1.
    pub fn set_blend(&mut self, lambda: f64) {
        for layer in &mut self.model.layers {
            for projection in layer.projections_mut() {
                projection.set_blend(lambda);
            }
        }
    }

    /// Continues each row of `cache` by these tokens: hidden states after the final norm.
    ///
    /// The output of a token depends neither on the other rows nor on how a row was cut into steps.
    ///
    /// # Shapes
    ///
    /// - rows: one list of ids per row of the cache, of any lengths
    /// - output: `[batch, longest, hidden_size]`; beyond the end of a row it means nothing
    ///
    /// # Errors
    ///
    /// [`ModelError::ContextOverflow`] if a row has no room, and then nothing is changed.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many rows as in the cache, or all are empty.
    pub fn step(&self, rows: &[&[u32]], cache: &mut Cache) -> Result<Tensor<3>, ModelError> {
        let added: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let seq_len = added.iter().copied().max().unwrap_or(0);
        assert!(
            rows.len() == cache.lengths().len() && seq_len > 0,
            "a step has a row of tokens for each row of the cache, and a token in one of them"
        );
        cache.reserve(&added)?;

        let device = self.device();
        let padded = |row: &&[u32]| {
            let padding = std::iter::repeat_n(0, seq_len - row.len());
            let ids = row.iter().map(|&id| id as i32);
            ids.chain(padding).collect::<Vec<i32>>()
        };
        let ids: Vec<i32> = rows.iter().flat_map(padded).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows.len(), seq_len]), &device);
        let starts: Vec<i32> = cache.lengths().iter().map(|&at| at as i32).collect();
        let starts = Tensor::<1, Int>::from_data(TensorData::new(starts, [rows.len()]), &device);
        let positions: Vec<usize> = cache
            .lengths()
            .iter()
            .flat_map(|&start| start..start + seq_len)
            .collect();
        let rotation =
            self.config
                .rope
                .rotation(self.config.head_dim, &positions, rows.len(), &device);

        let mut h = self.model.embed_tokens.forward(ids);
        for (layer, cache) in self.model.layers.iter().zip(&mut cache.layers) {
            let past = Past::Cache {
                cache,
                starts: &starts,
            };
            h = layer.forward(h, &rotation, past);
        }
        cache.advance(&added);
        Ok(rms_norm(&self.model.norm, h))
    }

    /// Proves that there is an output head.
    pub(crate) fn check_head(&self) -> Result<(), ModelError> {
        if self.config.has_head {
            return Ok(());
        }
        Err(ModelError::Request {
            what: "model",
            found: format!("`{}` without an output head", self.config.architecture),
            expected: "one that predicts tokens".into(),
            way_out: "It makes embeddings. Use another model for text".into(),
        })
    }

    /// The output head on hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[.., hidden_size]`
    /// - output: `[.., vocab_size]`
    ///
    /// # Panics
    ///
    /// Panics if the model has no output head.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        self.head().logits(hidden)
    }

    /// The logits that may be among the `leading` largest of their row, bit for bit; others may be −∞. Faster than
    /// [`logits`](Self::logits) where the head has a screen.
    ///
    /// # Shapes
    ///
    /// As [`logits`](Self::logits).
    ///
    /// # Panics
    ///
    /// Panics if the model has no output head, or `leading` is 0.
    pub fn leading<const D: usize>(&self, hidden: Tensor<D>, leading: usize) -> Tensor<D> {
        self.head().leading(hidden, leading)
    }

    /// The output head.
    ///
    /// # Panics
    ///
    /// Panics if the model has none.
    pub fn head(&self) -> &Table {
        assert!(
            self.config.has_head,
            "`{}` has no output head; it gives hidden states",
            self.config.architecture
        );
        self.lm_head.as_ref().unwrap_or(&self.model.embed_tokens)
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.model.norm.gamma.lazy_device()
    }

    /// Bytes of all parameters in memory: projections, tables, norms.
    pub fn bytes(&self) -> [usize; 3] {
        let layers = self.model.layers.iter();
        let projections = layers.flat_map(Layer::projections).map(|p| p.bytes()).sum();
        let head = self.lm_head.as_ref().map_or(0, Table::bytes);
        let tables = self.model.embed_tokens.bytes() + head;
        let vectors = self.config.slots().into_iter().map(|slot| match slot.role {
            Role::Vector(len) => 4 * len,
            _ => 0,
        });
        [projections, tables, vectors.sum()]
    }
}

impl Layer {
    fn forward(&self, h: Tensor<3>, rotation: &Rotation, past: Past<'_>) -> Tensor<3> {
        let normed = rms_norm(&self.input_layernorm, h.clone());
        let attended = self.self_attn.forward(normed, rotation, past);
        let h = h + self.dropout.forward(attended);
        let normed = rms_norm(&self.post_attention_layernorm, h.clone());
        h + self.dropout.forward(self.mlp.forward(normed))
    }

    /// Queries, keys and values that this layer attends with, as [`Attention::states`] gives them.
    ///
    /// # Shapes
    ///
    /// - h: `[batch, seq_len, hidden_size]`, the residual stream before the layer
    pub fn states(&self, h: Tensor<3>) -> [Tensor<4>; 3] {
        self.self_attn.states(rms_norm(&self.input_layernorm, h))
    }

    /// The seven projections, in the order of [`PROJECTIONS`].
    pub const fn projections(&self) -> [&BitLinear; 7] {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ]
    }

    const fn projections_mut(&mut self) -> [&mut BitLinear; 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            &mut attention.q_proj,
            &mut attention.k_proj,
            &mut attention.v_proj,
            &mut attention.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ]
    }
}
