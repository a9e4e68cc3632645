//! The write-ahead log for metadata: BAT, sector bitmaps, metadata region. Payload never passes through it.
//!
//! ```text
//!   header ─ LogGuid ─┐      the ring, in sectors of 4 KiB
//!                     ▼     ┌───────────────────────┬──────────────┬─────────
//!                 entries   │ loge│desc…│data data … │ loge│ …      │
//!                           └───────────────────────┴──────────────┴─────────
//! ```
//! A page in the log is complete by its checksum; after a crash the newest complete sequence is
//! applied again ([`replay`]). [`ring`] decides where the next entry goes. Source: [MS-VHDX] 2.3.

pub(super) mod entry;
pub(super) mod replay;
pub(super) mod ring;
