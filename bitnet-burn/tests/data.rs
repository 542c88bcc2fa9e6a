//! The command `data`, as a user meets it.

mod support;
