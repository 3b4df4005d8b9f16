//! How tasks of the proxy wake one another.

use smol::channel::{Receiver, Sender, bounded};

/// Wakes one waiter; a signal that nobody waits for is kept for the next.
pub(super) struct Signal(Sender<()>, Receiver<()>);

impl Default for Signal {
    fn default() -> Self {
        let (sender, receiver) = bounded(1);
        Self(sender, receiver)
    }
}

impl Signal {
    pub(super) fn send(&self) {
        // A full channel has a signal in it already.
        let _ = self.0.try_send(());
    }

    pub(super) async fn wait(&self) {
        // It cannot be closed, for we hold both of its ends.
        let _ = self.1.recv().await;
    }
}

/// Lets everybody through once it has been opened.
pub(super) struct Gate(Sender<()>, Receiver<()>);

impl Default for Gate {
    fn default() -> Self {
        let (sender, receiver) = bounded(1);
        Self(sender, receiver)
    }
}

impl Gate {
    pub(super) fn open(&self) {
        self.0.close();
    }

    pub(super) async fn wait(&self) {
        // Nothing is ever sent, so this ends when the channel is closed.
        let _ = self.1.recv().await;
    }
}
