//! Which files of a repository are the model: the checkpoint that `transformers` would load, or a GGUF file.

use anyhow::{bail, ensure};

/// What shall be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// Configuration, tokenizer and safetensors weights.
    Checkpoint,
    /// The GGUF files whose name contains the text, in any case; without text the only one.
    Gguf(Option<String>),
    /// This file.
    File(String),
}

/// The files to download, of those in the repository.
pub(super) fn choose(files: &[String], want: &Want) -> anyhow::Result<Vec<String>> {
    let gguf: Vec<&String> = files
        .iter()
        .filter(|file| file.to_ascii_lowercase().ends_with(".gguf"))
        .collect();
    match want {
        Want::Checkpoint => {
            let chosen: Vec<String> = files.iter().filter(|file| is_part(file)).cloned().collect();
            if !chosen.iter().any(|file| file.ends_with(".safetensors")) {
                match gguf.len() {
                    0 => bail!(
                        "no safetensors weights and no GGUF file here: found {}",
                        list(files)
                    ),
                    _ => bail!(
                        "no safetensors weights here, but GGUF files. Add --gguf=PART-OF-NAME for one of {}",
                        list(&gguf)
                    ),
                }
            }
            Ok(chosen)
        }
        Want::Gguf(pattern) => {
            ensure!(
                !gguf.is_empty(),
                "no GGUF file here: found {}. Leave --gguf out for safetensors",
                list(files)
            );
            let part = pattern.as_deref().unwrap_or("").to_ascii_lowercase();
            let chosen: Vec<&String> = gguf
                .iter()
                .copied()
                .filter(|file| file.to_ascii_lowercase().contains(&part))
                .collect();
            ensure!(
                !chosen.is_empty(),
                "no GGUF file has `{part}` in its name: there are {}",
                list(&gguf)
            );
            ensure!(
                pattern.is_some() || chosen.len() == 1,
                "{} GGUF files here. Add --gguf=PART-OF-NAME for one of {}",
                gguf.len(),
                list(&gguf)
            );
            Ok(chosen.into_iter().cloned().collect())
        }
        Want::File(name) => {
            ensure!(
                files.contains(name),
                "no file `{name}` here: found {}",
                list(files)
            );
            Ok(vec![name.clone()])
        }
    }
}

/// Whether a checkpoint needs this file. Sub-folders hold other forms of the same model; `consolidated` is one, too.
fn is_part(file: &str) -> bool {
    const WORDS: [&str; 4] = [
        "tokenizer.model",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
    ];
    let kind = file.rsplit_once('.').map_or("", |(_, kind)| kind);
    !file.contains('/')
        && (WORDS.contains(&file) || matches!(kind, "json" | "jinja" | "safetensors"))
        && !file.starts_with("consolidated")
}

fn list<S: AsRef<str>>(files: &[S]) -> String {
    const SHOWN: usize = 12;
    let mut text = files
        .iter()
        .take(SHOWN)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    match files.len() {
        0 => text += "nothing",
        count if count > SHOWN => text += &format!(" and {} more", count - SHOWN),
        _ => (),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], want: Want) -> Result<Vec<String>, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, &want).map_err(|error| error.to_string())
    }

    #[test]
    fn a_checkpoint_is_weights_configuration_and_tokenizer() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "tokenizer.model",
            "pytorch_model.bin",
            "model.safetensors",
            "original/model.safetensors",
            "consolidated.safetensors",
            "chat_template.jinja",
        ];
        let expected = [
            "config.json",
            "tokenizer.model",
            "model.safetensors",
            "chat_template.jinja",
        ];
        assert_eq!(chosen(&files, Want::Checkpoint).unwrap(), expected);
    }

    #[test]
    fn a_repository_without_safetensors_says_what_to_add() {
        let refused = chosen(&["a.gguf", "config.json"], Want::Checkpoint).unwrap_err();
        assert!(
            refused.contains("--gguf=") && refused.contains("a.gguf"),
            "{refused}"
        );
        assert!(
            chosen(&[], Want::Checkpoint)
                .unwrap_err()
                .contains("found nothing")
        );
    }

    #[test]
    fn gguf_files_are_chosen_by_a_part_of_their_name() {
        let files = ["m-I2_S.gguf", "m-tq1.gguf", "config.json"];
        assert_eq!(
            chosen(&files, Want::Gguf(Some("i2_s".into()))).unwrap(),
            ["m-I2_S.gguf"]
        );
        assert_eq!(
            chosen(&files[1..], Want::Gguf(None)).unwrap(),
            ["m-tq1.gguf"]
        );
        assert!(
            chosen(&files, Want::Gguf(None))
                .unwrap_err()
                .contains("2 GGUF files")
        );
        assert!(
            chosen(&files, Want::Gguf(Some("q9".into())))
                .unwrap_err()
                .contains("m-tq1.gguf")
        );
    }

    #[test]
    fn one_file_is_taken_by_its_name() {
        assert_eq!(
            chosen(&["d/x.bin"], Want::File("d/x.bin".into())).unwrap(),
            ["d/x.bin"]
        );
        assert!(
            chosen(&["d/x.bin"], Want::File("x.bin".into()))
                .unwrap_err()
                .contains("d/x.bin")
        );
    }
}
