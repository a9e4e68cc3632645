//! The probe's guest: a page of 64-bit kernel-mode code and the tables it runs on.
//!
//! ```text
//!   0x1000 code      switch address space, read EFER, count down 2 000 000, say 'A', trap
//!   0x1100 handler   say 'U', halt
//!   0x2000 PML4 ─► 0x3000 PDPT ─► 0x4000 PD ─► one 2 MiB page at 0
//!   0x5000 GDT       0x6000 IDT, #UD ─► handler       0x8000 stack (grows down)
//! ```
//! Source: Intel SDM 3A, chapters 3 to 6.

use kvm_bindings::{kvm_segment, kvm_sregs};

/// Bytes of memory the guest has: the one page that is mapped.
pub const MEMORY: usize = 2 << 20;

/// The port on which the guest speaks.
pub const PORT: u16 = 0x80;

/// What a guest says whose CPU works.
pub const WORDS: &[u8] = b"AU";

/// How often the guest counts down: milliseconds of work for a CPU, many seconds for an emulation
/// of one that fetches each instruction anew.
pub const STEPS: u32 = 2_000_000;

/// Where it starts.
pub const ENTRY: u64 = 0x1000;

/// Where its stack ends.
pub const STACK: u64 = 0x8000;

const HANDLER: u64 = 0x1100;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const DIRECTORY: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const INVALID_OPCODE: u64 = 6;

/// Returns the guest's memory from address 0 up to its stack.
pub fn image() -> Vec<u8> {
    let mut image = vec![0; STACK as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    };
    put(ENTRY, &code());
    // mov al,'U' · out 0x80,al · hlt
    put(HANDLER, &[0xb0, b'U', 0xe6, PORT as u8, 0xf4]);
    put(PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes());
    put(PDPT, &(DIRECTORY | PRESENT_WRITABLE).to_le_bytes());
    put(DIRECTORY, &(LARGE_PAGE | PRESENT_WRITABLE).to_le_bytes());
    put(GDT + u64::from(CODE_SELECTOR), &0x0020_9b00_0000_0000_u64.to_le_bytes());
    put(GDT + u64::from(DATA_SELECTOR), &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    put(IDT + INVALID_OPCODE * 16, &interrupt_gate(HANDLER).to_le_bytes());
    image
}

fn code() -> Vec<u8> {
    let mut code = vec![
        0x0f, 0x20, 0xd8, // mov rax, cr3
        0x0f, 0x22, 0xd8, // mov cr3, rax
        0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, EFER
        0x0f, 0x32, // rdmsr
        0xb9, // mov ecx, STEPS
    ];
    code.extend(STEPS.to_le_bytes());
    code.extend([
        0xff, 0xc9, // dec ecx
        0x75, 0xfc, // jnz to dec
        0xb0, b'A', // mov al, 'A'
        0xe6, PORT as u8, // out 0x80, al
        0x0f, 0x0b, // ud2
    ]);
    code
}

/// Source: Intel SDM 3A, 6.14.1. The upper half of the address is 0.
fn interrupt_gate(handler: u64) -> u128 {
    let low = u128::from(handler & 0xffff);
    let high = u128::from(handler >> 16 & 0xffff);
    low | u128::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | high << 48
}

/// Puts the CPU into 64-bit kernel mode on the image's tables.
pub fn enter_long_mode(registers: &mut kvm_sregs) {
    registers.cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
    registers.cr3 = PML4;
    registers.cr4 = 0x20; // PAE
    registers.efer = 0x500; // LMA LME
    registers.gdt.base = GDT;
    registers.gdt.limit = 23;
    registers.idt.base = IDT;
    registers.idt.limit = 0xfff;
    let code = kvm_segment {
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 11, // execute, read, accessed
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, l: 0, db: 1, ..code };
    registers.cs = code;
    for segment in [
        &mut registers.ds,
        &mut registers.es,
        &mut registers.fs,
        &mut registers.gs,
        &mut registers.ss,
    ] {
        *segment = data;
    }
}
