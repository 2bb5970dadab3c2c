//! The admin socket: `gatepost outbox` and `gatepost audit` ask a live gateway through it.
//!
//! A Unix socket `admin.sock` in the outbox directory, which only the gateway's user may enter. A client sends two
//! lines: the token in `admin.token` beside the socket, which is new at each start, and a
//! [`Question`](super::protocol::Question) as JSON. The gateway answers with [`Line`](super::protocol::Line)s,
//! the last one `"end"` or an error, and closes. Lines are written as fast as the client reads them, and an answer is
//! never in memory as a whole.

mod client;
mod server;
mod socket;
mod token;

pub use client::ask;
pub use server::Admin;
pub use socket::{SOCKET_NAME, socket_path_error};
