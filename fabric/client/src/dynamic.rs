//! The endpoint of a client that learns the contract at run time: the command line, a console.

use std::time::Duration;

use weft_contract::ContractDescription;
use weft_types::{Lane, MessageKind, RefusalCode, Sequence, TypeIndex};

use crate::channel::Channel;
use crate::error::Error;

/// One end of a channel to a service whose contract was asked for when it opened.
///
/// Bodies are encoded already (see `weft_contract::dynamic`); everything else is as with
/// [`Endpoint`](crate::Endpoint).
#[derive(Debug)]
pub struct DynamicEndpoint {
    channel: Channel,
    description: ContractDescription,
    lane: Lane,
}

impl DynamicEndpoint {
    pub(crate) fn new(channel: Channel, description: ContractDescription) -> Self {
        Self {
            channel,
            description,
            lane: Lane::default(),
        }
    }

    /// Sends and replies use this lane from now on.
    #[must_use]
    pub fn on_lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// What the service understands, with the shape of every message.
    #[must_use]
    pub fn description(&self) -> &ContractDescription {
        &self.description
    }

    /// Whether the service is on this machine just now.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.channel.is_local()
    }

    /// Sends the message of this name and waits for the bytes of its reply.
    ///
    /// # Errors
    ///
    /// `UnknownMessage` if the contract has none of this name; otherwise as
    /// [`Endpoint::call`](crate::Endpoint::call).
    pub fn call(
        &mut self,
        message: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        let index = self.index(message)?;
        let question = self
            .channel
            .send(self.lane, MessageKind::Request, index, body, timeout)?;
        self.channel.wait(self.lane, question, timeout)
    }

    /// Sends the message of this name, wants no reply, and waits until it has been handled.
    ///
    /// # Errors
    ///
    /// As [`DynamicEndpoint::call`].
    pub fn tell(
        &mut self,
        message: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Sequence, Error> {
        let index = self.index(message)?;
        let sequence = self
            .channel
            .send(self.lane, MessageKind::Tell, index, body, timeout)?;
        self.channel
            .wait_done(self.lane, sequence.next(), timeout)?;
        Ok(sequence)
    }

    fn index(&self, message: &str) -> Result<TypeIndex, Error> {
        self.description.index_of(message).ok_or_else(|| {
            Error::new(
                RefusalCode::UnknownMessage,
                format!(
                    "contract {} has no message {message}",
                    self.description.name
                ),
            )
        })
    }
}
