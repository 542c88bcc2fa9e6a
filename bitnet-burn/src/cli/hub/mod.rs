//! Models of the Hugging Face Hub: names, the cache on this machine that Python's `huggingface_hub` shares, downloads.
//!
//! Names, revisions and file names end up in paths, whether the user or a server wrote them, so each is checked here
//! before it is used: a [`Model`] that exists has no part that could leave the cache.

mod cache;
mod choose;
mod client;
mod download;
mod resolve;

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};

pub(crate) use cache::Cache;
pub(crate) use choose::Want;
pub(crate) use download::pull;
pub(crate) use resolve::resolve;

/// The revision that a name without one means.
const MAIN: &str = "main";

/// `owner/name[/file][@revision]`, each part safe to use in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    /// `owner/name`.
    pub(crate) repo: String,
    /// A branch, tag or commit; `None` is the main branch.
    pub(crate) revision: Option<String>,
    /// One file of it, with `/`.
    pub(crate) file: Option<String>,
}

impl Model {
    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }
}

impl Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))?;
        self.revision
            .iter()
            .try_for_each(|revision| write!(f, "@{revision}"))
    }
}

impl FromStr for Model {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next(), parts.next(), parts.next());
        let (Some(owner), Some(name)) = (owner, name) else {
            bail!(
                "`{text}`: found no `/`, expected owner/name, as in microsoft/bitnet-b1.58-2B-4T"
            );
        };
        for part in [owner, name] {
            ensure!(
                is_name(part),
                "`{text}`: `{part}` is no name on the Hub: letters, digits, `-`, `_` and single dots"
            );
        }
        for path in [revision, file].into_iter().flatten() {
            ensure!(is_safe(path), "`{text}`: `{path}` is no plain path");
        }
        Ok(Self {
            repo: format!("{owner}/{name}"),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }
}

/// The Hub's own rule for owners and names.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(allowed)
        && !text.contains("..")
        && !text.contains("--")
}

/// Whether this path, with `/`, stays below the folder it is joined to, on every operating system.
fn is_safe(path: &str) -> bool {
    let strange = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
    path.len() < 1024
        && path
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.contains(strange))
}

/// Whether this is a commit or a checksum: what the Hub names snapshots and blobs by.
fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// What the environment says, by the variables of `huggingface_hub`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The server, without a slash at the end.
    endpoint: String,
    pub(crate) cache: Cache,
    token: Option<String>,
    offline: bool,
}

impl Settings {
    /// # Errors
    ///
    /// Neither a cache nor a home folder is known, or the token's file cannot be read.
    pub(crate) fn from_environment(offline: bool) -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.trim().is_empty())
        };
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache").join("huggingface")))
            .context(
                "no home folder is known. Set HF_HOME to the folder that shall hold the models",
            )?;
        let token = match variable("HF_TOKEN") {
            Some(token) => Some(token),
            None => read_token(&folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")))?,
        };
        let is_on = |value: String| {
            matches!(
                value.to_ascii_uppercase().as_str(),
                "1" | "ON" | "YES" | "TRUE"
            )
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            cache: Cache::new(folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"))),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: offline || variable("HF_HUB_OFFLINE").is_some_and(is_on),
        })
    }
}

/// What `hf auth login` left, if it was ever called.
fn read_token(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(Some(token)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("{}: cannot read the token", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_owner_name_and_perhaps_file_and_revision() {
        let parsed: Model = "o/n/sub/a.gguf@refs/pr/1".parse().unwrap();
        assert_eq!(parsed.repo, "o/n");
        assert_eq!(parsed.file.as_deref(), Some("sub/a.gguf"));
        assert_eq!(parsed.revision(), "refs/pr/1");
        assert_eq!(parsed.to_string(), "o/n/sub/a.gguf@refs/pr/1");
        assert_eq!("o/n".parse::<Model>().unwrap().revision(), "main");
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        for text in [
            "n",
            "/n",
            "o/",
            "../n",
            "o/..",
            "o/n--m",
            "o/n@",
            "o/n@../x",
            "o/n//x",
            "o/n/../../x",
            "o/n/a\\b",
            "o/c:",
        ] {
            assert!(text.parse::<Model>().is_err(), "{text}");
        }
    }

    #[test]
    fn server_paths_stay_below_their_folder() {
        assert!(is_safe("a/b.json") && is_safe(".gitattributes"));
        for path in [
            "",
            "/etc/passwd",
            "a//b",
            "a/../b",
            "..",
            "C:/x",
            "a\\..\\b",
            "a\0b",
            "a/",
        ] {
            assert!(!is_safe(path), "{path}");
        }
        assert!(is_id("0a1b") && !is_id("") && !is_id("../x") && !is_id("a/b"));
    }
}
