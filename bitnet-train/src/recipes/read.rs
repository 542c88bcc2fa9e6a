//! From a TOML file and `key=value` settings to a typed configuration, with errors that name file and field.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::TrainError;

/// The file with settings put in.
pub(super) fn table(path: &Path, settings: &[String]) -> Result<Table, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io("read", path))?;
    let mut table: Table = toml::from_str(&text).map_err(|error| TrainError::File {
        path: path.to_path_buf(),
        what: "content".to_owned(),
        found: error.to_string().trim_end().to_owned(),
        expected: "a recipe in TOML".to_owned(),
        way_out: "Correct the file".to_owned(),
    })?;
    let file = path.display().to_string();
    for setting in settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| refused("settings", setting, "no `=`", "key=value"))?;
        put(&mut table, key.trim(), value.trim(), &file)?;
    }
    Ok(table)
}

fn put(table: &mut Table, key: &str, value: &str, file: &str) -> Result<(), TrainError> {
    // What is no number, list, … is a string, so that quotes can be left out.
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let mut sections: Vec<&str> = key.split('.').collect();
    let last = sections.pop().unwrap_or_default();
    let mut inside = table;
    for section in sections {
        let entry = inside
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        inside = match entry {
            Value::Table(table) => table,
            other => {
                let found = format!("{other} in `{section}`");
                return Err(refused(file, key, &found, "a section"));
            }
        };
    }
    inside.insert(last.to_owned(), value);
    Ok(())
}

/// The configuration that a table holds.
pub(super) fn typed<T: DeserializeOwned>(table: Table, file: &str) -> Result<T, TrainError> {
    table.try_into().map_err(|error: toml::de::Error| {
        // The path of the field stands in the text only, on lines of its own: a section that is read by itself adds one.
        let text = error.to_string();
        let parts = text.lines().filter_map(|line| line.strip_prefix("in `"));
        let mut path: Vec<&str> = parts.map(|part| part.trim_end_matches('`')).collect();
        path.reverse();
        let field = match path.is_empty() {
            true => "recipe".to_owned(),
            false => path.join("."),
        };
        let message = error.message().lines().next().unwrap_or_default();
        let (found, expected) = message
            .split_once(", expected ")
            .unwrap_or((message, "the settings of this recipe"));
        refused(file, &field, found, expected)
    })
}

/// A setting that makes no sense.
pub(super) fn refused(file: &str, field: &str, found: &str, expected: &str) -> TrainError {
    TrainError::Recipe {
        file: file.to_owned(),
        field: field.to_owned(),
        found: found.to_owned(),
        expected: expected.to_owned(),
        way_out: "Correct the recipe, or set it on the command line".to_owned(),
    }
}
