//! How many segments a connection's bytes have come in: the kernel counts them, and tells it over netlink. The same is in
//! TCP_INFO, for which there is no safe call. A kernel without sock_diag, as most routers have, does not tell.
//!
//! Source: `linux/inet_diag.h`, `linux/tcp.h`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST.
const REQUEST: u16 = 1;
/// INET_DIAG_INFO, an attribute that holds a `tcp_info`.
const INFO: u16 = 2;
/// IPPROTO_TCP.
const TCP: u8 = 6;
const HEADER: usize = 16;
/// `inet_diag_msg`, which the attributes follow.
const MESSAGE: usize = 72;
/// Places in `tcp_info`.
const RECEIVED_MSS: usize = 20;
const BYTES_RECEIVED: usize = 128;
const DATA_SEGMENTS_IN: usize = 152;
const ANSWER_MAX: usize = 1024;

/// What has come over a connection so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    /// The end counts for one.
    pub(crate) bytes: u64,
    /// Segments with bytes, repeated ones among them.
    pub(crate) count: u32,
    /// Bytes of the longest one, if that is more than some hundred.
    pub(crate) longest: u32,
}

/// Asks the kernel.
///
/// # Errors
/// It does not tell, or does not know the connection any more.
pub(crate) fn received(connection: &TcpStream) -> io::Result<Segments> {
    let request = request(connection.local_addr()?, connection.peer_addr()?);
    let kernel = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&kernel, &request, SendFlags::empty())?;
    let mut answer = [0; ANSWER_MAX];
    // It answers before the call returns.
    let (length, _) = rustix::net::recv(&kernel, &mut answer, RecvFlags::DONTWAIT)?;
    read(answer.get(..length).unwrap_or_default()).ok_or_else(|| ErrorKind::NotFound.into())
}

/// `nlmsghdr`, then an `inet_diag_req_v2` that names one connection by its addresses.
fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let (family, any) = (if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }, u32::MAX);
    let mut body = vec![u8::try_from(family.as_raw()).unwrap_or_default(), TCP, 1 << (INFO - 1), 0];
    body.extend(any.to_ne_bytes());
    [local, peer].iter().for_each(|address| body.extend(address.port().to_be_bytes()));
    for address in [local, peer] {
        let mut place = [0; 16];
        match address.ip() {
            IpAddr::V4(ip) => place.split_at_mut(4).0.copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => place = ip.octets(),
        }
        body.extend(place);
    }
    // The interface, and a cookie that fits every connection.
    [0, any, any].iter().for_each(|number| body.extend(number.to_ne_bytes()));
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(u32::try_from(HEADER + body.len()).unwrap_or_default().to_ne_bytes());
    [BY_FAMILY, REQUEST].iter().for_each(|number| request.extend(number.to_ne_bytes()));
    request.resize(HEADER, 0);
    request.extend(body);
    request
}

fn read(answer: &[u8]) -> Option<Segments> {
    let kind = answer.get(4..).and_then(<[u8]>::first_chunk)?;
    let mut attributes = answer.get(HEADER + MESSAGE..).filter(|_| u16::from_ne_bytes(*kind) == BY_FAMILY)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == INFO {
            let info = attributes.get(4..length)?;
            let number = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
            return Some(Segments {
                bytes: u64::from_ne_bytes(*info.get(BYTES_RECEIVED..)?.first_chunk()?),
                count: number(DATA_SEGMENTS_IN)?,
                longest: number(RECEIVED_MSS)?,
            });
        }
        // An attribute starts at each multiple of 4, and has a header.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    #[cfg_attr(miri, ignore = "the kernel is asked")]
    fn segments_are_counted_that_one_receive_has_put_together() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            assert_eq!(received(&near).unwrap().count, 0);
            far.set_nodelay(true).unwrap();
            far.write_all(&[1; 4096]).unwrap();
            far.write_all(&[2; 605]).unwrap();
            near.read_exact(&mut [0; 4701]).unwrap();
            let segments = Segments { bytes: 4701, count: 2, longest: 4096 };
            assert_eq!(received(&near).unwrap(), segments, "{local}");
            drop(far);
            assert_eq!(near.read(&mut [0]).unwrap(), 0);
            assert_eq!(received(&near).unwrap(), Segments { bytes: 4702, ..segments }, "{local}");
        }
    }

    #[test]
    fn an_answer_is_read_whatever_it_is_cut_to() {
        let mut info = vec![0; 200];
        info[RECEIVED_MSS..][..4].copy_from_slice(&1448_u32.to_ne_bytes());
        info[BYTES_RECEIVED..][..8].copy_from_slice(&5432_u64.to_ne_bytes());
        info[DATA_SEGMENTS_IN..][..4].copy_from_slice(&4_u32.to_ne_bytes());
        let mut answer = vec![0; HEADER + MESSAGE];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        // An attribute of one byte, which is filled up, and the one that counts.
        for (kind, content) in [(8_u16, &[7][..]), (INFO, &info)] {
            answer.extend((4 + content.len() as u16).to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(content);
            answer.resize(answer.len().next_multiple_of(4), 0);
        }
        assert_eq!(read(&answer), Some(Segments { bytes: 5432, count: 4, longest: 1448 }));
        (0..answer.len()).for_each(|end| assert_eq!(read(&answer[..end]), None, "{end}"));
        // An attribute that says that it has no length.
        answer[HEADER + MESSAGE..][..2].fill(0);
        let _ = read(&answer);
        answer[4] = 2;
        assert_eq!(read(&answer), None);
    }
}
