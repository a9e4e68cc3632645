//! The few facts read from ELF files: how a kernel is entered, what a module or a program needs.

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, read::Error as ObjectError};

use crate::error::{Error, Result};

type Header = elf::FileHeader64<Endianness>;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of a PVH boot.
/// Source: Xen `public/elfnote.h`.
const PVH_ENTRY_NOTE: elf::NoteType = elf::NoteType(18);

/// Whether the kernel can be started by PVH.
pub(crate) fn has_pvh_entry(vmlinux: &[u8]) -> Result<bool> {
    let find = || -> std::result::Result<bool, ObjectError> {
        let header = Header::parse(vmlinux)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, vmlinux)? {
            let Some(mut notes) = segment.notes(endian, vmlinux)? else { continue };
            while let Some(note) = notes.next()? {
                if note.name() == b"Xen" && note.n_type(endian) == PVH_ENTRY_NOTE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    find().map_err(|e| Error::malformed("read the kernel's ELF headers").because(e))
}

/// The `key=value` pairs a kernel module describes itself with.
pub(crate) fn module_info(module: &[u8]) -> Result<Vec<(String, String)>> {
    let read = || -> std::result::Result<Vec<u8>, ObjectError> {
        let header = Header::parse(module)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, module)?;
        match sections.section_by_name(endian, b".modinfo") {
            Some((_, section)) => Ok(section.data(endian, module)?.to_vec()),
            None => Ok(Vec::new()),
        }
    };
    let info = read().map_err(|e| Error::malformed("read a module's ELF headers").because(e))?;
    Ok(info
        .split(|byte| *byte == 0)
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Names of the shared libraries that a program or library asks its loader for.
pub(crate) fn needed_libraries(file: &[u8]) -> Result<Vec<String>> {
    let read = || -> std::result::Result<Vec<String>, ObjectError> {
        let header = Header::parse(file)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, file)?;
        let Some((entries, strings)) = sections.dynamic(endian, file)? else {
            return Ok(Vec::new());
        };
        let strings = sections.strings(endian, file, strings)?;
        entries
            .iter()
            .filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED)
            .map(|entry| {
                let name = entry.string(endian, strings)?;
                Ok(String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    };
    read().map_err(|e| Error::malformed("read a program's ELF headers").because(e))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest ELF file with one PT_NOTE segment holding one note.
    pub(crate) fn elf_with_note(owner: &str, kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        let name = [owner.as_bytes(), b"\0"].concat();
        note.extend((name.len() as u32).to_le_bytes());
        note.extend(4u32.to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(&name);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(0x100_0000u32.to_le_bytes());

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(2u16.to_le_bytes()); // executable
        file.extend(62u16.to_le_bytes()); // x86-64
        file.extend(1u32.to_le_bytes());
        file.extend(0u64.to_le_bytes()); // entry
        file.extend(64u64.to_le_bytes()); // program headers
        file.extend(0u64.to_le_bytes()); // section headers
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(4u32.to_le_bytes()); // PT_NOTE
        file.extend(4u32.to_le_bytes());
        for word in [120, 0, 0, note.len() as u64, note.len() as u64, 4] {
            file.extend(word.to_le_bytes());
        }
        file.extend(note);
        file
    }

    #[test]
    fn a_pvh_kernel_is_told_by_its_note() {
        assert!(has_pvh_entry(&elf_with_note("Xen", 18)).unwrap());
        assert!(!has_pvh_entry(&elf_with_note("Xen", 6)).unwrap());
        assert!(!has_pvh_entry(&elf_with_note("GNU", 18)).unwrap());
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(has_pvh_entry(b"MZ").is_err());
        assert!(module_info(b"").is_err());
        assert!(needed_libraries(&[0x7f; 200]).is_err());
    }

    #[test]
    fn any_cut_of_a_file_is_read_without_a_panic() {
        let file = elf_with_note("Xen", 18);
        for length in 0..file.len() {
            let _ = has_pvh_entry(&file[..length]);
            let _ = module_info(&file[..length]);
            let _ = needed_libraries(&file[..length]);
        }
    }

    #[test]
    fn this_test_program_needs_the_c_library() {
        let itself = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed_libraries(&itself).unwrap().iter().any(|name| name.starts_with("libc.so")));
    }
}
