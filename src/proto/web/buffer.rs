//! Memory for what waits for apps.
//!
//! The bytes of a download are copied twice, out of the socket of their DC and into that of the web server. Memory that
//! was used a moment ago is still in the processor's cache, and what the system gives anew it has to fill with zeros
//! first: both together were half of a download's cost. So what was used last is used first.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::frame::{DATA_MAX, HEADER};

/// Bytes of a buffer: a frame of the greatest length.
pub(crate) const BUFFER: usize = HEADER + DATA_MAX;
/// A frame that leaves more of its buffer unused than this part is given memory of its own.
const UNUSED_PART: usize = 4;

/// Buffers that nobody uses at the moment.
pub(crate) struct Buffers {
    spare: Mutex<Vec<Box<[u8]>>>,
    spare_max: usize,
}

impl Buffers {
    /// Keeps `bytes` of them at most.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { spare: Mutex::default(), spare_max: bytes / BUFFER }
    }

    /// One of [`BUFFER`] bytes, which hold anything.
    pub(crate) fn take(self: &Arc<Self>) -> Bytes {
        let spare = self.lock().pop();
        let memory = spare.unwrap_or_else(|| vec![0; BUFFER].into());
        Bytes { length: memory.len(), memory, home: Some(self.clone()) }
    }

    /// Gives the memory back.
    pub(crate) fn clear(&self) {
        *self.lock() = Vec::new();
    }

    fn give(&self, memory: Box<[u8]>) {
        let mut spare = self.lock();
        if spare.len() < self.spare_max {
            spare.push(memory);
        }
    }

    /// The list is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that wait for an app. Their buffer, if they are in one, is of use again after them.
pub(crate) struct Bytes {
    memory: Box<[u8]>,
    length: usize,
    home: Option<Arc<Buffers>>,
}

impl Bytes {
    /// Leaves the first `length` bytes.
    pub(crate) fn cut(mut self, length: usize) -> Self {
        self.length = length.min(self.length);
        if self.memory.len() - self.length > self.memory.len() / UNUSED_PART {
            return Self::from(self.to_vec());
        }
        self
    }

    /// Memory that they take, bytes.
    pub(crate) fn held(&self) -> usize {
        self.memory.len()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let memory: Box<[u8]> = bytes.into();
        Self { length: memory.len(), memory, home: None }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.length).unwrap_or_default()
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_used_first_and_no_more_is_kept_than_may_be() {
        let buffers = Arc::new(Buffers::new(2 * BUFFER));
        let mut three: Vec<_> = (0..3).map(|_| buffers.take()).collect();
        three[1][0] = 7;
        three.swap(1, 2);
        drop(three);
        assert_eq!(buffers.lock().len(), 2);
        let (first, second) = (buffers.take(), buffers.take());
        assert_eq!((first.len(), first[0], second[0]), (BUFFER, 0, 0));
        drop(first.cut(BUFFER - 1));
        assert_eq!(buffers.take().len(), BUFFER);
        buffers.clear();
        assert_eq!(buffers.lock().len(), 0);
    }

    #[test]
    fn few_bytes_take_little_memory_and_their_buffer_is_free_at_once() {
        let buffers = Arc::new(Buffers::new(BUFFER));
        let mut buffer = buffers.take();
        buffer[..3].copy_from_slice(b"few");
        let few = buffer.cut(3);
        assert_eq!((&*few, few.held(), buffers.lock().len()), (b"few".as_slice(), 3, 1));
        let many = buffers.take().cut(BUFFER - 1);
        assert_eq!((many.len(), many.held(), buffers.lock().len()), (BUFFER - 1, BUFFER, 0));
    }
}
