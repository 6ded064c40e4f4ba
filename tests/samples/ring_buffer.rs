use std::collections::VecDeque;
use std::fmt;

/// Keeps the last `capacity` values and forgets the oldest first.
#[derive(Debug, Clone)]
pub struct RingBuffer<T> {
    values: VecDeque<T>,
    capacity: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum RingError {
    ZeroCapacity,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::ZeroCapacity => write!(f, "a ring buffer needs room for one value"),
        }
    }
}

impl<T: Clone> RingBuffer<T> {
    pub fn new(capacity: usize) -> Result<Self, RingError> {
        if capacity == 0 {
            return Err(RingError::ZeroCapacity);
        }
        Ok(RingBuffer { values: VecDeque::with_capacity(capacity), capacity })
    }

    pub fn push(&mut self, value: T) -> Option<T> {
        let oldest = if self.values.len() == self.capacity {
            self.values.pop_front()
        } else {
            None
        };
        self.values.push_back(value);
        oldest
    }

    pub fn latest(&self, count: usize) -> Vec<T> {
        self.values.iter().rev().take(count).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_value_leaves_first() {
        let mut ring = RingBuffer::new(2).unwrap();
        assert_eq!(ring.push(1), None);
        assert_eq!(ring.push(2), None);
        assert_eq!(ring.push(3), Some(1));
        assert_eq!(ring.latest(5), vec![3, 2]);
    }
}
