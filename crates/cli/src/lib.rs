//! The ireko commands: a client of the daemon.
