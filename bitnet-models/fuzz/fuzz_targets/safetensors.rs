//! A folder of a configuration and weights, both made up: opening and reading it never panics and takes no memory
//! that its files do not account for.
//!
//! Input: two bytes of length, so many bytes of `config.json`, the rest is `model.safetensors`. A seed is made of a
//! small checkpoint: `(printf '\x6b\x00'; cat config.json model.safetensors)` for a configuration of 107 bytes.
//! Run: `cargo fuzz run safetensors -- -rss_limit_mb=512`, with a nightly compiler or `RUSTC_BOOTSTRAP=1`.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use bitnet_models::weights::{self, Checkpoint};
use libfuzzer_sys::fuzz_target;
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

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(length);
    let (_, folder) = &*FOLDER;
    for (name, contents) in [("config.json", config), ("model.safetensors", weights)] {
        std::fs::write(folder.join(name), contents).expect("room for small files");
    }
    if let Ok(checkpoint) = weights::open(folder) {
        read(checkpoint.as_ref());
    }
});

/// Reads every tensor in every way.
fn read(checkpoint: &dyn Checkpoint) {
    for info in checkpoint.tensors() {
        let _floats = checkpoint
            .floats(&info.name, &info.shape)
            .map(|floats| floats.to_f32());
        if let [d_out, d_in] = info.shape[..] {
            let _matrix = checkpoint.matrix(&info.name, d_out, d_in);
        }
    }
}
