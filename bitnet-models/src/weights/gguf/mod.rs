//! GGUF: the single-file format of llama.cpp, bitnet.cpp and ik_llama.cpp, read and written.
//!
//! Outwards this speaks the names of Hugging Face: tensors, configuration, scales that multiply, rows in rotate-half
//! order. Tensors stay in the mapped file until they are asked for. Which projections are ternary is decided by their
//! encoding, and for floats by their values: a dequantized matrix holds nothing but -m, 0 and m.

mod blocks;
mod config;
mod container;
mod encoding;
mod export;
mod names;
mod reader;
mod rows;
mod value;
mod writer;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bitnet_kernels::packing::Unpacked;
use bitnet_kernels::packing::i2_s::I2S;
use bitnet_kernels::{Granularity, PackedTernary, Scale};

use self::config::{Evidence, Metadata, Projections};
use self::container::{Container, Place};
use self::encoding::{Circumstances, Encoding, KINDS, Misfit};
use self::names::Family;
use self::reader::DOWNLOAD;
use self::rows::Order;
pub use self::value::{Array, Value};
pub use self::writer::{GgufLayout, GgufOptions, write_gguf};
use super::mapped::Mapped;
use super::{Checkpoint, ConfigMap, FloatKind, Floats, Matrix, TensorInfo};
use crate::ModelError;
use crate::tokenizer::Vocabulary;

/// Divisors of rotary frequencies; known models have 64.
const MOST_DIVISORS: usize = 1 << 12;

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    map: Arc<Mapped>,
    family: &'static Family,
    /// Heads of q and of k.
    heads: [usize; 2],
    config: ConfigMap,
    generation: ConfigMap,
    vocabulary: Option<Vocabulary>,
    infos: Vec<TensorInfo>,
    /// Of each tensor, in the order of `infos`.
    places: Vec<(Encoding, Range<usize>)>,
    /// From Hugging Face names.
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Opens a file whose I2_S tensors, if any, have the layout of every published file.
    ///
    /// # Errors
    ///
    /// An unreadable or damaged file, an architecture this crate does not have, metadata that contradict themselves.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_with(path, I2S::Block128)
    }

    /// Opens a file whose I2_S tensors have the layout of another build of bitnet.cpp. Nothing in a file says so.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, i2_s: I2S) -> Result<Self, ModelError> {
        let map = Arc::new(Mapped::open(path)?);
        let container = Container::parse(map.bytes(0..map.len()), path)?;
        let metadata = Metadata {
            container: &container,
            path,
        };
        let family = metadata.family()?;
        let mut gguf = Self {
            map: Arc::clone(&map),
            family,
            heads: metadata.heads(family)?,
            config: ConfigMap::new(),
            generation: ConfigMap::new(),
            vocabulary: metadata.vocabulary()?,
            infos: Vec::new(),
            places: Vec::new(),
            by_name: HashMap::new(),
        };
        let circumstances = Circumstances {
            alignment: container.alignment,
            bitnet_cpp: family.bitnet_cpp,
            i2_s,
        };
        for place in &container.tensors {
            gguf.add(place, circumstances)?;
        }
        gguf.config = metadata.config(family, &gguf.evidence()?)?;
        Ok(gguf)
    }

    /// The file's own metadata, in file order.
    ///
    /// # Errors
    ///
    /// None, unless the file was changed since it was opened.
    pub fn metadata(&self) -> Result<Vec<(&str, Value<'_>)>, ModelError> {
        let bytes = self.map.bytes(0..self.map.len());
        Ok(Container::parse(bytes, self.path())?.metadata)
    }

    /// Takes a tensor into the directory.
    fn add(&mut self, place: &Place<'_>, circumstances: Circumstances) -> Result<(), ModelError> {
        let (encoding, kind, bytes) = resolve(place, circumstances, self.path())?;
        let name = self.family.to_hf(place.name);
        let name = name.unwrap_or_else(|| place.name.to_owned());
        let index = self.infos.len();
        if self.by_name.insert(name.clone(), index).is_some() {
            let found = format!("a second tensor that means `{name}`");
            return Err(self.refuse(place.name, found, "one", DOWNLOAD));
        }
        let file = self.path().file_name().unwrap_or_default();
        self.infos.push(TensorInfo {
            name,
            file_name: place.name.to_owned(),
            shape: place.shape.clone(),
            encoding: kind,
            bytes,
            file: file.to_string_lossy().into_owned(),
        });
        self.places.push((encoding, place.at..place.at + bytes));
        Ok(())
    }

    /// What the tensors say about the configuration.
    fn evidence(&self) -> Result<Evidence, ModelError> {
        let rows = |name: &str| {
            let &index = self.by_name.get(name)?;
            self.infos[index].shape.first().copied()
        };
        let layer = |info: &TensorInfo| names::layer(&info.file_name, "blk.").map(|(i, _)| i + 1);
        let has_input_norms = self
            .infos
            .iter()
            .any(|info| info.name.ends_with("_proj.norm.weight"));
        Ok(Evidence {
            vocab_size: rows("model.embed_tokens.weight"),
            q_rows: rows("model.layers.0.self_attn.q_proj.weight"),
            layers: self.infos.iter().filter_map(layer).max().unwrap_or(0),
            has_head: self.by_name.contains_key("lm_head.weight"),
            has_input_norms,
            quantization: self.projections(self.family.bitnet || has_input_norms)?,
            rope_divisors: self.rope_divisors()?,
        })
    }

    /// What the frequencies of the rotary encoding are divided by, if it is not all 1. There are as many as pairs in a
    /// head: not so many that the configuration, where they go, could take more memory than the file.
    fn rope_divisors(&self) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(&index) = self.by_name.get("rope_freqs.weight") else {
            return Ok(None);
        };
        let info = &self.infos[index];
        if info.shape.iter().product::<usize>() > MOST_DIVISORS {
            let found = format!("shape {:?}", info.shape);
            let expected = format!("one number for each pair of a head, at most {MOST_DIVISORS}");
            return Err(self.refuse(&info.file_name, found, expected, DOWNLOAD));
        }
        let divisors = self.numbers(index)?.to_f32();
        Ok(Some(divisors).filter(|all| all.iter().any(|&divisor| divisor != 1.0)))
    }

    /// How the projections are stored, going by encodings and, for floats, by the values of the first one.
    fn projections(&self, bitnet: bool) -> Result<Option<Projections>, ModelError> {
        let all = || (0..self.infos.len()).filter(|&index| self.is_projection(index));
        if all().any(|index| matches!(self.places[index].0, Encoding::Ternary(_))) {
            return Ok(Some(Projections::Ternary));
        }
        let readable = |&index: &usize| !matches!(self.places[index].0, Encoding::Opaque { .. });
        let ternary = match all().find(readable) {
            Some(index) => trits_of_floats(&self.numbers(index)?, self.family).is_some(),
            None => false,
        };
        Ok(match (ternary, bitnet) {
            (true, _) => Some(Projections::Ternary),
            (false, true) => Some(Projections::Master),
            (false, false) => None,
        })
    }

    fn is_projection(&self, index: usize) -> bool {
        let info = &self.infos[index];
        info.file_name.starts_with("blk.") && info.name.ends_with("_proj.weight")
    }

    fn is_float(&self, index: usize) -> bool {
        matches!(
            self.places[index].0,
            Encoding::Floats(_) | Encoding::Blocks(_)
        )
    }

    /// The tensor of a name, whose shape is proven.
    fn find(&self, name: &str, shape: &[usize]) -> Result<usize, ModelError> {
        let Some(&index) = self.by_name.get(name) else {
            let name = self.family.to_gguf(name).unwrap_or_else(|| name.to_owned());
            let expected = format!("a tensor of shape {shape:?}");
            let way_out = "The file is incomplete, or its metadata describe another model";
            return Err(self.refuse(&name, "nothing", expected, way_out));
        };
        let info = &self.infos[index];
        if info.shape == shape {
            return Ok(index);
        }
        let found = format!("shape {:?}", info.shape);
        let way_out =
            "The metadata of the file do not belong to its tensors: convert the model again";
        Err(self.refuse(&info.file_name, found, format!("{shape:?}"), way_out))
    }

    /// Numbers in the order of the file.
    fn numbers(&self, index: usize) -> Result<Floats<'_>, ModelError> {
        let info = &self.infos[index];
        let (encoding, place) = &self.places[index];
        let bytes = self.map.bytes(place.clone());
        let (kind, bytes) = match encoding {
            Encoding::Floats(kind) => (*kind, Cow::Borrowed(bytes)),
            Encoding::Blocks(blocks) => (FloatKind::F32, Cow::Owned(blocks.widen(bytes))),
            Encoding::Ternary(_) | Encoding::Opaque { .. } => {
                let known: Vec<_> = KINDS
                    .iter()
                    .filter(|kind| {
                        matches!(kind.encoding, Encoding::Floats(_) | Encoding::Blocks(_))
                    })
                    .map(|kind| kind.name)
                    .collect();
                let found = format!("the encoding {}", info.encoding);
                let expected = format!("floats: {}", known.join(", "));
                let way_out = "Convert the model with one of these for this tensor";
                return Err(self.refuse(&info.file_name, found, expected, way_out));
            }
        };
        let shape = info.shape.clone();
        Ok(Floats { kind, shape, bytes })
    }

    /// The heads whose rows must be put into rotate-half order, for q and k of files that interleave them.
    fn interleaved_heads(&self, index: usize) -> Result<Option<usize>, ModelError> {
        let info = &self.infos[index];
        let heads = match names::layer(&info.file_name, "blk.") {
            Some((_, "attn_q.weight" | "attn_q.bias")) => self.heads[0],
            Some((_, "attn_k.weight" | "attn_k.bias")) => self.heads[1],
            _ => return Ok(None),
        };
        if !self.family.interleaved {
            return Ok(None);
        }
        let rows = info.shape.first().copied().unwrap_or(1);
        if !rows.is_multiple_of(2 * heads) {
            let found = format!("{rows} rows");
            let expected = format!("an even number for each of {heads} heads");
            let way_out =
                "The metadata of the file do not belong to its tensors: convert the model again";
            return Err(self.refuse(&info.file_name, found, expected, way_out));
        }
        Ok(Some(heads))
    }

    /// The factor beside a weight, `<linear>.scale`.
    fn factor(&self, name: &str) -> Result<f32, ModelError> {
        let Some(&index) = self.by_name.get(&format!("{name}_scale")) else {
            return Ok(1.0);
        };
        match self.numbers(index)?.to_f32()[..] {
            [factor] if factor.is_finite() => Ok(factor),
            ref values => {
                let found = match values {
                    [factor] => factor.to_string(),
                    _ => format!("{} numbers", values.len()),
                };
                let name = &self.infos[index].file_name;
                Err(self.refuse(name, found, "one finite factor", DOWNLOAD))
            }
        }
    }

    fn ternary(
        &self,
        index: usize,
        unpacked: (Vec<i8>, Scale),
        factor: f32,
    ) -> Result<PackedTernary, ModelError> {
        let info = &self.infos[index];
        let (d_out, d_in) = (info.shape[0], info.shape[1]);
        let (mut trits, mut scale) = unpacked;
        if let Some(heads) = self.interleaved_heads(index)? {
            (trits, scale) = Order::RotateHalf.ternary(&trits, &scale, d_in, heads);
        }
        if factor != 1.0 {
            let values = scale.values().iter().map(|value| value * factor).collect();
            scale = Scale::from_values(scale.granularity(), values);
        }
        PackedTernary::from_trits(&trits, scale, d_out, d_in)
            .map_err(ModelError::ternary(self.path(), &info.file_name))
    }

    fn refuse(
        &self,
        name: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
        way_out: &str,
    ) -> ModelError {
        refuse(self.path(), name, found, expected, way_out)
    }
}

impl Checkpoint for Gguf {
    fn path(&self) -> &Path {
        self.map.path()
    }

    fn format(&self) -> &'static str {
        "gguf"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let index = self.find(name, shape)?;
        self.in_order(index, self.numbers(index)?)
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        let index = self.find(name, &[d_out, d_in])?;
        let factor = self.factor(name)?;
        let (encoding, place) = &self.places[index];
        if let Encoding::Ternary(layout) = encoding {
            let Unpacked { trits, scale } = layout
                .unpack(self.map.bytes(place.clone()), d_out, d_in)
                .map_err(ModelError::ternary(
                    self.path(),
                    &self.infos[index].file_name,
                ))?;
            let unpacked = (trits, scale.unwrap_or(Scale::Tensor(1.0)));
            return self.ternary(index, unpacked, factor).map(Matrix::Ternary);
        }
        let numbers = self.numbers(index)?;
        if self.is_projection(index)
            && let Some((trits, m)) = trits_of_floats(&numbers, self.family)
        {
            let unpacked = (trits, Scale::Tensor(m));
            return self.ternary(index, unpacked, factor).map(Matrix::Ternary);
        }
        let mut floats = self.in_order(index, numbers)?;
        if factor != 1.0 {
            let mut bytes = Vec::with_capacity(FloatKind::F32.size() * floats.len());
            for value in floats.iter() {
                bytes.extend((value * factor).to_le_bytes());
            }
            floats.bytes = bytes.into();
            floats.kind = FloatKind::F32;
        }
        Ok(Matrix::Float(floats))
    }

    fn granularity(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
    ) -> Result<Option<Granularity>, ModelError> {
        let index = self.find(name, &[d_out, d_in])?;
        // Scales of blocks and rows may agree, and floats may be trits: that only the weights can tell.
        match self.infos[index].encoding.as_str() {
            "I2_S" | "TL1" | "TL2" => Ok(Some(Granularity::Tensor)),
            _ if !self.is_projection(index) && self.is_float(index) => Ok(None),
            _ => Ok(match self.matrix(name, d_out, d_in)? {
                Matrix::Ternary(packed) => Some(packed.scale().granularity()),
                Matrix::Float(_) => None,
            }),
        }
    }
}

impl Gguf {
    /// Floats with rows in rotate-half order.
    fn in_order<'a>(&self, index: usize, mut floats: Floats<'a>) -> Result<Floats<'a>, ModelError> {
        if let Some(heads) = self.interleaved_heads(index)? {
            let width = floats.bytes.len() / floats.shape[0];
            floats.bytes = Cow::Owned(Order::RotateHalf.rows(&floats.bytes, width, heads));
        }
        Ok(floats)
    }
}

/// The trits and the scale of dequantized weights: each value is -m, 0 or m. In a BitNet each may be off by a rounding to
/// 8 bits; elsewhere the likeness must be exact to mean something.
fn trits_of_floats(floats: &Floats<'_>, family: &Family) -> Option<(Vec<i8>, f32)> {
    let tolerance = if family.bitnet { 1.0 / 128.0 } else { 0.0 };
    let m = floats.iter().fold(0.0_f32, |m, value| m.max(value.abs()));
    if !m.is_finite() {
        return None;
    }
    let mut trits = Vec::with_capacity(floats.len());
    for value in floats.iter() {
        let nearest = if m > 0.0 { (value / m).round() } else { 0.0 };
        let off = (value - nearest * m).abs();
        if off.is_nan() || off > tolerance * m {
            return None;
        }
        trits.push(nearest as i8);
    }
    Some((trits, m))
}

/// The encoding of a tensor with its name and bytes.
fn resolve(
    place: &Place<'_>,
    circumstances: Circumstances,
    path: &Path,
) -> Result<(Encoding, String, usize), ModelError> {
    let refuse = |found, expected, way_out| refuse(path, place.name, found, expected, way_out);
    match encoding::resolve(place.number, &place.shape, place.space, circumstances) {
        Ok(Some((kind, bytes))) => Ok((kind.encoding, kind.name.to_owned(), bytes)),
        Ok(None) => {
            let (bytes, len) = (place.space, 1);
            let encoding = Encoding::Opaque { bytes, len };
            Ok((encoding, format!("type {}", place.number), place.space))
        }
        Err(Misfit::Shape(error)) => Err(ModelError::ternary(path, place.name)(error)),
        Err(Misfit::Row { name, len }) => Err(refuse(
            format!("shape {:?} in {name}", place.shape),
            format!("rows of a multiple of {len} numbers"),
            DOWNLOAD,
        )),
        Err(Misfit::Size { name, bytes }) => Err(refuse(
            format!("room for {} bytes", place.space),
            format!(
                "{bytes} bytes, the size of a {:?} tensor in {name}",
                place.shape
            ),
            "The file is incomplete, or was quantized in slices: quantize it again, with one thread",
        )),
    }
}

fn refuse(
    path: &Path,
    name: &str,
    found: impl Into<String>,
    expected: impl Into<String>,
    way_out: &str,
) -> ModelError {
    ModelError::Tensor {
        path: path.to_path_buf(),
        name: name.to_owned(),
        found: found.into(),
        expected: expected.into(),
        way_out: way_out.to_owned(),
    }
}
