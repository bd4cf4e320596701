//! What runs in worker processes. No tokio, no logging, one thread.

mod files;
mod inside;
mod javascript;
mod landlock;
mod limits;
mod namespaces;
mod privileges;
mod seccomp;
mod supervisor;
mod watch;

use std::io::Write;

/// A native guest: is given its document and where to write, and returns its exit code.
pub type Native = fn(&[u8], &mut dyn Write) -> i32;

/// The second argument of the process inside.
const INSIDE_ARG: &str = "inside";

/// A worker's life. The executable calls it first thing when its first argument is
/// [`crate::WORKER_ARG`]; `natives` are the guests that it offers.
pub fn main(natives: &[(&'static str, Native)]) -> ! {
    let is_inside = std::env::args().nth(2).is_some_and(|argument| argument == INSIDE_ARG);
    std::process::exit(if is_inside { inside::main(natives) } else { supervisor::main() })
}
