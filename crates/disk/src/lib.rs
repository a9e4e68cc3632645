//! Virtual disks in files: VHDX and chains of differencing disks.
