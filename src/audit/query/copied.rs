//! Rows in the binary format of Postgres's COPY, read for half of the processor time of a query's rows.
//!
//! *Spec*: Postgres's documentation of COPY, "Binary Format". All numbers are big-endian: a header (a signature of 11
//! bytes, 4 bytes of flags, the length of an extension in 4 bytes, the extension); rows (the count of fields in 2
//! bytes, and for each its length in 4 bytes, -1 for NULL, and its value); -1 in place of a count at the end.

use bytes::{Bytes, BytesMut};

/// The first bytes of the header.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Divides the data of a COPY into rows.
#[derive(Debug, Default)]
pub(super) struct CopiedRows {
    data: Bytes,
    is_begun: bool,
}

/// A row.
#[derive(Debug)]
pub(super) struct CopiedRow(Bytes);

impl CopiedRows {
    /// Adds the next part of the data. Postgres sends a row in each part; what is between may divide them otherwise.
    pub(super) fn add(&mut self, data: Bytes) {
        if self.data.is_empty() {
            self.data = data;
        } else {
            let mut both = BytesMut::from(std::mem::take(&mut self.data));
            both.extend_from_slice(&data);
            self.data = both.freeze();
        }
    }

    /// The next row that is complete.
    ///
    /// # Errors
    /// The data does not have the format.
    pub(super) fn next_row(&mut self) -> Result<Option<CopiedRow>, sqlx::Error> {
        if !self.is_begun {
            let Some(length) = header_length(&self.data)? else { return Ok(None) };
            drop(self.data.split_to(length));
            self.is_begun = true;
        }
        let Some(length) = row_length(&self.data)? else { return Ok(None) };
        Ok(Some(CopiedRow(self.data.split_to(length))))
    }
}

impl CopiedRow {
    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first fields of the row; `None` for a row with fewer.
    pub(super) fn fields<const N: usize>(&self) -> Option<[Option<&[u8]>; N]> {
        let (_, mut rest) = self.0.split_first_chunk::<2>()?;
        let mut fields = [None; N];
        for field in &mut fields {
            let (length, after) = rest.split_first_chunk()?;
            rest = after;
            if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
                let (value, after) = rest.split_at_checked(length)?;
                (*field, rest) = (Some(value), after);
            }
        }
        Some(fields)
    }
}

/// The length of the header; `None` if it is not complete.
fn header_length(data: &[u8]) -> Result<Option<usize>, sqlx::Error> {
    let begin = data.get(..SIGNATURE.len()).unwrap_or(data);
    if !SIGNATURE.starts_with(begin) {
        return Err(invalid());
    }
    let extension = SIGNATURE.len() + 4;
    let Some(length) = data.get(extension..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| invalid())?;
    let length = extension + 4 + length;
    Ok((data.len() >= length).then_some(length))
}

/// The length of the row at the start of `data`; `None` if it is not complete, and at the end.
fn row_length(data: &[u8]) -> Result<Option<usize>, sqlx::Error> {
    let Some((count, _)) = data.split_first_chunk() else { return Ok(None) };
    let count = match i16::from_be_bytes(*count) {
        -1 => return Ok(None),
        count => usize::try_from(count).map_err(|_| invalid())?,
    };
    let mut at = 2;
    for _ in 0..count {
        let Some(length) = data.get(at..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => at += usize::try_from(length).map_err(|_| invalid())?,
        }
    }
    Ok((data.len() >= at).then_some(at))
}

fn invalid() -> sqlx::Error {
    sqlx::Error::Protocol("the server's COPY data does not have the binary format".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with an extension, rows of three fields, and the end.
    fn data(rows: &[[Option<&[u8]>; 3]]) -> Vec<u8> {
        let mut data = [SIGNATURE, &[0; 4], &3_i32.to_be_bytes(), b"ext"].concat();
        for row in rows {
            data.extend(3_i16.to_be_bytes());
            for field in row {
                data.extend(field.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
                data.extend(field.unwrap_or_default());
            }
        }
        data.extend((-1_i16).to_be_bytes());
        data
    }

    #[test]
    fn rows_are_found_however_the_data_is_divided() {
        let rows: [[Option<&[u8]>; 3]; 3] =
            [[Some(b"a"), None, Some(b"")], [None, None, None], [Some(&[7; 300]), Some(b"x"), None]];
        let data = data(&rows);
        for size in 1..=data.len() {
            let (mut copied, mut found) = (CopiedRows::default(), Vec::new());
            for part in data.chunks(size) {
                copied.add(Bytes::copy_from_slice(part));
                while let Some(row) = copied.next_row().unwrap() {
                    found.push(row);
                }
            }
            let fields: Vec<[Option<&[u8]>; 3]> = found.iter().map(|row| row.fields().unwrap()).collect();
            assert_eq!(fields, rows, "in parts of {size} bytes");
        }
    }

    #[test]
    fn other_data_is_an_error_and_a_short_row_has_no_fields() {
        for bad in [&b"gateway_id,epoch"[..], b"PGCOPY\n\xff\r\n\0\0\0\0\0\xff\xff\xff\xff"] {
            let mut copied = CopiedRows::default();
            copied.add(Bytes::copy_from_slice(bad));
            assert!(copied.next_row().is_err(), "{bad:?}");
        }
        let mut copied = CopiedRows { data: Bytes::from_static(&[0, 1, 0xff, 0xff, 0xff, 0xfe]), is_begun: true };
        assert!(copied.next_row().is_err(), "a length below -1");
        copied.data = Bytes::from_static(&[0xff, 0xfe]);
        assert!(copied.next_row().is_err(), "a count below -1");
        let mut copied = CopiedRows::default();
        copied.add(data(&[[Some(b"a"), None, None]]).into());
        let row = copied.next_row().unwrap().unwrap();
        assert!(row.fields::<3>().is_some() && row.fields::<4>().is_none());
    }
}
