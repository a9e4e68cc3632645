//! Serves one disk on a unix socket by the NBD protocol.
