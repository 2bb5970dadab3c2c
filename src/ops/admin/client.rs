//! The client's side of the admin socket.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::socket::{SOCKET_NAME, with_timeout};
use super::token::AdminToken;
use crate::ops::protocol::{Line, Question};

/// Asks the live gateway of `dir`, and passes each line of the answer to `emit` as it arrives, until it breaks off.
///
/// # Errors
/// The token cannot be read, the socket cannot be reached, or the gateway cannot answer or ends before its answer does.
pub async fn ask(dir: &Path, question: &Question, emit: &mut dyn FnMut(Line) -> ControlFlow<()>) -> io::Result<()> {
    let token = AdminToken::read(dir)?;
    let mut stream = BufReader::new(with_timeout(UnixStream::connect(dir.join(SOCKET_NAME))).await?);
    let question = serde_json::to_string(question).map_err(io::Error::other)?;
    let question = format!("{}\n{question}\n", token.as_text());
    with_timeout(stream.write_all(question.as_bytes())).await?;
    let mut lines = stream.lines();
    while let Some(text) = with_timeout(lines.next_line()).await? {
        let line = serde_json::from_str(&text).map_err(|error| {
            let text = format!("cannot read the answer ({error}); the gateway may be of another version of Gatepost");
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        match line {
            Line::End => return Ok(()),
            Line::Error(error) => return Err(io::Error::other(error)),
            line => {
                if emit(line).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the gateway ended before its answer did"))
}
