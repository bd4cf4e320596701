//! The sandbox as its callers have it: as root, as an ordinary user, and where the kernel makes no
//! user namespaces; with namespaces and without.

mod bombs;
mod caller;
mod escape;
mod runs;
