//! How many large bodies the server holds at one time: without a bound, a few clients that send the largest body
//! allowed would take all memory. It must not know what bodies say.

use std::time::Duration;

use http_body::Body as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use api::ApiError;
use base::http::Body;

use crate::server::{Exchange, Server};

/// Bodies up to this length are read and handled as they come: as many requests as may run hold 40 MB of them.
const SMALL_BYTES: u64 = 64 * 1024;
/// How long a client may take to send a larger one: the largest allowed comes in time at 1 Mbit/s.
const READ_TIME: Duration = Duration::from_secs(30);
/// How long a larger one waits for its turn before the client is asked to come back.
const WAIT: Duration = Duration::from_secs(20);
/// Larger bodies that are being read at one time: 48 MB of the largest. Those that send slowly hold up each other
/// and nobody with a small body. Memory is the process's, whatever servers run in it.
static READING: Semaphore = Semaphore::const_new(16);
/// KB of larger bodies that are being handled at one time: as trees, 3 MB of text can take a hundred times that, and
/// seconds of a core. One of the largest is let in alone.
const HANDLING_KB: u32 = 3 * 1024;
static HANDLING: Semaphore = Semaphore::const_new(HANDLING_KB as usize);

/// KB of larger objects that are being changed at one time: a change holds the object several times over, and the
/// fields of many managers take a hundred times their text. A whole one of the largest is let in alone.
const CHANGING_KB: u32 = 1024;
static CHANGING: Semaphore = Semaphore::const_new(CHANGING_KB as usize);

/// Subresources whose bodies are streams that go elsewhere.
const STREAMS: [&str; 5] = ["proxy", "exec", "attach", "portforward", "log"];

/// What a large request holds until it is answered.
pub struct Place(#[allow(dead_code, reason = "held, never looked at")] Vec<SemaphorePermit<'static>>);

/// Lets a request in when there is room for what it brings and for what it changes, an object of `stored` bytes: the
/// body, and the place to keep until the answer where one of the two is large.
pub async fn admit(
    server: &Server,
    exchange: &Exchange,
    body: Body,
    stored: usize,
) -> Result<(Body, Option<Place>), ApiError> {
    let (body, mut held) = enter(server, exchange, body).await?;
    if stored as u64 > SMALL_BYTES {
        let kilobytes = u32::try_from(stored / 1024 + 1).unwrap_or(u32::MAX).min(CHANGING_KB);
        held.push(place(server, &CHANGING, kilobytes).await?);
    }
    Ok((body, Some(Place(held)).filter(|place| !place.0.is_empty())))
}

async fn enter(
    server: &Server,
    exchange: &Exchange,
    body: Body,
) -> Result<(Body, Vec<SemaphorePermit<'static>>), ApiError> {
    let small = body.size_hint().upper().is_some_and(|most| most <= SMALL_BYTES);
    if small || STREAMS.contains(&exchange.info.subresource.as_str()) {
        return Ok((body, Vec::new()));
    }
    let bytes = {
        let _reading = place(server, &READING, 1).await?;
        let read = server.clock.timeout(READ_TIME, crate::write::read_body(body)).await;
        read.unwrap_or_else(|| Err(ApiError::timeout("the request's body did not come in time")))?
    };
    // Schemas become trees several times over, and so do the fields that an apply claims.
    let several = exchange.info.resource == "customresourcedefinitions" || exchange.is_apply();
    let weight = if several { 3 } else { 1 };
    let kilobytes = u32::try_from(weight * (bytes.len() / 1024 + 1)).unwrap_or(u32::MAX).min(HANDLING_KB);
    let handling = place(server, &HANDLING, kilobytes).await?;
    Ok((base::http::full(bytes), vec![handling]))
}

async fn place(
    server: &Server,
    of: &'static Semaphore,
    many: u32,
) -> Result<SemaphorePermit<'static>, ApiError> {
    match server.clock.timeout(WAIT, of.acquire_many(many)).await {
        Some(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::too_many_requests("too many large requests, please try again later", 1)),
    }
}
