//! A message of which three bytes can claim any number of elements.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::Message;

#[derive(Serialize, Deserialize, Schema, Message)]
pub struct Ticks {
    ticks: Vec<()>,
}

fn main() {}
