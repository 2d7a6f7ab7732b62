//! The program that holds a pod's namespaces, as a whole ELF file of a few hundred bytes: a process of it takes a
//! few pages of memory, and its image is imported in no time.
//!
//! Must not know images. Other architectures than those here use Navarch's own binary instead.

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// Length of the ELF header and of one program header.
const HEADERS: u64 = 64 + 56;
/// x86-64 in the ELF specification's list of machines.
const X86_64: u16 = 62;

/// Ignores SIGCHLD (the kernel then reaps orphans by itself), blocks SIGTERM and SIGINT, and waits for one of them
/// to exit with 0. Each line is one instruction.
#[rustfmt::skip]
const CODE_X86_64: &[u8] = &[
    // rt_sigaction(SIGCHLD, &ignore, NULL, 8)
    0xb8, 13, 0, 0, 0,                  // mov eax, 13
    0xbf, 17, 0, 0, 0,                  // mov edi, 17
    0x48, 0x8d, 0x35, 71, 0, 0, 0,      // lea rsi, [rip + ignore]
    0x31, 0xd2,                         // xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,             // mov r10d, 8
    0x0f, 0x05,                         // syscall
    // rt_sigprocmask(SIG_BLOCK, &ends, NULL, 8)
    0xb8, 14, 0, 0, 0,                  // mov eax, 14
    0x31, 0xff,                         // xor edi, edi
    0x48, 0x8d, 0x35, 79, 0, 0, 0,      // lea rsi, [rip + ends]
    0x31, 0xd2,                         // xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,             // mov r10d, 8
    0x0f, 0x05,                         // syscall
    // wait: rt_sigtimedwait(&ends, NULL, NULL, 8)
    0xb8, 128, 0, 0, 0,                 // mov eax, 128
    0x48, 0x8d, 0x3d, 57, 0, 0, 0,      // lea rdi, [rip + ends]
    0x31, 0xf6,                         // xor esi, esi
    0x31, 0xd2,                         // xor edx, edx
    0x41, 0xba, 8, 0, 0, 0,             // mov r10d, 8
    0x0f, 0x05,                         // syscall
    0x85, 0xc0,                         // test eax, eax
    0x7e, 0xe4,                         // jle wait
    // exit(0)
    0xb8, 60, 0, 0, 0,                  // mov eax, 60
    0x31, 0xff,                         // xor edi, edi
    0x0f, 0x05,                         // syscall
    // ignore: struct kernel_sigaction { handler: SIG_IGN, flags, restorer, mask }
    1, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
    // ends: the set of SIGINT (2) and SIGTERM (15)
    0x02, 0x40, 0, 0, 0, 0, 0, 0,
];

/// The program for an architecture as Rust names it; `None` where there is none.
pub fn program(architecture: &str) -> Option<Vec<u8>> {
    (architecture == "x86_64").then(|| elf(X86_64, CODE_X86_64))
}

/// An executable of one segment that holds the headers and the code.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64;
    // 64-bit, little-endian, ELF version 1, System V.
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |out: &mut Vec<u8>, value: u16| out.extend(value.to_le_bytes());
    let word = |out: &mut Vec<u8>, value: u32| out.extend(value.to_le_bytes());
    let long = |out: &mut Vec<u8>, value: u64| out.extend(value.to_le_bytes());
    half(&mut out, 2); // an executable
    half(&mut out, machine);
    word(&mut out, 1);
    long(&mut out, BASE + HEADERS); // entry
    long(&mut out, 64); // program headers begin
    long(&mut out, 0); // no section headers
    word(&mut out, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut out, value); // sizes and counts of headers
    }
    word(&mut out, 1); // loaded
    word(&mut out, 5); // readable and executable
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut out, value); // offset, addresses, sizes, alignment
    }
    out.extend_from_slice(code);
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Writes the program and runs it; `None` on other machines.
    fn start(dir: &std::path::Path) -> Option<std::process::Child> {
        let path = dir.join("pause");
        std::fs::write(&path, program(std::env::consts::ARCH)?).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        Some(Command::new(&path).spawn().expect("it runs"))
    }

    #[test]
    fn it_waits_and_ends_when_told() {
        let dir = tempfile::tempdir().expect("a directory");
        for (signal, expect) in
            [(rustix::process::Signal::TERM, Some(0)), (rustix::process::Signal::KILL, None)]
        {
            let Some(mut child) = start(dir.path()) else { return };
            let pid = rustix::process::Pid::from_child(&child);
            // Signals are blocked after two system calls: once it sleeps in the third it is ready.
            let stat = format!("/proc/{}/stat", child.id());
            while !std::fs::read_to_string(&stat).expect("it lives").contains(") S ") {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Ignored: it must not wake up for good.
            rustix::process::kill_process(pid, rustix::process::Signal::CHILD).expect("told");
            assert_eq!(child.try_wait().expect("known"), None);
            rustix::process::kill_process(pid, signal).expect("told");
            let status = child.wait().expect("ended");
            assert_eq!((status.code(), status.signal().is_some()), (expect, expect.is_none()));
        }
    }
}
