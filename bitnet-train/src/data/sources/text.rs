//! Plain text, cut into documents at a separator.
//!
//! Reads to the next separator, so one document is in memory. Space around a separator belongs to no document; a file
//! without separators is taken as it stands, to the last byte.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Sample;
use crate::TrainError;

pub(super) fn open(
    path: &Path,
    separator: Option<&str>,
) -> Result<impl Iterator<Item = Result<Sample, TrainError>> + Send + use<>, TrainError> {
    let file = File::open(path).map_err(TrainError::io("open", path))?;
    Ok(Documents {
        path: path.to_path_buf(),
        input: BufReader::new(file),
        separator: separator.map(|text| text.as_bytes().to_vec()),
        line: 1,
        ended: false,
    })
}

#[derive(Debug)]
struct Documents {
    path: PathBuf,
    input: BufReader<File>,
    separator: Option<Vec<u8>>,
    /// The line where the next document begins.
    line: u64,
    ended: bool,
}

impl Documents {
    /// The bytes up to the next separator, or to the end.
    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(separator) = &self.separator else {
            self.ended = true;
            std::io::Read::read_to_end(&mut self.input, &mut bytes)?;
            return Ok(bytes);
        };
        let last = *separator.last().expect("a separator is not empty");
        while !bytes.ends_with(separator) {
            if self.input.read_until(last, &mut bytes)? == 0 {
                self.ended = true;
                return Ok(bytes);
            }
        }
        bytes.truncate(bytes.len() - separator.len());
        Ok(bytes)
    }
}

impl Iterator for Documents {
    type Item = Result<Sample, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.ended = true;
                return Some(Err(TrainError::io("read", &self.path)(error)));
            }
        };
        let lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let begin = self.line;
        let inside = self.separator.as_deref().map_or(0, lines);
        self.line += lines(&bytes) + inside;
        Some(match String::from_utf8(bytes) {
            Ok(text) if self.separator.is_some() => Ok(Sample::Text(text.trim().to_owned())),
            Ok(text) => Ok(Sample::Text(text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                Err(TrainError::Line {
                    path: self.path.clone(),
                    line: begin + lines(&error.as_bytes()[..valid]),
                    found: "bytes that are no UTF-8".to_owned(),
                    expected: "text in UTF-8",
                    way_out: "Convert the file, with `iconv -t utf-8` for one",
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], separator: Option<&str>) -> Vec<Result<Sample, TrainError>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        open(file.path(), separator).unwrap().collect()
    }

    fn texts(samples: Vec<Result<Sample, TrainError>>) -> Vec<String> {
        let text = |sample| match sample {
            Ok(Sample::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        samples.into_iter().map(text).collect()
    }

    #[test]
    fn a_file_without_separator_is_one_document_as_it_stands() {
        assert_eq!(texts(read(b" a\r\nb \n", None)), [" a\r\nb \n"]);
    }

    #[test]
    fn separators_of_any_length_cut_and_vanish() {
        assert_eq!(
            texts(read(b"one<|e|>\ntwo >x<|e|>three", Some("<|e|>"))),
            ["one", "two >x", "three"]
        );
        assert_eq!(texts(read(b"a\nb\n\nc\n", Some("\n\n"))), ["a\nb", "c"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_reported_with_their_line_and_the_rest_follows() {
        let samples = read(b"one\n--\ntwo\n\xff\n--\nthree", Some("--"));
        let error = samples[1].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("line 4: found bytes that are no UTF-8"),
            "{error}"
        );
        assert_eq!(*samples[2].as_ref().unwrap(), Sample::Text("three".into()));
    }
}
