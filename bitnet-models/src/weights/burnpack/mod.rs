//! Our own packed file: Burn's burnpack with a layout tag, in the form that kernels read, so that loading maps it.
//!
//! | tensor | shape | holds |
//! | --- | --- | --- |
//! | `<name>.codes`, `<name>.scale` | `[d_out, words]` u32, `[scales]` f32 | a ternary matrix in canonical words |
//! | the same of a projection, layout `base3-1` | `[d_out, bytes]` u8, `[scales]` f32 | a ternary matrix in base-3 bytes |
//! | `<name>.codes`, `<name>.scale` of a table | `[rows, words]` u32, `[scales]` f32 | a table in the file's table format |
//! | `<name>.screen.codes`, `.scale`, `.error` of a float output head | `[rows, words]` u32, `[rows]` f32 twice | its screen |
//! | `<name>` | its own, f32 | a vector, or a projection that is not ternary |
//! | `tokenizer.json` | bytes | the tokenizer |
//!
//! Metadata: `bitnet.layout` (the tag), `config`, `generation`, `table.<name>` (a table's format, or `ternary`),
//! `group_size`, `tokenizer_config`, and Burn's own keys. `<name>` is the Hugging Face name with `.weight`. Every size and code is proven before it is handed out.

mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitnet_kernels::packing::{Packing, base3, words};
use bitnet_kernels::{Granularity, PackedTable, PackedTernary, Scale, TableFormat};
use burn::tensor::{AllocationProperty, Bytes, DType, Shape, TensorData};

use super::mapped::Mapped;
use super::{
    Checkpoint, ConfigMap, FloatKind, Floats, Form, Matrix, Ready, ReadyScreen, TensorInfo,
};
use crate::ModelError;

pub use write::{PackOptions, write};

/// The layout tag of each packing. `words-1`: 16 codes of 2 bits in a little-endian u32, column `l` of 16 at bit
/// `8·(l mod 4) + 2·(l div 4)`, code = trit + 1, rows padded with code 1 to 64 columns. `base3-1`: projections are base-3 bytes
/// made of such words, see [`base3`]; ternary tables stay words, because their rows are read one by one.
const fn layout(packing: Packing) -> &'static str {
    match packing {
        Packing::Words => "words-1",
        Packing::Base3 => "base3-1",
    }
}

/// The parts of a screen, behind the name of its table.
const SCREEN: [&str; 3] = ["screen.codes", "screen.scale", "screen.error"];

/// Where in the metadata the layout tag stands.
const LAYOUT_KEY: &str = "bitnet.layout";

/// An opened packed file.
#[derive(Debug)]
struct Burnpack {
    path: PathBuf,
    config: ConfigMap,
    generation: ConfigMap,
    texts: HashMap<String, String>,
    /// Format of each table; `None` of a ternary one.
    tables: HashMap<String, Option<TableFormat>>,
    group_size: Option<usize>,
    /// Of projections.
    packing: Packing,
    tensors: HashMap<String, Stored>,
    infos: Vec<TensorInfo>,
}

#[derive(Debug)]
struct Stored {
    dtype: DType,
    shape: Shape,
    bytes: Bytes,
}

/// End of the file's name.
pub(super) const EXTENSION: &str = ".bpk";

/// Maps a file and proves its table of contents.
pub(super) fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    let bytes = Mapped::open(path)?.into_bytes();
    Ok(Box::new(Burnpack::read(path, bytes)?))
}

/// Opens a packed file that is part of the program, as by `include_bytes!`. Messages call it `name`.
///
/// # Errors
///
/// As [`open`](super::open), where the bytes are no packed file.
pub fn embedded(name: &str, file: &'static [u8]) -> Result<Box<dyn Checkpoint>, ModelError> {
    let bytes = match file.as_ptr().cast::<u128>().is_aligned() {
        true => bytes::Bytes::from_static(file),
        false => Aligned::copy(file),
    };
    let bytes = Bytes::from_shared(bytes, AllocationProperty::Other);
    Ok(Box::new(Burnpack::read(Path::new(name), bytes)?))
}

/// Bytes that begin where any number may.
struct Aligned(Vec<u128>);

impl Aligned {
    fn copy(file: &[u8]) -> bytes::Bytes {
        let mut words = vec![0; file.len().div_ceil(size_of::<u128>())];
        bytemuck::cast_slice_mut(&mut words)[..file.len()].copy_from_slice(file);
        bytes::Bytes::from_owner(Self(words)).slice(..file.len())
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Whether a file begins like a burnpack.
pub(super) fn recognise(head: &[u8]) -> bool {
    head.starts_with(&burn_pack::MAGIC_NUMBER.to_le_bytes())
}

impl Burnpack {
    fn read(path: &Path, bytes: Bytes) -> Result<Self, ModelError> {
        let damaged = |error: burn_pack::Error| ModelError::File {
            path: path.to_path_buf(),
            what: "its table of contents".into(),
            found: error.to_string(),
            expected: "a whole burnpack".into(),
            way_out: "Make the file again with `bitnet-burn convert`".into(),
        };
        let reader = burn_pack::Reader::from_bytes(bytes).map_err(damaged)?;
        let metadata = reader.metadata().clone();
        let refuse = |what: &str, found: Option<&String>, expected: String| ModelError::File {
            path: path.to_path_buf(),
            what: format!("metadata `{what}`"),
            found: found.map_or_else(|| "nothing".to_owned(), |found| shortened(found)),
            expected,
            way_out: "Make the file again with `bitnet-burn convert` of this version".into(),
        };
        let found = metadata.get(LAYOUT_KEY);
        let named = |packing: &Packing| found.is_some_and(|found| found == layout(*packing));
        let Some(packing) = Packing::ALL.into_iter().find(named) else {
            let expected = Packing::ALL.map(layout).join(" or ");
            return Err(refuse(LAYOUT_KEY, found, expected));
        };
        let object = |key: &str| {
            let text = metadata.get(key);
            let parsed = text.and_then(|text| serde_json::from_str::<ConfigMap>(text).ok());
            parsed.ok_or_else(|| refuse(key, text, "a JSON object".into()))
        };
        let mut tables = HashMap::new();
        for (key, format) in &metadata {
            let Some(name) = key.strip_prefix("table.") else {
                continue;
            };
            let format = match format.as_str() {
                "ternary" => None,
                other => match other.parse() {
                    Ok(format) => Some(format),
                    Err(_) => {
                        let expected = "ternary, or the name of a table format".into();
                        return Err(refuse(key, Some(format), expected));
                    }
                },
            };
            tables.insert(name.to_owned(), format);
        }
        let group_size = match metadata.get("group_size") {
            None => None,
            Some(text) => {
                let size = text
                    .parse()
                    .ok()
                    .filter(|&size| Granularity::Group(size).checked().is_ok());
                let expected = || "a multiple of 32 from 32 to 256".into();
                Some(size.ok_or_else(|| refuse("group_size", Some(text), expected()))?)
            }
        };
        let (config, generation) = (object("config")?, object("generation")?);
        let texts = ["tokenizer_config"]
            .into_iter()
            .filter_map(|key| Some((format!("{key}.json"), metadata.get(key)?.clone())))
            .collect();

        let mut tensors = HashMap::new();
        let mut infos = Vec::new();
        for tensor in reader.into_tensors().map_err(damaged)? {
            let (name, dtype, shape, _, bytes) = tensor.into_parts().map_err(damaged)?;
            let encoding = match dtype {
                DType::U8 if name.ends_with(".codes") => "base3".to_owned(),
                dtype => format!("{dtype:?}"),
            };
            infos.push(TensorInfo {
                name: name.clone(),
                file_name: name.clone(),
                shape: shape.to_vec(),
                encoding,
                bytes: bytes.len(),
                file: path
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            });
            tensors.insert(
                name,
                Stored {
                    dtype,
                    shape,
                    bytes,
                },
            );
        }
        Ok(Self {
            path: path.to_path_buf(),
            config,
            generation,
            texts,
            tables,
            group_size,
            packing,
            tensors,
            infos,
        })
    }

    fn refuse(&self, name: &str, found: String, expected: String) -> ModelError {
        ModelError::Tensor {
            path: self.path.clone(),
            name: name.to_owned(),
            found,
            expected,
            way_out: "Make the file again with `bitnet-burn convert`".into(),
        }
    }

    /// A tensor of this type and shape, its bytes as long as they must be.
    fn stored(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<&Stored, ModelError> {
        let expected = || format!("{dtype:?} {shape:?}");
        let Some(stored) = self.tensors.get(name) else {
            return Err(self.refuse(name, "nothing".into(), expected()));
        };
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        if stored.dtype != dtype
            || stored.shape.as_slice() != shape
            || bytes != Some(stored.bytes.len())
        {
            let found = format!(
                "{:?} {:?} in {} bytes",
                stored.dtype,
                stored.shape.to_vec(),
                stored.bytes.len()
            );
            return Err(self.refuse(name, found, expected()));
        }
        Ok(stored)
    }

    fn data(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<TensorData, ModelError> {
        let stored = self.stored(name, dtype, shape)?;
        let bytes = stored.bytes.view(0, stored.bytes.len());
        let bytes = bytes.unwrap_or_else(|_| stored.bytes.clone());
        Ok(TensorData::from_bytes(bytes, shape.to_vec(), dtype))
    }

    /// The screen of a table, if there is one.
    fn screen(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<ReadyScreen>, ModelError> {
        let [codes, scale, error] = SCREEN.map(|part| format!("{name}.{part}"));
        if !self.tensors.contains_key(&codes) {
            return Ok(None);
        }
        let width = TableFormat::Int8.words_per_row(columns);
        let screen = ReadyScreen {
            codes: self.data(&codes, DType::U32, &[rows, width])?,
            scale: self.data(&scale, DType::F32, &[rows])?,
            error: self.data(&error, DType::F32, &[rows])?,
        };
        self.check_finite(&scale, &screen.scale)?;
        self.check_finite(&error, &screen.error)?;
        Ok(Some(screen))
    }

    /// Refuses scales, or errors of a screen, that mean nothing.
    fn check_finite(&self, name: &str, numbers: &TensorData) -> Result<(), ModelError> {
        let damaged = numbers.iter::<f32>().position(|number| !number.is_finite());
        damaged.map_or(Ok(()), |at| {
            let found = format!("a number that is not finite, at {at}");
            Err(self.refuse(name, found, "finite numbers".into()))
        })
    }

    /// Scales of a matrix: their number says for what each stands.
    fn scales(&self, name: &str, d_out: usize, d_in: usize) -> Result<Granularity, ModelError> {
        let count = match self.tensors.get(name) {
            Some(stored) => stored.shape.num_elements(),
            None => return Err(self.refuse(name, "nothing".into(), "scales".into())),
        };
        let mut kinds = vec![Granularity::Tensor, Granularity::Row];
        kinds.extend(self.group_size.map(Granularity::Group));
        let kind = kinds
            .into_iter()
            .find(|kind| kind.count(d_out, d_in) == count);
        kind.ok_or_else(|| {
            let expected = format!("1, {d_out}, or one per group of columns");
            self.refuse(name, format!("{count} scales"), expected)
        })
    }
}

impl Checkpoint for Burnpack {
    fn path(&self) -> &Path {
        &self.path
    }

    fn format(&self) -> &'static str {
        "burnpack"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn attachment(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if let Some(text) = self.texts.get(name) {
            return Some(Cow::Borrowed(text.as_bytes()));
        }
        let stored = self
            .tensors
            .get(name)
            .filter(|stored| stored.dtype == DType::U8);
        stored.map(|stored| Cow::Borrowed(&stored.bytes[..]))
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        if let [rows, columns] = *shape
            && self.tensors.contains_key(&format!("{name}.codes"))
        {
            return Ok(match self.matrix(name, rows, columns)? {
                Matrix::Float(floats) => floats,
                Matrix::Ternary(packed) => Floats::new(
                    FloatKind::F32,
                    shape.to_vec(),
                    FloatKind::F32.encode(&packed.dequantize()),
                ),
            });
        }
        let stored = self.stored(name, DType::F32, shape)?;
        Ok(Floats::new(
            FloatKind::F32,
            shape.to_vec(),
            &stored.bytes[..],
        ))
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        let Some(Ready {
            codes, scale, form, ..
        }) = self.ready(name, d_out, d_in)?
        else {
            return self.floats(name, &[d_out, d_in]).map(Matrix::Float);
        };
        let codes: Vec<u32> = match codes.dtype() {
            DType::U8 => base3::unpack(codes.as_bytes(), d_out, d_in),
            _ => codes.iter::<u32>().collect(),
        };
        let scale: Vec<f32> = scale.iter::<f32>().collect();
        let refused = |error| ModelError::ternary(&self.path, name)(error);
        match form {
            Form::Ternary(granularity) => {
                let scale = Scale::from_values(granularity, scale);
                PackedTernary::new(codes, scale, d_out, d_in)
                    .map(Matrix::Ternary)
                    .map_err(refused)
            }
            Form::Table(format) => {
                let table = PackedTable::new(format, codes, scale, d_out, d_in).map_err(refused)?;
                let mut values = vec![0.0; d_in];
                let mut bytes = Vec::with_capacity(4 * d_out * d_in);
                for row in 0..d_out {
                    table.dequantize_row(row, &mut values);
                    bytes.extend(FloatKind::F32.encode(&values));
                }
                let shape = vec![d_out, d_in];
                Ok(Matrix::Float(Floats::new(FloatKind::F32, shape, bytes)))
            }
        }
    }

    fn granularity(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
    ) -> Result<Option<Granularity>, ModelError> {
        let is_table = self.tables.get(name).is_some_and(Option::is_some);
        if is_table || !self.tensors.contains_key(&format!("{name}.codes")) {
            return Ok(None);
        }
        self.scales(&format!("{name}.scale"), d_out, d_in).map(Some)
    }

    fn ready(&self, name: &str, rows: usize, columns: usize) -> Result<Option<Ready>, ModelError> {
        let (codes_name, scale_name) = (format!("{name}.codes"), format!("{name}.scale"));
        if !self.tensors.contains_key(&codes_name) {
            return Ok(None);
        }
        let ready = match self.tables.get(name).copied().flatten() {
            None => {
                let is_base3 = self.packing == Packing::Base3 && !self.tables.contains_key(name);
                let (dtype, width) = match is_base3 {
                    true => (DType::U8, base3::bytes_per_row(columns)),
                    false => (DType::U32, words::words_per_row(columns)),
                };
                let codes = self.data(&codes_name, dtype, &[rows, width])?;
                let bytes = codes.as_bytes();
                match is_base3 {
                    true => base3::check(bytes, rows, columns),
                    false => words::check(bytemuck::cast_slice(bytes), rows, columns),
                }
                .map_err(ModelError::ternary(&self.path, &codes_name))?;
                let granularity = self.scales(&scale_name, rows, columns)?;
                let count = granularity.count(rows, columns);
                Ready {
                    codes,
                    scale: self.data(&scale_name, DType::F32, &[count])?,
                    form: Form::Ternary(granularity),
                    screen: None,
                }
            }
            Some(format) => {
                let (width, count) = (format.words_per_row(columns), format.scales(rows, columns));
                Ready {
                    codes: self.data(&codes_name, DType::U32, &[rows, width])?,
                    scale: self.data(&scale_name, DType::F32, &[count])?,
                    form: Form::Table(format),
                    screen: self.screen(name, rows, columns)?,
                }
            }
        };
        self.check_finite(&scale_name, &ready.scale)?;
        Ok(Some(ready))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
