//! Tells the linker in which order the program's functions are to lie, where `dist/build.sh` says so.

const ORDER: &str = "TOLLWAY_FUNCTION_ORDER";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={ORDER}");
    if let Ok(file) = std::env::var(ORDER) {
        println!("cargo:rerun-if-changed={file}");
        println!("cargo:rustc-link-arg-bins=-Wl,--symbol-ordering-file={file}");
        // Names that are not there any more are no mistake.
        println!("cargo:rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
    }
}
