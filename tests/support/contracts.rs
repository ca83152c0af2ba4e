//! Contracts that only tests speak, and how they are served.

use std::time::Duration;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use weft::{Context, Handler, Refusal, Whole};
use weft_contract::{Message, contract};

/// Asks the service to be busy with this message for a while.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "test.Work")]
pub struct Work {
    /// For so long, in milliseconds.
    pub milliseconds: u32,
}

/// The service has done the work.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "test.Worked")]
pub struct Worked {
    /// How many messages this instance, and those whose state it took over, have handled by now.
    pub handled: u64,
}

contract! {
    /// A service that takes its time: there is always a message in its hands.
    pub contract Slow("test.slow", 1) as SlowRequest { Work => Worked }
}

impl Handler<Work, Context> for Whole<u64> {
    type Reply = Worked;

    fn handle(&mut self, message: Work, _: &mut Context) -> Result<Worked, Refusal> {
        std::thread::sleep(Duration::from_millis(message.milliseconds.into()));
        *self.get_mut() += 1;
        Ok(Worked {
            handled: *self.get(),
        })
    }
}

/// `kv.Get` as somebody wrote it before it was agreed on: same name, same version, another field.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.Get")]
pub struct OldGet {
    /// The key, as a number.
    pub key: u64,
}

/// The answer to [`OldGet`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, Schema, Message)]
#[message(name = "kv.GetReply")]
pub struct OldGetReply {
    /// The value, as a number.
    pub value: u64,
}

contract! {
    /// The contract `kv` before it was agreed on.
    pub contract OldKv("kv", 1) as OldKvRequest { OldGet => OldGetReply }
}

impl Handler<OldGet, Context> for Whole<u64> {
    type Reply = OldGetReply;

    fn handle(&mut self, message: OldGet, _: &mut Context) -> Result<OldGetReply, Refusal> {
        Ok(OldGetReply { value: message.key })
    }
}
