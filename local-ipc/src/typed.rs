//! Plain values as messages: a type whose bytes are its value goes in and comes out without a
//! buffer in between.
//!
//! [`Plain`] is what [zerocopy] can check: every bit pattern is a value (the peer may write what it
//! likes), no padding (so that no byte of ours leaks), no pointers that mean something elsewhere. A value
//! is copied out of shared memory before anybody sees it, so a peer cannot change it afterwards.
//!
//! Which type a message has is agreed when the channel opens and travels as its type index; here
//! only its size is compared.

use weft_types::{Lane, Sequence};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{PeerFault, SendError};
use crate::receiver::{Received, Receiver};
use crate::rows::AsBody;
use crate::sender::Sender;
use crate::slot::Header;
use crate::trust::holds;

/// A type whose bytes are its value. Implemented for all that zerocopy finds fit.
pub trait Plain: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Plain for T {}

impl Sender {
    /// As [`Sender::try_send`], with a plain value as the body.
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`].
    #[inline(always)]
    pub fn try_send_value<T: Plain>(
        &mut self,
        lane: Lane,
        header: Header,
        value: &T,
    ) -> Result<Sequence, SendError> {
        self.try_send(lane, header, value.as_bytes())
    }

    /// Sends plain values in a row under one header, and looks once at the end whether the peer
    /// sleeps.
    ///
    /// Returns how many were sent, and why no more, if there were more. A value is taken from the
    /// iterator only if there is room for it, so nothing is lost with [`SendError::Full`]: call it
    /// again with the same iterator (`&mut values`).
    #[inline(always)]
    pub fn send_values<T: Plain>(
        &mut self,
        lane: Lane,
        header: Header,
        values: impl IntoIterator<Item = T>,
    ) -> (usize, Result<(), SendError>) {
        self.send_equal(lane, header, values.into_iter().map(Value))
    }
}

/// A plain value on its way.
struct Value<T>(T);

impl<T: Plain> AsBody for Value<T> {
    const LEN: usize = size_of::<T>();

    #[inline(always)]
    fn as_body(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Receiver {
    /// As [`Receiver::try_receive`], for a channel all of whose messages are plain values of one
    /// type.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_receive`], and [`PeerFault::WrongLength`] if the next message has not the
    /// size of a `T`. It then is not taken.
    #[inline(always)]
    pub fn try_receive_value<T: Plain>(&mut self) -> Result<Option<(Received, T)>, PeerFault> {
        let Some(lane) = self.ready_lane()? else {
            return Ok(None);
        };
        let mut value = T::new_zeroed();
        let received = self.take(lane, |sequence, _, body| {
            let bytes = value.as_mut_bytes();
            if !holds(body.len() == bytes.len()) {
                return Err(PeerFault::WrongLength {
                    lane,
                    sequence,
                    len_bytes: body.len(),
                    expected: bytes.len(),
                });
            }
            body.copy_to(bytes);
            Ok(())
        })?;
        Ok(Some((received, value)))
    }
}
