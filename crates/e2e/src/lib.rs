//! For tests only: boots VMs and drives outside clients.
