//! STUN's Binding method (RFC 8489): a question of 20 bytes, and the address that the answer tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{ReadError, Reader};

/// A question: type (2) = Binding request | length (2) = 0 | magic cookie (4) | transaction id (12).
pub(crate) const REQUEST_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const MAGIC_COOKIE: u32 = 0x2112_a442;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;

/// Makes a question; `transaction` is to be random, for it is what the answer is known by.
pub(crate) fn request(transaction: [u8; 12]) -> [u8; REQUEST_LEN] {
    let mut message = [0; REQUEST_LEN];
    let (header, id) = message.split_at_mut(REQUEST_LEN - transaction.len());
    let no_attributes = 0;
    let fields = u64::from(BINDING_REQUEST) << 48 | no_attributes << 32 | u64::from(MAGIC_COOKIE);
    header.copy_from_slice(&fields.to_be_bytes());
    id.copy_from_slice(&transaction);
    message
}

/// The address that `response` says the question came from; none if it is no answer to `request`.
///
/// XOR-MAPPED-ADDRESS is believed before MAPPED-ADDRESS, which some routers rewrite.
pub(crate) fn mapped_address(response: &[u8], request: &[u8; REQUEST_LEN]) -> Option<SocketAddr> {
    let mut reader = Reader::whole(response);
    let (kind, length) = (reader.u16().ok()?, reader.u16().ok()?);
    let identity = reader.take_array::<16>().ok()?;
    if kind != BINDING_SUCCESS || request.get(4..)? != identity {
        return None;
    }
    let mut attributes = reader.sub(length.into()).ok()?;
    let mut plain = None;
    while !attributes.is_at_end() {
        let (kind, length) = (attributes.u16().ok()?, usize::from(attributes.u16().ok()?));
        let value = attributes.take(length).ok()?;
        match kind {
            XOR_MAPPED_ADDRESS => return address(value, identity).ok(),
            MAPPED_ADDRESS => plain = address(value, &[0; 16]).ok(),
            _ => {}
        }
        // Attributes begin at multiples of four. Some servers leave out what fills up the last one.
        let padding = (4 - length % 4) % 4;
        attributes.take(padding.min(attributes.left())).ok()?;
    }
    plain
}

/// Zero (1) | family (1) | port (2) | address (4 or 16), each XORed with the beginning of `mask`.
fn address(value: &[u8], mask: &[u8; 16]) -> Result<SocketAddr, ReadError> {
    let mut reader = Reader::whole(value);
    let (_, family, port) = (reader.u8()?, reader.u8()?, reader.u16()?);
    let ip = match family {
        FAMILY_V4 => IpAddr::V4(Ipv4Addr::from(unmasked(*reader.take_array::<4>()?, mask))),
        FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(unmasked(*reader.take_array::<16>()?, mask))),
        _ => return Err(ReadError::Malformed),
    };
    let port_mask = Reader::whole(mask).u16()?;
    Ok(SocketAddr::new(ip, port ^ port_mask))
}

fn unmasked<const N: usize>(mut bytes: [u8; N], mask: &[u8; 16]) -> [u8; N] {
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{hex, rounds, seeded};

    /// The transaction of RFC 5769.
    const TRANSACTION: &str = "b7e7a701bc34d686fa87dfae";

    fn sent() -> [u8; REQUEST_LEN] {
        request(hex(TRANSACTION).try_into().unwrap())
    }

    fn response(attributes: &str) -> Vec<u8> {
        let attributes = hex(attributes);
        let mut message = hex("0101 0000 2112a442");
        message[3] = attributes.len() as u8;
        message.extend(hex(TRANSACTION));
        message.extend(attributes);
        message
    }

    #[test]
    fn a_request_is_a_header_alone() {
        assert_eq!(sent().to_vec(), hex(&format!("0001 0000 2112a442 {TRANSACTION}")));
    }

    #[test]
    fn the_vectors_of_rfc_5769_are_read() {
        let software = "8022 000b 74657374 20766563 746f7220";
        let v4 = response(&format!("{software} 0020 0008 0001 a147 e112a643"));
        assert_eq!(mapped_address(&v4, &sent()), Some("192.0.2.1:32853".parse().unwrap()));
        let v6 = response(&format!("{software} 0020 0014 0002 a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9"));
        let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(mapped_address(&v6, &sent()), Some(address));
    }

    #[test]
    fn the_last_attribute_needs_no_padding() {
        let unpadded = response("0001 0008 0001 8055 c0000201 8022 0003 616263");
        assert_eq!(mapped_address(&unpadded, &sent()), Some("192.0.2.1:32853".parse().unwrap()));
    }

    #[test]
    fn a_plain_address_counts_where_there_is_no_masked_one() {
        let plain = "0001 0008 0001 8055 c0000201";
        assert_eq!(mapped_address(&response(plain), &sent()), Some("192.0.2.1:32853".parse().unwrap()));
        let both = response(&format!("{plain} 0020 0008 0001 a147 e112a640"));
        assert_eq!(mapped_address(&both, &sent()), Some("192.0.2.2:32853".parse().unwrap()));
    }

    #[test]
    fn answers_to_others_and_cut_ones_are_not_believed() {
        let good = response("0020 0008 0001 a147 e112a643");
        for length in 0..good.len() {
            assert_eq!(mapped_address(&good[..length], &sent()), None, "{length}");
        }
        for at in (0..2).chain(4..20) {
            let mut other = good.clone();
            other[at] ^= 1;
            assert_eq!(mapped_address(&other, &sent()), None, "{at}");
        }
        assert_eq!(mapped_address(&response("0020 0008 0003 a147 e112a643"), &sent()), None);
    }

    #[test]
    fn mutations_do_no_harm() {
        let good = response("8022 0003 74657374 0020 0008 0001 a147 e112a643");
        let mut fill = seeded(1);
        for _ in 0..rounds(20_000) {
            let (mut message, mut change) = (good.clone(), [0; 4]);
            fill(&mut change);
            for pair in change.chunks(2) {
                let at = usize::from(pair[0]) % message.len();
                message[at] = pair[1];
            }
            mapped_address(&message, &sent());
        }
    }
}
