//! Reproducible test data.

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

#[allow(dead_code, reason = "each test file uses its part")]
impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// -1, 0, 1.
    pub(crate) fn trits(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| (self.next() % 3) as i8 - 1).collect()
    }

    /// Integers as floats, each row with the limit, so that quantization to it returns them as they are with s = 1.
    pub(crate) fn integer_rows(&mut self, rows: usize, d_in: usize, limit: i8) -> Vec<f32> {
        let most = f32::from(limit);
        let mut x: Vec<f32> = (0..rows * d_in)
            .map(|_| (self.next() % (2 * limit as u64 + 1)) as f32 - most)
            .collect();
        for row in x.chunks_exact_mut(d_in) {
            row[(self.next() % d_in as u64) as usize] = most;
        }
        x
    }
}
