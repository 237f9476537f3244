//! Framing: where a stream of bytes is cut, and what ends it.

use serde_json::{Value, json};

use super::{breaks, hex, ok};

pub fn cases() -> Vec<Value> {
    let case = |what: &str, limit: usize, bytes: &[u8], expect: Value| json!({ "what": what, "limit": limit, "bytes": hex(bytes), "expect": expect });
    let frames = |frames: &[&[u8]], rest: &[u8]| {
        ok(
            json!({ "frames": frames.iter().map(|f| hex(f)).collect::<Vec<_>>(), "incomplete": !rest.is_empty() }),
        )
    };
    let long = [&[0xac, 0x02][..], &[7; 300]].concat();
    vec![
        case("nothing", 262_144, &[], frames(&[], &[])),
        case("one frame", 262_144, &[3, 1, 2, 3], frames(&[&[1, 2, 3]], &[])),
        case("an empty message", 262_144, &[0], frames(&[&[]], &[])),
        case("two frames", 262_144, &[1, 9, 2, 8, 7], frames(&[&[9], &[8, 7]], &[])),
        case("a length of two bytes", 262_144, &long, frames(&[&[7; 300]], &[])),
        case("exactly the limit", 300, &long, frames(&[&[7; 300]], &[])),
        case("a frame and a part of one", 262_144, &[1, 9, 2, 8], frames(&[&[9]], &[8])),
        case("a part of a length", 262_144, &[0x80], frames(&[], &[0x80])),
        case("one byte over the limit", 299, &long, breaks("WIRE-FRAME-02")),
        case("over the limit, nothing of it sent yet", 262_144, &[0x81, 0x80, 0x10], breaks("WIRE-FRAME-02")),
        case("4 GiB announced", 262_144, &[0xff, 0xff, 0xff, 0xff, 0x0f], breaks("WIRE-FRAME-02")),
        case("a length that is not minimal", 262_144, &[0x81, 0x00, 1], breaks("WIRE-FRAME-03")),
        case("zero written in two bytes", 262_144, &[0x80, 0x00], breaks("WIRE-FRAME-03")),
        case("a length of six bytes", 262_144, &[0x81, 0x80, 0x80, 0x80, 0x80, 0], breaks("WIRE-FRAME-03")),
    ]
}
