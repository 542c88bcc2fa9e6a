//! The index of a checkpoint in several files.
//!
//! Proven on opening: every shard lies in the folder of the index, every tensor of the index is in the shard that it
//! names, and no tensor is in two. Tensors that the index leaves out are read all the same; the size that it claims is
//! not looked at, as nothing depends on it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::json;
use super::safetensors::SafetensorsFile;
use crate::ModelError;

/// Most bytes of an index; 2 MB name twenty thousand tensors.
const INDEX_LIMIT: u64 = 1 << 24;
/// Most shards, each of which is mapped.
const SHARDS_LIMIT: usize = 1 << 12;

/// Where an index says that tensors are.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// Tensor and shard, in the order of the file.
    tensors: Vec<(String, String)>,
}

impl Index {
    /// Reads an index.
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Contents {
            weight_map: Pairs,
        }
        let contents: Contents = json::parse(path, INDEX_LIMIT, "an object with `weight_map`")?;
        Ok(Self {
            path: path.to_path_buf(),
            tensors: contents.weight_map.0,
        })
    }

    /// Whether a file is one of the shards.
    pub(super) fn names(&self, file: &str) -> bool {
        self.tensors.iter().any(|(_, shard)| shard == file)
    }

    /// Opens every shard once, in the order of the index, and proves what the index says.
    pub(super) fn open(&self, folder: &Path) -> Result<Vec<SafetensorsFile>, ModelError> {
        let refuse = |what: String, found: String, expected: &str| ModelError::File {
            path: self.path.clone(),
            what,
            found,
            expected: expected.into(),
            way_out: "Index and shards must be of one download: fetch them again".into(),
        };
        let mut files: Vec<(&str, SafetensorsFile)> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for (tensor, shard) in &self.tensors {
            if !seen.insert(shard) {
                continue;
            }
            if !is_file_name(shard) {
                let what = format!("the shard of `{tensor}`");
                return Err(refuse(
                    what,
                    format!("`{shard}`"),
                    "the name of a file in the same folder",
                ));
            }
            if files.len() == SHARDS_LIMIT {
                return Err(refuse(
                    "the shards".into(),
                    format!("more than {SHARDS_LIMIT}"),
                    "fewer",
                ));
            }
            let path = folder.join(shard);
            if !path.exists() {
                let what = format!("the shard of `{tensor}`");
                return Err(refuse(
                    what,
                    format!("no file `{shard}`"),
                    "every shard beside the index",
                ));
            }
            files.push((shard, SafetensorsFile::open(&path)?));
        }
        let mut found: HashMap<&str, &str> = HashMap::new();
        for (shard, file) in &files {
            for stored in &file.tensors {
                if let Some(other) = found.insert(&stored.name, shard) {
                    let what = format!("tensor `{}`", stored.name);
                    return Err(refuse(
                        what,
                        format!("it in {other} and in {shard}"),
                        "it in one shard",
                    ));
                }
            }
        }
        for (tensor, shard) in &self.tensors {
            let place = found.get(tensor.as_str());
            if place != Some(&shard.as_str()) {
                let found = place.map_or("it in no shard".into(), |place| format!("it in {place}"));
                return Err(refuse(
                    format!("tensor `{tensor}`"),
                    found,
                    &format!("it in {shard}"),
                ));
            }
        }
        if files.is_empty() {
            return Err(refuse(
                "weight_map".into(),
                "no tensor".into(),
                "names of tensors and their shards",
            ));
        }
        Ok(files.into_iter().map(|(_, file)| file).collect())
    }
}

/// Whether a shard is a plain file name, on any system.
fn is_file_name(shard: &str) -> bool {
    let mut parts = Path::new(shard).components();
    let first = parts.next();
    first == Some(Component::Normal(shard.as_ref()))
        && parts.next().is_none()
        && !shard.contains(['\\', ':'])
}

/// A JSON object of texts as pairs, in order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Texts)
    }
}
