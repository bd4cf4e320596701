//! Any page becomes text that is no longer than was asked for, shows no invisible characters, and
//! begins the same wherever it is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_agent::tools::html::{is_invisible, plain, readable};
use tollway_fuzz::steer;
use url::Url;

fuzz_target!(|data: &[u8]| {
    let Some((limit, html)) = steer::<u16>(data, 2) else { return };
    let html = String::from_utf8_lossy(html);
    let base = Url::parse("https://example.com/a/b").expect("a URL");
    let limit = usize::from(limit);
    let (cut, whole) = (readable(&html, Some(&base), limit), readable(&html, Some(&base), 1 << 24));
    assert!(cut.text.len() <= limit);
    assert!(!whole.is_cut, "a page has no more text than tags make of it");
    assert!(cut.is_cut || cut.text == whole.text);
    for text in [&whole.text, &whole.title, &plain(&html)] {
        assert!(!text.contains(is_invisible), "{text:?}");
    }
});
