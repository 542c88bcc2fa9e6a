//! Any checkpoint as a Hugging Face folder: packed, as float masters, or dequantized.
//!
//! One tensor is in memory at a time. The folder is complete or unchanged: every file is written beside its place and
//! renamed when all are whole. Tables and vectors keep their bytes; only the weights of ternary layers change form.

mod config;
mod master;
mod staging;

use std::borrow::Cow;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use bitnet_kernels::packing::{Layout, hf::Hf};
use bitnet_kernels::quantize::EPSILON;
use bitnet_kernels::{ActivationQuantizer, Granularity, KernelError, PackedTernary};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use self::config::Target;
use self::staging::{Staging, TOKENIZER, TOKENIZER_CONFIG};
use super::hugging_face::{CONFIG, GENERATION, SINGLE};
use super::safetensors::header;
use super::{Arithmetic, Checkpoint, FloatKind, Floats, Matrix, Role, Slot};
use crate::ModelError;
use crate::architectures::decided;

/// The form in which ternary layers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Four trits a byte beside a bf16 `weight_scale`: the published inference form. transformers reads it if every
    /// `d_out` is a multiple of 4; we read all.
    Packed,
    /// Floats that quantize to these layers again: the form to train. Masters are copied; from trits they are made so
    /// that trits and scales come back exactly.
    Master,
    /// `scale · trit` as plain floats, for programs that know no ternary layers.
    Dequantized(FloatKind),
}

/// What to write, and whether over something.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    variant: Variant,
    arithmetic: Arithmetic,
    activations: ActivationQuantizer,
    tokenizer: Option<(Vec<u8>, String)>,
    overwrite: bool,
}

impl ExportOptions {
    /// A variant, quantized in f32 where it must be, into a new or empty folder.
    pub const fn new(variant: Variant) -> Self {
        Self {
            variant,
            arithmetic: Arithmetic::F32,
            activations: ActivationQuantizer::Int8,
            tokenizer: None,
            overwrite: false,
        }
    }

    /// Quantizes masters in this arithmetic.
    pub const fn with_arithmetic(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self
    }

    /// Says in the configuration what happens to the inputs of ternary layers. Those of dequantized layers stay float.
    pub const fn with_activations(mut self, activations: ActivationQuantizer) -> Self {
        self.activations = activations;
        self
    }

    /// The `tokenizer.json` and `tokenizer_config.json` of a source that is no folder with files to copy.
    pub fn with_tokenizer(mut self, tokenizer: Vec<u8>, config: String) -> Self {
        self.tokenizer = Some((tokenizer, config));
        self
    }

    /// Whether files of a folder that is not empty may be replaced.
    pub const fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

/// Writes the tensors that a model needs, its configuration and its tokenizer as a folder for transformers. `written` is
/// told the number of tensors written and of all.
///
/// # Errors
///
/// What reading refuses; scales that the variant cannot hold; a folder that is not empty, unless overwriting was
/// asked for; [`ModelError::Io`], e.g. for a full disk. After an error the folder is as it was, unless the very last step,
/// renaming, failed: then it has no configuration and does not open.
pub fn export(
    checkpoint: &dyn Checkpoint,
    slots: &[Slot],
    folder: &Path,
    options: &ExportOptions,
    written: &mut dyn FnMut(usize, usize),
) -> Result<(), ModelError> {
    let export = Export {
        checkpoint,
        options,
        target: Target::new(checkpoint)?,
    };
    let planned = slots.iter().map(|slot| export.plan(slot));
    let planned = place(planned.collect::<Result<_, _>>()?);
    let mut staging = Staging::new(folder, options.overwrite)?;
    export.write_weights(slots, &planned, &mut staging, written)?;
    let copied = staging.copy_companions(checkpoint.path())?;
    if let Some((tokenizer, config)) = options.tokenizer.as_ref().filter(|_| !copied) {
        staging.put(TOKENIZER, tokenizer)?;
        staging.put(TOKENIZER_CONFIG, config.as_bytes())?;
    }
    if !checkpoint.generation().is_empty() {
        staging.put_json(GENERATION, checkpoint.generation())?;
    }
    let mut config = export.target.config(options.variant, common_type(&planned));
    let layers = slots
        .iter()
        .filter(|slot| matches!(slot.role, Role::Linear { .. }));
    let ternary = layers.count() > 0 && !matches!(options.variant, Variant::Dequantized(_));
    let activations = if ternary {
        options.activations
    } else {
        ActivationQuantizer::None
    };
    decided::record_if_needed(&mut config, checkpoint, ternary, activations)?;
    staging.put_json(CONFIG, &config)?;
    staging.commit()
}

/// The type of all tables, vectors and float layers, or that which holds them all.
fn common_type(planned: &[Vec<Planned>]) -> Dtype {
    let mut types = planned
        .iter()
        .filter_map(|tensors| tensors.first())
        .map(|tensor| tensor.dtype)
        .filter(|&dtype| dtype != Dtype::U8);
    let first = types.next().unwrap_or(Dtype::BF16);
    if types.all(|dtype| dtype == first) {
        first
    } else {
        Dtype::F32
    }
}

struct Export<'a> {
    checkpoint: &'a dyn Checkpoint,
    options: &'a ExportOptions,
    target: Target<'a>,
}

/// A tensor of the file to be written.
#[derive(Debug)]
struct Planned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its bytes begin, counted from the end of the header.
    start: usize,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Gives every tensor its place: larger numbers first, so that all are aligned.
fn place(mut planned: Vec<Vec<Planned>>) -> Vec<Vec<Planned>> {
    let mut order: Vec<&mut Planned> = planned.iter_mut().flatten().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    let mut start = 0;
    for tensor in order {
        tensor.start = start;
        start += tensor.bytes();
    }
    planned
}

impl Export<'_> {
    /// The tensors that a slot becomes, without their places.
    fn plan(&self, slot: &Slot) -> Result<Vec<Planned>, ModelError> {
        let planned = |name: &str, dtype, shape: &[usize]| Planned {
            name: self.target.file_name(name),
            dtype,
            shape: shape.to_vec(),
            start: 0,
        };
        Ok(match (slot.role, self.options.variant) {
            (Role::Linear { d_out, d_in }, Variant::Packed) => vec![
                planned(&slot.name, Dtype::U8, &[d_out.div_ceil(4), d_in]),
                planned(&format!("{}_scale", slot.name), Dtype::BF16, &[1]),
            ],
            (Role::Linear { d_out, d_in }, Variant::Dequantized(kind)) => {
                vec![planned(&slot.name, dtype(kind), &[d_out, d_in])]
            }
            (Role::Vector(length), _) => {
                let floats = self.checkpoint.floats(&slot.name, &[length])?;
                vec![planned(&slot.name, dtype(floats.kind), &[length])]
            }
            (Role::Table { rows, columns }, _)
            | (
                Role::Linear {
                    d_out: rows,
                    d_in: columns,
                },
                Variant::Master,
            ) => {
                // What stands for trits is f32, and not made to learn this.
                let ternary = self.checkpoint.granularity(&slot.name, rows, columns)?;
                let kind = match ternary {
                    Some(_) => FloatKind::F32,
                    None => self.floats(slot)?.kind,
                };
                vec![planned(&slot.name, dtype(kind), &[rows, columns])]
            }
        })
    }

    /// Writes header and tensors, each at its place.
    fn write_weights(
        &self,
        slots: &[Slot],
        planned: &[Vec<Planned>],
        staging: &mut Staging,
        written: &mut dyn FnMut(usize, usize),
    ) -> Result<(), ModelError> {
        let mut tensors: Vec<&Planned> = planned.iter().flatten().collect();
        tensors.sort_by_key(|tensor| tensor.start);
        let infos = tensors.iter().map(|tensor| {
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                data_offsets: (tensor.start, tensor.start + tensor.bytes()),
            };
            (tensor.name.clone(), info)
        });
        let header = header(infos.collect());
        let (file, path) = staging.file(SINGLE)?;
        let mut write = |at: usize, bytes: &[u8]| {
            let sought = file.seek(SeekFrom::Start(at as u64));
            sought
                .and_then(|_| file.write_all(bytes))
                .map_err(ModelError::io("write", &path))
        };
        write(0, &header)?;
        for (done, (slot, planned)) in slots.iter().zip(planned).enumerate() {
            for (tensor, bytes) in planned.iter().zip(self.contents(slot)?) {
                assert_eq!(tensor.bytes(), bytes.len(), "bytes of {}", tensor.name);
                write(header.len() + tensor.start, &bytes)?;
            }
            written(done + 1, slots.len());
        }
        Ok(())
    }

    /// The bytes of the tensors that [`plan`](Self::plan) announced.
    fn contents(&self, slot: &Slot) -> Result<Vec<Cow<'_, [u8]>>, ModelError> {
        let Role::Linear { d_out, d_in } = slot.role else {
            return Ok(vec![self.floats(slot)?.bytes]);
        };
        match self.options.variant {
            Variant::Master => Ok(vec![self.floats(slot)?.bytes]),
            Variant::Dequantized(kind) => {
                let packed = self.ternary(slot, d_out, d_in)?;
                let refuse = ModelError::ternary(self.checkpoint.path(), &slot.name);
                check_range(&packed, kind).map_err(refuse)?;
                Ok(vec![kind.encode(&packed.dequantize()).into()])
            }
            Variant::Packed => {
                let packed = self.ternary(slot, d_out, d_in)?;
                let refuse = || ModelError::ternary(self.checkpoint.path(), &slot.name);
                let scale = file_scale(&packed, self.target.scale_multiplies()).map_err(refuse())?;
                let codes = Hf.pack(&packed.trits(), packed.scale(), d_out, d_in);
                let codes = codes.map_err(refuse())?;
                Ok(vec![codes.into(), scale.to_le_bytes().to_vec().into()])
            }
        }
    }

    /// A slot as floats: its own, or what stands for its trits.
    fn floats(&self, slot: &Slot) -> Result<Floats<'_>, ModelError> {
        let (rows, columns) = match slot.role {
            Role::Vector(length) => return self.checkpoint.floats(&slot.name, &[length]),
            Role::Table { rows, columns } => (rows, columns),
            Role::Linear { d_out, d_in } => (d_out, d_in),
        };
        let packed = match self.checkpoint.matrix(&slot.name, rows, columns)? {
            Matrix::Float(floats) => return Ok(floats),
            Matrix::Ternary(packed) => packed,
        };
        let values = if matches!(slot.role, Role::Table { .. }) {
            packed.dequantize()
        } else {
            let refuse = ModelError::ternary(self.checkpoint.path(), &slot.name);
            master::master(&packed).map_err(refuse)?
        };
        let bytes = FloatKind::F32.encode(&values);
        Ok(Floats::new(FloatKind::F32, vec![rows, columns], bytes))
    }

    /// A ternary layer: its own trits, or its masters quantized.
    fn ternary(&self, slot: &Slot, d_out: usize, d_in: usize) -> Result<PackedTernary, ModelError> {
        let masters = match self.checkpoint.matrix(&slot.name, d_out, d_in)? {
            Matrix::Ternary(packed) => return Ok(packed),
            Matrix::Float(masters) => masters,
        };
        let arithmetic = self.options.arithmetic;
        let packed = arithmetic.ternarize(&masters, d_out, d_in, Granularity::Tensor);
        packed.map_err(ModelError::ternary(self.checkpoint.path(), &slot.name))
    }
}

/// The `weight_scale` of a packed matrix.
fn file_scale(packed: &PackedTernary, multiplies: bool) -> Result<bf16, KernelError> {
    let mut scale = one_scale(packed)?;
    // A matrix of zeros may come without a scale; the files need one.
    if scale == 0.0 && packed.histogram().zero == packed.d_out() * packed.d_in() {
        scale = EPSILON;
    }
    let written = bf16::from_f32(if multiplies { scale } else { 1.0 / scale });
    if written.is_finite() && written > bf16::ZERO {
        return Ok(written);
    }
    Err(KernelError::Scale {
        what: "weight_scale in bf16",
        index: 0,
        value: scale,
        rule: "a scale must be above 0, and it and its reciprocal in the range of bf16",
    })
}

/// Refuses scales that become zero or infinite as `kind`.
fn check_range(packed: &PackedTernary, kind: FloatKind) -> Result<(), KernelError> {
    let scales = packed.scale().values();
    let bytes = kind.encode(scales);
    let narrowed = Floats::new(kind, vec![scales.len()], bytes).to_f32();
    let lost =
        |(&scale, narrow): (&f32, &f32)| !narrow.is_finite() || (*narrow == 0.0) != (scale == 0.0);
    match scales.iter().zip(&narrowed).position(lost) {
        None => Ok(()),
        Some(index) => Err(KernelError::Scale {
            what: kind.name(),
            index,
            value: scales[index],
            rule: "out of the range of these floats. Choose F32",
        }),
    }
}

/// The one scale of a matrix.
fn one_scale(packed: &PackedTernary) -> Result<f32, KernelError> {
    let values = packed.scale().values();
    if values.iter().all(|&value| value == values[0]) {
        return Ok(values[0]);
    }
    Err(KernelError::Granularity {
        layout: "hf",
        holds: "one scale per tensor",
        found: format!("{} that differ", packed.scale().granularity()),
    })
}

fn dtype(kind: FloatKind) -> Dtype {
    match kind {
        FloatKind::F32 => Dtype::F32,
        FloatKind::F16 => Dtype::F16,
        FloatKind::BF16 => Dtype::BF16,
    }
}
