//! A contract with a bad name, and one with two messages of one name.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Message, contract};

#[derive(Serialize, Deserialize, Schema, Message)]
#[message(name = "Same")]
pub struct One {}

#[derive(Serialize, Deserialize, Schema, Message)]
#[message(name = "Same")]
pub struct Two {}

contract! {
    /// Upper case.
    pub contract Shouting("Shouting", 1) as ShoutingRequest { One => One }
}

contract! {
    /// Twice the same name.
    pub contract Twice("twice", 1) as TwiceRequest { One => One, Two => Two }
}

fn main() {}
