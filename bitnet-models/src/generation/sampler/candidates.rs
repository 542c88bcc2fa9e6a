//! The ids that may be drawn, and the filters that drop some of them.
//!
//! Invariant: candidates stay in id order, and no filter leaves fewer than `min_keep` of them (or drops one if there are
//! no more). Where ids are equal and a filter counts, the lower id stays.
//!
//! Method: a filter drops, so the softmax of the rest needs only a new sum. Cuts by rank or by mass are found by
//! selection, O(n).

use std::cmp::Ordering;

use super::{SamplingConfig, refused, row};
use crate::ModelError;

/// An id that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The id.
    pub id: u32,
    /// Its logit after penalties and temperature.
    pub score: f32,
    /// Softmax of the scores of all candidates.
    pub probability: f64,
}

/// The candidates of one row, with buffers that are used again for the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    /// `probability` is `exp(score − max)` until the filters are done.
    list: Vec<Candidate>,
    /// The largest score of the row.
    max: f32,
    scores: Vec<f32>,
    ranking: Vec<Ranked>,
}

/// A candidate in an order other than that of ids.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    key: f64,
    id: u32,
    mass: f64,
}

impl Ranked {
    fn order(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.id.cmp(&other.id))
    }
}

impl Candidates {
    /// The candidates that the settings leave of a row, with their probabilities.
    pub(super) fn fill(&mut self, row: &[f32], config: &SamplingConfig) -> Result<(), ModelError> {
        self.scale(row, config.temperature)?;
        let min_keep = config.min_keep;
        if config.top_k > 0 {
            self.top_k(config.top_k.max(min_keep));
        }
        self.weigh();
        if config.top_p < 1.0 {
            self.top_p(config.top_p, min_keep);
        }
        if config.min_p > 0.0 {
            let max = self.list.iter().map(|c| c.probability).fold(0.0, f64::max);
            self.drop_below(config.min_p * max, min_keep);
        }
        if config.typical_p < 1.0 {
            self.typical_p(config.typical_p, min_keep);
        }
        if config.epsilon > 0.0 {
            self.drop_below(config.epsilon * self.mass(), min_keep);
        }
        if config.eta > 0.0 {
            let cut = config.eta.min(config.eta.sqrt() * (-self.entropy()).exp());
            self.drop_below(cut * self.mass(), min_keep);
        }
        let mass = self.mass();
        self.list.iter_mut().for_each(|c| c.probability /= mass);
        Ok(())
    }

    /// What [`fill`](Self::fill) has left.
    pub(super) fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// The id at which the cumulative sum of probabilities, in id order, exceeds `unit` of [0, 1).
    pub(super) fn draw(&self, unit: f64) -> u32 {
        let mut rest = unit * self.mass();
        let hit = self.list.iter().find(|c| {
            rest -= c.probability;
            rest < 0.0
        });
        // Rounding may leave a rest behind the last candidate.
        let last = || self.list.iter().rfind(|c| c.probability > 0.0);
        let drawn = hit.or_else(last);
        drawn.expect("the most probable candidate survives").id
    }

    fn scale(&mut self, row: &[f32], temperature: f64) -> Result<(), ModelError> {
        let t = if temperature == 0.0 {
            1.0
        } else {
            temperature as f32
        };
        self.max = row::largest(row)?.1 / t;
        if !self.max.is_finite() {
            return Err(refused(
                "temperature",
                temperature,
                "one that leaves logits finite",
                "0 chooses the most likely id",
            ));
        }
        let scored = row.iter().enumerate().map(|(id, x)| Candidate {
            id: id as u32,
            score: x / t,
            probability: 0.0,
        });
        self.list.clear();
        self.list
            .extend(scored.filter(|c| c.score > f32::NEG_INFINITY));
        Ok(())
    }

    fn weigh(&mut self) {
        for c in &mut self.list {
            c.probability = f64::from(c.score - self.max).exp();
        }
    }

    fn mass(&self) -> f64 {
        self.list.iter().map(|c| c.probability).sum()
    }

    /// `H = −Σ p·ln p`
    fn entropy(&self) -> f64 {
        let (mass, information) = (self.mass(), self.information());
        let term = |c: &Candidate| c.probability / mass * information(c);
        self.list.iter().map(term).sum()
    }

    /// `−ln p` of a candidate, from the score: it stays finite where p is too small for its format.
    fn information(&self) -> impl Fn(&Candidate) -> f64 + use<> {
        let (normalizer, max) = (self.mass().ln(), self.max);
        move |c| normalizer - f64::from(c.score - max)
    }

    fn top_k(&mut self, k: usize) {
        let floor = self.nth_largest(k);
        self.list.retain(|c| c.score >= floor);
    }

    /// Ids that hold at most `1 − p` together are dropped, least probable first: an id stays if those before it, most
    /// probable first, hold less than `p`.
    fn top_p(&mut self, p: f64, min_keep: usize) {
        let mass = self.mass();
        let floor = self.nth_largest(min_keep);
        // All ids at or below this mass hold at most 1 − p together: they need no rank.
        let negligible = (1.0 - p) * mass / self.list.len() as f64;
        let ranked = |c: &&Candidate| c.probability > negligible || c.score >= floor;
        let rank = |c: &Candidate| Ranked {
            key: -f64::from(c.score),
            id: c.id,
            mass: c.probability,
        };
        self.ranking.clear();
        self.ranking
            .extend(self.list.iter().filter(ranked).map(rank));
        let last = last_kept(&mut self.ranking, p * mass, min_keep);
        self.list.retain(|c| rank(c).order(&last).is_le());
    }

    /// The same in the order of `|−ln p − H|`, where ties with the last one stay.
    fn typical_p(&mut self, p: f64, min_keep: usize) {
        let (mass, entropy, information) = (self.mass(), self.entropy(), self.information());
        let deviation = |c: &Candidate| (information(c) - entropy).abs();
        let rank = |c: &Candidate| Ranked {
            key: deviation(c),
            id: c.id,
            mass: c.probability,
        };
        self.ranking.clear();
        self.ranking.extend(self.list.iter().map(rank));
        let last = last_kept(&mut self.ranking, p * mass, min_keep);
        self.list.retain(|c| deviation(c) <= last.key);
    }

    /// Drops masses below `cut`, never the `min_keep` largest.
    fn drop_below(&mut self, cut: f64, min_keep: usize) {
        let floor = self.nth_largest(min_keep);
        self.list
            .retain(|c| c.probability >= cut || c.score >= floor);
    }

    /// The n-th largest score, n from 1; the smallest if there are fewer.
    fn nth_largest(&mut self, n: usize) -> f32 {
        self.scores.clear();
        self.scores.extend(self.list.iter().map(|c| c.score));
        let index = n.min(self.scores.len()) - 1;
        let (_, nth, _) = self
            .scores
            .select_nth_unstable_by(index, |a, b| b.total_cmp(a));
        *nth
    }
}

/// The last entry, in ascending order, before which there is less than `mass`; but not one before the `min_keep`-th.
///
/// Halves the range that holds it: the entries are never sorted.
fn last_kept(ranking: &mut [Ranked], mass: f64, min_keep: usize) -> Ranked {
    let (mut start, mut end, mut before) = (0, ranking.len(), 0.0);
    while end - start > 1 {
        let half = (end - start) / 2;
        let (lower, ..) = ranking[start..end].select_nth_unstable_by(half, Ranked::order);
        let through = before + lower.iter().map(|entry| entry.mass).sum::<f64>();
        if through < mass {
            (start, before) = (start + half, through);
        } else {
            end = start + half;
        }
    }
    let index = start.max(min_keep.min(ranking.len()) - 1);
    *ranking.select_nth_unstable_by(index, Ranked::order).1
}
