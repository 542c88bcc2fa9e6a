//! What the user calls a model, as a path: a file or folder, else a name in the cache. Downloads nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Cache, Model, Settings, cache};

/// Names this alike are offered as a correction.
const ALIKE: f64 = 0.85;

/// The file or folder that `model` means: a path, or `owner/name[/file][@revision]` in the cache.
///
/// # Errors
///
/// Neither is here. The message says what is alike, and how to download.
pub(crate) fn resolve(model: &str) -> anyhow::Result<PathBuf> {
    resolve_in(model, &Settings::from_environment(true)?.cache)
}

pub(super) fn resolve_in(model: &str, cache: &Cache) -> anyhow::Result<PathBuf> {
    if Path::new(model).exists() {
        return Ok(model.into());
    }
    let parsed = model.parse::<Model>();
    let snapshot = parsed
        .as_ref()
        .ok()
        .and_then(|parsed| Some((parsed, cache.find(parsed)?)));
    let Some((parsed, snapshot)) = snapshot else {
        let hint = near_misses(model, cache)?;
        match parsed {
            Ok(parsed) => bail!(
                "model `{model}`: found no such path and no such model in {}.{hint} To download it: bitnet-burn models pull {}",
                cache.root().display(),
                parsed,
            ),
            Err(_) => bail!(
                "model `{model}`: found no such path, expected a file, a folder or owner/name.{hint} `bitnet-burn models list` \
                 shows what is downloaded"
            ),
        }
    };
    match &parsed.file {
        Some(file) => {
            let path = snapshot.join(file);
            if !path.exists() {
                bail!(
                    "model `{model}`: that file is not downloaded. To download it: bitnet-burn models pull {parsed}"
                );
            }
            Ok(path)
        }
        None => whole(parsed, snapshot),
    }
}

/// The folder of a checkpoint; of a repository with GGUF files alone, the only one.
fn whole(model: &Model, snapshot: PathBuf) -> anyhow::Result<PathBuf> {
    let files =
        cache::files(&snapshot).with_context(|| format!("{}: cannot read", snapshot.display()))?;
    let is = |file: &Path, kind: &str| {
        file.extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(kind))
    };
    let gguf: Vec<&PathBuf> = files.iter().filter(|file| is(file, "gguf")).collect();
    match gguf.as_slice() {
        _ if files.iter().any(|file| is(file, "safetensors")) => Ok(snapshot),
        [] => Ok(snapshot),
        [file] => Ok(file.to_path_buf()),
        several => {
            let name = |file: &&PathBuf| {
                file.strip_prefix(&snapshot)
                    .unwrap_or(file)
                    .to_string_lossy()
                    .replace('\\', "/")
            };
            let choices: Vec<String> = several
                .iter()
                .map(|file| {
                    Model {
                        file: Some(name(file)),
                        ..model.clone()
                    }
                    .to_string()
                })
                .collect();
            bail!(
                "model `{model}`: {} GGUF files, expected one. Say which: {}",
                several.len(),
                choices.join(" or ")
            )
        }
    }
}

/// ` Did you mean …?` or nothing.
fn near_misses(model: &str, cache: &Cache) -> anyhow::Result<String> {
    let path = Path::new(model);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let beside = std::fs::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten();
    let beside = beside.map(|entry| match folder {
        Some(folder) => folder.join(entry.file_name()).display().to_string(),
        None => entry.file_name().to_string_lossy().into_owned(),
    });
    let cached = cache.models()?.into_iter().map(|cached| cached.model);
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let wanted = last(model);
    let mut alike: Vec<(f64, String)> = beside
        .chain(cached)
        .map(|name| (strsim::jaro_winkler(&wanted, &last(&name)), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names: Vec<String> = alike
        .into_iter()
        .take(3)
        .map(|(_, name)| format!("`{name}`"))
        .collect();
    Ok(if names.is_empty() {
        String::new()
    } else {
        format!(" Did you mean {}?", names.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cached(files: &[&str]) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("hub"));
        for file in files {
            let path = cache.snapshot("own/tiny-bitnet", "abc").join(file);
            cache::create_parent(&path).unwrap();
            fs::write(path, "").unwrap();
        }
        cache.set_ref("own/tiny-bitnet", "main", "abc").unwrap();
        (folder, cache)
    }

    #[test]
    fn a_path_that_exists_is_itself() {
        let (folder, cache) = cached(&["model.safetensors"]);
        let path = folder.path().to_str().unwrap();
        assert_eq!(resolve_in(path, &cache).unwrap(), folder.path());
    }

    #[test]
    fn a_name_is_its_folder_or_its_only_gguf_file() {
        let (_folder, cache) = cached(&["model.safetensors", "x.gguf"]);
        let snapshot = cache.snapshot("own/tiny-bitnet", "abc");
        assert_eq!(resolve_in("own/tiny-bitnet", &cache).unwrap(), snapshot);
        assert_eq!(
            resolve_in("own/tiny-bitnet/x.gguf", &cache).unwrap(),
            snapshot.join("x.gguf")
        );
        let (_folder, cache) = cached(&["x.gguf", "README.md"]);
        assert!(
            resolve_in("own/tiny-bitnet", &cache)
                .unwrap()
                .ends_with("x.gguf")
        );
        let (_folder, cache) = cached(&["x.gguf", "y.gguf"]);
        let refused = resolve_in("own/tiny-bitnet", &cache)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("own/tiny-bitnet/x.gguf or own/tiny-bitnet/y.gguf"),
            "{refused}"
        );
    }

    #[test]
    fn a_misspelt_name_is_corrected_and_the_download_explained() {
        let (_folder, cache) = cached(&["model.safetensors"]);
        let refused = resolve_in("own/tiny-bitnett", &cache)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("Did you mean `own/tiny-bitnet`?"),
            "{refused}"
        );
        assert!(
            refused.contains("models pull own/tiny-bitnett"),
            "{refused}"
        );
        let refused = resolve_in("tiny-bitnet", &cache).unwrap_err().to_string();
        assert!(
            refused.contains("Did you mean `own/tiny-bitnet`?"),
            "{refused}"
        );
        let refused = resolve_in("quite-different", &cache)
            .unwrap_err()
            .to_string();
        assert!(!refused.contains("Did you mean"), "{refused}");
    }

    #[test]
    fn a_misspelt_path_is_corrected_from_its_folder() {
        let (folder, cache) = cached(&[]);
        fs::write(folder.path().join("model-i2_s.gguf"), "").unwrap();
        let path = folder.path().join("model_i2_s.gguf");
        let refused = resolve_in(path.to_str().unwrap(), &cache)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("model-i2_s.gguf`?"), "{refused}");
    }
}
