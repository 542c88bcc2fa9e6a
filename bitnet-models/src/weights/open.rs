//! Opening: which format a file or folder has, by what it begins with; names decide where contents say nothing.
//!
//! A folder opens if it holds exactly one checkpoint. Only regular files are opened: others may block or never end.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Checkpoint, Gguf, burnpack, hugging_face, safetensors};
use crate::ModelError;

/// A file format.
#[derive(Debug)]
pub struct Format {
    /// Name in messages and on the command line.
    pub name: &'static str,
    /// Ends of the file names: what a file is taken for whose contents say nothing.
    pub extensions: &'static [&'static str],
    /// Whether a checkpoint is a folder of such files.
    pub whole_folder: bool,
    /// Whether a file with these first bytes has this format.
    pub recognise: fn(&[u8]) -> bool,
    /// Opens a file, or a folder if a checkpoint is one.
    pub open: fn(&Path) -> Result<Box<dyn Checkpoint>, ModelError>,
}

/// Every format.
pub static FORMATS: &[Format] = &[
    Format {
        name: "safetensors",
        extensions: &[hugging_face::EXTENSION, hugging_face::INDEX_EXTENSION],
        whole_folder: true,
        recognise: safetensors::begins,
        open: hugging_face::open,
    },
    Format {
        name: "gguf",
        extensions: &[".gguf"],
        whole_folder: false,
        recognise: |start| start.starts_with(b"GGUF"),
        open: |path| Ok(Box::new(Gguf::open(path)?)),
    },
    Format {
        name: "burnpack",
        extensions: &[burnpack::EXTENSION],
        whole_folder: false,
        recognise: burnpack::recognise,
        open: burnpack::open,
    },
];

/// Opens a checkpoint: a folder, a file in one, or a single file, recognised by what it begins with.
///
/// # Errors
///
/// [`ModelError::File`] if the file has no known format or the folder not exactly one checkpoint, and what the format
/// refuses.
pub fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    open_as(FORMATS, path)
}

fn open_as(formats: &[Format], path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    if path.is_dir() {
        return open_folder(formats, path);
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name == hugging_face::CONFIG {
        return open_folder(formats, &folder_of(path));
    }
    let start = start_of(path)?;
    match recognise(formats, name, &start) {
        Some(format) => (format.open)(path),
        None => Err(ModelError::File {
            path: path.to_path_buf(),
            what: "its beginning".into(),
            found: shown(&start),
            expected: format!("a checkpoint ({})", name_list(formats)),
            way_out:
                "Convert it to one of these formats, or name the folder that holds config.json"
                    .into(),
        }),
    }
}

/// Opens the one checkpoint of a folder.
fn open_folder(formats: &[Format], folder: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    let names = file_names(folder)?;
    let mut found: Vec<(&Format, PathBuf, String)> = Vec::new();
    for name in &names {
        let path = folder.join(name);
        let Some(format) = recognise(formats, name, &start_of(&path)?) else {
            continue;
        };
        let whole = if format.whole_folder {
            folder.to_path_buf()
        } else {
            path
        };
        match found.iter_mut().find(|(_, path, _)| *path == whole) {
            Some((_, _, names)) => {
                names.push_str(" + ");
                names.push_str(name);
            }
            None => found.push((format, whole, name.clone())),
        }
    }
    match &found[..] {
        [(format, path, _)] => (format.open)(path),
        [] => Err(ModelError::File {
            path: folder.to_path_buf(),
            what: "the folder".into(),
            found: if names.is_empty() {
                "no file".into()
            } else {
                some_of(&names)
            },
            expected: format!("a checkpoint ({})", name_list(formats)),
            way_out:
                "Check the path, and that the download is complete; other formats must be converted"
                    .into(),
        }),
        several => {
            let list = several
                .iter()
                .map(|(format, _, names)| format!("{names} ({})", format.name));
            Err(ModelError::File {
                path: folder.to_path_buf(),
                what: "the folder".into(),
                found: format!(
                    "several checkpoints: {}",
                    list.collect::<Vec<_>>().join("; ")
                ),
                expected: "one".into(),
                way_out: "Name the file itself".into(),
            })
        }
    }
}

/// The format of a file: what its contents say, or else its name.
fn recognise<'a>(formats: &'a [Format], name: &str, start: &[u8]) -> Option<&'a Format> {
    let by_contents = formats.iter().find(|format| (format.recognise)(start));
    by_contents.or_else(|| {
        let named = |format: &&Format| format.extensions.iter().any(|end| name.ends_with(end));
        formats.iter().find(named)
    })
}

/// The folder of a file.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Names of the regular files of a folder, sorted. Those that are no text are none of ours.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, ModelError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ModelError::io("read", folder))? {
        let entry = entry.map_err(ModelError::io("read", folder))?;
        // Follows links, as caches of downloads consist of them.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        if let (true, Ok(name)) = (is_file, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a regular file. Others (pipes, devices) may never end, or block.
pub(super) fn open_file(path: &Path) -> Result<File, ModelError> {
    let metadata = std::fs::metadata(path).map_err(ModelError::io("open", path))?;
    if metadata.is_file() {
        return File::open(path).map_err(ModelError::io("open", path));
    }
    Err(ModelError::File {
        path: path.to_path_buf(),
        what: "the path".into(),
        found: "a folder or device".into(),
        expected: "a regular file".into(),
        way_out: "Copy the checkpoint to a disk".into(),
    })
}

/// The first bytes of a file.
fn start_of(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut start = Vec::new();
    let read = open_file(path)?.take(16).read_to_end(&mut start);
    read.map_err(ModelError::io("read", path))?;
    Ok(start)
}

/// Bytes for a message, as numbers and as text.
fn shown(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".into();
    }
    let numbers: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} (\"{}\")", numbers.join(" "), bytes.escape_ascii())
}

fn name_list(formats: &[Format]) -> String {
    let names: Vec<_> = formats.iter().map(|format| format.name).collect();
    names.join(", ")
}

/// The first few names.
fn some_of(names: &[String]) -> String {
    let more = if names.len() > 8 { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(8)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats that say which of them was asked for what.
    fn formats() -> [Format; 2] {
        fn answer(format: &str, path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
            Err(ModelError::File {
                path: path.to_path_buf(),
                what: "opened".into(),
                found: format.into(),
                expected: String::new(),
                way_out: String::new(),
            })
        }
        [
            Format {
                name: "sheets",
                extensions: &[".sheet"],
                whole_folder: true,
                recognise: |start| start.starts_with(b"SHEET"),
                open: |path| answer("sheets", path),
            },
            Format {
                name: "book",
                extensions: &[".book"],
                whole_folder: false,
                recognise: |start| start.starts_with(b"BOOK"),
                open: |path| answer("book", path),
            },
        ]
    }

    /// What opening `path` says in a folder with these files.
    fn answer(files: &[(&str, &str)], path: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            std::fs::write(folder.path().join(name), contents).unwrap();
        }
        let error = open_as(&formats(), &folder.path().join(path)).unwrap_err();
        error
            .to_string()
            .replace(&folder.path().display().to_string(), "*")
    }

    #[test]
    fn contents_decide_and_names_where_they_say_nothing() {
        let files = [("a.sheet", "BOOK"), ("b.book", ""), ("c", "SHEETS")];
        assert!(answer(&files, "a.sheet").starts_with("*/a.sheet: opened: found book"));
        assert!(answer(&files, "b.book").starts_with("*/b.book: opened: found book"));
        assert!(answer(&files, "c").starts_with("*/c: opened: found sheets"));
    }

    #[test]
    fn a_folder_opens_its_one_checkpoint() {
        let sheets = [
            ("a.sheet", "SHEET"),
            ("b.sheet", "SHEET"),
            ("config.json", "{}"),
        ];
        assert!(answer(&sheets, "").starts_with("*/: opened: found sheets"));
        assert!(answer(&sheets, "config.json").starts_with("*: opened: found sheets"));
        let book = [("a", "BOOK"), ("config.json", "{}"), ("README", "SHE")];
        assert!(answer(&book, "").starts_with("*/a: opened: found book"));
    }

    #[test]
    fn a_folder_of_several_lists_them() {
        let files = [
            ("a.sheet", ""),
            ("b.sheet", ""),
            ("c.book", ""),
            ("d", "BOOK"),
        ];
        let error = answer(&files, "");
        let list = "found several checkpoints: a.sheet + b.sheet (sheets); c.book (book); d (book), expected one";
        assert!(error.contains(list), "{error}");
    }

    #[test]
    fn what_is_unknown_is_shown_with_the_formats_that_exist() {
        let error = answer(&[("a.bin", "PK\u{3}\u{4}")], "a.bin");
        let words = "found 50 4b 03 04 (\"PK\\x03\\x04\"), expected a checkpoint (sheets, book)";
        assert!(error.contains(words), "{error}");
        assert!(answer(&[("a", "")], "a").contains("found nothing, expected a checkpoint"));
        assert!(
            answer(&[("a.bin", "PK")], "")
                .contains("found a.bin, expected a checkpoint (sheets, book)")
        );
        assert!(answer(&[], "").contains("found no file"));
        assert!(answer(&[], "missing").contains("missing: cannot open"));
    }
}
