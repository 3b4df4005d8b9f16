//! What one direction of a line is like.

use std::time::Duration;

/// A direction is perfect until it is told otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// `delay`, ms: the way takes that long.
    pub(crate) delay: Duration,
    /// `jitter`, ms: and up to that much longer, never overtaking.
    pub(crate) jitter: Duration,
    /// `rate`, Mbit/s, kept as bytes a second; 0 is no limit.
    pub(crate) rate: f64,
    /// `queue`, KiB: bytes that wait for their turn at that rate; 0 is no limit.
    pub(crate) queue: f64,
    /// `loss`, percent, kept as a part of 1.
    pub(crate) loss: f64,
    /// `reorder`, percent, kept as a part of 1: packets that others overtake.
    pub(crate) reorder: f64,
    /// `late`, ms: by how much these come late.
    pub(crate) late: Duration,
    /// `hole`, 1 or 0: nothing comes through.
    pub(crate) is_hole: bool,
    /// `largest`, bytes: larger packets vanish, and nobody is told; 0 is no limit.
    pub(crate) largest: usize,
}

impl Traits {
    /// Obeys `NAME=VALUE`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn set(&mut self, setting: &str) -> Result<(), &'static str> {
        let (name, value) = setting.split_once('=').ok_or("not NAME=VALUE")?;
        let value: f64 = value.parse().map_err(|_| "not a number")?;
        if !(0.0..1e9).contains(&value) {
            return Err("not a number from 0");
        }
        let millis = Duration::from_secs_f64(value / 1e3);
        match name {
            "delay" => self.delay = millis,
            "jitter" => self.jitter = millis,
            "late" => self.late = millis,
            "rate" => self.rate = value * 1e6 / 8.0,
            "queue" => self.queue = value * 1024.0,
            "loss" => self.loss = value / 100.0,
            "reorder" => self.reorder = value / 100.0,
            "hole" => self.is_hole = value != 0.0,
            "largest" => self.largest = value as usize,
            _ => return Err("no such trait"),
        }
        Ok(())
    }
}
