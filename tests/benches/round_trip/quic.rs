//! Raw quinn: one connection, one stream, mutual TLS with the very certificates and settings of the
//! gateways, a current-thread runtime on each side. All else is as quinn comes.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use weft_capability::{NodeIdentity, tls};
use weft_types::NodeName;

use crate::Outcome;
use crate::measure::{Sample, round_trips, windowed};
use crate::plan::QUESTION_BYTES;
use crate::role::{Part, Shape, line};

const PATIENCE: Duration = Duration::from_secs(10);
/// Read from the stream at once.
const READ_BYTES: usize = 64 * 1024;

/// Whom to dial.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) node: String,
}

fn runtime() -> Outcome<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn identity(directory: &str) -> Outcome<NodeIdentity> {
    let read = |file: &str| std::fs::read(Path::new(directory).join(file));
    Ok(NodeIdentity::load(read, SystemTime::now())?)
}

fn endpoint(server: Option<ServerConfig>) -> Outcome<Endpoint> {
    let socket = UdpSocket::from(line()?);
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

pub(crate) fn ask(part: &Part, directory: &str, server: &Server) -> Outcome<Sample> {
    let identity = identity(directory)?;
    let runtime = runtime()?;
    let (endpoint, connection, mut out, mut back) = runtime.block_on(async {
        let mut endpoint = endpoint(None)?;
        let crypto = QuicClientConfig::try_from(tls::client_config(&identity)?)?;
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
        let node: NodeName = server.node.parse()?;
        let name = tls::server_name(identity.bundle(), &node);
        let connecting = endpoint.connect(server.address, &name.to_str())?;
        let connection = tokio::time::timeout(PATIENCE, connecting).await??;
        let (out, back) = connection.open_bi().await?;
        Outcome::Ok((endpoint, connection, out, back))
    })?;
    let sample = match part.shape {
        Shape::RoundTrip => {
            let mut body = vec![0; part.body_bytes];
            round_trips(part.extent, &part.watched, || {
                runtime.block_on(async {
                    out.write_all(&[7; QUESTION_BYTES]).await?;
                    back.read_exact(&mut body).await?;
                    Ok(None)
                })
            })
        }
        Shape::Window(window) => ask_many(part, window, &runtime, &mut out, &mut back),
    }?;
    runtime.block_on(async {
        connection.close(0u32.into(), b"done");
        endpoint.wait_idle().await;
    });
    Ok(sample)
}

fn ask_many(
    part: &Part,
    window: usize,
    runtime: &Runtime,
    out: &mut SendStream,
    back: &mut RecvStream,
) -> Outcome<Sample> {
    let size = part.body_bytes;
    let questions = vec![7; window * QUESTION_BYTES];
    let mut buffer = vec![0; READ_BYTES];
    // Bytes of a message that has come in part.
    let mut rest = 0;
    windowed(part.extent, &part.watched, window, |count| {
        runtime.block_on(async {
            out.write_all(&questions[..count * QUESTION_BYTES]).await?;
            while rest < size {
                rest += back
                    .read(&mut buffer)
                    .await?
                    .ok_or("the other process is gone")?;
            }
            let messages = rest / size;
            rest %= size;
            Ok(messages)
        })
    })
}

pub(crate) fn answer(part: &Part, directory: &str) -> Outcome {
    let identity = identity(directory)?;
    let crypto = QuicServerConfig::try_from(tls::server_config(&identity)?)?;
    runtime()?.block_on(async {
        let endpoint = endpoint(Some(ServerConfig::with_crypto(Arc::new(crypto))))?;
        let incoming = tokio::time::timeout(PATIENCE, endpoint.accept())
            .await?
            .ok_or("nobody came")?;
        let connection = incoming.await?;
        let (mut out, mut back) = connection.accept_bi().await?;
        let window = match part.shape {
            Shape::RoundTrip => 1,
            Shape::Window(window) => window,
        };
        let bodies = vec![7; window * part.body_bytes];
        // Bytes of a question that has come in part.
        let mut rest = 0;
        // Ends when the other side closes the connection, which is no error here.
        while let Ok(Some(chunk)) = back.read_chunk(READ_BYTES, true).await {
            rest += chunk.bytes.len();
            let count = (rest / QUESTION_BYTES).min(window);
            rest %= QUESTION_BYTES;
            if out
                .write_all(&bodies[..count * part.body_bytes])
                .await
                .is_err()
            {
                break;
            }
        }
        endpoint.wait_idle().await;
        Ok(())
    })
}
