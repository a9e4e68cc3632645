//! For tests only: crash-simulating storage, temporary stores.
