//! Life cycle of containers, work that needs a guest, recovery.
