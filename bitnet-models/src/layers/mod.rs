//! Layers that a user's own model is built from.

mod attention;
mod bit_linear;
mod feed_forward;
mod precision;
mod rms_norm;
mod rope;
mod table;

pub use attention::{Attention, Past};
pub use bit_linear::{BitLinear, BitLinearConfig};
pub use feed_forward::FeedForward;
pub use rms_norm::{rms_norm, rms_norm_blended};
pub use rope::{RopeConfig, RopeScaling, Rotation};
pub use table::Table;
