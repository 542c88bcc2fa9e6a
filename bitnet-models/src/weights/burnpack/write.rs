//! Writes a packed file from any checkpoint, one tensor at a time, atomically.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bitnet_kernels::packing::words::words_per_row;
use bitnet_kernels::packing::{Packing, base3};
use bitnet_kernels::{Granularity, PackedScreen, PackedTable, PackedTernary, TableFormat};
use burn::tensor::{Bytes, DType};

use super::{LAYOUT_KEY, SCREEN, layout};
use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::weights::{Arithmetic, Checkpoint, ConfigMap, Matrix, Role};

/// What goes into a packed file beside the weights.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Number format of embedding and head.
    pub table: TableFormat,
    /// Whether an output head of floats gets a screen: half of an f16 head more in the file, half of it less to read for a token that
    /// is the likeliest or one of the top k. Changes no token.
    pub screen: bool,
    /// How ternary projections are packed.
    pub ternary: Packing,
    /// In what masters become ternary.
    pub arithmetic: Arithmetic,
    /// The `tokenizer.json`, if there is one.
    pub tokenizer: Option<Vec<u8>>,
    /// The `tokenizer_config.json`, if there is one.
    pub tokenizer_config: Option<String>,
    /// Whether an existing file is replaced.
    pub overwrite: bool,
}

/// Writes `checkpoint`, read as `config` says, to `path`. `written` is told the number of tensors written and of all.
///
/// # Errors
///
/// The checkpoint's, values that are not finite, a screen for a head that is not float, and the system's. An existing file is left
/// as it was.
pub fn write(
    path: &Path,
    checkpoint: &Arc<dyn Checkpoint>,
    config: &DecoderConfig,
    options: &PackOptions,
    written: impl FnMut(usize, usize) + Send + 'static,
) -> Result<(), ModelError> {
    if options.screen && config.head().is_none() {
        return Err(no_screen("no output head".into()));
    }
    let packer = Arc::new(Packer {
        checkpoint: Arc::clone(checkpoint),
        config: config.clone(),
        table: options.table,
        screened: options.screen.then(|| config.head()).flatten(),
        ternary: options.ternary,
        arithmetic: options.arithmetic,
        last: Mutex::new(None),
        failure: Mutex::new(None),
        written: Mutex::new((0, Box::new(written))),
        all: config.slots().len(),
    });
    let mut tensors = Vec::new();
    let mut group_size = None;
    let mut tables = Vec::new();
    for slot in config.slots() {
        let name = slot.name;
        match slot.role {
            Role::Vector(len) => tensors.push(packer.tensor(&name, DType::F32, vec![len], {
                let name = name.clone();
                move |packer| packer.floats(&name, &[len])
            })),
            Role::Linear { d_out, d_in }
            | Role::Table {
                rows: d_out,
                columns: d_in,
            } => {
                let table = matches!(slot.role, Role::Table { .. });
                let ternary = packer.granularity(&name, d_out, d_in, table)?;
                if table {
                    let format = ternary.map_or(options.table.name(), |_| "ternary");
                    tables.push((format!("table.{name}"), format));
                }
                let (dtype, width, scales) = match ternary {
                    Some(granularity) => {
                        if let Granularity::Group(size) = granularity {
                            group_size = Some(size);
                        }
                        let (dtype, width) = match options.ternary {
                            Packing::Base3 if !table => (DType::U8, base3::bytes_per_row(d_in)),
                            _ => (DType::U32, words_per_row(d_in)),
                        };
                        (dtype, width, granularity.count(d_out, d_in))
                    }
                    None if table => (
                        DType::U32,
                        options.table.words_per_row(d_in),
                        options.table.scales(d_out, d_in),
                    ),
                    None => {
                        tensors.push(packer.tensor(&name, DType::F32, vec![d_out, d_in], {
                            let name = name.clone();
                            move |packer| packer.floats(&name, &[d_out, d_in])
                        }));
                        continue;
                    }
                };
                let mut parts = vec![
                    ("codes", dtype, vec![d_out, width]),
                    ("scale", DType::F32, vec![scales]),
                ];
                if packer.screened == Some(name.as_str()) {
                    packer.check_screen(&name, ternary)?;
                    let width = TableFormat::Int8.words_per_row(d_in);
                    let [codes, scale, error] = SCREEN;
                    parts.push((codes, DType::U32, vec![d_out, width]));
                    parts.push((scale, DType::F32, vec![d_out]));
                    parts.push((error, DType::F32, vec![d_out]));
                }
                for (part, dtype, shape) in parts {
                    let file_name = format!("{name}.{part}");
                    let name = name.clone();
                    tensors.push(packer.tensor(&file_name, dtype, shape, move |packer| {
                        packer.part(&name, d_out, d_in, table, part)
                    }));
                }
            }
        }
    }
    if let Some(tokenizer) = &options.tokenizer {
        let bytes = Bytes::from_elems(tokenizer.clone());
        let shape = vec![tokenizer.len()];
        let tensor = burn_pack::Tensor::new("tokenizer.json".into(), DType::U8, shape, None, bytes);
        tensors.push(tensor);
    }
    let json = |map: &ConfigMap| serde_json::Value::Object(map.clone()).to_string();
    let mut writer = burn_pack::Writer::new(tensors)
        .auto_extension(false)
        .overwrite(options.overwrite)
        .with_metadata("producer", "bitnet-burn")
        .with_metadata(LAYOUT_KEY, layout(options.ternary))
        .with_metadata("config", &json(&config.describe(checkpoint.config())))
        .with_metadata("generation", &json(checkpoint.generation()));
    for (key, format) in tables {
        writer = writer.with_metadata(&key, format);
    }
    if let Some(size) = group_size {
        writer = writer.with_metadata("group_size", &size.to_string());
    }
    if let Some(text) = &options.tokenizer_config {
        writer = writer.with_metadata("tokenizer_config", text);
    }
    writer.write_to_file(path).map_err(|error| {
        let failure = packer
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.unwrap_or_else(|| match error {
            burn_pack::Error::AlreadyExists(_) => ModelError::File {
                path: path.to_path_buf(),
                what: "the path to write".into(),
                found: "a file".into(),
                expected: "nothing".into(),
                way_out: "Remove it, choose another name, or allow overwriting".into(),
            },
            error => ModelError::Io {
                path: path.to_path_buf(),
                action: "write",
                source: std::io::Error::other(error.to_string()),
            },
        })
    })
}

/// The tensors of a matrix, by the ends of their names.
type Parts = Vec<(&'static str, Bytes)>;

/// Is told how many tensors are written, and of how many.
type Progress = Box<dyn FnMut(usize, usize) + Send>;

/// Reads one matrix at a time; it is several tensors in the file, so the last one is kept.
struct Packer {
    checkpoint: Arc<dyn Checkpoint>,
    config: DecoderConfig,
    table: TableFormat,
    /// The table that gets a screen.
    screened: Option<&'static str>,
    ternary: Packing,
    arithmetic: Arithmetic,
    last: Mutex<Option<(String, Parts)>>,
    /// Why a provider failed: the writer keeps only the sentence.
    failure: Mutex<Option<ModelError>>,
    written: Mutex<(usize, Progress)>,
    all: usize,
}

impl Packer {
    fn tensor(
        self: &Arc<Self>,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        read: impl Fn(&Self) -> Result<Bytes, ModelError> + Send + Sync + 'static,
    ) -> burn_pack::Tensor {
        let packer = Arc::clone(self);
        let bytes = dtype.size() * shape.iter().product::<usize>();
        // One part of a matrix counts for all.
        let counts = !name.ends_with(".scale") && !name.contains(".screen.");
        burn_pack::Tensor::deferred(name.to_owned(), dtype, shape, None, bytes, move || {
            let bytes = read(&packer).map_err(|error| {
                let text = error.to_string();
                *packer
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(error);
                burn_pack::Error::IoError(text)
            })?;
            if counts {
                let mut written = packer
                    .written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let (done, tell) = &mut *written;
                *done += 1;
                tell(*done, packer.all);
            }
            Ok(bytes)
        })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Bytes, ModelError> {
        let values = self.checkpoint.floats(name, shape)?.to_f32();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::Tensor {
                path: self.checkpoint.path().to_path_buf(),
                name: name.to_owned(),
                found: format!("{} at index {at}", values[at]),
                expected: "finite numbers".into(),
                way_out: "The file is damaged. Get it again".into(),
            });
        }
        Ok(Bytes::from_elems(values))
    }

    /// The scales of a matrix that will be ternary in the file.
    fn granularity(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
        table: bool,
    ) -> Result<Option<Granularity>, ModelError> {
        Ok(match self.checkpoint.granularity(name, d_out, d_in)? {
            Some(granularity) => Some(granularity),
            None if table => None,
            None => self.config.is_ternary(name),
        })
    }

    /// Refuses a screen for what holds no floats.
    fn check_screen(&self, name: &str, ternary: Option<Granularity>) -> Result<(), ModelError> {
        if ternary.is_none() && self.table.is_float() {
            return Ok(());
        }
        Err(no_screen(match ternary {
            Some(_) => format!("a ternary one, `{name}`"),
            None => format!("one of {}", self.table),
        }))
    }

    fn part(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
        table: bool,
        part: &'static str,
    ) -> Result<Bytes, ModelError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(held, _)| held != name) {
            *last = None;
            *last = Some((name.to_owned(), self.parts(name, d_out, d_in, table)?));
        }
        let (_, parts) = last.as_mut().expect("filled above");
        let found = parts.iter_mut().find(|(name, _)| *name == part);
        let (_, bytes) = found.expect("a matrix has the parts that it was announced with");
        Ok(std::mem::replace(
            bytes,
            Bytes::from_elems::<u8>(Vec::new()),
        ))
    }

    fn parts(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
        table: bool,
    ) -> Result<Parts, ModelError> {
        let refused = |error| ModelError::ternary(self.checkpoint.path(), name)(error);
        let ternary = |packed: PackedTernary| {
            let (words, scale) = packed.into_parts();
            let codes = match self.ternary {
                Packing::Base3 if !table => Bytes::from_elems(base3::pack(&words, d_out, d_in)),
                _ => Bytes::from_elems(words),
            };
            let scale = Bytes::from_elems(scale.values().to_vec());
            vec![("codes", codes), ("scale", scale)]
        };
        match self.checkpoint.matrix(name, d_out, d_in)? {
            Matrix::Ternary(packed) => Ok(ternary(packed)),
            Matrix::Float(floats) if table => {
                PackedTable::from_rows(self.table, d_out, d_in, |row, values| {
                    floats.read(row * d_in..(row + 1) * d_in, values);
                })
                .map(|packed| {
                    let screen = (self.screened == Some(name)).then(|| PackedScreen::of(&packed));
                    let mut parts = table_parts(["codes", "scale"], packed);
                    if let Some(screen) = screen {
                        let [codes, scale, errors] = SCREEN;
                        let (copy, error) = screen.into_parts();
                        parts.extend(table_parts([codes, scale], copy));
                        parts.push((errors, Bytes::from_elems(error)));
                    }
                    parts
                })
                .map_err(refused)
            }
            Matrix::Float(floats) => {
                let granularity = self.config.is_ternary(name).unwrap_or_default();
                let packed = self.arithmetic.ternarize(&floats, d_out, d_in, granularity);
                packed.map(ternary).map_err(refused)
            }
        }
    }
}

fn no_screen(found: String) -> ModelError {
    ModelError::Request {
        what: "the output head behind a screen",
        found,
        expected: "one of f16, bf16 or f32".into(),
        way_out: "Leave the screen out: a head of integers is short enough to be read whole".into(),
    }
}

fn table_parts([codes, scale]: [&'static str; 2], table: PackedTable) -> Parts {
    let (words, scales) = table.into_parts();
    vec![
        (codes, Bytes::from_elems(words)),
        (scale, Bytes::from_elems(scales)),
    ]
}
