//! CubeCL: the default body.

use burn_cubecl::CubeBackend;

use crate::AttentionOps;

impl AttentionOps for CubeBackend {}
