//! Docker's JSON, as clients send it. What is answered is written where it is made.

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod network;
