//! Checking and repairing: each fault is found for what it is, sound files are clean, and a cure costs nothing.

mod blocks;
mod files;
mod headers;
mod metadata;
#[path = "../outside/mod.rs"]
mod outside;
mod repair;
mod support;
mod witnesses;
