//! Checkpoints: files of tensors with a configuration, in any of the public formats.
//!
//! Each format speaks the Hugging Face names outwards, for tensors and for configuration keys alike; a format that uses
//! others translates at its own door. What a file says is hostile until checked: every number is proven against the
//! file's size before anything is allocated or indexed by it.
//!
//! Method: files are mapped into memory, tensors are handed out one at a time, and the pages of a tensor that has been
//! read are given back, so that loading needs the final size and one tensor.

mod arithmetic;
mod burnpack;
mod export;
mod floats;
mod gguf;
mod hugging_face;
mod json;
mod mapped;
mod names;
mod open;
mod random;
mod safetensors;
mod shards;

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::Path;

use bitnet_kernels::{Granularity, PackedTernary, TableFormat};
use burn::tensor::TensorData;
use serde_json::{Map, Value};

use crate::ModelError;
use crate::tokenizer::Vocabulary;

pub use arithmetic::Arithmetic;
pub use burnpack::{PackOptions, embedded, write as write_packed};
pub use export::{ExportOptions, Variant, export};
pub use gguf::{Array as GgufArray, Gguf, GgufLayout, GgufOptions, Value as GgufValue, write_gguf};
pub use json::ConfigReader;
pub use open::{FORMATS, Format, open};
pub use random::{Random, SIZES, Size};

/// The keys of a `config.json`. A key that occurs twice has its last value, as in Python.
pub type ConfigMap = Map<String, Value>;

/// An opened checkpoint.
pub trait Checkpoint: Debug + Send + Sync {
    /// The file or folder that was opened.
    fn path(&self) -> &Path;

    /// The format's name, e.g. `safetensors`, `gguf`.
    fn format(&self) -> &'static str;

    /// The configuration, with the keys of Hugging Face's `config.json`. Always holds `architectures`.
    fn config(&self) -> &ConfigMap;

    /// Generation defaults (`generation_config.json`), empty if the checkpoint has none.
    fn generation(&self) -> &ConfigMap;

    /// The tokenizer inside the checkpoint's own file, if it carries one (GGUF).
    fn vocabulary(&self) -> Option<&Vocabulary> {
        None
    }

    /// A file that the checkpoint carries inside its own (our packed file): `tokenizer.json`, `tokenizer_config.json`.
    fn attachment(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// Every tensor, in file order, with Hugging Face names.
    fn tensors(&self) -> &[TensorInfo];

    /// A vector or matrix of floats, block-quantized ones widened. The shape is proven.
    ///
    /// # Errors
    ///
    /// A missing tensor, another shape, or an encoding that holds no floats.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError>;

    /// The weight of a linear layer or table: ternary if the file holds it ternary, else float. Scales multiply,
    /// whatever the file's convention, and rows are in rotate-half order, whatever the file's.
    ///
    /// `name` ends in `.weight`.
    ///
    /// # Errors
    ///
    /// As [`floats`](Self::floats), and codes or scales that mean nothing.
    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError>;

    /// What the scales of [`matrix`](Self::matrix) stand for if it is ternary; `None` if it is float. A format that knows
    /// this without the weights does not read them.
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix).
    fn granularity(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
    ) -> Result<Option<Granularity>, ModelError> {
        Ok(match self.matrix(name, d_out, d_in)? {
            Matrix::Ternary(packed) => Some(packed.scale().granularity()),
            Matrix::Float(_) => None,
        })
    }

    /// A matrix in the form that kernels read, without a copy, if the file holds that form (our packed file).
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix).
    fn ready(
        &self,
        _name: &str,
        _rows: usize,
        _columns: usize,
    ) -> Result<Option<Ready>, ModelError> {
        Ok(None)
    }
}

/// A matrix in the form that kernels read.
#[derive(Debug)]
pub struct Ready {
    /// `[rows, words]`, u32; of a ternary matrix perhaps `[rows, bytes]` of base 3, u8.
    pub codes: TensorData,
    /// Flat scales, f32.
    pub scale: TensorData,
    /// What codes and scales mean.
    pub form: Form,
    /// Of an output head of floats, if the file holds one.
    pub screen: Option<ReadyScreen>,
}

/// The int8 copy that stands before a table of floats, see `PackedScreen` of `bitnet_kernels`.
#[derive(Debug)]
pub struct ReadyScreen {
    /// `[rows, words]`, u32.
    pub codes: TensorData,
    /// One scale for each row, f32.
    pub scale: TensorData,
    /// The error of each row, f32.
    pub error: TensorData,
}

/// What the words of a [`Ready`] matrix mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Canonical ternary words, or base-3 bytes.
    Ternary(Granularity),
    /// A table of few bits.
    Table(TableFormat),
}

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Hugging Face name.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

/// What a model does with a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Floats of this many elements: a norm, a bias.
    Vector(usize),
    /// The weight of a ternary linear layer.
    Linear {
        /// Rows.
        d_out: usize,
        /// Columns.
        d_in: usize,
    },
    /// A matrix that stays float: an embedding, the output head.
    Table {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

/// What a file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face name.
    pub name: String,
    /// Name in the file.
    pub file_name: String,
    /// Shape as rows and columns of numbers, slowest first; of a packed matrix the shape of its numbers, not its bytes.
    pub shape: Vec<usize>,
    /// Encoding, by the name that its format gives it: `F32`, `BF16`, `U8`, `I2_S`, `TQ2_0`.
    pub encoding: String,
    /// Bytes in the file.
    pub bytes: usize,
    /// Which of the checkpoint's files holds it: its name without the folder.
    pub file: String,
}

/// Number format of [`Floats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatKind {
    /// 32 bits.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
}

/// Floats in a file, little endian, contiguous, slowest dimension first.
#[derive(Debug, Clone)]
pub struct Floats<'a> {
    /// Number format.
    pub kind: FloatKind,
    /// Shape, slowest first.
    pub shape: Vec<usize>,
    /// The numbers; borrowed from the mapped file where it holds them like this.
    pub bytes: Cow<'a, [u8]>,
}

/// The weight of a linear layer as a file holds it.
#[derive(Debug, Clone)]
pub enum Matrix<'a> {
    /// Quantized: trits and scales.
    Ternary(PackedTernary),
    /// Not quantized: a master, or a layer that stays float.
    Float(Floats<'a>),
}
