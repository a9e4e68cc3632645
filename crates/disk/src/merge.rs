//! Merging layers of a chain: into a new file, or a child into its parent.
//!
//! ```text
//!   base ◄─ a ◄─ b ◄─ leaf
//!
//!   into_new(leaf, 2 layers)        base ◄─ a ◄─ new           new = b + leaf; all four files stay
//!   into_new(leaf, 4 layers)        new                        flattened into a base
//!   into_parent(leaf)               base ◄─ a ◄─ b             b has the leaf's bytes; the leaf is gone
//! ```
//! What the upper layer holds hides the lower one's, zeros too: a block that a layer calls zeros is zeros in the
//! union, never what a parent held there. What no merged layer holds stays the parent's. Moving the bytes is [`crate::copy`]'s work.

mod into_new;
mod into_parent;
mod siblings;

pub use into_new::{MergeOptions, into_new};
pub use into_parent::{into_parent, storages_into_parent};
