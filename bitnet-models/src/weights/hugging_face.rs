//! Folders as Hugging Face publishes them: `config.json`, and safetensors in one file or in shards with an index.
//!
//! A packed weight holds four trits a byte beside a `weight_scale`, which multiplies or divides:
//! `quantization_config.linear_class` says which, and packed weights without that object are refused. Bytes decide what
//! a tensor is, not the configuration: a float weight is handed out as floats, whatever the mode.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitnet_kernels::packing::{Layout, hf::Hf};
use bitnet_kernels::{Granularity, PackedTernary, Scale};
use safetensors::Dtype;

use super::json::{self, ConfigReader};
use super::safetensors::{SafetensorsFile, Stored};
use super::shards::Index;
use super::{Checkpoint, ConfigMap, FloatKind, Floats, Matrix, TensorInfo, names};
use crate::ModelError;

/// The name of the configuration, and of generation defaults.
pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
/// The usual name of the weights in one file, and of the index of shards.
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Ends of the names of weights and indexes.
pub(super) const EXTENSION: &str = ".safetensors";
pub(super) const INDEX_EXTENSION: &str = ".safetensors.index.json";

/// A folder with a configuration and weights.
#[derive(Debug)]
struct HuggingFace {
    folder: PathBuf,
    config: ConfigMap,
    generation: ConfigMap,
    files: Vec<SafetensorsFile>,
    tensors: Vec<TensorInfo>,
    /// File and tensor in it, by our name.
    places: HashMap<String, (usize, usize)>,
}

/// Opens a folder, or the weights or index in one.
pub(super) fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    let (folder, weights) = if path.is_dir() {
        (path.to_path_buf(), choose(path)?)
    } else {
        let folder = super::open::folder_of(path);
        let weights = sharded(&folder, path)?;
        (folder, weights)
    };
    let config = read_config(&folder)?;
    let generation = folder.join(GENERATION);
    let generation = if generation.exists() {
        json::read_object(&generation)?
    } else {
        ConfigMap::new()
    };
    let files = match weights.index {
        Some(index) => index.open(&folder)?,
        None => vec![SafetensorsFile::open(&weights.path)?],
    };
    let (tensors, places) = collect(&files)?;
    Ok(Box::new(HuggingFace {
        folder,
        config,
        generation,
        files,
        tensors,
        places,
    }))
}

/// The weights that were chosen: a file, or what its index says.
struct Weights {
    path: PathBuf,
    index: Option<Index>,
}

/// The weights of a folder: those with the usual name, or else the only ones.
fn choose(folder: &Path) -> Result<Weights, ModelError> {
    let names = super::open::file_names(folder)?;
    let usual = [SINGLE, INDEX].into_iter();
    let mut candidates: Vec<&str> = usual
        .filter(|name| names.iter().any(|n| n == name))
        .collect();
    candidates.truncate(1);
    for end in [INDEX_EXTENSION, EXTENSION] {
        if candidates.is_empty() {
            let matching = names.iter().filter(|name| name.ends_with(end));
            candidates = matching.map(String::as_str).collect();
        }
    }
    match candidates[..] {
        [name] => sharded(folder, &folder.join(name)),
        _ => Err(ModelError::File {
            path: folder.to_path_buf(),
            what: "its weights".into(),
            found: if candidates.is_empty() {
                "none".into()
            } else {
                candidates.join(", ")
            },
            expected: format!("{SINGLE}, {INDEX}, or one other file of weights"),
            way_out: format!("Name the file itself; shards need their index ({INDEX})"),
        }),
    }
}

/// A file of weights or an index. A shard stands for all shards of its index.
fn sharded(folder: &Path, path: &Path) -> Result<Weights, ModelError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let beside = folder.join(INDEX);
    let index = if name.ends_with(INDEX_EXTENSION) {
        Some(Index::read(path)?)
    } else if name != SINGLE && beside.exists() {
        Some(Index::read(&beside)?).filter(|index| index.names(name))
    } else {
        None
    };
    Ok(Weights {
        path: path.to_path_buf(),
        index,
    })
}

/// Reads `config.json` and proves that it names an architecture.
fn read_config(folder: &Path) -> Result<ConfigMap, ModelError> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Err(ModelError::File {
            path: folder.to_path_buf(),
            what: "the configuration".into(),
            found: format!("no {CONFIG}"),
            expected: format!("{CONFIG} beside the weights"),
            way_out: "Take it from the repository of the model".into(),
        });
    }
    let config = json::read_object(&path)?;
    let reader = ConfigReader::of(&path, &config);
    if reader.strings("architectures")?.is_empty() {
        let way_out =
            "Take config.json from the repository of the model, or add the name of its class";
        return Err(reader.unsupported(
            "architectures",
            "a list with the name of the model class",
            way_out,
        ));
    }
    Ok(config)
}

type Collected = (Vec<TensorInfo>, HashMap<String, (usize, usize)>);

/// Names every tensor our way.
fn collect(files: &[SafetensorsFile]) -> Result<Collected, ModelError> {
    let mut tensors = Vec::new();
    let mut places = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        let file_name = file
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        for (index, stored) in file.tensors.iter().enumerate() {
            let Some(name) = names::from_file(&stored.name) else {
                continue;
            };
            if places.insert(name.clone(), (at, index)).is_some() {
                return Err(ModelError::Tensor {
                    path: file.path().to_path_buf(),
                    name: stored.name.clone(),
                    found: format!("a second tensor that means `{name}`"),
                    expected: "one".into(),
                    way_out: "The file mixes the names of two families: convert it again".into(),
                });
            }
            tensors.push(TensorInfo {
                shape: numbers(&name, stored),
                name,
                file_name: stored.name.clone(),
                encoding: stored.dtype.to_string(),
                bytes: stored.range.len(),
                file: file_name.to_string(),
            });
        }
    }
    Ok((tensors, places))
}

/// The shape of the numbers: four rows in each byte row of a packed matrix.
fn numbers(name: &str, stored: &Stored) -> Vec<usize> {
    match stored.shape[..] {
        [rows, columns] if stored.dtype == Dtype::U8 && name.ends_with(".weight") => {
            vec![rows.saturating_mul(4), columns]
        }
        _ => stored.shape.clone(),
    }
}

impl HuggingFace {
    fn find(&self, name: &str) -> Option<(&SafetensorsFile, &Stored)> {
        let &(file, index) = self.places.get(name)?;
        let file = &self.files[file];
        Some((file, &file.tensors[index]))
    }

    /// A tensor that must be there.
    fn need(&self, name: &str, expected: &str) -> Result<(&SafetensorsFile, &Stored), ModelError> {
        self.find(name).ok_or_else(|| ModelError::Tensor {
            path: self.folder.clone(),
            name: name.into(),
            found: format!("no such tensor among {}", self.tensors.len()),
            expected: expected.into(),
            way_out:
                "Check that config.json belongs to these weights, and that the download is complete"
                    .into(),
        })
    }

    /// The numbers of a float tensor.
    fn read_floats<'a>(
        file: &'a SafetensorsFile,
        stored: &Stored,
        shape: &[usize],
    ) -> Result<Floats<'a>, ModelError> {
        match FloatKind::from_name(&stored.dtype.to_string()) {
            Some(kind) if stored.shape == shape => {
                Ok(Floats::new(kind, shape.to_vec(), file.bytes(stored)))
            }
            _ => Err(mismatch(
                file,
                stored,
                &format!("F32, F16 or BF16 {shape:?}"),
            )),
        }
    }

    /// Whether `weight_scale` multiplies.
    fn scale_multiplies(&self) -> Result<bool, ModelError> {
        let config = ConfigReader::of(self.folder.join(CONFIG), &self.config);
        let way_out = "Without it a scale may as well divide as multiply: take config.json from the model's repository";
        let quantization = config.object("quantization_config")?;
        let quantization = quantization.ok_or_else(|| {
            config.unsupported(
                "quantization_config",
                "an object, as the weights are packed",
                way_out,
            )
        })?;
        if !matches!(
            quantization.optional_string("quant_method")?,
            None | Some("bitnet")
        ) {
            let way_out = "Only BitNet checkpoints can be read";
            return Err(quantization.unsupported("quant_method", "\"bitnet\"", way_out));
        }
        match quantization.optional_string("linear_class")? {
            Some("autobitlinear") => Ok(true),
            None | Some("bitlinear") => Ok(false),
            Some(_) => {
                let expected = "\"autobitlinear\" (multiplies) or \"bitlinear\" (divides)";
                Err(quantization.unsupported("linear_class", expected, way_out))
            }
        }
    }

    /// The factor of a packed matrix: `weight_scale`, or one over it.
    fn scale(&self, weight: &str) -> Result<f32, ModelError> {
        let multiplies = self.scale_multiplies()?;
        let base = weight.strip_suffix("weight").unwrap_or(weight);
        let (file, stored) = self.need(
            &format!("{base}weight_scale"),
            "the scale of a packed matrix",
        )?;
        let shape = if stored.shape.is_empty() {
            &[][..]
        } else {
            &[1]
        };
        let mut value = [0.0];
        Self::read_floats(file, stored, shape)?.read(0..1, &mut value);
        let [value] = value;
        let scale = if multiplies { value } else { 1.0 / value };
        if value.is_finite() && value > 0.0 && scale.is_finite() && scale > 0.0 {
            return Ok(scale);
        }
        Err(ModelError::Tensor {
            path: file.path().to_path_buf(),
            name: stored.name.clone(),
            found: value.to_string(),
            expected: "a finite number above 0, as its reciprocal".into(),
            way_out: super::safetensors::WAY_OUT.into(),
        })
    }
}

impl Checkpoint for HuggingFace {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn format(&self) -> &'static str {
        "safetensors"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let (file, stored) = self.need(name, &format!("floats {shape:?}"))?;
        Self::read_floats(file, stored, shape)
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        let shape = [d_out, d_in];
        let (file, stored) = self.need(name, &format!("a matrix {shape:?}"))?;
        let packed = [d_out.div_ceil(4), d_in];
        if stored.dtype != Dtype::U8 {
            return Self::read_floats(file, stored, &shape).map(Matrix::Float);
        }
        if stored.shape != packed {
            return Err(mismatch(
                file,
                stored,
                &format!("U8 {packed:?} for packed {shape:?}"),
            ));
        }
        let scale = Scale::Tensor(self.scale(name)?);
        let refuse = || ModelError::ternary(file.path(), &stored.name);
        let unpacked = Hf
            .unpack(file.bytes(stored), d_out, d_in)
            .map_err(refuse())?;
        let ternary = PackedTernary::from_trits(&unpacked.trits, scale, d_out, d_in);
        ternary.map(Matrix::Ternary).map_err(refuse())
    }

    fn granularity(
        &self,
        name: &str,
        d_out: usize,
        d_in: usize,
    ) -> Result<Option<Granularity>, ModelError> {
        let (_, stored) = self.need(name, &format!("a matrix {:?}", [d_out, d_in]))?;
        Ok((stored.dtype == Dtype::U8).then_some(Granularity::Tensor))
    }
}

fn mismatch(file: &SafetensorsFile, stored: &Stored, expected: &str) -> ModelError {
    ModelError::Tensor {
        path: file.path().to_path_buf(),
        name: stored.name.clone(),
        found: format!("{} {:?}", stored.dtype, stored.shape),
        expected: expected.into(),
        way_out: "Check that config.json belongs to these weights".into(),
    }
}
