//! Image references, digests and image configurations as the OCI and Docker define them.
