//! The 2B4T architecture in a few lines: what the training fixture needs, sized by its config, written for reading.
//!
//! Fields have the names of the published checkpoints, so Burn's safetensors store loads them as they are.

use bitnet_models::{BitLinear, BitLinearConfig};
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, RmsNorm, RmsNormConfig};
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use serde_json::Value;

#[derive(Module, Debug)]
pub(crate) struct Tiny2b4t {
    model: Decoder,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: BitLinear,
    k_proj: BitLinear,
    v_proj: BitLinear,
    o_proj: BitLinear,
    attn_sub_norm: RmsNorm,
    head_dim: usize,
    rope_theta: f64,
}

#[derive(Module, Debug)]
struct FeedForward {
    gate_proj: BitLinear,
    up_proj: BitLinear,
    down_proj: BitLinear,
    ffn_sub_norm: RmsNorm,
}

impl Tiny2b4t {
    /// All sizes from a `config.json`.
    pub(crate) fn new(config: &Value, device: &Device) -> Self {
        let size = |key: &str| config[key].as_u64().expect("a size in config.json") as usize;
        let float = |key: &str| config[key].as_f64().expect("a number in config.json");
        assert_eq!(config["hidden_act"], "relu2");
        assert_eq!(config["tie_word_embeddings"], true);

        let (hidden, inter, n_heads) = (
            size("hidden_size"),
            size("intermediate_size"),
            size("num_attention_heads"),
        );
        let head_dim = config["head_dim"]
            .as_u64()
            .map_or(hidden / n_heads, |dim| dim as usize);
        let (q, kv) = (n_heads * head_dim, size("num_key_value_heads") * head_dim);
        let norm = |size| {
            RmsNormConfig::new(size)
                .with_epsilon(float("rms_norm_eps"))
                .init(device)
        };
        let linear = |d_in, d_out| BitLinearConfig::new(d_in, d_out).init(device);
        let layer = |_| Layer {
            input_layernorm: norm(hidden),
            self_attn: Attention {
                q_proj: linear(hidden, q),
                k_proj: linear(hidden, kv),
                v_proj: linear(hidden, kv),
                o_proj: linear(q, hidden),
                attn_sub_norm: norm(q),
                head_dim,
                rope_theta: float("rope_theta"),
            },
            post_attention_layernorm: norm(hidden),
            mlp: FeedForward {
                gate_proj: linear(hidden, inter),
                up_proj: linear(hidden, inter),
                down_proj: linear(inter, hidden),
                ffn_sub_norm: norm(inter),
            },
        };
        Self {
            model: Decoder {
                embed_tokens: EmbeddingConfig::new(size("vocab_size"), hidden).init(device),
                layers: (0..size("num_hidden_layers")).map(layer).collect(),
                norm: norm(hidden),
            },
        }
    }

    /// `ids [batch, seq_len]`, `attention_mask` the same with true for real tokens; logits `[batch, seq_len, vocab]`.
    pub(crate) fn forward(
        &self,
        ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Bool>,
    ) -> Tensor<3> {
        let Decoder {
            embed_tokens,
            layers,
            norm,
        } = &self.model;
        let [batch, seq_len] = ids.dims();
        let future = Tensor::<2, Bool>::tril_mask([seq_len, seq_len], 0, &ids.device());
        let padding = attention_mask.bool_not().unsqueeze_dim::<3>(1); // [batch, 1, seq_len]
        let hidden_from = future
            .unsqueeze::<3>()
            .expand([batch, seq_len, seq_len])
            .bool_or(padding.expand([batch, seq_len, seq_len]));

        let mut h = embed_tokens.forward(ids); // [batch, seq_len, hidden]
        for layer in layers {
            let attended = layer
                .self_attn
                .forward(rms_norm(&layer.input_layernorm, h.clone()), &hidden_from);
            h = h + attended;
            h = h.clone()
                + layer
                    .mlp
                    .forward(rms_norm(&layer.post_attention_layernorm, h));
        }
        let head = embed_tokens.weight.val().transpose().unsqueeze::<3>(); // tied
        rms_norm(norm, h).matmul(head)
    }

    /// Every BitLinear packed.
    pub(crate) fn pack(mut self) -> Self {
        for layer in &mut self.model.layers {
            let Layer { self_attn, mlp, .. } = layer;
            for linear in [
                &mut self_attn.q_proj,
                &mut self_attn.k_proj,
                &mut self_attn.v_proj,
                &mut self_attn.o_proj,
                &mut mlp.gate_proj,
                &mut mlp.up_proj,
                &mut mlp.down_proj,
            ] {
                *linear = linear.clone().pack();
            }
        }
        self
    }

    /// The trits of every BitLinear, one after the other.
    pub(crate) fn trits(&self) -> Vec<i8> {
        let layers = self.model.layers.iter();
        layers
            .flat_map(|Layer { self_attn, mlp, .. }| {
                let attention = [
                    &self_attn.q_proj,
                    &self_attn.k_proj,
                    &self_attn.v_proj,
                    &self_attn.o_proj,
                ];
                let mlp = [&mlp.gate_proj, &mlp.up_proj, &mlp.down_proj];
                attention.into_iter().chain(mlp)
            })
            .flat_map(|linear| {
                let packed = linear.weight().to_packed();
                packed.expect("finite weights").trits()
            })
            .collect()
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, hidden_from: &Tensor<3, Bool>) -> Tensor<3> {
        let q = self.rope(self.heads(self.q_proj.forward(x.clone())));
        let k = self.rope(self.heads(self.k_proj.forward(x.clone())));
        let v = self.heads(self.v_proj.forward(x));
        let [batch, n_heads, seq_len, head_dim] = q.dims();
        let group = n_heads / k.dims()[1]; // consecutive query heads share a key head
        let shared = |t: Tensor<4>| {
            t.unsqueeze_dim::<5>(2)
                .repeat_dim(2, group)
                .reshape([batch, n_heads, seq_len, head_dim])
        };

        let scores = q.matmul(shared(k).swap_dims(2, 3)) * (head_dim as f64).powf(-0.5);
        let mask = hidden_from.clone().unsqueeze_dim::<4>(1);
        let scores = scores.mask_fill(mask.expand([batch, n_heads, seq_len, seq_len]), -1e30);
        let o = softmax(scores, 3).matmul(shared(v)); // [batch, n_heads, seq_len, head_dim]
        let o = o
            .swap_dims(1, 2)
            .reshape([batch, seq_len, n_heads * head_dim]);
        self.o_proj.forward(rms_norm(&self.attn_sub_norm, o))
    }

    /// `[batch, seq_len, heads · head_dim]` to `[batch, heads, seq_len, head_dim]`.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq_len, width] = x.dims();
        x.reshape([batch, seq_len, width / self.head_dim, self.head_dim])
            .swap_dims(1, 2)
    }

    /// Rotates the first half of each head against the second, position `p` by `p · theta^(-2i/head_dim)`.
    fn rope(&self, x: Tensor<4>) -> Tensor<4> {
        let ([_, _, seq_len, head_dim], half) = (x.dims(), self.head_dim / 2);
        let table = |of: fn(f32) -> f32| {
            let values: Vec<f32> = (0..seq_len * half)
                .map(|at| {
                    let (position, i) = (at / half, at % half);
                    let frequency = self.rope_theta.powf(-2.0 * i as f64 / head_dim as f64) as f32;
                    of(position as f32 * frequency)
                })
                .collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, seq_len, half]), &x.device())
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let rotated = [
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos + a * sin,
        ];
        Tensor::cat(rotated.into(), 3)
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = relu(self.gate_proj.forward(x.clone())).square();
        let gated = gate * self.up_proj.forward(x);
        self.down_proj.forward(rms_norm(&self.ffn_sub_norm, gated))
    }
}

/// Mean cross-entropy of `logits[:, :-1]` against `labels[:, 1:]`, labels of -100 left out.
pub(crate) fn loss(logits: Tensor<3>, labels: Tensor<2, Int>) -> Tensor<1> {
    let [_, seq_len, _] = logits.dims();
    let labels = labels.narrow(1, 1, seq_len - 1).unsqueeze_dim::<3>(2);
    let ignored = labels.clone().equal_scalar(-100);
    let picked = log_softmax(logits.narrow(1, 0, seq_len - 1), 2)
        .gather(2, labels.mask_fill(ignored.clone(), 0));
    let count = ignored.clone().bool_not().int().sum().into_scalar::<i64>();
    picked.mask_fill(ignored, 0.0).sum() / -(count as f64)
}

/// `w · (x · rsqrt(mean(x²) + eps))`, in the reference's order of operations: one ulp decides on which side of a rounding
/// boundary an activation falls, and Burn's own norm divides instead.
fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let mean = x.clone().square().mean_dim(D - 1);
    let inverse = (mean + norm.epsilon).sqrt().recip();
    x * inverse * norm.gamma.val().unsqueeze()
}
