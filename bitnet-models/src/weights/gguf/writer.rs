//! Writes a model as GGUF, one tensor at a time, into a new file that takes its name when it is complete.
//!
//! What can be refused is refused before the first byte: names, shapes, the configuration. Projections are written in
//! one layout, tables as F16, vectors as F32: what llama.cpp and bitnet.cpp expect of the architecture.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bitnet_kernels::{ActivationQuantizer, Granularity, PackedTernary, Scale};
use half::f16;

use super::container::{ALIGNMENT, MAGIC};
use super::encoding::{self, Encoding, KINDS, Kind};
use super::export::{self, Export};
use super::rows::Order;
use super::{names, refuse};
use crate::ModelError;
use crate::tokenizer::Vocabulary;
use crate::weights::{Arithmetic, Checkpoint, Matrix, Role, Slot};

/// Columns that the I2_S product of bitnet.cpp takes at a time. It drops the rest of a row, without a word.
const I2_S_STEP: usize = 128;

/// How the projections are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgufLayout {
    /// I2_S: bitnet.cpp, rows of a multiple of 128 columns. One f32 scale per tensor. ik_llama.cpp loads it, too, but has to
    /// requantize it to IQ2_BN_R4 before it computes with it.
    I2S,
    /// TQ1_0: llama.cpp, smallest. Scales are rounded to f16, as in the two that follow.
    Tq1,
    /// TQ2_0: llama.cpp.
    Tq2,
    /// Q2_0 in groups of 64: llama.cpp.
    Q2,
    /// Dequantized to F16.
    F16,
}

impl GgufLayout {
    /// The tensor type's name, and `general.file_type`.
    const fn names(self) -> (&'static str, u32) {
        match self {
            Self::I2S => ("I2_S", 40),
            Self::Tq1 => ("TQ1_0", 36),
            Self::Tq2 => ("TQ2_0", 37),
            Self::Q2 => ("Q2_0", 41),
            Self::F16 => ("F16", 1),
        }
    }

    fn kind(self) -> Kind {
        let mut kinds = KINDS.iter();
        *kinds
            .find(|kind| kind.name == self.names().0)
            .expect("a name of the list")
    }
}

/// What to write, and whether over something.
#[derive(Debug, Clone, Copy)]
pub struct GgufOptions {
    layout: GgufLayout,
    arithmetic: Arithmetic,
    pub(super) activations: ActivationQuantizer,
    overwrite: bool,
}

impl GgufOptions {
    /// A layout, masters quantized in f32, into a new file.
    pub const fn new(layout: GgufLayout) -> Self {
        Self {
            layout,
            arithmetic: Arithmetic::F32,
            activations: ActivationQuantizer::Int8,
            overwrite: false,
        }
    }

    /// Quantizes masters in this arithmetic.
    pub const fn with_arithmetic(mut self, arithmetic: Arithmetic) -> Self {
        self.arithmetic = arithmetic;
        self
    }

    /// What happens to the inputs of ternary layers. A file cannot say it: it follows from the architecture, and what
    /// does not is refused.
    pub const fn with_activations(mut self, activations: ActivationQuantizer) -> Self {
        self.activations = activations;
        self
    }

    /// Whether an existing file is replaced.
    pub const fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

/// A tensor to be written.
#[derive(Debug)]
struct Plan<'a> {
    slot: &'a Slot,
    name: String,
    /// Slowest first.
    shape: Vec<usize>,
    kind: Kind,
    bytes: usize,
    /// Heads whose rows are interleaved in the file.
    heads: Option<usize>,
    arithmetic: Arithmetic,
}

/// Writes the tensors of `slots` with configuration and vocabulary. Masters are quantized on the way (absmean). `written`
/// is told the number of tensors written and of all.
///
/// # Errors
///
/// A path that exists, unless overwriting was asked for; a model that GGUF has no architecture for; shapes and scales that
/// the layout cannot hold; and what reading `source` refuses. The path then is as it was.
pub fn write_gguf(
    source: &dyn Checkpoint,
    slots: &[Slot],
    vocabulary: &Vocabulary,
    path: &Path,
    options: &GgufOptions,
    written: &mut dyn FnMut(usize, usize),
) -> Result<(), ModelError> {
    let (_, file_type) = options.layout.names();
    let rows = vocab_size(source, slots)?;
    let (export, metadata) = export::metadata(source, vocabulary, rows, file_type)?;
    export::check_quantization(source, slots, export.family, options.activations)?;
    let plans: Result<Vec<_>, _> = slots
        .iter()
        .map(|slot| Plan::new(source, slot, options, &export))
        .collect();
    let plans = plans?;

    let mut head = MAGIC.to_vec();
    head.extend(3_u32.to_le_bytes());
    head.extend((plans.len() as u64).to_le_bytes());
    head.extend(metadata.count.to_le_bytes());
    head.extend(metadata.bytes);
    let mut offset = 0_u64;
    for plan in &plans {
        export::push_text(&mut head, &plan.name);
        head.extend((plan.shape.len() as u32).to_le_bytes());
        head.extend(
            plan.shape
                .iter()
                .rev()
                .flat_map(|&size| (size as u64).to_le_bytes()),
        );
        head.extend(plan.kind.number.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += plan.bytes.next_multiple_of(ALIGNMENT) as u64;
    }

    let mut output = Output::new(path, options.overwrite)?;
    output.write(&head)?;
    for (done, plan) in plans.iter().enumerate() {
        output.write(&plan.data(source)?)?;
        written(done + 1, plans.len());
    }
    output.finish()
}

/// Rows of the embedding.
fn vocab_size(source: &dyn Checkpoint, slots: &[Slot]) -> Result<usize, ModelError> {
    let mut tables = slots
        .iter()
        .filter(|slot| slot.name.ends_with("embed_tokens.weight"));
    match tables.next().map(|slot| slot.role) {
        Some(Role::Table { rows, .. }) => Ok(rows),
        _ => Err(refuse(
            source.path(),
            "model.embed_tokens.weight",
            "nothing among the tensors to write",
            "a table",
            "Every model has an embedding: ask for it",
        )),
    }
}

impl<'a> Plan<'a> {
    fn new(
        source: &dyn Checkpoint,
        slot: &'a Slot,
        options: &GgufOptions,
        export: &Export,
    ) -> Result<Self, ModelError> {
        let family = export.family;
        let Some(name) = family.to_gguf(&slot.name) else {
            let found = "a tensor without a name in GGUF";
            let way_out = "Write this model as safetensors";
            let expected = format!("a tensor of the architecture {}", family.name);
            return Err(refuse(source.path(), &slot.name, found, expected, way_out));
        };
        if let Role::Linear { d_in, .. } = slot.role
            && options.layout == GgufLayout::I2S
            && !d_in.is_multiple_of(I2_S_STEP)
        {
            let found = format!("{d_in} columns");
            let expected = format!("a multiple of {I2_S_STEP} for I2_S");
            let way_out = "Write Q2_0, which takes a multiple of 64, or F16";
            return Err(refuse(source.path(), &slot.name, found, expected, way_out));
        }
        let (shape, kind) = match slot.role {
            Role::Vector(len) => (vec![len], encoding::F32),
            Role::Linear { d_out, d_in } => (vec![d_out, d_in], options.layout.kind()),
            Role::Table { rows, columns } => (vec![rows, columns], encoding::F16),
        };
        let bytes = match kind.encoding {
            Encoding::Ternary(layout) => layout
                .byte_len(shape[0], shape[1])
                .map_err(ModelError::ternary(source.path(), &slot.name))?,
            _ => {
                shape.iter().product::<usize>()
                    * if kind.number == encoding::F32.number {
                        4
                    } else {
                        2
                    }
            }
        };
        let heads = match names::layer(&name, "blk.") {
            _ if !family.interleaved => None,
            Some((_, "attn_q.weight" | "attn_q.bias")) => Some(export.heads[0]),
            Some((_, "attn_k.weight" | "attn_k.bias")) => Some(export.heads[1]),
            _ => None,
        };
        if let Some(heads) = heads.filter(|heads| !shape[0].is_multiple_of(2 * heads)) {
            let found = format!("{} rows", shape[0]);
            let expected = format!("an even number for each of {heads} heads");
            let way_out = "The configuration does not belong to the tensors";
            return Err(refuse(source.path(), &slot.name, found, expected, way_out));
        }
        Ok(Self {
            slot,
            name,
            shape,
            kind,
            bytes,
            heads,
            arithmetic: options.arithmetic,
        })
    }

    /// The bytes in the file.
    fn data(&self, source: &dyn Checkpoint) -> Result<Vec<u8>, ModelError> {
        let name = &self.slot.name;
        let data = match self.slot.role {
            Role::Vector(len) => {
                let values = source.floats(name, &[len])?.to_f32();
                let values = match self.heads {
                    Some(heads) => Order::Interleaved.rows(&values, 1, heads),
                    None => values,
                };
                values.into_iter().flat_map(f32::to_le_bytes).collect()
            }
            Role::Table { rows, columns } => {
                let values = match source.matrix(name, rows, columns)? {
                    Matrix::Float(floats) => floats.to_f32(),
                    Matrix::Ternary(packed) => packed.dequantize(),
                };
                match self.heads {
                    Some(heads) => {
                        self.halves(source, &Order::Interleaved.rows(&values, columns, heads))?
                    }
                    None => self.halves(source, &values)?,
                }
            }
            Role::Linear { d_out, d_in } => {
                let packed = self.ternary(source, d_out, d_in)?;
                let Encoding::Ternary(layout) = self.kind.encoding else {
                    return self.halves(source, &packed.dequantize());
                };
                let scale = match self.kind.name {
                    "I2_S" => packed.scale().clone(),
                    _ => rounded(packed.scale()),
                };
                layout
                    .pack(&packed.trits(), &scale, d_out, d_in)
                    .map_err(ModelError::ternary(source.path(), name))?
            }
        };
        debug_assert_eq!(data.len(), self.bytes, "{name}");
        Ok(data)
    }

    /// The projection with its rows in the order of the file.
    fn ternary(
        &self,
        source: &dyn Checkpoint,
        d_out: usize,
        d_in: usize,
    ) -> Result<PackedTernary, ModelError> {
        let name = &self.slot.name;
        let refused = || ModelError::ternary(source.path(), name);
        let packed = match source.matrix(name, d_out, d_in)? {
            Matrix::Ternary(packed) => packed,
            Matrix::Float(floats) => self
                .arithmetic
                .ternarize(&floats, d_out, d_in, Granularity::Tensor)
                .map_err(refused())?,
        };
        let Some(heads) = self.heads else {
            return Ok(packed);
        };
        let trits = packed.trits();
        let (trits, scale) = Order::Interleaved.ternary(&trits, packed.scale(), d_in, heads);
        PackedTernary::from_trits(&trits, scale, d_out, d_in).map_err(refused())
    }

    /// Numbers as F16, none of which may leave its range.
    fn halves(&self, source: &dyn Checkpoint, values: &[f32]) -> Result<Vec<u8>, ModelError> {
        let mut bytes = Vec::with_capacity(2 * values.len());
        for &value in values {
            let half = f16::from_f32(value);
            if !half.is_finite() {
                let found = format!("the value {value}");
                let way_out = "Write the model in another format";
                let expected = "values that F16 can hold, up to 65504";
                return Err(refuse(
                    source.path(),
                    &self.slot.name,
                    found,
                    expected,
                    way_out,
                ));
            }
            bytes.extend(half.to_le_bytes());
        }
        Ok(bytes)
    }
}

/// Scales as f16 holds them.
fn rounded(scale: &Scale) -> Scale {
    let values = scale
        .values()
        .iter()
        .map(|&value| f16::from_f32(value).to_f32());
    Scale::from_values(scale.granularity(), values.collect())
}

/// A file that appears when it is complete, and leaves nothing behind when it is not.
#[derive(Debug)]
struct Output<'a> {
    path: &'a Path,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
}

impl<'a> Output<'a> {
    fn new(path: &'a Path, overwrite: bool) -> Result<Self, ModelError> {
        if path.exists() && !overwrite {
            return Err(ModelError::File {
                path: path.to_path_buf(),
                what: "output".to_owned(),
                found: "a file".to_owned(),
                expected: "nothing there".to_owned(),
                way_out: "Choose another path, or ask for it to be overwritten".to_owned(),
            });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = File::create(&partial).map_err(ModelError::io("create", &partial))?;
        let file = Some(BufWriter::new(file));
        Ok(Self {
            path,
            partial,
            file,
        })
    }

    /// Appends bytes and zeros up to the alignment.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        let file = self.file.as_mut().expect("open until it is finished");
        file.write_all(bytes)
            .and_then(|()| file.write_all(&[0; ALIGNMENT][..padding]))
            .map_err(ModelError::io("write", &self.partial))
    }

    fn finish(mut self) -> Result<(), ModelError> {
        let file = self.file.take().expect("open until it is finished");
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(ModelError::io("write", &self.partial))?;
        fs::rename(&self.partial, self.path).map_err(ModelError::io("write", self.path))
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        // After `finish` there is nothing to remove, and before it the error that led here is the one to tell.
        let _ = fs::remove_file(&self.partial);
    }
}
