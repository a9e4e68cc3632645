//! One VM, from plan to exit.
