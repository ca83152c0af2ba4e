//! What is done with a member of whom there is a message: take one, or a row.

use weft_types::{Lane, Sequence};

use super::MemberId;
use crate::error::PeerFault;
use crate::in_place::View;
use crate::receiver::{Received, Receiver};

/// Takes from a member whose turn it is.
pub(super) trait Take<K> {
    /// Takes from this lane, on which a look has found a message.
    fn take(
        &mut self,
        member: MemberId,
        key: &K,
        receiver: &mut Receiver,
        lane: Lane,
    ) -> Result<(), PeerFault>;
}

/// Takes one message, its body copied.
pub(super) struct One<'a> {
    body: &'a mut Vec<u8>,
    /// What was taken.
    pub(super) received: Option<Received>,
}

impl<'a> One<'a> {
    pub(super) fn new(body: &'a mut Vec<u8>) -> Self {
        Self {
            body,
            received: None,
        }
    }
}

impl<K> Take<K> for One<'_> {
    #[inline(always)]
    fn take(
        &mut self,
        _: MemberId,
        _: &K,
        receiver: &mut Receiver,
        lane: Lane,
    ) -> Result<(), PeerFault> {
        let received = receiver.take(lane, |_, _, bytes| {
            bytes.fill(self.body);
            Ok(())
        })?;
        self.received = Some(received);
        Ok(())
    }
}

/// Takes a row of messages, looked at where they lie.
pub(super) struct Many<F> {
    most: usize,
    each: F,
    pub(super) count: usize,
    pub(super) lane: Lane,
    pub(super) up_to: Sequence,
}

impl<F> Many<F> {
    /// At most so many, one at least.
    pub(super) fn new(most: usize, each: F) -> Self {
        Self {
            most: most.max(1),
            each,
            count: 0,
            lane: Lane::LOW,
            up_to: Sequence::ZERO,
        }
    }
}

impl<K, F: FnMut(MemberId, &K, Received, View<'_>)> Take<K> for Many<F> {
    #[inline(always)]
    fn take(
        &mut self,
        member: MemberId,
        key: &K,
        receiver: &mut Receiver,
        lane: Lane,
    ) -> Result<(), PeerFault> {
        let each = &mut self.each;
        self.count = receiver.row_of(lane, self.most, |received, view| {
            each(member, key, received, view);
        })?;
        self.lane = lane;
        self.up_to = receiver.expected(lane);
        Ok(())
    }
}
