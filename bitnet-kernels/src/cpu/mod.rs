//! Ternary products on the CPU: which kernel runs, on how many threads. Plain slices, no Burn.
//!
//! A [`Kernel`] is one instruction set and holds only its inner loops; tiles, tails and threads are written once, in
//! `tiles`. The kernel is chosen at run time, so a plain `cargo build` is fast on the machine it *runs* on.
//! Integer sums are exact: every kernel, tile and number of threads gives the same bits.

mod activations;
mod attention;
mod bandwidth;
mod base3;
mod digits;
mod float;
mod leading;
mod panels;
mod pool;
mod scalar;
mod simd;
mod table;
mod threads;
mod tiles;
mod vectors;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fmt::Debug;
use std::sync::OnceLock;

use crate::KernelError;
use crate::packing::words::CODES_PER_WORD;

pub use activations::{Activations, fake_quantize};
pub use attention::{CacheSlices, cached_attention};
pub use bandwidth::{read_bandwidth, read_rate};
pub use base3::{Base3Kernel, Codes};
pub use digits::DigitKernel;
pub use float::{ternary_linear_dx, ternary_linear_float};
pub use leading::table_leading;
pub use panels::PanelKernel;
pub use simd::Vectors;
pub use table::{TABLE_BLOCK, TableBlocks, TableKernel, table_linear, table_rows};
pub use threads::{set_threads, threads};
pub use tiles::{ternary_linear, ternary_sums};
pub use vectors::{gated, rms_norm, rotate};

/// Weight rows that a kernel multiplies at a time: four accumulators for each load of the activations.
pub const ROWS: usize = 4;
/// Most words in a vector, of any kernel.
pub const MAX_LANES: usize = 16;
/// Names the kernel to use instead of the best one.
pub const KERNEL_VARIABLE: &str = "BITNET_KERNEL";

/// The inner loops of one instruction set, those of [`TableKernel`] among them.
///
/// Activations come in blocks of `16 · lanes` columns, in the order that a shifted and masked vector of words has:
/// `block[plane][lane][j] = column 16·lane + 4·plane + j`, so that `(words >> 2·plane) & CODE_MASK` meets its
/// activations byte by byte. Sums are of *codes* 0, 1, 2; the caller subtracts the sum of the activations.
pub trait Kernel: TableKernel + Sync + Debug {
    /// `{arch}-{isa}`, as in logs and in `BITNET_KERNEL`.
    fn name(&self) -> &'static str;

    /// The vectors of plain loops beside it.
    fn vectors(&self) -> Vectors;

    /// Its loops for many tokens, if it has any.
    fn panels(&self) -> Option<&dyn PanelKernel> {
        None
    }

    /// Its loops over base-3 bytes, if it has any. Others unpack them first.
    fn base3(&self) -> Option<&dyn Base3Kernel> {
        None
    }

    /// Its loops over bytes of a table, if they are faster than those over floats.
    fn digits(&self) -> Option<&dyn DigitKernel> {
        None
    }

    /// Words in one vector: a power of two, from 4 to [`MAX_LANES`].
    fn lanes(&self) -> usize;

    /// Most rows of activations in one call.
    fn tokens(&self) -> usize;

    /// `sums[t][r] += Σ code(words[r]) · tokens[t]`.
    ///
    /// # Panics
    ///
    /// Panics unless all rows have the same whole number of vectors and all tokens their 16 bytes per word.
    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]);

    /// `sums[t · stride + p][r] = Σ code(words[r]) · tokens[t]`, over the words 2p and 2p + 1 alone: 32 columns, of which
    /// the groups of group scales are made.
    ///
    /// # Panics
    ///
    /// Panics as [`add_sums`](Self::add_sums), and if `sums` is too short.
    fn pair_sums(
        &self,
        words: [&[u32]; ROWS],
        tokens: &[&[i8]],
        sums: &mut [[i32; ROWS]],
        stride: usize,
    );
}

/// Every kernel of this build, best first.
const KERNELS: &[fn() -> Option<&'static dyn Kernel>] = &[
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    || leak(x86_64::Amx::new()?),
    #[cfg(target_arch = "x86_64")]
    || leak(x86_64::Avx512Vnni::new()?),
    #[cfg(target_arch = "x86_64")]
    || leak(x86_64::AvxVnni::new()?),
    #[cfg(target_arch = "x86_64")]
    || leak(x86_64::Avx2::new()?),
    #[cfg(target_arch = "aarch64")]
    || leak(aarch64::Dotprod::new()?),
    #[cfg(target_arch = "aarch64")]
    || leak(aarch64::Neon::new()?),
    || leak(scalar::Scalar),
];

/// Kernels have no size, so this allocates nothing.
fn leak<K: Kernel + 'static>(kernel: K) -> Option<&'static dyn Kernel> {
    const { assert!(size_of::<K>() == 0) };
    Some(Box::leak(Box::new(kernel)))
}

/// The kernels that this CPU can run, best first; the last is always `scalar`.
pub fn kernels() -> Vec<&'static dyn Kernel> {
    KERNELS.iter().filter_map(|new| new()).collect()
}

/// The kernel of this process: the best one, or the one that the environment variable `BITNET_KERNEL` names.
///
/// # Errors
///
/// [`KernelError::UnknownKernel`] if that name is none of [`kernels`].
pub fn try_kernel() -> Result<&'static dyn Kernel, KernelError> {
    static CHOICE: OnceLock<Result<&'static dyn Kernel, KernelError>> = OnceLock::new();
    CHOICE
        .get_or_init(|| choose(std::env::var(KERNEL_VARIABLE).ok().as_deref()))
        .clone()
}

/// The kernel of this process, see [`try_kernel`].
///
/// # Panics
///
/// Panics with the message of [`try_kernel`]'s error.
pub fn kernel() -> &'static dyn Kernel {
    try_kernel().unwrap_or_else(|error| panic!("{error}"))
}

/// The best kernel, or the one called `name`. An empty name is none.
fn choose(name: Option<&str>) -> Result<&'static dyn Kernel, KernelError> {
    let kernels = kernels();
    let choice = match name.filter(|name| !name.is_empty()) {
        None => kernels[0],
        Some(name) => *kernels
            .iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| {
                let available: Vec<_> = kernels.iter().map(|kernel| kernel.name()).collect();
                KernelError::UnknownKernel {
                    found: name.to_owned(),
                    available: available.join(", "),
                    variable: KERNEL_VARIABLE,
                }
            })?,
    };
    log::debug!(
        "ternary products on the CPU: kernel {}, {} threads",
        choice.name(),
        threads()
    );
    Ok(choice)
}

/// What [`Kernel::add_sums`] demands. Returns the number of vectors.
fn check_sums(
    lanes: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &[[i32; ROWS]],
) -> usize {
    assert_eq!(tokens.len(), sums.len(), "one row of sums for each token");
    check_operands(lanes, words, tokens)
}

/// What [`Kernel::pair_sums`] demands. Returns the number of vectors.
fn check_pair_sums(
    lanes: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &[[i32; ROWS]],
    stride: usize,
) -> usize {
    let last = tokens.len().saturating_sub(1) * stride + words[0].len() / 2;
    assert!(last <= sums.len(), "too few sums");
    check_operands(lanes, words, tokens)
}

fn check_operands(lanes: usize, words: [&[u32]; ROWS], tokens: &[&[i8]]) -> usize {
    let len = words[0].len();
    assert!(
        len.is_multiple_of(lanes),
        "{len} words are no whole number of vectors of {lanes}"
    );
    assert!(
        words.iter().all(|row| row.len() == len),
        "weight rows differ in length"
    );
    assert!(
        tokens
            .iter()
            .all(|token| token.len() == len * CODES_PER_WORD),
        "16 activations for each word"
    );
    len / lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_comes_last_and_names_differ() {
        let kernels = kernels();
        assert_eq!(kernels.last().unwrap().name(), "scalar");
        for (index, kernel) in kernels.iter().enumerate() {
            assert!(
                kernels[..index]
                    .iter()
                    .all(|other| other.name() != kernel.name())
            );
            assert!(kernel.lanes().is_power_of_two() && (4..=MAX_LANES).contains(&kernel.lanes()));
        }
    }

    #[test]
    fn a_kernel_is_chosen_by_name_and_an_unknown_name_is_refused_with_the_list() {
        assert_eq!(choose(Some("scalar")).unwrap().name(), "scalar");
        assert_eq!(choose(Some("")).unwrap().name(), kernels()[0].name());
        let Err(KernelError::UnknownKernel {
            found,
            available,
            variable,
        }) = choose(Some("mmx"))
        else {
            panic!("accepted")
        };
        assert_eq!((found.as_str(), variable), ("mmx", "BITNET_KERNEL"));
        assert!(available.ends_with("scalar"));
    }
}
