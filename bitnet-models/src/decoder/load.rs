//! From a checkpoint to a decoder on a device, one tensor at a time.
//!
//! Projections arrive packed, or as masters that are quantized here (inference) or kept (training). Tables are narrowed
//! row by row, so that no float copy of a whole one exists. Every float is proven finite on its way.

use bitnet_kernels::quantize::ternarize;
use bitnet_kernels::{
    PackedTable, ScreenTensor, TableFormat, TableTensor, TernaryTensor, WeightQuantizer,
};
use burn::module::{Module, Param};
use burn::nn::{DropoutConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{Body, Decoder, DecoderConfig, Layer};
use crate::architectures::Overrides;
use crate::layers::{Attention, FeedForward, Table};
use crate::weights::{Checkpoint, FloatKind, Floats, Form, Matrix, Ready, ReadyScreen};
use crate::{BitLinear, BitLinearConfig, ModelError};

/// What a decoder is made of what a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Number format of embedding and head; `None` keeps that of the checkpoint, which changes no logit. A table that
    /// the checkpoint holds ternary stays so: exact, and 2.25 bits a number with a scale for 128, where int4 takes 5.
    pub table: Option<TableFormat>,
    /// Keeps masters and tables as trainable float parameters, in f32.
    pub trainable: bool,
    /// Number format of projections that are not quantized at all.
    pub float: DType,
    /// What the user knows better than the configuration.
    pub overrides: Overrides,
}

/// For inference: int8 tables (what that changes is measured in `docs/accuracy.md`), packed projections.
impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            table: Some(TableFormat::Int8),
            trainable: false,
            float: DType::F32,
            overrides: Overrides::default(),
        }
    }
}

impl LoadOptions {
    /// Everything as the checkpoint has it: the reference's logits.
    pub fn exact() -> Self {
        Self {
            table: None,
            ..Self::default()
        }
    }

    /// Float masters and tables, ready for an optimizer.
    pub fn trainable() -> Self {
        Self {
            trainable: true,
            ..Self::exact()
        }
    }
}

impl Decoder {
    /// Reads every tensor of `config` from `checkpoint`. `loaded` is told the number of tensors read and of all.
    ///
    /// # Errors
    ///
    /// The checkpoint's, and values that are not finite.
    pub fn load(
        config: &DecoderConfig,
        checkpoint: &dyn Checkpoint,
        options: &LoadOptions,
        device: &Device,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let mut loader = Loader {
            config,
            checkpoint,
            options,
            device,
            loaded,
            done: 0,
            all: config.slots().len(),
        };
        let embed_tokens = loader.table("model.embed_tokens.weight")?;
        let layers = (0..config.n_layers)
            .map(|index| loader.layer(index))
            .collect::<Result<_, _>>()?;
        let norm = loader.norm("model.norm", config.hidden_size)?;
        let lm_head = (config.has_head && !config.tied_head)
            .then(|| loader.table("lm_head.weight"))
            .transpose()?;
        Ok(Self {
            model: Body {
                embed_tokens,
                layers,
                norm,
                dropout: DropoutConfig::new(0.0).init(),
            },
            lm_head,
            config: config.clone(),
        })
    }
}

const PROVEN: &str = "the format proves the shapes of what it hands out ready";

struct Loader<'a> {
    config: &'a DecoderConfig,
    checkpoint: &'a dyn Checkpoint,
    options: &'a LoadOptions,
    device: &'a Device,
    loaded: &'a mut dyn FnMut(usize, usize),
    done: usize,
    all: usize,
}

impl Loader<'_> {
    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let config = self.config;
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let input_layernorm = self.norm(&at("input_layernorm"), hidden)?;
        let q_proj = self.linear(&at("self_attn.q_proj"))?;
        let k_proj = self.linear(&at("self_attn.k_proj"))?;
        let v_proj = self.linear(&at("self_attn.v_proj"))?;
        let o_proj = self.linear(&at("self_attn.o_proj"))?;
        let head_norm = |loader: &mut Self, name| {
            let wanted = config.head_norms;
            wanted
                .then(|| loader.norm(&at(name), config.head_dim))
                .transpose()
        };
        let q_norm = head_norm(self, "self_attn.q_norm")?;
        let k_norm = head_norm(self, "self_attn.k_norm")?;
        let sub_norm = |loader: &mut Self, name, width| {
            let wanted = config.sub_norms;
            wanted.then(|| loader.norm(&at(name), width)).transpose()
        };
        let width = config.n_heads * config.head_dim;
        let attn_sub_norm = sub_norm(self, "self_attn.attn_sub_norm", width)?;
        let post_attention_layernorm = self.norm(&at("post_attention_layernorm"), hidden)?;
        Ok(Layer {
            input_layernorm,
            self_attn: Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                q_norm,
                k_norm,
                attn_sub_norm,
                sub_norm_blend: 1.0,
                dropout: DropoutConfig::new(0.0).init(),
                products: None,
                head_dim: config.head_dim,
            },
            post_attention_layernorm,
            mlp: FeedForward {
                gate_proj: self.linear(&at("mlp.gate_proj"))?,
                up_proj: self.linear(&at("mlp.up_proj"))?,
                down_proj: self.linear(&at("mlp.down_proj"))?,
                ffn_sub_norm: sub_norm(self, "mlp.ffn_sub_norm", inter)?,
                sub_norm_blend: 1.0,
                activation: config.activation,
            },
            dropout: DropoutConfig::new(0.0).init(),
        })
    }

    fn linear(&mut self, path: &str) -> Result<BitLinear, ModelError> {
        let config = self.config;
        let below = path.splitn(4, '.').nth(3).expect("model.layers.{i}.<name>");
        let (d_out, d_in, biased) = config.projection(below);
        let name = format!("{path}.weight");
        let bias = biased
            .then(|| self.vector(&format!("{path}.bias"), d_out))
            .transpose()?;
        let ready = self.checkpoint.ready(&name, d_out, d_in)?;
        let mut layer = match ready {
            Some(ready) => BitLinear::from_packed(self.ternary(ready, d_in), bias),
            None => match self.checkpoint.matrix(&name, d_out, d_in)? {
                Matrix::Ternary(packed) => {
                    BitLinear::from_packed(TernaryTensor::from_packed(packed, self.device), bias)
                }
                Matrix::Float(floats) => self.master(path, &floats, [d_out, d_in], bias)?,
            },
        };
        layer.activations = config.activations;
        if config.projection_norms {
            layer.norm = Some(self.norm(&format!("{path}.norm"), d_in)?);
        }
        self.count();
        Ok(layer)
    }

    /// A projection that the checkpoint holds as floats.
    fn master(
        &self,
        path: &str,
        floats: &Floats<'_>,
        [d_out, d_in]: [usize; 2],
        bias: Option<Tensor<1>>,
    ) -> Result<BitLinear, ModelError> {
        let values = self.finite(&format!("{path}.weight"), floats.to_f32())?;
        let latent = |values, dtype| {
            let data = TensorData::new(values, [d_out, d_in]);
            Tensor::<2>::from_data(data, (self.device, DType::F32)).cast(dtype)
        };
        let layer = BitLinearConfig::new(d_in, d_out);
        Ok(match self.config.is_ternary(path) {
            Some(granularity) if self.options.trainable => layer
                .with_granularity(granularity)
                .init_with(latent(values, DType::F32), bias),
            Some(granularity) => {
                let packed = ternarize(&values, d_out, d_in, WeightQuantizer::AbsMean, granularity)
                    .map_err(ModelError::ternary(self.checkpoint.path(), path))?;
                BitLinear::from_packed(TernaryTensor::from_packed(packed, self.device), bias)
            }
            None => {
                let dtype = if self.options.trainable {
                    DType::F32
                } else {
                    self.options.float
                };
                let mut layer = layer.init_with(latent(values, dtype), bias);
                layer.set_blend(0.0);
                if !self.options.trainable {
                    layer = layer.freeze();
                }
                layer
            }
        })
    }

    fn table(&mut self, name: &str) -> Result<Table, ModelError> {
        let (rows, columns) = (self.config.vocab_size, self.config.hidden_size);
        let path = self.checkpoint.path();
        // As it is in the file, unless another form was asked for.
        if !self.options.trainable
            && let Some(mut ready) = self.checkpoint.ready(name, rows, columns)?
        {
            let wanted = self.options.table;
            let table = match (ready.form, ready.screen.take()) {
                (Form::Ternary(_), _) => Some(Table::from_ternary(self.ternary(ready, columns))),
                (Form::Table(format), screen) if wanted.is_none_or(|wanted| wanted == format) => {
                    let table = self.upload(ready.codes, ready.scale, format, columns);
                    let table = Table::from_table(table);
                    Some(match screen {
                        Some(screen) if ScreenTensor::is_read_on(self.device) => {
                            table.with_screen(self.screen(screen, columns))
                        }
                        _ => table,
                    })
                }
                // The copy is what int8 makes of these floats.
                (Form::Table(_), Some(screen)) if wanted == Some(TableFormat::Int8) => {
                    let (copy, _) = self.screen(screen, columns).into_parts();
                    Some(Table::from_table(copy))
                }
                (Form::Table(_), _) => None,
            };
            if let Some(table) = table {
                self.count();
                return Ok(table);
            }
        }
        let table = match self.checkpoint.matrix(name, rows, columns)? {
            Matrix::Ternary(packed) => {
                Table::from_ternary(TernaryTensor::from_packed(packed, self.device))
            }
            Matrix::Float(floats) if self.options.trainable => {
                let values = self.finite(name, floats.to_f32())?;
                let data = TensorData::new(values, [rows, columns]);
                Table::from_float(Param::from_data(data, self.device))
            }
            Matrix::Float(floats) => {
                let format = self.options.table.unwrap_or(match floats.kind {
                    FloatKind::F32 => TableFormat::F32,
                    FloatKind::F16 => TableFormat::F16,
                    FloatKind::BF16 => TableFormat::BF16,
                });
                let packed = PackedTable::from_rows(format, rows, columns, |row, values| {
                    floats.read(row * columns..(row + 1) * columns, values);
                })
                .map_err(ModelError::ternary(path, name))?;
                Table::from_table(TableTensor::from_packed(packed, self.device))
            }
        };
        self.count();
        Ok(table)
    }

    fn ternary(&self, ready: Ready, d_in: usize) -> TernaryTensor {
        let Form::Ternary(granularity) = ready.form else {
            unreachable!("a projection is ternary or float")
        };
        let Ready { codes, scale, .. } = ready;
        TernaryTensor::from_data(codes, scale, d_in, granularity, self.device).expect(PROVEN)
    }

    /// On a CPU device without a copy.
    fn upload(
        &self,
        codes: TensorData,
        scale: TensorData,
        format: TableFormat,
        columns: usize,
    ) -> TableTensor {
        let codes = Tensor::<2, Int>::from_data(codes, (self.device, DType::U32));
        let scale = Tensor::<1>::from_data(scale, (self.device, DType::F32));
        TableTensor::from_parts(codes, scale, format, columns).expect(PROVEN)
    }

    fn screen(&self, ready: ReadyScreen, columns: usize) -> ScreenTensor {
        let copy = self.upload(ready.codes, ready.scale, TableFormat::Int8, columns);
        let error = Tensor::from_data(ready.error, (self.device, DType::F32));
        ScreenTensor::from_parts(copy, error).expect(PROVEN)
    }

    fn norm(&mut self, path: &str, width: usize) -> Result<RmsNorm, ModelError> {
        let gamma = self.vector(&format!("{path}.weight"), width)?;
        let mut norm = RmsNormConfig::new(width)
            .with_epsilon(self.config.norm_epsilon)
            .init(self.device);
        norm.gamma = Param::from_tensor(gamma).set_require_grad(self.options.trainable);
        Ok(norm)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<1>, ModelError> {
        let values = self.checkpoint.floats(name, &[len])?.to_f32();
        let values = self.finite(name, values)?;
        self.count();
        let data = TensorData::new(values, [len]);
        Ok(Tensor::from_data(data, (self.device, DType::F32)))
    }

    fn finite(&self, name: &str, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(ModelError::Tensor {
                path: self.checkpoint.path().to_path_buf(),
                name: name.to_owned(),
                found: format!("{} at index {at}", values[at]),
                expected: "finite numbers".into(),
                way_out: "The file is damaged, or its training diverged. Get it again".into(),
            }),
        }
    }

    fn count(&mut self) {
        self.done += 1;
        (self.loaded)(self.done, self.all);
    }
}
