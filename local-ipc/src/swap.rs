//! Connecting two halves, and replacing the peer's half while both directions run.
//!
//! A peer is replaced as a whole. The swap hands the successor's half to the sender (consumer swap:
//! from now on its cursors and its parked word count) and to the receiver (producer swap: the old
//! ring is read to its end, then the new one). Each picks it up by itself at its next operation;
//! no lock is taken and nothing is shared on the way of a message but one flag.
//!
//! No wake-up is lost in between: a sender publishes, fences, and looks at the flag; a swap raises
//! the flag, fences, and bumps our bell. Either the sender sees the flag and looks at the
//! successor's parked word, or the bump comes after the message and wakes the successor.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError};

use weft_types::{Lane, PerLane, Sequence};

use crate::bell::{self, Bell, Peer};
use crate::error::{ChannelError, PeerFault, RegionError};
use crate::half::{Cursors, OwnHalf, PeerHalf};
use crate::layout;
use crate::parking;
use crate::raw::OwnWord32;
use crate::receiver::{MAX_FORMER_PEERS, Receiver};
use crate::sender::Sender;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering};
use crate::sys::OwnedFd;
use crate::sys::doorbell::Knocker;

/// What the sender, the receiver and the swappers of one channel end share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) own: OwnHalf,
    own_bell: OwnWord32,
    current: Mutex<Arc<Peer>>,
    /// Where the current peer wants us to knock when we ring.
    doorbell: Mutex<Option<Knocker>>,
    on_swap: Mutex<Option<OnSwap>>,
    pub(crate) for_sender: Inbox,
    pub(crate) for_receiver: Inbox,
}

impl Shared {
    pub(crate) fn current(&self) -> Arc<Peer> {
        Arc::clone(&locked(&self.current))
    }

    /// Bumps our bell, wakes who waits on it, and knocks at the peer's doorbell if it has one.
    #[cold]
    pub(crate) fn ring(&self) {
        parking::bump(&self.own_bell);
        bell::wake_shared(&self.own_bell);
        if let Some(knocker) = &*locked(&self.doorbell) {
            knocker.knock();
        }
    }

    /// Has `tell` called after each swap, for who sleeps elsewhere than on a bell.
    pub(crate) fn set_on_swap(&self, tell: Option<Arc<dyn Fn() + Send + Sync>>) {
        *locked(&self.on_swap) = tell.map(OnSwap);
    }
}

/// Who wants to hear of a swap.
#[derive(Clone)]
struct OnSwap(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for OnSwap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSwap")
    }
}

/// Successors that wait to be picked up by one thread. Its flag is read for every message, so it
/// shares no line with what changes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Inbox {
    raised: AtomicU32,
    waiting: Mutex<Successors>,
}

/// What [`Inbox::take`] gives.
#[derive(Debug, Default)]
pub(crate) struct Successors {
    /// The oldest first.
    pub(crate) peers: Vec<Arc<Peer>>,
    /// Some did not fit: what they had published is lost to this reader.
    pub(crate) overflowed: bool,
}

impl Inbox {
    /// Whether there is something to pick up. Cheap: one load.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        // ORDER(swap): Relaxed; the fence in `publish_before_look` orders it where that matters,
        // and the mutex hands over the halves.
        self.raised.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn take(&self) -> Successors {
        let mut waiting = locked(&self.waiting);
        // ORDER(swap): Relaxed, under the lock: no successor can stay behind unnoticed.
        self.raised.store(0, Ordering::Relaxed);
        std::mem::take(&mut *waiting)
    }

    /// Leaves a successor. One that was never picked up and has published nothing is replaced by
    /// it; a service that dies again and again would otherwise make an idle client keep them all.
    fn put(&self, peer: Arc<Peer>) {
        let mut waiting = locked(&self.waiting);
        let idle = |peer: &Arc<Peer>| {
            let half = &peer.half;
            Lane::ALL
                .into_iter()
                .all(|lane| half.published(lane) == half.first(lane))
        };
        if waiting.peers.last().is_some_and(idle) {
            waiting.peers.pop();
        }
        if waiting.peers.len() >= MAX_FORMER_PEERS {
            waiting.peers.pop();
            waiting.overflowed = true;
        }
        waiting.peers.push(peer);
        // ORDER(swap): Relaxed; the full fence in `Swapper::swap` follows.
        self.raised.store(1, Ordering::Relaxed);
    }

    /// Leaves a successor in place of all others: of several only the last counts for a sender. One
    /// that rests would otherwise keep the halves of the dead.
    fn put_last(&self, peer: Arc<Peer>) {
        let mut waiting = locked(&self.waiting);
        waiting.peers.clear();
        waiting.peers.push(peer);
        // ORDER(swap): Relaxed; the full fence in `Swapper::swap` follows.
        self.raised.store(1, Ordering::Relaxed);
    }
}

/// No code panics while it holds one of these locks, so what they guard is always whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the peer of one channel end. Any thread may hold one.
#[derive(Clone, Debug)]
pub struct Swapper(Arc<Shared>);

impl Swapper {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// Hands the successor's half to the sender and the receiver of this end.
    ///
    /// They pick it up at their next operation. Several swaps may queue up; the receiver then reads
    /// the rings one after the other. Rings our bell, so that the successor looks, and ends all
    /// waits on the old peer's bell.
    pub fn swap(&self, peer: PeerHalf) {
        let peer = Peer::new(peer);
        let old = {
            // Held to the end, so that two swaps reach both inboxes in one order.
            let mut current = locked(&self.0.current);
            self.0.for_receiver.put(Arc::clone(&peer));
            self.0.for_sender.put_last(Arc::clone(&peer));
            std::mem::replace(&mut *current, peer)
        };
        // ORDER(swap): flag, full fence, bump; pairs with publish, full fence, look in `Sender`.
        let _ = parking::publish_before_look();
        self.0.ring();
        // The successor brings a doorbell of its own; until then it has the bell.
        *locked(&self.0.doorbell) = None;
        old.supersede();
        let on_swap = locked(&self.0.on_swap).clone();
        if let Some(OnSwap(tell)) = on_swap {
            tell();
        }
    }

    /// Knocks at this doorbell of the current peer with every ring from now on, and once at once, so
    /// that nothing sent before goes unheard. `fd` is what the peer got from
    /// [`crate::Doorbell::pair`]. Ends with the next swap: the successor brings its own.
    ///
    /// # Errors
    ///
    /// If it is no descriptor of a doorbell. The peer is at fault then.
    pub fn ring_through(&self, fd: OwnedFd) -> io::Result<()> {
        *locked(&self.0.doorbell) = Some(Knocker::new(fd)?);
        self.0.ring();
        Ok(())
    }

    /// The bell of the current peer. After a swap it is another one: see [`Bell::is_superseded`].
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell::of(&self.0.current())
    }

    /// Rings our own bell, whether or not the peer is parked: it then looks at our rings and marks.
    pub fn ring(&self) {
        self.0.ring();
    }

    /// The current peer's cursors, unchecked.
    #[must_use]
    pub fn peer_cursors(&self) -> PerLane<Cursors> {
        self.0.current().half.cursors()
    }

    /// The end of what the current peer has published.
    #[must_use]
    pub fn peer_published(&self, lane: Lane) -> Sequence {
        self.0.current().half.published(lane)
    }

    /// A descriptor of our own half, for the successor of our peer.
    ///
    /// # Errors
    ///
    /// [`RegionError::System`] if this process has no descriptor left.
    pub fn share(&self) -> Result<OwnedFd, RegionError> {
        self.0.own.share()
    }
}

/// Connects our half with the peer's.
///
/// # Errors
///
/// [`PeerFault::Gap`] if the peer's ring starts above what we expect.
pub fn connect(own: OwnHalf, peer: PeerHalf) -> Result<(Sender, Receiver, Swapper), ChannelError> {
    for lane in Lane::ALL {
        let (expected, first) = (own.start.incoming[lane], peer.first(lane));
        if first > expected {
            return Err(PeerFault::Gap {
                lane,
                expected,
                first,
            }
            .into());
        }
    }
    let peer = Peer::new(peer);
    let shared = Arc::new(Shared {
        own_bell: own.memory.word32(layout::BELL_AT),
        own,
        current: Mutex::new(Arc::clone(&peer)),
        doorbell: Mutex::new(None),
        on_swap: Mutex::new(None),
        for_sender: Inbox::default(),
        for_receiver: Inbox::default(),
    });
    Ok((
        Sender::new(Arc::clone(&shared), Arc::clone(&peer)),
        Receiver::new(Arc::clone(&shared), peer),
        Swapper(shared),
    ))
}
