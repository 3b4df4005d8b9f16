//! A cursor over bytes that may not all have arrived yet. Nothing else in `proto` takes input apart.

/// Why a [`Reader`] cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// What is there is possible so far; more bytes have to arrive.
    Partial,
    /// No bytes that may still arrive can make this valid.
    Malformed,
}

/// Reads a structure of a declared length of which a prefix has arrived. Integers are big-endian.
///
/// A read beyond the declared end is [`ReadError::Malformed`]; a read beyond what has arrived is
/// [`ReadError::Partial`].
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    arrived: &'a [u8],
    /// Bytes up to the declared end, arrived or not.
    left: usize,
}

impl<'a> Reader<'a> {
    /// Reads a structure of `length` bytes; bytes of `arrived` beyond it are not looked at.
    pub(crate) fn new(arrived: &'a [u8], length: usize) -> Self {
        Self { arrived: arrived.get(..length).unwrap_or(arrived), left: length }
    }

    /// Reads a structure that is there as a whole.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self::new(bytes, bytes.len())
    }

    /// Bytes up to the declared end.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Takes the next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        if count > self.left {
            return Err(ReadError::Malformed);
        }
        let (taken, rest) = self.arrived.split_at_checked(count).ok_or(ReadError::Partial)?;
        self.arrived = rest;
        self.left -= count;
        Ok(taken)
    }

    /// Takes the next `N` bytes as an array.
    pub(crate) fn take_array<const N: usize>(&mut self) -> Result<&'a [u8; N], ReadError> {
        self.take(N)?.first_chunk().ok_or(ReadError::Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        self.take_array::<1>().map(|&[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ReadError> {
        self.take_array().map(|&bytes| u16::from_be_bytes(bytes))
    }

    pub(crate) fn u24(&mut self) -> Result<usize, ReadError> {
        self.take_array::<3>().map(|bytes| bytes.iter().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    /// Takes a nested structure of `length` bytes; it may be there in part only.
    pub(crate) fn sub(&mut self, length: usize) -> Result<Reader<'a>, ReadError> {
        if length > self.left {
            return Err(ReadError::Malformed);
        }
        let sub = Self::new(self.arrived, length);
        self.arrived = self.arrived.get(length..).unwrap_or_default();
        self.left -= length;
        Ok(sub)
    }

    /// Says whether the declared end is reached.
    pub(crate) fn is_at_end(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_declared_end_is_malformed_and_beyond_the_arrived_is_partial() {
        let mut reader = Reader::new(&[1, 2, 3], 5);
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.u16(), Err(ReadError::Partial));
        assert_eq!(reader.take(4), Err(ReadError::Malformed));
        assert_eq!((reader.u8(), reader.left(), reader.u8()), (Ok(3), 2, Err(ReadError::Partial)));
    }

    #[test]
    fn a_nested_structure_ends_where_it_was_declared_to() {
        let mut reader = Reader::new(&[1, 2, 3, 4], 6);
        let mut sub = reader.sub(3).unwrap();
        assert_eq!((sub.u24(), sub.is_at_end(), sub.u8()), (Ok(0x010203), true, Err(ReadError::Malformed)));
        assert_eq!(reader.u8(), Ok(4));
        let mut late = reader.sub(2).unwrap();
        assert_eq!(late.u8(), Err(ReadError::Partial));
        assert!(reader.is_at_end());
    }
}
