//! What the targets share: a place for the input, and everything that a user's program does with a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bitnet_models::decoder::LoadOptions;
use bitnet_models::weights::{self, Checkpoint};
use bitnet_models::{Model, TokenizerFiles};
use burn::tensor::Device;
use tempfile::TempDir;

/// One folder for all inputs, in memory where the system has such.
static FOLDER: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    let folder = folder.expect("a folder for temporary files");
    let path = folder.path().to_path_buf();
    (folder, path)
});

/// Lets panics unwind, where libFuzzer's own hook aborts: those of the crate `tokenizers` are caught and become errors.
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("", |location| location.file());
        if !place.contains("/tokenizers-") {
            eprintln!("{panic}");
        }
    }));
}

/// Writes the files into the folder, and returns it.
pub fn write(files: &[(&str, &[u8])]) -> &'static Path {
    let (_, folder) = &*FOLDER;
    for (name, contents) in files {
        std::fs::write(folder.join(name), contents).expect("room for small files");
    }
    folder
}

/// Opens a file or folder, reads every tensor in every way, and uses it as a model, as far as it is one.
pub fn open(path: &Path) {
    let Ok(checkpoint) = weights::open(path) else {
        return;
    };
    read(checkpoint.as_ref());
    let _files = TokenizerFiles::of(checkpoint.as_ref());
    for options in [LoadOptions::default(), LoadOptions::exact()] {
        let device = Device::default();
        let model = Model::from_checkpoint(checkpoint.as_ref(), &device, &options, &mut |_, _| ());
        if let Ok(model) = model {
            let _ids = model.encode("Hello, wörld! 123\n<|x|> \u{1f600}");
            let _template = model.template();
            let _score = model.score(&[0, 0]);
        }
    }
}

fn read(checkpoint: &dyn Checkpoint) {
    for info in checkpoint.tensors() {
        let _floats = checkpoint
            .floats(&info.name, &info.shape)
            .map(|floats| floats.to_f32());
        if let [d_out, d_in] = info.shape[..] {
            let _matrix = checkpoint.matrix(&info.name, d_out, d_in);
            let _ready = checkpoint.ready(&info.name, d_out, d_in);
        }
    }
}
