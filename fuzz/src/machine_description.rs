//! Any bytes of what an OVA or a Vagrant box says of its machine.

use ireko_images::hostile::described;

/// The first says which description the rest is.
pub fn run(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let name = if first % 2 == 0 { "vm.ovf" } else { "metadata.json" };
    if let Ok(files) = described(name, text) {
        // Each takes some bytes of its own to be spoken of.
        assert!(files.len() <= text.len());
    }
}
