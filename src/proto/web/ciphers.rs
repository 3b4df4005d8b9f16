//! From the key stream of one end to that of the other, for a stream of the WEB proxy.
//!
//! An AES key takes 240 bytes and more when it is expanded, and each direction has two; an app keeps a dozen streams
//! that say nothing for minutes. So at rest there are keys and a position, and what comes next expands them anew: on any
//! machine less work than the system calls that have brought it.

use mtg_aes_ctr::Aes256Ctr;

use crate::proto::dc::DcId;
use crate::proto::obfuscated2::{ClientFrame, DcFrame, FRAME_LEN, StreamKey};

/// The ciphers of a stream.
pub(crate) struct Ciphers {
    pub(crate) to_dc: Recrypt,
    /// None in fast mode: the DC has encrypted for the client already.
    to_client: Option<Box<Recrypt>>,
}

impl Ciphers {
    /// Makes them and the frame that opens the stream to `dc`, which may be another than the client asked for.
    pub(crate) fn new(
        frame: ClientFrame,
        dc: DcId,
        fast: bool,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> (Self, [u8; FRAME_LEN]) {
        let made = DcFrame::new(frame.tag, dc, fast.then_some(&frame.to_client), fill);
        let to_dc = Recrypt::new(frame.from_client_key, made.to_dc_key, FRAME_LEN as u64);
        let to_client = (!fast).then(|| Box::new(Recrypt::new(made.from_dc, frame.to_client, 0)));
        (Self { to_dc, to_client }, made.bytes)
    }

    /// Changes the next bytes for the client.
    pub(crate) fn for_client(&mut self, bytes: &mut [u8]) {
        if let Some(cipher) = &mut self.to_client {
            cipher.apply(bytes);
        }
    }

    /// Nothing comes for the client now.
    pub(crate) fn rest_for_client(&mut self) {
        if let Some(cipher) = &mut self.to_client {
            cipher.rest();
        }
    }
}

/// Decrypts with one key stream and encrypts with another.
pub(crate) struct Recrypt {
    from: StreamKey,
    to: StreamKey,
    /// Where in both streams the next byte stands.
    position: u64,
    /// Both streams from there on, while bytes come.
    expanded: Option<Box<(Aes256Ctr, Aes256Ctr)>>,
}

impl Recrypt {
    fn new(from: StreamKey, to: StreamKey, position: u64) -> Self {
        Self { from, to, position, expanded: None }
    }

    /// Changes the next bytes.
    pub(crate) fn apply(&mut self, bytes: &mut [u8]) {
        let Self { from, to, position, expanded } = self;
        let (from, to) =
            &mut **expanded.get_or_insert_with(|| Box::new((from.stream_at(*position), to.stream_at(*position))));
        from.apply_keystream(bytes);
        to.apply_keystream(bytes);
        *position += bytes.len() as u64;
    }

    /// Nothing comes for now.
    pub(crate) fn rest(&mut self) {
        self.expanded = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::obfuscated2::tests::client_frame;
    use crate::proto::testing::seeded;

    const KEY: [u8; 16] = [7; 16];

    #[test]
    fn bytes_arrive_whatever_the_pieces_and_the_rests_between_them() {
        for fast in [true, false] {
            let mut fill = seeded(11);
            let (frame, mut client, reads) = client_frame(KEY, [0xdd; 4], 2, &mut fill);
            let frame = ClientFrame::open(&frame, &KEY).unwrap();
            let (mut ciphers, opening) = Ciphers::new(frame, DcId::new(2), fast, &mut fill);
            let mut dc = ClientFrame::open_without_secret(&opening).unwrap();
            let (mut sends, mut reads) = (dc.to_client.stream(), reads.stream());
            for length in [0, 1, 15, 16, 17, 31, 1000, 3, 64, 4096, 5] {
                let sent: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
                let mut bytes = sent.clone();
                client.apply_keystream(&mut bytes);
                ciphers.to_dc.apply(&mut bytes);
                if length % 2 == 1 {
                    ciphers.to_dc.rest();
                }
                dc.from_client.apply_keystream(&mut bytes);
                assert_eq!(bytes, sent, "upload, {length}");
                sends.apply_keystream(&mut bytes);
                ciphers.for_client(&mut bytes);
                ciphers.rest_for_client();
                reads.apply_keystream(&mut bytes);
                assert_eq!(bytes, sent, "download, {length}");
            }
        }
    }

    #[test]
    fn a_stream_at_rest_holds_two_keys_and_nothing_else() {
        let mut fill = seeded(12);
        let (frame, ..) = client_frame(KEY, [0xdd; 4], 2, &mut fill);
        let (mut ciphers, _) = Ciphers::new(ClientFrame::open(&frame, &KEY).unwrap(), DcId::new(2), true, &mut fill);
        assert!(ciphers.to_dc.expanded.is_none() && ciphers.to_client.is_none());
        ciphers.to_dc.apply(&mut [0; 100]);
        assert!(ciphers.to_dc.expanded.is_some());
        ciphers.to_dc.rest();
        assert!(ciphers.to_dc.expanded.is_none());
        assert!(size_of::<Recrypt>() <= 2 * size_of::<StreamKey>() + 16);
    }
}
