//! The Hub's cache on this machine, in the layout of Python's `huggingface_hub`, which shares it.
//!
//! `models--owner--name/` holds `blobs/<etag>` (contents), `snapshots/<commit>/<file>` (links to them) and
//! `refs/<revision>` (the commit, as text). A ref is written when all of its snapshot is there, so what is found is
//! whole. Locks lie in `.locks/`, where Python looks for them too.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::{Model, is_id};

/// The folder of all models.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Debug, Serialize)]
pub(crate) struct Cached {
    pub(crate) model: String,
    /// Names of the snapshots: branches, tags, and commits that have neither.
    pub(crate) revisions: Vec<String>,
    /// Bytes on the disk, unfinished downloads included.
    pub(crate) size: u64,
    /// Whether a download was interrupted.
    pub(crate) unfinished: bool,
    pub(crate) path: PathBuf,
}

impl Cache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a repository `owner/name`.
    pub(super) fn folder(&self, repo: &str) -> PathBuf {
        self.root.join(folder_name(repo))
    }

    pub(super) fn blob(&self, repo: &str, etag: &str) -> PathBuf {
        self.folder(repo).join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(commit)
    }

    pub(super) fn lock(&self, repo: &str, etag: &str) -> PathBuf {
        self.locks(repo).join(format!("{etag}.lock"))
    }

    fn locks(&self, repo: &str) -> PathBuf {
        self.root.join(".locks").join(folder_name(repo))
    }

    /// The snapshot of a model's revision, if it is here.
    pub(crate) fn find(&self, model: &Model) -> Option<PathBuf> {
        let folder = self.folder(&model.repo);
        let commit = fs::read_to_string(folder.join("refs").join(model.revision()));
        let commit = commit.ok().map(|commit| commit.trim().to_owned());
        let commit = commit
            .or_else(|| model.revision.clone())
            .filter(|commit| is_id(commit))?;
        Some(self.snapshot(&model.repo, &commit)).filter(|snapshot| snapshot.is_dir())
    }

    /// Makes `file` of a snapshot the blob `etag`.
    pub(super) fn link(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        etag: &str,
    ) -> anyhow::Result<()> {
        let pointer = self.snapshot(repo, commit).join(file);
        let blob = self.blob(repo, etag);
        let up = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        let link = || -> io::Result<()> {
            create_parent(&pointer)?;
            match fs::remove_file(&pointer) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
            // Where symbolic links need a privilege, a second name of the same file; else a copy.
            symlink(&target, &pointer)
                .or_else(|_| fs::hard_link(&blob, &pointer))
                .or_else(|_| fs::copy(&blob, &pointer).map(drop))
        };
        link().with_context(|| format!("{}: cannot link to its contents", pointer.display()))
    }

    /// Says that `revision` is `commit`, now that its snapshot is whole.
    pub(super) fn set_ref(&self, repo: &str, revision: &str, commit: &str) -> anyhow::Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder(repo).join("refs").join(revision);
        create_parent(&path)
            .and_then(|()| fs::write(&path, commit))
            .with_context(|| format!("{}: cannot write", path.display()))
    }

    /// Every model, by name.
    ///
    /// # Errors
    ///
    /// A folder that cannot be read. A cache that does not exist is an empty one.
    pub(crate) fn models(&self) -> anyhow::Result<Vec<Cached>> {
        let mut models = Vec::new();
        for name in names(&self.root)? {
            let Some(model) = name
                .strip_prefix("models--")
                .map(|name| name.replacen("--", "/", 1))
            else {
                continue;
            };
            let path = self.root.join(&name);
            let refs = refs(&path)?;
            let mut revisions: Vec<String> = refs.iter().map(|(name, _)| name.clone()).collect();
            let named = |commit: &String| refs.iter().any(|(_, known)| known == commit);
            revisions.extend(
                names(&path.join("snapshots"))?
                    .into_iter()
                    .filter(|commit| !named(commit)),
            );
            let blobs = names(&path.join("blobs"))?;
            models.push(Cached {
                model,
                revisions,
                size: blobs
                    .iter()
                    .filter_map(|blob| path.join("blobs").join(blob).metadata().ok())
                    .map(|data| data.len())
                    .sum(),
                unfinished: blobs.iter().any(|blob| blob.ends_with(".incomplete")),
                path,
            });
        }
        Ok(models)
    }

    /// Removes a model: with a revision only what no other revision needs, else all of it. Returns the bytes freed;
    /// `None` if it is not here.
    pub(crate) fn remove(&self, model: &Model) -> anyhow::Result<Option<u64>> {
        let folder = self.folder(&model.repo);
        let size = || -> anyhow::Result<Option<u64>> {
            Ok(self
                .models()?
                .into_iter()
                .find(|cached| cached.model == model.repo)
                .map(|cached| cached.size))
        };
        let Some(before) = size()? else {
            return Ok(None);
        };
        let removed = match (&model.revision, self.find(model)) {
            (None, _) => fs::remove_dir_all(&folder).and_then(|()| {
                match fs::remove_dir_all(self.locks(&model.repo)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            }),
            (Some(_), None) => return Ok(None),
            (Some(_), Some(snapshot)) => remove_snapshot(&folder, &snapshot),
        };
        removed.with_context(|| format!("{}: cannot remove", folder.display()))?;
        Ok(Some(before - size()?.unwrap_or(0)))
    }
}

fn remove_snapshot(folder: &Path, snapshot: &Path) -> io::Result<()> {
    fs::remove_dir_all(snapshot)?;
    for (name, commit) in refs(folder)? {
        if snapshot.ends_with(&commit) {
            fs::remove_file(folder.join("refs").join(name))?;
        }
    }
    let mut needed = BTreeSet::new();
    for pointer in files(&folder.join("snapshots"))? {
        if let Some(blob) = fs::read_link(pointer)
            .ok()
            .and_then(|blob| Some(blob.file_name()?.to_owned()))
        {
            needed.insert(blob);
        }
    }
    for blob in names(&folder.join("blobs"))? {
        if !needed.contains(std::ffi::OsStr::new(&blob)) {
            fs::remove_file(folder.join("blobs").join(blob))?;
        }
    }
    Ok(())
}

fn folder_name(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

/// Revisions and their commits.
fn refs(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let root = folder.join("refs");
    let mut refs = Vec::new();
    for path in files(&root)? {
        let name = path
            .strip_prefix(&root)
            .unwrap_or(&path)
            .to_string_lossy()
            .replace('\\', "/");
        refs.push((name, fs::read_to_string(&path)?.trim().to_owned()));
    }
    Ok(refs)
}

/// Every file below `folder`, sorted; none if it does not exist.
pub(super) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        let path = folder.join(name);
        // Links are files here, wherever they lead.
        if fs::symlink_metadata(&path)?.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// What a folder holds, sorted; nothing if it does not exist.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

pub(super) fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with `o/n`: two commits that share the blob `b`, main on the second.
    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_owned());
        for (etag, text) in [("a", "old"), ("b", "both"), ("c", "new!!")] {
            let blob = cache.blob("o/n", etag);
            create_parent(&blob).unwrap();
            fs::write(blob, text).unwrap();
        }
        for (commit, etag) in [("1111", "a"), ("2222", "c")] {
            cache.link("o/n", commit, "config.json", etag).unwrap();
            cache.link("o/n", commit, "sub/deep/x.json", "b").unwrap();
        }
        cache.set_ref("o/n", "main", "2222").unwrap();
        (folder, cache)
    }

    #[test]
    fn a_revision_is_a_ref_or_a_commit() {
        let (_folder, cache) = cache();
        let read = |model: &str, file: &str| {
            fs::read_to_string(cache.find(&model.parse().unwrap()).unwrap().join(file)).unwrap()
        };
        assert_eq!(read("o/n", "config.json"), "new!!");
        assert_eq!(read("o/n@1111", "config.json"), "old");
        assert_eq!(read("o/n@1111", "sub/deep/x.json"), "both");
        assert_eq!(cache.find(&"o/n@other".parse().unwrap()), None);
        assert_eq!(cache.find(&"o/m".parse().unwrap()), None);
    }

    #[test]
    fn models_are_listed_with_their_revisions_and_size() {
        let (_folder, cache) = cache();
        let models = cache.models().unwrap();
        assert_eq!(models.len(), 1);
        assert_eq!(
            (models[0].model.as_str(), models[0].size),
            ("o/n", 3 + 4 + 5)
        );
        assert_eq!(models[0].revisions, ["main", "1111"]);
        assert!(!models[0].unfinished);
    }

    #[test]
    fn removing_a_revision_keeps_what_others_need() {
        let (_folder, cache) = cache();
        assert_eq!(cache.remove(&"o/n@1111".parse().unwrap()).unwrap(), Some(3));
        assert!(
            cache
                .find(&"o/n".parse().unwrap())
                .unwrap()
                .join("sub/deep/x.json")
                .exists()
        );
        assert_eq!(cache.remove(&"o/n@1111".parse().unwrap()).unwrap(), None);
        assert_eq!(cache.remove(&"o/n".parse().unwrap()).unwrap(), Some(9));
        assert!(cache.models().unwrap().is_empty());
    }
}
