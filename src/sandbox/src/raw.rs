//! The kernel by number. No library has all the calls that the escape suite wants to see refused.

use libc::{c_long, c_ulong};
use nix::errno::Errno;

/// Calls the kernel. For the suite only: what it passes is numbers and null pointers.
#[expect(
    unsafe_code,
    reason = "no safe wrapper covers these calls; they are given numbers and null pointers, so that \
              where one is not refused it touches no memory of ours"
)]
pub(crate) fn call(number: c_long, arguments: [c_ulong; 5]) -> Result<c_long, Errno> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel checks what it is given; no argument is the address of an object.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) })
}
