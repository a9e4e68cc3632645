//! For tests only: what hostile files and clients may say, made up by a fuzzer.
//!
//! ```text
//!   bytes ─► target ─► an otherwise sound file (sound), checksums made right ─► opened and used (exercise)
//! ```
//! Each target is a module with `run`, which may return whatever the bytes are; a panic, a hang or a mountain of
//! memory is a bug. `scripts/fuzz.sh` runs them under libFuzzer with the binaries of `src/bin`; `tests/corpus.rs` replays
//! what was found worth keeping, `corpus/<target>`, without it.
#![forbid(unsafe_code)]

mod exercise;
mod file;
mod input;
mod log;
mod sound;
mod sparse;

pub mod vhdx_bat;
pub mod vhdx_file;
pub mod vhdx_header;
pub mod vhdx_locator;
pub mod vhdx_log;
pub mod vhdx_metadata;
pub mod vhdx_region;

pub mod vhd_file;
pub mod vhd_footer;
pub mod vhd_header;

pub mod disk_to_vet;
pub mod image_name;
pub mod layer_sidecar;
pub mod layer_skeleton;
pub mod layer_zip;
pub mod machine_description;
pub mod recognise;

pub mod agent_frames;
pub mod chain_ops;
pub mod dhcp_message;
pub mod dns_message;
pub mod guest_frames;
pub mod listing;
pub mod nbd;
pub mod zip;

/// What a fuzzer calls with bytes of its own.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its binary and of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent_frames", agent_frames::run),
    ("chain_ops", chain_ops::run),
    ("dhcp_message", dhcp_message::run),
    ("disk_to_vet", disk_to_vet::run),
    ("dns_message", dns_message::run),
    ("guest_frames", guest_frames::run),
    ("image_name", image_name::run),
    ("layer_sidecar", layer_sidecar::run),
    ("layer_skeleton", layer_skeleton::run),
    ("layer_zip", layer_zip::run),
    ("listing", listing::run),
    ("machine_description", machine_description::run),
    ("nbd", nbd::run),
    ("recognise", recognise::run),
    ("vhd_file", vhd_file::run),
    ("vhd_footer", vhd_footer::run),
    ("vhd_header", vhd_header::run),
    ("vhdx_bat", vhdx_bat::run),
    ("vhdx_file", vhdx_file::run),
    ("vhdx_header", vhdx_header::run),
    ("vhdx_locator", vhdx_locator::run),
    ("vhdx_log", vhdx_log::run),
    ("vhdx_metadata", vhdx_metadata::run),
    ("vhdx_region", vhdx_region::run),
    ("zip", zip::run),
];
