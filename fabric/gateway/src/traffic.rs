//! The streams of a channel: from the local rings to QUIC and back.
//!
//! A channel that is attached has one task ([`serve`]) with a writer for each lane and one who
//! looks after acknowledgements. Each data stream that the peer opens has a task that reads it
//! ([`read_stream`]). A lane that QUIC or a full ring holds up waits alone: the others have streams
//! and writers of their own, and what has arrived is always taken out of QUIC.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quinn::{RecvStream, SendStream};
use weft_protocol::wire::{
    Control, MAX_STREAM_HEADER_BYTES, StreamHeader, decode_stream_header, encode_stream_header,
};
use weft_types::{LANES, Lane};

use crate::channel::{Attachment, Channel, DeliverError, Ending, MESSAGE_BYTES, State};
use crate::link::{CloseCode, Link};

/// How much is taken out of QUIC at once.
const READ_BYTES: usize = 64 * 1024;

/// How soon a full local ring is tried again. Credit makes this a path that an honest peer never
/// takes.
const FULL_AGAIN: Duration = Duration::from_millis(1);

/// How long the messages of a client that is gone may take to be done.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Carries the channel on this connection until that is over, and says why it is.
///
/// The channel is attached already; afterwards it is not any more.
pub(crate) async fn serve(
    channel: &Arc<Channel>,
    link: &Arc<Link>,
    attachment: Attachment,
) -> Ending {
    let epoch = channel.epoch();
    let header = |lane| StreamHeader {
        channel: channel.id,
        attempt: attachment.attempt,
        epoch,
        direction: channel.direction,
        lane,
    };
    let lanes = join_all(Lane::ALL.map(|lane| write_lane(channel, link, attachment, header(lane))));
    let acknowledgements = acknowledge(channel, link, attachment, epoch);
    let work = async { tokio::join!(lanes, acknowledgements) };
    let mut work = pin!(work);
    // The work never ends by itself: it goes on, or waits to be ended.
    let work = poll_fn(|context| {
        channel.awake(attachment);
        let _ = work.as_mut().poll(context);
        channel.sleep(attachment);
        Poll::<Ending>::Pending
    });
    tokio::select! {
        biased;
        ending = ended(channel, attachment) => return ending,
        _ = link.connection.closed() => channel.end(attachment, Ending::Lost),
        ending = client_gone(channel) => channel.end(attachment, ending),
        _ = work => {}
    }
    ended(channel, attachment).await
}

/// Waits until the channel is not attached here any more.
async fn ended(channel: &Channel, attachment: Attachment) -> Ending {
    let mut states = channel.states();
    let state = states
        .wait_for(|state| !matches!(state, State::Attached(current) if *current == attachment))
        .await;
    match state.as_deref() {
        Ok(State::Ended(ending)) => ending.clone(),
        // Another opening has taken the channel over.
        _ => Ending::Lost,
    }
}

/// Waits until the local client is gone and what it sent is done. Services come back; a channel
/// towards one never ends here.
async fn client_gone(channel: &Channel) -> Ending {
    if channel.direction != weft_protocol::wire::Direction::ToService {
        return pending().await;
    }
    channel.hangs_up().await;
    let deadline = Instant::now() + LINGER;
    while !channel.all_acknowledged() && Instant::now() < deadline {
        tokio::time::sleep(LINGER_LOOK).await;
    }
    Ending::ClientGone
}

/// How often it is looked whether those messages are done.
const LINGER_LOOK: Duration = Duration::from_millis(20);

/// Writes one lane until the channel is attached elsewhere; then waits for ever.
async fn write_lane(
    channel: &Arc<Channel>,
    link: &Arc<Link>,
    attachment: Attachment,
    header: StreamHeader,
) {
    let lane = header.lane;
    let mut stream = None;
    let mut out = Vec::new();
    while let Ok(()) = channel.fill(attachment, lane, &mut out) {
        if out.is_empty() {
            channel.lane_wakes(lane).await;
            continue;
        }
        let written = match &mut stream {
            Some(stream) => write(stream, &out).await,
            None => match open(link, &header).await {
                Ok(opened) => write(stream.insert(opened), &out).await,
                Err(Broken) => Err(Broken),
            },
        };
        if let Err(Broken) = written {
            channel.end(attachment, Ending::Lost);
            break;
        }
        out.clear();
    }
    pending().await
}

/// The stream or its connection is gone, or the peer does not want it.
struct Broken;

async fn write(stream: &mut SendStream, bytes: &[u8]) -> Result<(), Broken> {
    stream.write_all(bytes).await.map_err(|_| Broken)
}

async fn open(link: &Link, header: &StreamHeader) -> Result<SendStream, Broken> {
    let mut stream = link.connection.open_uni().await.map_err(|_| Broken)?;
    let _ = stream.set_priority(LANES as i32 - 1 - i32::from(header.lane.get()));
    let mut bytes = Vec::new();
    encode_stream_header(header, &mut bytes);
    write(&mut stream, &bytes).await?;
    Ok(stream)
}

/// Tells the peer how far the local receiver is, until the channel is attached elsewhere; then
/// waits for ever.
async fn acknowledge(
    channel: &Arc<Channel>,
    link: &Arc<Link>,
    attachment: Attachment,
    epoch: weft_types::Epoch,
) {
    while let Ok(progress) = channel.progress(attachment) {
        if let Some(done) = progress.acknowledge {
            let frame = Control::Acknowledge {
                channel: channel.id,
                attempt: attachment.attempt,
                epoch,
                done,
            };
            if link.say(frame).await.is_err() {
                channel.end(attachment, Ending::Lost);
                break;
            }
            continue;
        }
        match progress.again_in {
            Some(wait) => {
                let _ = tokio::time::timeout(wait, channel.main_wakes()).await;
            }
            None => channel.main_wakes().await,
        }
    }
    pending().await
}

/// Reads one data stream to its end. `find` gives the channel that a header names.
pub(crate) async fn read_stream(
    link: Arc<Link>,
    mut stream: RecvStream,
    find: impl FnOnce(&StreamHeader) -> Option<Arc<Channel>>,
) {
    let mut buffer = Vec::new();
    let header = loop {
        match decode_stream_header(&buffer) {
            Ok(Some((header, used))) => {
                buffer.drain(..used);
                break header;
            }
            Ok(None) => {}
            Err(error) => return link.close(CloseCode::Protocol, &error.to_string()),
        }
        if !read_more(&mut stream, &mut buffer, MAX_STREAM_HEADER_BYTES + 1).await {
            return;
        }
    };
    let attachment = Attachment {
        link: link.id,
        attempt: header.attempt,
    };
    // A channel that is unknown was closed here while this stream was on its way.
    let Some(channel) = find(&header) else { return };
    if !attached(&channel, attachment).await || channel.epoch() != header.epoch {
        return;
    }
    read_messages(&link, &channel, attachment, header.lane, stream, buffer).await;
}

async fn read_messages(
    link: &Link,
    channel: &Channel,
    attachment: Attachment,
    lane: Lane,
    mut stream: RecvStream,
    mut buffer: Vec<u8>,
) {
    loop {
        match channel.deliver(attachment, lane, &buffer) {
            Ok(delivered) => {
                buffer.drain(..delivered.used_bytes);
                if delivered.full {
                    tokio::time::sleep(FULL_AGAIN).await;
                    continue;
                }
            }
            Err(DeliverError::Stale) => return,
            Err(DeliverError::Wire(error)) => {
                return link.close(CloseCode::Protocol, &error.to_string());
            }
        }
        // Less than one message is left over, so this is room for at least one whole one.
        if !read_more(&mut stream, &mut buffer, MESSAGE_BYTES + READ_BYTES).await {
            return;
        }
    }
}

/// Appends what has arrived, up to `most` bytes in the buffer; `false` at the stream's end.
async fn read_more(stream: &mut RecvStream, buffer: &mut Vec<u8>, most: usize) -> bool {
    let room = most.saturating_sub(buffer.len()).min(READ_BYTES);
    match stream.read_chunk(room, true).await {
        Ok(Some(chunk)) => {
            buffer.extend_from_slice(&chunk.bytes);
            true
        }
        Ok(None) | Err(_) => false,
    }
}

/// Waits while the opening is under way; whether the channel is attached here then.
async fn attached(channel: &Channel, attachment: Attachment) -> bool {
    let mut states = channel.states();
    let state = states
        .wait_for(|state| !matches!(state, State::Opening(current) if *current == attachment))
        .await;
    matches!(state.as_deref(), Ok(State::Attached(current)) if *current == attachment)
}
