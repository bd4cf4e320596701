//! A client's place in a trace is read or refused, and what is read is passed on as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_wire::traceparent::TraceParent;

fuzz_target!(|text: &str| {
    if let Ok(parent) = text.parse::<TraceParent>() {
        assert_ne!((parent.trace, parent.span), (0, 0));
        assert_eq!(text[3..52], parent.to_string()[3..52]);
        assert_eq!(parent.to_string().parse(), Ok(parent));
    }
});
