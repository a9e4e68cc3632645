//! The kernel proper out of a distribution's `vmlinuz`.
//!
//! ```text
//!   vmlinuz = │ boot sector + setup │ protected-mode code: stub … [payload: vmlinux, packed] … │
//!             0                     (setup_sects + 1) × 512
//! ```
//!
//! The setup header says where the payload lies. Source: Linux `Documentation/arch/x86/boot.rst`,
//! "The Real-Mode Kernel Header".

use crate::compression::decompress;
use crate::elf;
use crate::error::{Error, Result};

/// Kernels are some 70 MB; more than this is no kernel.
const MAX_VMLINUX: usize = 512 << 20;
/// `payload_offset` and `payload_length` came with boot protocol 2.08.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;
/// After xz, zstd and lz4 payloads the build appends the plain size; gzip ends with the same four
/// bytes by its own format.
const SIZE_TRAILER: usize = 4;

/// Returns the ELF kernel inside a bzImage.
///
/// # Errors
/// `Malformed` when this is no bzImage, its payload is damaged, or the kernel in it cannot be
/// entered by PVH, which is how a VM starts it.
pub(crate) fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)
        .ok_or_else(|| Error::malformed("this is no bzImage of boot protocol 2.08 or later"))?;
    let (body, trailer) = payload
        .split_last_chunk::<SIZE_TRAILER>()
        .ok_or_else(|| Error::malformed("the kernel's payload is empty"))?;
    let gzip = body.starts_with(b"\x1f\x8b");
    let vmlinux = decompress(if gzip { payload } else { body }, MAX_VMLINUX)?;
    if vmlinux.len() as u64 != u64::from(u32::from_le_bytes(*trailer)) {
        return Err(Error::malformed("the kernel's payload has another size than it says"));
    }
    if !elf::has_pvh_entry(&vmlinux)? {
        return Err(Error::malformed("the kernel has no PVH entry point"));
    }
    Ok(vmlinux)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if image.get(0x202..0x206)? != b"HdrS" || u16_at(0x206)? < PROTOCOL_WITH_PAYLOAD {
        return None;
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + u32_at(0x248)? as usize;
    image.get(start..start.checked_add(u32_at(0x24c)? as usize)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf_with_note;

    /// A bzImage of one setup sector around `payload`.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image.extend(b"what follows the payload");
        image
    }

    fn packed(vmlinux: &[u8]) -> Vec<u8> {
        let mut payload = zstd::encode_all(vmlinux, 1).unwrap();
        payload.extend((vmlinux.len() as u32).to_le_bytes());
        payload
    }

    #[test]
    fn the_payload_comes_out_as_it_went_in() {
        let vmlinux = elf_with_note("Xen", 18);
        assert_eq!(extract_vmlinux(&bzimage(&packed(&vmlinux))).unwrap(), vmlinux);
    }

    #[test]
    fn a_kernel_without_a_pvh_entry_is_refused() {
        let error = extract_vmlinux(&bzimage(&packed(&elf_with_note("GNU", 3)))).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no PVH entry point");
    }

    #[test]
    fn a_payload_of_another_size_than_it_says_is_refused() {
        let mut payload = packed(&elf_with_note("Xen", 18));
        *payload.last_mut().unwrap() = 1;
        assert!(extract_vmlinux(&bzimage(&payload)).is_err());
    }

    #[test]
    fn any_cut_of_an_image_is_an_error_and_never_a_panic() {
        let image = bzimage(&packed(&elf_with_note("Xen", 18)));
        for length in 0..image.len() - 24 {
            assert!(extract_vmlinux(&image[..length]).is_err(), "{length} bytes");
        }
    }
}
