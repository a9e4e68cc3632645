//! VHD files through the public interface: as disks, under power cuts, damaged, and in the eyes of others.

mod check;
mod conformance;
mod faults;
mod hostile;
mod links;
mod power_cut;
mod shape;
mod support;
mod witnesses;
