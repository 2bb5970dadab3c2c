//! Messages as lines: how the stdio transport frames them, on both legs.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line of a backend, in bytes. *Chosen*: four times the default request limit; an answer is held in memory.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line.
    Whole,
    /// Too long: `line` holds its beginning, the rest was skipped.
    Cut,
    /// The end: bytes without a line end are no message.
    End,
}

/// Reads the next line into `line`, without its line end, keeping at most `bytes_max` of it (I6).
///
/// # Errors
/// Those of the reader.
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
            // Bytes without a line end are no message: their writer died in the middle.
            return Ok(Line::End);
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
