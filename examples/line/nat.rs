//! An address translator at the near end that forgets who was who when it is told to, as those of mobile networks do.
//!
//! The near end is 10.77.0.2. After the nth `rebind` the far end sees it as 10.77.n.2, and what it still sends to the
//! old addresses vanishes. Before the first one every address passes as it is.

const NEAR: [u8; 4] = [10, 77, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where a packet's addresses are.
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

#[derive(Default)]
pub(crate) struct Nat {
    generation: u8,
}

impl Nat {
    pub(crate) fn rebind(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn outside(&self) -> [u8; 4] {
        let [a, b, _, d] = NEAR;
        [a, b, self.generation, d]
    }

    /// Gives a packet that leaves the near end the address of now.
    pub(crate) fn outward(&self, packet: &mut [u8]) {
        if self.generation != 0 && address(packet, SOURCE) == Some(NEAR) {
            replace(packet, SOURCE, self.outside());
        }
    }

    /// Gives a packet to the near end its true address; false if it is for one that is no more.
    pub(crate) fn inward(&self, packet: &mut [u8]) -> bool {
        match address(packet, DESTINATION).filter(|_| self.generation != 0) {
            Some(to) if to == self.outside() => replace(packet, DESTINATION, NEAR),
            Some(_) => return false,
            None => {}
        }
        true
    }
}

/// An address of an IPv4 packet.
fn address(packet: &[u8], at: usize) -> Option<[u8; 4]> {
    let is_v4 = packet.len() >= 20 && packet[0] >> 4 == 4;
    is_v4.then(|| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// Changes an address and the checksums over it.
fn replace(packet: &mut [u8], at: usize, new: [u8; 4]) {
    let old = [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
    packet[at..at + 4].copy_from_slice(&new);
    correct(packet, 10, old, new);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let is_first = packet[6] & 0x1f == 0 && packet[7] == 0;
    match packet[9] {
        TCP if is_first => correct(packet, header_len + 16, old, new),
        UDP if is_first => correct(packet, header_len + 6, old, new),
        _ => {}
    }
}

/// Corrects a checksum for four bytes that have changed (RFC 1624).
fn correct(packet: &mut [u8], at: usize, old: [u8; 4], new: [u8; 4]) {
    let Some(&[high, low]) = packet.get(at..at + 2) else { return };
    let words = |bytes: [u8; 4]| [u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])];
    let mut sum = u32::from(!u16::from_be_bytes([high, low]));
    for (old, new) in words(old).into_iter().zip(words(new)) {
        sum += u32::from(!old) + u32::from(new);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
