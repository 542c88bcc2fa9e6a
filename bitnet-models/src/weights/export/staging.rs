//! A folder whose files appear together: each is written under a temporary name and renamed when all are on disk.
//!
//! The configuration goes first when a folder is overwritten and comes last, and without one a folder does not open: an
//! interrupted export is never mistaken for a checkpoint. What was not renamed is removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::ModelError;
use crate::weights::ConfigMap;
use crate::weights::hugging_face::CONFIG;

/// The tokenizer, and what is said of it.
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The other file that may hold a tokenizer.
const TOKENIZER_MODEL: &str = "tokenizer.model";

/// Files beside the weights that are copied as they are: tokenizers, chat templates, the pooling of embedding models.
const COMPANIONS: &[&str] = &[
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_MODEL,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// A folder that is being written.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    overwrite: bool,
    /// Whether the folder is ours to remove.
    created: bool,
    files: Vec<(NamedTempFile, PathBuf)>,
}

impl Staging {
    /// Takes a folder that is new or empty, or may be overwritten.
    pub(super) fn new(folder: &Path, overwrite: bool) -> Result<Self, ModelError> {
        let created = !folder.exists();
        if created {
            fs::create_dir_all(folder).map_err(ModelError::io("create", folder))?;
        }
        let mut entries = fs::read_dir(folder).map_err(ModelError::io("read", folder))?;
        if !overwrite && entries.next().is_some() {
            return Err(ModelError::File {
                path: folder.to_path_buf(),
                what: "the folder to write".into(),
                found: "files in it".into(),
                expected: "a new or empty folder".into(),
                way_out: "Choose another one, or allow overwriting".into(),
            });
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            overwrite,
            created,
            files: Vec::new(),
        })
    }

    /// A file to be written, and the path that it will have.
    pub(super) fn file(&mut self, name: &str) -> Result<(&mut File, PathBuf), ModelError> {
        let path = self.folder.join(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".partial");
        #[cfg(unix)]
        {
            // As any new file: what the user's mask leaves.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(&self.folder);
        let file = file.map_err(ModelError::io("create", &path))?;
        self.files.push((file, path.clone()));
        let (file, _) = self.files.last_mut().expect("just pushed");
        Ok((file.as_file_mut(), path))
    }

    /// A JSON file.
    pub(super) fn put_json(&mut self, name: &str, map: &ConfigMap) -> Result<(), ModelError> {
        let text = serde_json::to_string_pretty(map).expect("a map of JSON values");
        self.put(name, format!("{text}\n").as_bytes())
    }

    /// A file of these bytes.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let (file, path) = self.file(name)?;
        file.write_all(bytes)
            .map_err(ModelError::io("write", &path))
    }

    /// Copies tokenizer and company from another folder; whether there was a tokenizer.
    pub(super) fn copy_companions(&mut self, source: &Path) -> Result<bool, ModelError> {
        let mut tokenizer = false;
        for name in COMPANIONS {
            let from = source.join(name);
            if !from.is_file() {
                continue;
            }
            let mut from = crate::weights::open::open_file(&from)?;
            let (file, path) = self.file(name)?;
            io::copy(&mut from, file).map_err(ModelError::io("write", &path))?;
            tokenizer |= [TOKENIZER, TOKENIZER_MODEL].contains(name);
        }
        Ok(tokenizer)
    }

    /// Puts all files in their places, the one that was written last at the end.
    pub(super) fn commit(mut self) -> Result<(), ModelError> {
        for (file, path) in &self.files {
            file.as_file()
                .sync_all()
                .map_err(ModelError::io("write", path))?;
        }
        let config = self.folder.join(CONFIG);
        if self.overwrite && config.exists() {
            fs::remove_file(&config).map_err(ModelError::io("replace", &config))?;
        }
        self.created = false;
        for (file, path) in self.files.drain(..) {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(ModelError::io("create", folder))?;
            }
            let renamed = if self.overwrite {
                file.persist(&path)
            } else {
                file.persist_noclobber(&path)
            };
            renamed.map_err(|error| ModelError::io("write", &path)(error.error))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.files.clear();
        if self.created {
            // Refused if someone else has put something in: then it is theirs.
            let _refused = fs::remove_dir(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(folder: &Path) -> Vec<String> {
        crate::weights::open::file_names(folder).unwrap()
    }

    #[test]
    fn nothing_is_there_before_the_end_and_no_trace_after_a_failure() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let mut staging = Staging::new(&folder, false).unwrap();
        let (file, path) = staging.file("weights").unwrap();
        file.write_all(b"all").unwrap();
        assert!(!path.exists() && folder.exists());
        drop(staging);
        assert!(!folder.exists());
        let mut staging = Staging::new(&folder, false).unwrap();
        staging
            .file("a/weights")
            .unwrap()
            .0
            .write_all(b"all")
            .unwrap();
        staging.commit().unwrap();
        assert_eq!(fs::read(folder.join("a/weights")).unwrap(), b"all");
        assert!(list(&folder).is_empty());
    }

    #[test]
    fn a_folder_with_files_is_refused_until_told_and_keeps_what_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("notes"), "mine").unwrap();
        fs::write(path(CONFIG), "old").unwrap();
        let error = Staging::new(folder.path(), false).unwrap_err().to_string();
        assert!(
            error.contains("found files in it, expected a new or empty folder"),
            "{error}"
        );
        let mut staging = Staging::new(folder.path(), true).unwrap();
        staging.put_json(CONFIG, &ConfigMap::new()).unwrap();
        assert_eq!(fs::read_to_string(path(CONFIG)).unwrap(), "old");
        staging.commit().unwrap();
        assert_eq!(fs::read_to_string(path(CONFIG)).unwrap(), "{}\n");
        assert_eq!(fs::read_to_string(path("notes")).unwrap(), "mine");
        assert_eq!(list(folder.path()), [CONFIG, "notes"]);
    }
}
