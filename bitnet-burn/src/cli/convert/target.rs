//! The formats that `convert` writes: which one a name means, and which options each understands.

use std::path::{MAIN_SEPARATOR, Path};

use anyhow::bail;
use bitnet_burn::models::weights::GgufLayout;
use clap::ValueEnum;

/// A format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Target {
    /// One file (.bpk) in the form that kernels read: loads at once
    Bpk,
    /// Folder for transformers, four trits a byte: as BitNets are published
    HfPacked,
    /// Folder for transformers, float masters that quantize to these trits: to train on
    HfMaster,
    /// Folder for transformers, plain floats: an ordinary model, inputs are not quantized either
    HfDequantized,
    /// File (.gguf) for bitnet.cpp, scales exact; rows of a multiple of 128. ik_llama.cpp needs it requantized to IQ2_BN_R4
    #[value(name = "gguf-i2_s")]
    GgufI2S,
    /// File (.gguf) for llama.cpp, smallest; rows of a multiple of 256
    #[value(name = "gguf-tq1_0")]
    GgufTq1,
    /// File (.gguf) for llama.cpp, fastest; rows of a multiple of 256
    #[value(name = "gguf-tq2_0")]
    GgufTq2,
    /// File (.gguf) for recent llama.cpp; rows of a multiple of 64
    #[value(name = "gguf-q2_0")]
    GgufQ2,
    /// File (.gguf) of plain f16 numbers
    GgufF16,
}

/// What kind of thing a format is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Packed,
    Folder,
    Gguf(GgufLayout),
}

impl Target {
    /// The format that a name means.
    pub(super) fn guess(output: &Path) -> anyhow::Result<Self> {
        if output.is_dir() || output.to_string_lossy().ends_with(['/', MAIN_SEPARATOR]) {
            return Ok(Self::HfPacked);
        }
        match extension(output) {
            None => Ok(Self::HfPacked),
            Some("bpk") => Ok(Self::Bpk),
            Some("gguf") => Ok(Self::GgufI2S),
            Some(_) => bail!(
                "`{}` says no format: expected a name that ends in .bpk or .gguf, or in / for a folder; or give --to",
                output.display()
            ),
        }
    }

    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Bpk => Kind::Packed,
            Self::HfPacked | Self::HfMaster | Self::HfDequantized => Kind::Folder,
            Self::GgufI2S => Kind::Gguf(GgufLayout::I2S),
            Self::GgufTq1 => Kind::Gguf(GgufLayout::Tq1),
            Self::GgufTq2 => Kind::Gguf(GgufLayout::Tq2),
            Self::GgufQ2 => Kind::Gguf(GgufLayout::Q2),
            Self::GgufF16 => Kind::Gguf(GgufLayout::F16),
        }
    }

    /// Whether it holds float projections as they are.
    pub(super) const fn holds_floats(self) -> bool {
        matches!(self, Self::Bpk | Self::HfDequantized | Self::GgufF16)
    }

    /// Refuses a name of another kind, and something that is there, unless `force`.
    pub(super) fn check(self, output: &Path, force: bool) -> anyhow::Result<()> {
        let (shown, name) = (output.display(), self.name());
        let expected = match self.kind() {
            Kind::Packed => Some("bpk"),
            Kind::Gguf(_) => Some("gguf"),
            Kind::Folder => None,
        };
        let found = extension(output);
        match expected {
            Some(expected) if found != Some(expected) || output.is_dir() => {
                bail!(
                    "cannot write `{shown}` as {name}: expected the name of a file that ends in .{expected}"
                )
            }
            None if ["bpk", "gguf", "safetensors"].map(Some).contains(&found)
                || output.is_file() =>
            {
                bail!("cannot write `{shown}` as {name}: expected the name of a folder")
            }
            _ => {}
        }
        let empty = || {
            output
                .read_dir()
                .is_ok_and(|mut entries| entries.next().is_none())
        };
        if !force && output.exists() && !(expected.is_none() && empty()) {
            bail!("`{shown}` exists: remove it, choose another name, or replace it with --force");
        }
        Ok(())
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_formats() {
        let guess = |name: &str| Target::guess(Path::new(name));
        assert_eq!(guess("a/model.bpk").unwrap(), Target::Bpk);
        assert_eq!(guess("a/model.gguf").unwrap(), Target::GgufI2S);
        assert_eq!(guess("model").unwrap(), Target::HfPacked);
        assert_eq!(guess("bitnet-b1.58/").unwrap(), Target::HfPacked);
        let error = guess("model.onnx").unwrap_err().to_string();
        assert!(error.contains(".gguf") && error.contains("--to"), "{error}");
    }

    #[test]
    fn a_name_of_another_kind_is_refused() {
        let check = |target: Target, name: &str| target.check(Path::new(name), true);
        assert!(check(Target::GgufF16, "model.gguf").is_ok());
        assert!(check(Target::HfMaster, "bitnet-b1.58").is_ok());
        for (target, name, words) in [
            (Target::GgufF16, "model.bpk", ".gguf"),
            (Target::Bpk, "model", ".bpk"),
            (Target::HfPacked, "model.gguf", "a folder"),
        ] {
            let error = check(target, name).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
