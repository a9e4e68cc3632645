//! What a virtual machine needs, and the QEMU driver that provides it.
