//! A service that handles only one of the two messages of its contract.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft_contract::{Handler, Message, Serve, contract};
use weft_types::Refusal;

#[derive(Serialize, Deserialize, Schema, Message)]
pub struct Put {}

#[derive(Serialize, Deserialize, Schema, Message)]
pub struct Get {}

#[derive(Serialize, Deserialize, Schema, Message)]
pub struct Done {}

contract! {
    /// Two messages.
    pub contract Store("store", 1) as StoreRequest { Put => Done, Get => Done }
}

struct Half;

impl Handler<Put, ()> for Half {
    type Reply = Done;

    fn handle(&mut self, _: Put, _: &mut ()) -> Result<Done, Refusal> {
        Ok(Done {})
    }
}

fn serve<S>(_: S)
where
    Store: Serve<S, ()>,
{
}

fn main() {
    serve(Half);
}
