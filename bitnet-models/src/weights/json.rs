//! Configuration files: JSON objects that are hostile until read through [`ConfigReader`].
//!
//! A file has a size limit, a key that occurs twice has its last value (as in Python), and a size is plausible before
//! anyone allocates by it. `null` counts as missing.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Checkpoint, ConfigMap};
use crate::ModelError;

/// Most bytes of a configuration; published ones have a few thousand.
pub(super) const CONFIG_LIMIT: u64 = 1 << 20;

/// Largest plausible values of sizes, all of which are at least 1. Other whole numbers (ids) have 32 bits.
const SIZES: &[(&str, u64)] = &[
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 12),
    ("num_key_value_heads", 1 << 12),
    ("head_dim", 1 << 16),
    ("max_position_embeddings", 1 << 28),
];

const WAY_OUT: &str = "Correct the file, or download the checkpoint again";

/// The bytes of a small file.
pub(super) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let file = super::open::open_file(path)?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(ModelError::io("read", path))?;
    if bytes.len() as u64 <= limit {
        return Ok(bytes);
    }
    Err(ModelError::File {
        path: path.to_path_buf(),
        what: "its size".into(),
        found: format!("more than {limit} bytes"),
        expected: "a small JSON file".into(),
        way_out: WAY_OUT.into(),
    })
}

/// Deserializes a JSON file of limited size.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    limit: u64,
    expected: &str,
) -> Result<T, ModelError> {
    serde_json::from_slice(&read_limited(path, limit)?).map_err(|error| ModelError::File {
        path: path.to_path_buf(),
        what: "its contents".into(),
        found: error.to_string(),
        expected: expected.into(),
        way_out: WAY_OUT.into(),
    })
}

/// Reads a configuration.
pub(super) fn read_object(path: &Path) -> Result<ConfigMap, ModelError> {
    parse(path, CONFIG_LIMIT, "one JSON object")
}

/// A view of a configuration, or of an object inside one, that knows where it stands.
#[derive(Debug, Clone)]
pub struct ConfigReader<'a> {
    path: PathBuf,
    map: &'a ConfigMap,
    /// Keys of the enclosing objects, each with its dot.
    within: String,
}

impl<'a> ConfigReader<'a> {
    /// The configuration of a checkpoint.
    pub fn new(checkpoint: &'a dyn Checkpoint) -> Self {
        let path = checkpoint.path();
        let path = if path.is_dir() {
            path.join("config.json")
        } else {
            path.to_path_buf()
        };
        Self::of(path, checkpoint.config())
    }

    /// A configuration that was read from this file.
    pub fn of(path: impl Into<PathBuf>, map: &'a ConfigMap) -> Self {
        Self {
            path: path.into(),
            map,
            within: String::new(),
        }
    }

    /// The value of a key that is there and not `null`.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A whole number within the plausible range of its key.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`], as for all methods here: missing, of another type, or out of range.
    pub fn usize(&self, key: &str) -> Result<usize, ModelError> {
        self.required(key, &whole_number(key), self.optional_usize(key)?)
    }

    /// As [`usize`](Self::usize), if it is there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn optional_usize(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let (least, most) = range(key);
        self.optional(key, &whole_number(key), |value| {
            let number = value.as_u64()?;
            usize::try_from(number)
                .ok()
                .filter(|_| (least..=most).contains(&number))
        })
    }

    /// A number, written as integer or not.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn f64(&self, key: &str) -> Result<f64, ModelError> {
        self.required(key, "a number", self.optional_f64(key)?)
    }

    /// As [`f64`](Self::f64), if it is there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn optional_f64(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.optional(key, "a number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// `true` or `false`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn bool(&self, key: &str) -> Result<bool, ModelError> {
        self.required(key, "true or false", self.optional_bool(key)?)
    }

    /// As [`bool`](Self::bool), if it is there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.optional(key, "true or false", Value::as_bool)
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn string(&self, key: &str) -> Result<&'a str, ModelError> {
        self.required(key, "a text", self.optional_string(key)?)
    }

    /// As [`string`](Self::string), if it is there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn optional_string(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.optional(key, "a text", Value::as_str)
    }

    /// A list of texts; empty if it is missing.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn strings(&self, key: &str) -> Result<Vec<&'a str>, ModelError> {
        let list = self.optional(key, "a list of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// One token id or a list of them; empty if it is missing.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let list = self.optional(key, "a token id or a list of them", |value| match value {
            Value::Array(values) => values.iter().map(id).collect(),
            value => Some(vec![id(value)?]),
        })?;
        Ok(list.unwrap_or_default())
    }

    /// An object inside this one, if it is there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let map = self.optional(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Self {
            path: self.path.clone(),
            map,
            within: format!("{}{key}.", self.within),
        }))
    }

    /// For keys whose value this build does not know.
    pub fn unsupported(&self, key: &str, expected: &str, way_out: &str) -> ModelError {
        let found = self.map.get(key).map_or("nothing".into(), shown);
        ModelError::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.within),
            found,
            expected: expected.into(),
            way_out: way_out.into(),
        }
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let value = self
            .value(key)
            .map(|value| read(value).ok_or_else(|| self.unsupported(key, expected, WAY_OUT)));
        value.transpose()
    }

    fn required<T>(&self, key: &str, expected: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.unsupported(key, expected, WAY_OUT))
    }
}

/// The plausible values of a whole number.
fn range(key: &str) -> (u64, u64) {
    let size = SIZES.iter().find(|(name, _)| *name == key);
    size.map_or((0, u32::MAX.into()), |&(_, most)| (1, most))
}

fn whole_number(key: &str) -> String {
    let (least, most) = range(key);
    format!("a whole number from {least} to {most}")
}

/// A value as it stands in the file, shortened.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> ConfigMap {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn values_come_in_the_types_that_are_asked_for() {
        let map = map(json!({
            "rope_theta": 1_000_042, "rms_norm_eps": 1e-5, "hidden_size": 64, "bos_token_id": 0, "eos": [1, 2],
            "tie": true, "act": "silu", "none": null, "skip": ["lm_head"], "inner": {"rope_theta": 2}
        }));
        let config = ConfigReader::of("config.json", &map);
        assert_eq!(config.f64("rope_theta").unwrap(), 1_000_042.0);
        assert_eq!(config.f64("rms_norm_eps").unwrap(), 1e-5);
        assert_eq!(config.usize("hidden_size").unwrap(), 64);
        assert_eq!(config.usize("bos_token_id").unwrap(), 0);
        assert_eq!(config.ids("eos").unwrap(), [1, 2]);
        assert_eq!(config.ids("bos_token_id").unwrap(), [0]);
        assert!(config.bool("tie").unwrap());
        assert_eq!(config.string("act").unwrap(), "silu");
        assert_eq!(config.strings("skip").unwrap(), ["lm_head"]);
        assert_eq!(config.optional_usize("none").unwrap(), None);
        assert_eq!(config.optional_string("missing").unwrap(), None);
        assert!(
            config.ids("none").unwrap().is_empty() && config.strings("none").unwrap().is_empty()
        );
        let inner = config.object("inner").unwrap().unwrap();
        assert_eq!(inner.f64("rope_theta").unwrap(), 2.0);
        let error = inner.usize("layers").unwrap_err().to_string();
        assert!(
            error.contains("config.json: config key `inner.layers`: found nothing"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_key_value_and_range() {
        let map = map(json!({
            "hidden_size": 2_000_000, "num_hidden_layers": 0, "vocab_size": -1, "head_dim": 1.5,
            "num_attention_heads": "8", "act": 3, "tie": 1, "skip": [1], "eos": [4_294_967_296_u64], "inner": []
        }));
        let config = ConfigReader::of("config.json", &map);
        let refused = |result: Result<(), ModelError>, words: &[&str]| {
            let error = result.unwrap_err().to_string();
            for word in words.iter().chain(&["config.json", "Correct the file"]) {
                assert!(error.contains(word), "{word} in: {error}");
            }
        };
        let size = |key| config.usize(key).map(drop);
        refused(
            size("hidden_size"),
            &["`hidden_size`", "found 2000000", "from 1 to 1048576"],
        );
        refused(size("num_hidden_layers"), &["found 0", "from 1 to 4096"]);
        refused(size("vocab_size"), &["found -1", "from 1 to 16777216"]);
        refused(size("head_dim"), &["found 1.5"]);
        refused(
            size("num_attention_heads"),
            &["found \"8\"", "a whole number"],
        );
        refused(
            config.string("act").map(drop),
            &["`act`", "found 3", "a text"],
        );
        refused(config.bool("tie").map(drop), &["found 1", "true or false"]);
        refused(
            config.strings("skip").map(drop),
            &["found [1]", "a list of texts"],
        );
        refused(
            config.ids("eos").map(drop),
            &["found [4294967296]", "a token id"],
        );
        refused(config.object("inner").map(drop), &["found []", "an object"]);
        refused(
            config.f64("missing").map(drop),
            &["found nothing", "a number"],
        );
    }

    #[test]
    fn a_key_that_occurs_twice_has_its_last_value() {
        let map: ConfigMap = serde_json::from_str(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap();
        assert_eq!(ConfigReader::of("x", &map).usize("a").unwrap(), 3);
    }

    #[test]
    fn a_long_value_is_shortened_between_characters() {
        let text = "ä".repeat(100);
        assert_eq!(shown(&json!(text)).chars().count(), 61);
    }
}
