//! From logits to ids: prefill, decode, stop. Knows ids, never text; [`StopStrings`] is the one exception, it watches the
//! text that the ids have become.

mod beam;
mod likelihood;
mod sampler;
mod score;
mod search;
mod session;
mod stop;
mod stop_strings;
mod tokens;

pub use beam::{BeamConfig, BeamSearch, Continuation, EarlyStopping, Hypothesis};
pub use likelihood::{Likelihood, Windows};
pub use sampler::{Candidate, Choice, Sampler, SamplingConfig};
pub use score::{Score, embed, score, score_from};
pub use search::beam_search;
pub use session::{ContextOptions, Session};
pub use stop::{StopConditions, StopReason};
pub use stop_strings::StopStrings;
pub use tokens::{Generation, Timings, Token};
