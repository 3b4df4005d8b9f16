//! Finding out whether the front leads back to us, as it does behind an SNI router or a port forwarding that sends the
//! front's name to this proxy: every stranger would then go round until the descriptors are used up.
//!
//! Two things tell it. A hello may arrive with which we have just asked the front ourselves. An observer of our line
//! could repeat that, in order to have fronting refused; so it counts only while the front has not answered that hello,
//! as a front that is not us does at once. Or a peer may have the address of one of our own connections to the front,
//! if nothing in between changes addresses; then the front is asked at once, and that peer waits for the answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_io::Timer;

use crate::net::own_ends::OwnEnds;
use crate::proto::tls::RecordHeader;
use crate::proto::tls::client_hello::RANDOM_AT;

/// Time for a front's answer before a hello of our own that arrived is taken for a loop.
const ANSWER: Duration = Duration::from_secs(2);
const ANSWER_STEP: Duration = Duration::from_millis(50);

/// What is known of loops.
#[derive(Default)]
pub(in crate::proxy) struct Loops {
    is_found: AtomicBool,
    /// Held while the front is asked because of a peer's address.
    pub(in crate::proxy) checking: smol::lock::Mutex<()>,
    /// Those of the connections to the front.
    pub(in crate::proxy) own_ends: Arc<OwnEnds>,
    /// Randoms of our hellos that the front has not answered.
    unanswered: Mutex<Vec<[u8; 32]>>,
}

impl Loops {
    /// Notes a hello of our own until it is answered or given up.
    pub(in crate::proxy) fn question(self: &Arc<Self>, random: [u8; 32]) -> Question {
        self.lock().push(random);
        Question { loops: self.clone(), random }
    }

    /// Says whether a peer's first bytes are a hello of our own that the front does not answer.
    pub(in crate::proxy) async fn is_question(&self, received: &[u8]) -> bool {
        let Some(random) = random(received) else { return false };
        let mut waited = Duration::ZERO;
        while self.lock().iter().any(|unanswered| unanswered == random) {
            if waited >= ANSWER {
                return true;
            }
            Timer::after(ANSWER_STEP).await;
            waited += ANSWER_STEP;
        }
        false
    }

    pub(in crate::proxy) fn is_found(&self) -> bool {
        self.is_found.load(Ordering::Relaxed)
    }

    /// Keeps in mind whether there is a loop, and says whether that is news.
    pub(in crate::proxy) fn set_found(&self, is_found: bool) -> bool {
        self.is_found.swap(is_found, Ordering::Relaxed) != is_found
    }

    /// The set is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<[u8; 32]>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The random of a hello that is one record.
fn random(hello: &[u8]) -> Option<&[u8; 32]> {
    let (_, message) = RecordHeader::split_from(hello)?;
    message.get(RANDOM_AT..)?.first_chunk()
}

/// One of our own hellos on its way.
pub(in crate::proxy) struct Question {
    loops: Arc<Loops>,
    random: [u8; 32],
}

impl Question {
    /// The front has sent something.
    pub(in crate::proxy) fn answered(&self) {
        let mut unanswered = self.loops.lock();
        if let Some(place) = unanswered.iter().position(|random| *random == self.random) {
            unanswered.swap_remove(place);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_question_is_no_loop() {
        let loops = Arc::new(Loops::default());
        let question = loops.question([7; 32]);
        let hello = [7; 60];
        assert!(!async_io::block_on(loops.is_question(&hello[..42])));
        let is_loop = async_io::block_on(async {
            let answer = async {
                Timer::after(Duration::from_millis(100)).await;
                question.answered();
            };
            futures_lite::future::zip(loops.is_question(&hello), answer).await.0
        });
        assert!(!is_loop);
        let _question = loops.question([7; 32]);
        assert!(async_io::block_on(loops.is_question(&hello)));
    }
}
