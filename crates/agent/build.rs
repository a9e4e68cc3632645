//! The agent travels in an initramfs and inside the host's executable: it carries no symbols.
//! A profile cannot say this for one crate of the workspace alone.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
}
