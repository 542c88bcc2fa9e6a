//! Ternary × int8 sums of many tokens with the tiles of AMX; all else is that of AVX-512.
//!
//! Method: a panel's 16 fours of columns by 16 rows are what `tdpbssd` takes for its right factor, activations of up to 16
//! tokens as they lie in memory for its left one, and it adds 16 · 16 sums of 64 products. Two by two of these use all eight
//! tiles: four of sums, two of each factor. Sums are exact: nothing saturates, and products are added in 32 bits.
//! (Intel's Software Developer's Manual, volume 1, chapter 18.)

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::Avx512Vnni;
use crate::cpu::panels::QUAD;
use crate::cpu::{
    Base3Kernel, DigitKernel, Kernel, PanelKernel, ROWS, TableBlocks, TableKernel, Vectors,
};

/// Rows of a tile, and numbers of 32 bits in each.
const TILE: usize = 16;
/// Rows of a panel, as AVX-512 unpacks it.
const PANEL: usize = 4 * TILE;
/// Tokens of two tiles.
const TOKENS: usize = 2 * TILE;
/// Bytes from four columns of a panel, or a token's sums, to the next.
const PITCH: usize = size_of::<u32>() * PANEL;

/// Proof that the CPU has AVX-512 with VNNI, and AMX with int8, which this process may use.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Amx(Avx512Vnni);

impl Amx {
    pub(in crate::cpu) fn new() -> Option<Self> {
        static PRESENT: OnceLock<bool> = OnceLock::new();
        let avx512 = Avx512Vnni::new()?;
        PRESENT
            .get_or_init(|| has_tiles() && may_use_tiles())
            .then_some(Self(avx512))
    }
}

/// Whether the CPU has tiles and their products of int8: bits 24 and 25 of EDX.
fn has_tiles() -> bool {
    const BOTH: u32 = 0b11 << 24;
    __cpuid_count(7, 0).edx & BOTH == BOTH
}

/// Asks Linux for tiles, for all threads of this process. They are granted only where the system saves them.
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this request takes no pointers.
    let status = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    status == 0
}

impl Kernel for Amx {
    fn name(&self) -> &'static str {
        "x86_64-amx"
    }

    fn vectors(&self) -> Vectors {
        self.0.vectors()
    }

    fn panels(&self) -> Option<&dyn PanelKernel> {
        Some(self)
    }

    fn base3(&self) -> Option<&dyn Base3Kernel> {
        self.0.base3()
    }

    fn digits(&self) -> Option<&dyn DigitKernel> {
        self.0.digits()
    }

    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    fn tokens(&self) -> usize {
        self.0.tokens()
    }

    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        self.0.add_sums(words, tokens, sums);
    }

    fn pair_sums(
        &self,
        words: [&[u32]; ROWS],
        tokens: &[&[i8]],
        sums: &mut [[i32; ROWS]],
        stride: usize,
    ) {
        self.0.pair_sums(words, tokens, sums, stride);
    }
}

impl TableKernel for Amx {
    fn table_tokens(&self) -> usize {
        self.0.table_tokens()
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        self.0.table_sums(row, x, sums);
    }

    fn table_tile(&self, rows: &[TableBlocks<'_>], x: &[&[f32]], sums: &mut [f32]) {
        self.0.table_tile(rows, x, sums);
    }
}

impl PanelKernel for Amx {
    fn panel_rows(&self) -> usize {
        PANEL
    }

    fn panel_tokens(&self) -> usize {
        TOKENS
    }

    /// An estimate: 16 tokens fill half of the tiles and are still four times the rate of VNNI, which pays for unpacking.
    fn panel_from(&self) -> usize {
        TILE
    }

    fn unpack(&self, words: &[&[u32]], panel: &mut [u32]) {
        self.0.unpack(words, panel);
    }

    fn prefetch(&self, words: &[u32]) {
        self.0.prefetch(words);
    }

    fn panel_sums(&self, panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
        for pass in passes(panel, tokens, sums) {
            // SAFETY: the CPU has tiles and the process may use them, because `self` exists; `passes` proved the lengths.
            unsafe { pass.add_products() }
        }
    }
}

/// What is multiplied: whole tiles of columns, and the rest of them.
fn passes(panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) -> impl Iterator<Item = Operands> {
    let (count, fours) = (tokens.len(), panel.len() / PANEL);
    assert!(
        (1..=TOKENS).contains(&count) && sums.len() == count * PANEL,
        "{count} tokens and {} sums, expected 1 to {TOKENS} tokens with {PANEL} sums each",
        sums.len()
    );
    let stride = tokens.get(1).map_or(0, |next| distance([tokens[0], next]));
    let equal = tokens.array_windows().all(|&pair| distance(pair) == stride);
    assert!(
        equal && tokens.iter().all(|token| token.len() >= QUAD * fours),
        "tokens are rows of one matrix, with {} activations at least",
        QUAD * fours
    );
    // Two tiles of as many tokens each: of an odd number, both have the middle one and write the same.
    let tile = count.div_ceil(2);
    let second = count - tile;
    let whole = fours - fours % TILE;
    let tokens = [tokens[0], tokens[second]].map(<[i8]>::as_ptr);
    let (panel, sums) = (panel.as_ptr(), sums.as_mut_ptr());
    [(0, TILE, whole / TILE), (whole, fours - whole, 1)]
        .into_iter()
        .filter(|&(_, fours, steps)| fours * steps > 0)
        .map(move |(start, fours, steps)| Operands {
            shapes: Shapes::new(tile, fours),
            tokens: tokens.map(|token| token.wrapping_add(QUAD * start)),
            stride,
            panel: panel.wrapping_add(PANEL * start),
            sums: [sums, sums.wrapping_add(PANEL * second)],
            steps,
        })
}

/// Bytes from one token to the next. Tiles reach the next one from the first, so its place is exposed.
fn distance([one, next]: [&[i8]; 2]) -> usize {
    let next = next.as_ptr().expose_provenance();
    next.wrapping_sub(one.as_ptr().addr())
}

/// What tiles hold, as `ldtilecfg` reads it: palette 1.
#[repr(C, align(64))]
#[derive(Debug)]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Shapes>() == 64);

impl Shapes {
    /// Tiles 0 to 3 are sums, 4 and 5 activations of `tokens` rows, 6 and 7 `fours` rows of a panel.
    fn new(tokens: usize, fours: usize) -> Self {
        let (tokens, fours) = (tokens as u8, fours as u8);
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(4 * TILE as u16);
        row_bytes[4..6].fill(u16::from(QUAD as u8 * fours));
        rows[..6].fill(tokens);
        rows[6..8].fill(fours);
        Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes,
            rows,
        }
    }
}

/// Two tiles of tokens, in `steps` of as many columns as fill a tile, beside the 64 rows of a panel.
#[derive(Debug)]
struct Operands {
    shapes: Shapes,
    tokens: [*const i8; 2],
    stride: usize, // bytes from token to token
    panel: *const u32,
    sums: [*mut i32; 2],
    steps: usize,
}

impl Operands {
    /// Adds the products to the sums, 32 rows after the other. Tiles are let go in the end: what they hold would be saved
    /// and loaded with each change of threads.
    ///
    /// # Safety
    ///
    /// The process may use tiles, and memory is as long as shapes, strides and steps ask.
    unsafe fn add_products(&self) {
        // SAFETY: tiles reach the rows that the caller vouches for, and write nothing but sums.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "2:",
                "mov {left}, {steps}",
                "tileloadd tmm0, [{sums0} + 1*{pitch}]",
                "tileloadd tmm1, [{sums0} + 1*{pitch} + 64]",
                "tileloadd tmm2, [{sums1} + 1*{pitch}]",
                "tileloadd tmm3, [{sums1} + 1*{pitch} + 64]",
                "3:",
                "tileloadd tmm6, [{panel} + 1*{pitch}]",
                "tileloadd tmm4, [{tokens0} + 1*{stride}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + 1*{pitch} + 64]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{tokens1} + 1*{stride}]",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "add {tokens0}, 64",
                "add {tokens1}, 64",
                "add {panel}, 16 * {PITCH}",
                "dec {left}",
                "jnz 3b",
                "tilestored [{sums0} + 1*{pitch}], tmm0",
                "tilestored [{sums0} + 1*{pitch} + 64], tmm1",
                "tilestored [{sums1} + 1*{pitch}], tmm2",
                "tilestored [{sums1} + 1*{pitch} + 64], tmm3",
                // Back to the first columns, on to the next 32 rows.
                "mov {left}, {steps}",
                "shl {left}, 6",
                "sub {tokens0}, {left}",
                "sub {tokens1}, {left}",
                "shl {left}, 6",
                "sub {panel}, {left}",
                "add {panel}, {PITCH} / 2",
                "add {sums0}, {PITCH} / 2",
                "add {sums1}, {PITCH} / 2",
                "dec {halves}",
                "jnz 2b",
                "tilerelease",
                PITCH = const PITCH,
                shapes = in(reg) &raw const self.shapes,
                stride = in(reg) self.stride,
                pitch = in(reg) PITCH,
                steps = in(reg) self.steps,
                tokens0 = inout(reg) self.tokens[0] => _,
                tokens1 = inout(reg) self.tokens[1] => _,
                panel = inout(reg) self.panel => _,
                sums0 = inout(reg) self.sums[0] => _,
                sums1 = inout(reg) self.sums[1] => _,
                halves = inout(reg) 2_usize => _,
                left = out(reg) _,
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the instructions do, by their documentation: all sums are read before any is written.
    ///
    /// # Safety
    ///
    /// As [`Operands::add_products`], without the tiles.
    unsafe fn add_products(pass: &Operands) {
        let rows = |tile: usize| usize::from(pass.shapes.rows[tile]);
        let mut results = Vec::new();
        for (i, (token, sums)) in pass.tokens.iter().zip(pass.sums).enumerate() {
            for (t, n) in (0..rows(2 * i)).flat_map(|t| (0..PANEL).map(move |n| (t, n))) {
                let place = sums.wrapping_add(PANEL * t + n);
                // SAFETY: the caller vouches for this place, and those below.
                let mut sum = unsafe { place.read() };
                for k in (0..pass.steps).flat_map(|step| (0..rows(6)).map(move |k| TILE * step + k))
                {
                    let codes = pass.panel.wrapping_add(PANEL * k + n);
                    let q = token.wrapping_add(pass.stride * t + QUAD * k);
                    // SAFETY: as above.
                    let (codes, q) = unsafe { (codes.read(), q.cast::<[i8; QUAD]>().read()) };
                    let products = codes.to_le_bytes().into_iter().zip(q);
                    sum += products
                        .map(|(code, q)| i32::from(code) * i32::from(q))
                        .sum::<i32>();
                }
                results.push((place, sum));
            }
        }
        for (place, sum) in results {
            // SAFETY: as above.
            unsafe { place.write(sum) };
        }
    }

    /// Proves places and shapes on every CPU; the instructions themselves need one that has them.
    #[test]
    fn passes_reach_every_token_row_and_column_once() {
        let number = |i: usize| i.wrapping_mul(2_654_435_761) >> 7;
        for words in [1, 2, 4, 5, 8, 11] {
            let (fours, stride) = (QUAD * words, QUAD * QUAD * words + 24);
            let panel: Vec<_> = (0..fours * PANEL)
                .map(|i| [0, 1, 2, 3].map(|j| (number(QUAD * i + j) % 3) as u8))
                .map(u32::from_le_bytes)
                .collect();
            let q: Vec<_> = (0..TOKENS * stride).map(|i| number(i) as i8).collect();
            for count in 1..=TOKENS {
                let tokens: Vec<_> = q
                    .chunks(stride)
                    .take(count)
                    .map(|q| &q[..stride - 24])
                    .collect();
                let before: Vec<_> = (0..count * PANEL)
                    .map(|i| number(i) as i32 % 1000)
                    .collect();
                let mut sums = before.clone();
                for pass in passes(&panel, &tokens, &mut sums) {
                    assert!(pass.shapes.row_bytes[4] == 4 * u16::from(pass.shapes.rows[6]));
                    // SAFETY: `passes` proved the lengths.
                    unsafe { add_products(&pass) };
                }
                for (i, (sum, before)) in sums.iter().zip(before).enumerate() {
                    let (q, codes) = (tokens[i / PANEL], panel[i % PANEL..].iter().step_by(PANEL));
                    let codes = codes.flat_map(|codes| codes.to_le_bytes());
                    let expected = q
                        .iter()
                        .zip(codes)
                        .map(|(&q, code)| i32::from(q) * i32::from(code));
                    assert_eq!(
                        sum - before,
                        expected.sum::<i32>(),
                        "{words} words, {count} tokens, {i}"
                    );
                }
            }
        }
    }
}
