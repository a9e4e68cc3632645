//! The verbs that move a disk's bytes or its parent: converting, merging, relinking.
//!
//! `qemu-img` and `7zz` say whether others read the results; where they are not there, that is said. `IREKO_SOAK=n` runs n
//! times as many chains and power cuts.

mod convert;
mod into_new;
mod into_parent;
#[path = "../outside/mod.rs"]
mod outside;
mod relink;
mod support;
