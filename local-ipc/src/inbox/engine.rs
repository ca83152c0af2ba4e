//! What both styles of an inbox run on: members hot and cold, and whose message is next.

mod wait;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use weft_types::Lane;

use super::alarm::{Alarm, Listening, Notes};
use super::cold::{Cold, Entry};
use super::take::Take;
use super::turns::Turns;
use super::{AddError, Left, MAX_MEMBERS, MemberId, Message, Why};
use crate::bell::Bell;
use crate::receiver::{Received, Receiver};
use crate::sys::doorbell::Doorbell;
use crate::sys::{Heard, OwnedFd, borrowed};
use crate::waiter::{Waiter, Wake};

/// How many hot members are looked at for each message, beyond the one whose turn it is.
const HOT_LOOKS: usize = 16;

/// How many bells are looked at in one go: loads of different lines overlap.
const COLD_LOOKS: usize = 8;

/// One call in so many looks at bells, and at what else changes seldom; every call, if one go is
/// enough for all bells.
const COLD_EVERY: u32 = 8;

/// So many looks in vain make a member cold. Some tens of µs for an idle inbox: about as long as
/// spinning pays.
const COLD_AFTER: u32 = 512;

/// The same for an inbox that naps: through many naps in which nothing came.
const COLD_AFTER_BATCHING: u32 = 64 * COLD_AFTER;

/// One call in so many looks for hang-ups; it is a system call.
const SIDES_EVERY: u32 = 4096;

#[derive(Debug)]
pub(super) struct Member<K> {
    pub(super) key: K,
    pub(super) receiver: Receiver,
    generation: u32,
    state: State,
    /// With the peer that knocks there.
    doorbell: Option<(Doorbell, Bell)>,
    side: Option<OwnedFd>,
    listening: Option<Listening>,
    hung_up: bool,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug)]
enum State {
    Hot {
        place: usize,
        in_vain: u32,
    },
    Cold {
        place: usize,
    },
    /// It leaves at one of the next calls; nothing of it is looked at any more.
    Leaving,
}

/// What a call found.
#[derive(Debug)]
pub(super) enum Found<K> {
    /// Something was taken from this member.
    Message(MemberId),
    Left(Box<Left<K>>),
}

#[derive(Debug)]
pub(super) struct Engine<K> {
    members: Vec<Option<Member<K>>>,
    /// Places in `members` that are free.
    free: Vec<u32>,
    generation: u32,
    hot: Vec<u32>,
    hot_at: usize,
    cold: Cold,
    turns: Turns,
    leaving: VecDeque<(u32, Why)>,
    calls: u32,
    /// So many looks in vain make a member cold.
    cold_after: u32,
    waiter: Waiter,
    alarm: Alarm,
    /// Nudges that have ended a wait.
    nudged: u32,
}

impl<K> Engine<K> {
    pub(super) fn new(wake: Wake) -> Self {
        let waiter = Waiter::new(wake);
        Self {
            members: Vec::new(),
            free: Vec::new(),
            generation: 0,
            hot: Vec::new(),
            hot_at: 0,
            cold: Cold::default(),
            turns: Turns::default(),
            leaving: VecDeque::new(),
            calls: 0,
            // A cold member's sender rings, which a batching inbox wants to spare it.
            cold_after: if waiter.batches() {
                COLD_AFTER_BATCHING
            } else {
                COLD_AFTER
            },
            waiter,
            alarm: Alarm::new(),
            nudged: 0,
        }
    }

    pub(super) fn add(&mut self, key: K, mut receiver: Receiver) -> Result<MemberId, AddError<K>> {
        if self.len() >= MAX_MEMBERS {
            let receiver = Box::new(receiver);
            return Err(AddError { key, receiver });
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.members.push(None);
            (self.members.len() - 1) as u32
        });
        receiver.unpark();
        let notes = Arc::clone(&self.alarm.notes);
        let on_swap = Arc::new(move || notes.swap());
        receiver.shared().set_on_swap(Some(on_swap));
        self.generation = self.generation.wrapping_add(1);
        self.members[index as usize] = Some(Member {
            key,
            receiver,
            generation: self.generation,
            state: State::Hot {
                place: self.hot.len(),
                in_vain: 0,
            },
            doorbell: None,
            side: None,
            listening: None,
            hung_up: false,
        });
        self.hot.push(index);
        self.look(index);
        Ok(MemberId {
            index,
            generation: self.generation,
        })
    }

    pub(super) fn set_doorbell(&mut self, id: MemberId, doorbell: Doorbell) -> io::Result<()> {
        self.member(id).ok_or(io::ErrorKind::NotFound)?;
        self.alarm.add_doorbell(&doorbell, id.index)?;
        self.drop_doorbell(id.index);
        if let Some(member) = self.member_mut(id) {
            let owner = Bell::of(&member.receiver.shared().current());
            member.doorbell = Some((doorbell, owner));
            if let Some(listening) = member.listening.take() {
                self.alarm.listen_no_more(&listening);
            }
        }
        Ok(())
    }

    fn drop_doorbell(&mut self, index: u32) {
        if let Some(member) = self.members[index as usize].as_mut()
            && let Some((doorbell, _)) = member.doorbell.take()
        {
            self.alarm.remove_doorbell(&doorbell, index);
        }
    }

    pub(super) fn watch_side(&mut self, id: MemberId, side: OwnedFd) -> io::Result<()> {
        let member = self.members.get_mut(id.index as usize);
        let member = member
            .and_then(Option::as_mut)
            .filter(|member| member.generation == id.generation && member.side.is_none())
            .ok_or(io::ErrorKind::NotFound)?;
        self.alarm.add_side(borrowed(&side), id.index)?;
        member.side = Some(side);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<(K, Receiver)> {
        self.member(id)?;
        self.leaving.retain(|&(index, _)| index != id.index);
        self.take_out(id.index)
            .map(|member| (member.key, member.receiver))
    }

    pub(super) fn len(&self) -> usize {
        self.members.len() - self.free.len()
    }

    pub(super) fn cold(&self) -> usize {
        self.cold.len()
    }

    pub(super) fn notes(&self) -> Arc<Notes> {
        Arc::clone(&self.alarm.notes)
    }

    pub(super) fn member(&self, id: MemberId) -> Option<&Member<K>> {
        let member = self.members.get(id.index as usize)?.as_ref();
        member.filter(|member| member.generation == id.generation)
    }

    #[inline]
    pub(super) fn member_mut(&mut self, id: MemberId) -> Option<&mut Member<K>> {
        let member = self.members.get_mut(id.index as usize)?.as_mut();
        member.filter(|member| member.generation == id.generation)
    }

    /// The message that has just been found, of this member.
    #[inline]
    pub(super) fn message<'a>(
        &'a self,
        id: MemberId,
        received: Received,
        body: &'a [u8],
    ) -> Message<'a, K> {
        let member = self.members[id.index as usize].as_ref();
        Message {
            member: id,
            key: &member.expect("found by this call").key,
            received,
            body,
        }
    }

    /// The next event, if there is one now.
    #[inline]
    pub(super) fn poll(&mut self, take: &mut impl Take<K>) -> Option<Found<K>> {
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(COLD_EVERY) {
            self.look_elsewhere();
        } else if (1..=COLD_LOOKS).contains(&self.cold.len()) {
            self.sweep(COLD_LOOKS);
        }
        if !self.leaving.is_empty() {
            return self.leave();
        }
        if let &[only] = &self.hot[..] {
            let found = self.take(only, Lane::LOW, take);
            if found.is_some() {
                return found;
            }
            self.look(only);
            return self.leave();
        }
        self.poll_many(take)
    }

    /// As [`Self::poll`], if there is a choice.
    fn poll_many(&mut self, take: &mut impl Take<K>) -> Option<Found<K>> {
        self.look_around(HOT_LOOKS);
        if let Some(found) = self.serve(take) {
            return Some(found);
        }
        // Nothing known: the members not looked at yet may have something.
        if self.hot.len() > HOT_LOOKS {
            self.look_around(self.hot.len());
        }
        self.serve(take).or_else(|| self.leave())
    }

    /// Looks at what changes less often than messages come.
    fn look_elsewhere(&mut self) {
        self.sweep(COLD_LOOKS);
        if self.calls.is_multiple_of(SIDES_EVERY) {
            self.hear_sides();
        }
        if self.alarm.notes.take_swapped() {
            self.follow_swaps();
        }
    }

    /// Takes the message of whose turn it is.
    fn serve(&mut self, take: &mut impl Take<K>) -> Option<Found<K>> {
        while let Some((lane, index)) = self.turns.next() {
            let found = self.take(index, lane, take);
            if let Some(found) = found {
                return Some(found);
            }
        }
        None
    }

    /// Takes from a member, if what it has next is at least as urgent as this lane; gives the member its
    /// next turn.
    #[inline(always)]
    fn take(&mut self, index: u32, lane: Lane, take: &mut impl Take<K>) -> Option<Found<K>> {
        let member = self.members[index as usize].as_mut()?;
        let ready = match member.receiver.ready_lane() {
            Ok(ready) => ready?,
            Err(fault) => {
                self.expel(index, Why::Fault(fault));
                return None;
            }
        };
        if ready > lane {
            self.turns.join(ready, index);
            return None;
        }
        let generation = member.generation;
        let id = MemberId { index, generation };
        match take.take(id, &member.key, &mut member.receiver, ready) {
            Ok(()) => {
                if self.hot.len() > 1 {
                    self.turns.join(ready, index);
                }
                Some(Found::Message(id))
            }
            Err(fault) => {
                self.expel(index, Why::Fault(fault));
                None
            }
        }
    }

    /// Looks at the next `most` hot members for what they have.
    fn look_around(&mut self, most: usize) {
        for _ in 0..most.min(self.hot.len()) {
            if self.hot_at >= self.hot.len() {
                self.hot_at = 0;
            }
            let Some(&index) = self.hot.get(self.hot_at) else {
                return;
            };
            // One that goes cold is replaced by another in its place.
            self.hot_at += usize::from(self.look(index));
        }
    }

    /// Looks at a hot member. `false` if it is hot no more.
    #[inline]
    fn look(&mut self, index: u32) -> bool {
        let Some(member) = self.members[index as usize].as_mut() else {
            return false;
        };
        let State::Hot { in_vain, .. } = &mut member.state else {
            return false;
        };
        match member.receiver.ready_lane() {
            Ok(Some(lane)) => {
                *in_vain = 0;
                self.turns.join(lane, index);
                true
            }
            Ok(None) => {
                *in_vain += 1;
                if member.hung_up {
                    self.expel(index, Why::HungUp);
                    return false;
                }
                *in_vain < self.cold_after || !self.cool(index)
            }
            Err(fault) => {
                self.expel(index, Why::Fault(fault));
                false
            }
        }
    }

    /// Parks a hot member and makes it cold. `false` if it has something after all.
    fn cool(&mut self, index: u32) -> bool {
        let Some(member) = self.members[index as usize].as_mut() else {
            return false;
        };
        let State::Hot { place, .. } = member.state else {
            return false;
        };
        let receiver = &mut member.receiver;
        // In this order: the bell as it was, parked, one more look. Then a message that this look
        // does not see rings, and the bell differs.
        let bell = Bell::of(&receiver.shared().current());
        let seen = bell.value();
        receiver.park();
        if receiver.ready() {
            receiver.unpark();
            member.state = State::Hot { place, in_vain: 0 };
            return false;
        }
        let cold = self.cold.push(Entry::new(bell, seen, index));
        member.state = State::Cold { place: cold };
        self.leave_hot(place);
        true
    }

    /// Makes a cold member hot, and looks at it.
    fn warm(&mut self, index: u32) {
        let Some(member) = self.members[index as usize].as_mut() else {
            return;
        };
        let State::Cold { place } = member.state else {
            return;
        };
        member.receiver.unpark();
        member.state = State::Hot {
            place: self.hot.len(),
            in_vain: 0,
        };
        self.leave_cold(place);
        self.hot.push(index);
        self.look(index);
    }

    fn leave_hot(&mut self, place: usize) {
        self.hot.swap_remove(place);
        if let Some(&moved) = self.hot.get(place)
            && let Some(member) = self.members[moved as usize].as_mut()
            && let State::Hot { place: old, .. } = &mut member.state
        {
            *old = place;
        }
    }

    fn leave_cold(&mut self, place: usize) {
        if let Some(moved) = self.cold.remove(place)
            && let Some(member) = self.members[moved as usize].as_mut()
        {
            member.state = State::Cold { place };
        }
    }

    /// Looks at the bells of the next `most` cold members.
    #[inline]
    fn sweep(&mut self, mut most: usize) {
        most = most.min(self.cold.len());
        while let Some(index) = self.cold.sweep(&mut most) {
            self.warm(index);
        }
    }

    /// Follows swaps: the bell of a peer that was replaced says nothing any more, and nobody knocks at
    /// its doorbell.
    #[cold]
    fn follow_swaps(&mut self) {
        for index in 0..self.members.len() {
            if let Some(member) = &self.members[index]
                && let Some((_, owner)) = &member.doorbell
                && owner.is_superseded()
            {
                self.drop_doorbell(index as u32);
            }
        }
        let swapped: Vec<u32> = self
            .cold
            .entries()
            .iter()
            .filter(|entry| entry.bell.is_superseded())
            .map(|entry| entry.index)
            .collect();
        swapped.into_iter().for_each(|index| self.warm(index));
    }

    #[cold]
    fn hear_sides(&mut self) {
        let heard = self.alarm.look();
        self.heard(heard);
    }

    fn heard(&mut self, heard: Vec<Heard>) {
        for event in heard {
            match event {
                Heard::Doorbell(index) => {
                    if let Some(member) = &self.members[index as usize]
                        && let Some((doorbell, _)) = &member.doorbell
                        && !doorbell.silence()
                    {
                        // Nobody knocks any more: from now on it is heard by its bell alone.
                        self.drop_doorbell(index);
                    }
                }
                Heard::HangUp(index) => {
                    if let Some(member) = self.members[index as usize].as_mut()
                        && let Some(side) = &member.side
                        && !member.hung_up
                    {
                        self.alarm.remove_side(borrowed(side), index);
                        member.hung_up = true;
                        self.warm(index);
                    }
                }
            }
        }
    }

    /// A member leaves at one of the next calls, and is not looked at any more.
    #[cold]
    fn expel(&mut self, index: u32, why: Why) {
        let Some(member) = self.members[index as usize].as_mut() else {
            return;
        };
        match std::mem::replace(&mut member.state, State::Leaving) {
            State::Hot { place, .. } => self.leave_hot(place),
            State::Cold { place } => self.leave_cold(place),
            State::Leaving => return,
        }
        self.turns.forget(index);
        self.leaving.push_back((index, why));
    }

    #[cold]
    fn leave(&mut self) -> Option<Found<K>> {
        let (index, why) = self.leaving.pop_front()?;
        let member = self.take_out(index)?;
        Some(Found::Left(Box::new(Left {
            member: MemberId {
                index,
                generation: member.generation,
            },
            key: member.key,
            receiver: member.receiver,
            why,
        })))
    }

    fn take_out(&mut self, index: u32) -> Option<Member<K>> {
        match self.members[index as usize].as_ref()?.state {
            State::Hot { place, .. } => self.leave_hot(place),
            State::Cold { place } => self.leave_cold(place),
            State::Leaving => {}
        }
        self.turns.forget(index);
        self.free.push(index);
        let mut member = self.members[index as usize].take()?;
        member.receiver.unpark();
        member.receiver.shared().set_on_swap(None);
        if let Some((doorbell, _)) = &member.doorbell {
            self.alarm.remove_doorbell(doorbell, index);
        }
        if let Some(side) = &member.side
            && !member.hung_up
        {
            self.alarm.remove_side(borrowed(side), index);
        }
        if let Some(listening) = &member.listening {
            self.alarm.listen_no_more(listening);
        }
        Some(member)
    }
}
