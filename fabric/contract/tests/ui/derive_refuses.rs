//! Items that cannot be messages.

use serde::Serialize;
use weft_contract::Message;

#[derive(Message)]
union Either {
    a: u8,
    b: u16,
}

#[derive(Message)]
struct Generic<T> {
    value: T,
}

#[derive(Serialize, Message)]
struct Skipping {
    #[serde(skip)]
    hidden: u8,
}

#[derive(Message)]
#[message(name = "has space")]
struct BadName {}

#[derive(Message)]
#[message(name = "x2345678901234567890123456789012345678901234567890123456789012345")]
struct LongName {}

#[derive(Message)]
#[message(version = 0)]
struct BadVersion {}

#[derive(Message)]
#[message(nmae = "x")]
struct BadOption {}

fn main() {}
