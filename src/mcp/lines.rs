//! The framing of the stdio transport, for clients and backends: one message per line.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line of a backend, in bytes. *Chosen*: four times the default request limit. An answer is kept in memory.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line, or the bytes after the last line end.
    Whole,
    /// A line that is too long: its beginning was kept, and the rest was skipped.
    Cut,
    /// The end of the input.
    End,
}

/// Reads the next line into `line`, without its line end and with at most `bytes_max` bytes (I6).
///
/// # Errors
/// The reader's.
pub async fn next_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    bytes_max: usize,
) -> std::io::Result<Line> {
    line.clear();
    let mut is_cut = false;
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            // The last line needs no line end: `printf` writes none, and the SDKs' readers take it.
            return Ok(match (line.is_empty(), is_cut) {
                (true, _) => Line::End,
                (false, true) => Line::Cut,
                (false, false) => Line::Whole,
            });
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let (part, _) = chunk.split_at(end.unwrap_or(chunk.len()));
        let room = bytes_max.saturating_sub(line.len());
        is_cut |= part.len() > room;
        line.extend_from_slice(part.get(..room).unwrap_or(part)); // I6: no line takes more than its limit.
        let used = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(if is_cut { Line::Cut } else { Line::Whole });
        }
    }
}
