//! Image references, digests and image configurations as the OCI and Docker define them.
//!
//! Text and bytes in, values out: no I/O, no disks. What a name or a configuration *means* to the
//! tree of images is decided in `ireko-images`.
//!
//! ```text
//!   "x"  ──Reference::parse──►  docker.io / library/x          ──familiar──►  "x"
//!                               domain      path     :tag @digest
//!
//!   bytes ──ImageConfig::parse──►  ImageConfig { bytes, document }
//!     │                                           └─ RunConfig, history, diff ids, …
//!     └── sha256 = the image's id; therefore the bytes are kept as they came
//! ```
//!
//! ```
//! use ireko_oci::Reference;
//!
//! let reference = Reference::parse("base")?.with_default_tag();
//! assert_eq!(reference.to_string(), "docker.io/library/base:latest");
//! assert_eq!(reference.familiar(), "base:latest");
//! # Ok::<(), ireko_oci::Error>(())
//! ```

#![forbid(unsafe_code)]

mod config;
mod digest;
mod error;
mod machine;
mod manifest;
mod reference;
mod run_config;

pub use config::{ConfigDocument, HistoryEntry, ImageConfig, MAX_CONFIG_BYTES, RootFs};
pub use digest::{Digest, Hasher};
pub use error::{Error, ErrorKind, Result};
pub use machine::{Firmware, Hardware, MachineConfig};
pub use manifest::{
    ArchivedImage, Descriptor, Index, MAX_MANIFEST_BYTES, Manifest, Platform, chain_id,
};
pub use reference::{DEFAULT_DOMAIN, DEFAULT_TAG, Reference};
pub use run_config::{Healthcheck, RunConfig};
