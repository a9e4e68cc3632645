//! Fills the machine-wide cache: the guest kernel and the parts of the base image.
