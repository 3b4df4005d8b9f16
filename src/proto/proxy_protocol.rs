//! The PROXY protocol of load balancers: who the client is, said in front of the client's first byte.
//!
//! Reads version 1 (a line of text) and version 2 (binary), writes version 2.
//! Source: `proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2.
//!
//! ```text
//! v1  "PROXY " ("TCP4" | "TCP6") " " source " " destination " " port " " port CR LF     at most 107 bytes
//!     "PROXY UNKNOWN" anything CR LF
//!
//! v2  offset  size
//!     0       12    signature 0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a
//!     12      1     version (high half) = 2, command (low half): 0 LOCAL, 1 PROXY
//!     13      1     family (high half): 1 IPv4, 2 IPv6; transport (low half): 1 stream
//!     14      2     length of the rest, big-endian
//!     16      4+4+2+2 or 16+16+2+2: source, destination, source port, destination port
//!     …             TLVs, skipped
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{ReadError, Reader};

/// The longest v1 header, CR LF included.
const V1_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a v2 header before what its length counts.
const V2_FIXED: usize = 16;
/// The longest rest of a v2 header that is read; balancers add TLVs of some hundred bytes.
const V2_REST_MAX: usize = 4096;
/// Version 2, command LOCAL.
const LOCAL: u8 = 0x20;
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The client's address, and the one that it connected to.
    Proxied { source: SocketAddr, destination: SocketAddr },
    /// The balancer itself (a health check), or it does not know: the addresses of the socket are right.
    Local,
}

/// What a beginning of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Every byte so far belongs to a header that is not complete.
    Partial,
    /// A header, `length` bytes long.
    Done { origin: Origin, length: usize },
    /// No header, or none that a stream over TCP can have.
    Invalid,
}

/// Looks for a header of either version at the start of `input`.
pub(crate) fn parse(input: &[u8]) -> Parsed {
    let parsed = if input.first() == SIGNATURE.first() { parse_v2(input) } else { parse_v1(input) };
    match parsed {
        Ok((origin, length)) => Parsed::Done { origin, length },
        Err(ReadError::Partial) => Parsed::Partial,
        Err(ReadError::Malformed) => Parsed::Invalid,
    }
}

/// Makes a v2 header for a connection that `source` made to `destination`.
///
/// A header has one family: if the two differ, the IPv4 address stands in it as an IPv4-mapped IPv6 address.
pub(crate) fn v2_header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([PROXY, TCP_OVER_IPV4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([PROXY, TCP_OVER_IPV6, 0, 36]);
            header.extend(as_v6(from).octets());
            header.extend(as_v6(to).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn parse_v2(input: &[u8]) -> Result<(Origin, usize), ReadError> {
    must_start(input, SIGNATURE)?;
    let mut reader = Reader::new(input, V2_FIXED + V2_REST_MAX);
    reader.take(SIGNATURE.len())?;
    let command = reader.u8()?;
    if !matches!(command, LOCAL | PROXY) {
        return Err(ReadError::Malformed);
    }
    let family = reader.u8()?;
    let rest = usize::from(reader.u16()?);
    let mut body = reader.sub(rest)?;
    let origin = match (command, family) {
        // The same as UNKNOWN in v1.
        (LOCAL, _) | (_, UNSPECIFIED) => Origin::Local,
        (_, TCP_OVER_IPV4) => addresses(&mut body, |reader| Ok(Ipv4Addr::from(*reader.take_array()?).into()))?,
        (_, TCP_OVER_IPV6) => addresses(&mut body, |reader| Ok(Ipv6Addr::from(*reader.take_array()?).into()))?,
        _ => return Err(ReadError::Malformed),
    };
    body.take(body.left())?;
    Ok((origin, V2_FIXED + rest))
}

fn addresses(
    body: &mut Reader<'_>,
    mut address: impl FnMut(&mut Reader<'_>) -> Result<IpAddr, ReadError>,
) -> Result<Origin, ReadError> {
    let (source, destination) = (address(body)?, address(body)?);
    let (source_port, destination_port) = (body.u16()?, body.u16()?);
    Ok(Origin::Proxied {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn parse_v1(input: &[u8]) -> Result<(Origin, usize), ReadError> {
    must_start(input, V1_START)?;
    let mut reader = Reader::new(input, V1_MAX);
    let rest = input.get(V1_START.len()..).unwrap_or_default();
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
        reader.take(V1_MAX)?;
        return Err(ReadError::Malformed);
    };
    let length = V1_START.len() + end + 2;
    reader.take(length)?;
    let line = rest.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(ReadError::Malformed)?;
    let origin = v1_origin(line).ok_or(ReadError::Malformed)?;
    Ok((origin, length))
}

/// Reads what stands between `PROXY ` and the end of the line.
fn v1_origin(line: &str) -> Option<Origin> {
    if line.split(' ').next() == Some("UNKNOWN") {
        return Some(Origin::Local);
    }
    let words: Vec<_> = line.splitn(6, ' ').collect();
    let [family, source, destination, source_port, destination_port] = words.try_into().ok()?;
    let ip = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    Some(Origin::Proxied {
        source: SocketAddr::new(ip(source)?, port(source_port)?),
        destination: SocketAddr::new(ip(destination)?, port(destination_port)?),
    })
}

/// A port without a sign; the parser of the standard library takes `+80`.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Refuses at the first byte that is not that of `start`.
fn must_start(input: &[u8], start: &[u8]) -> Result<(), ReadError> {
    let is_start = input.iter().zip(start).all(|(found, wanted)| found == wanted);
    if is_start { Ok(()) } else { Err(ReadError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{hex, seeded};

    fn proxied(source: &str, destination: &str) -> Origin {
        Origin::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    /// Headers as balancers send them, and what they say.
    fn good() -> Vec<(Vec<u8>, Origin)> {
        let v4 = hex("c0000201 cb007107 d431 01bb");
        let v6 = hex("20010db8000000000000000000000001 20010db8000000000000000000000002 d431 01bb");
        // Two TLVs as HAProxy sends them: a unique id and a CRC32c.
        let with_tlvs = [&v4[..], &hex("05 0004 61626364 03 0004 01020304")].concat();
        let from_v4 = proxied("192.0.2.1:54321", "203.0.113.7:443");
        let from_v6 = proxied("[2001:db8::1]:54321", "[2001:db8::2]:443");
        vec![
            (b"PROXY TCP4 192.0.2.1 203.0.113.7 54321 443\r\n".to_vec(), from_v4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 54321 443\r\n".to_vec(), from_v6),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 65535\r\n".to_vec(), proxied("[::ffff:c000:201]:1", "[::1]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Local),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), Origin::Local),
            (v2(PROXY, TCP_OVER_IPV4, &v4), from_v4),
            (v2(PROXY, TCP_OVER_IPV4, &with_tlvs), from_v4),
            (v2(PROXY, TCP_OVER_IPV4, &[&v4[..], &[0x04; V2_REST_MAX - 12]].concat()), from_v4),
            (v2(PROXY, TCP_OVER_IPV6, &v6), from_v6),
            (v2(PROXY, UNSPECIFIED, &[]), Origin::Local),
            (v2(LOCAL, UNSPECIFIED, &[]), Origin::Local),
            (v2(LOCAL, TCP_OVER_IPV4, &v4), Origin::Local),
            (v2(LOCAL, 0x31, &[7; 216]), Origin::Local),
        ]
    }

    #[test]
    fn a_header_is_complete_with_its_last_byte_and_says_the_same_whatever_follows() {
        for (header, origin) in good() {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Parsed::Partial, "{cut} of {}", header.escape_ascii());
            }
            for more in [&b""[..], b"\x16\x03\x01", b"\r\n", b"PROXY UNKNOWN\r\n"] {
                let length = header.len();
                assert_eq!(parse(&[&header[..], more].concat()), Parsed::Done { origin, length });
            }
        }
    }

    #[test]
    fn what_is_no_header_of_a_tcp_connection_is_refused() {
        let v4 = hex("c0000201 cb007107 d431 01bb");
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; V1_MAX]].concat();
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"proxy TCP4",
            b"PROXY  TCP4 192.0.2.1 203.0.113.7 54321 443\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.7 54321 443 \r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.7 +4321 443\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.7 54321 65536\r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.7 54321 \r\n",
            b"PROXY TCP4 192.0.2.1 203.0.113.7 54321\r\n",
            b"PROXY TCP4 ::1 ::1 54321 443\r\n",
            b"PROXY TCP6 192.0.2.1 203.0.113.7 54321 443\r\n",
            b"PROXY TCP4 192.0.2.01 203.0.113.7 54321 443\r\n",
            b"PROXY UDP4 192.0.2.1 203.0.113.7 54321 443\r\n",
            b"PROXY UNKNOWNTCP4\r\n",
            b"PROXY \xff\r\n",
            b"PROXY \r\n",
            &long[..V1_MAX],
            b"\r\n\r\n\0\r\nQUIT\r",
            &v2(0x11, TCP_OVER_IPV4, &v4),
            &v2(0x22, TCP_OVER_IPV4, &v4),
            &v2(PROXY, TCP_OVER_IPV4, &v4[..11]),
            &v2(PROXY, TCP_OVER_IPV6, &v4),
            &v2(PROXY, TCP_OVER_IPV4, &[0; V2_REST_MAX + 1]),
        ] {
            assert_eq!(parse(bad), Parsed::Invalid, "{}", bad.escape_ascii());
        }
        for family in [0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32, 0x01, 0x13, 0xff] {
            assert_eq!(parse(&v2(PROXY, family, &[0; 216])), Parsed::Invalid, "{family:02x}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused_at_its_107th_byte() {
        let line = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; V1_MAX]].concat();
        assert_eq!(parse(&line[..V1_MAX - 1]), Parsed::Partial);
        assert_eq!(parse(&line[..V1_MAX]), Parsed::Invalid);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (source, destination, length) in [
            ("192.0.2.1:54321", "203.0.113.7:443", 28),
            ("[2001:db8::1]:54321", "[2001:db8::2]:443", 52),
            ("[2001:db8::1]:54321", "203.0.113.7:443", 52),
            ("192.0.2.1:54321", "[2001:db8::2]:443", 52),
            ("[::ffff:192.0.2.1]:54321", "203.0.113.7:443", 28),
        ] {
            let header = v2_header(source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(header.len(), length);
            let Parsed::Done { origin: Origin::Proxied { source: from, destination: to }, .. } = parse(&header) else {
                panic!("{source} {destination}")
            };
            for (read, written) in [(from, source), (to, destination)] {
                let written: SocketAddr = written.parse().unwrap();
                assert_eq!((read.ip().to_canonical(), read.port()), (written.ip().to_canonical(), written.port()));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 20 000 headers; the cuts of each run")]
    fn no_input_breaks_the_parser() {
        let mut fill = seeded(7);
        let headers = good();
        let (mut done, mut refused) = (0, 0);
        for round in 0..20_000 {
            let mut dice = [0; 4];
            fill(&mut dice);
            let (mut input, _) = headers[round % headers.len()].clone();
            let at = usize::from(dice[0]) % input.len();
            input[at] = dice[1];
            input.truncate(input.len() - usize::from(dice[2] & 3).min(input.len()));
            match parse(&input) {
                Parsed::Done { length, .. } => {
                    assert!(length <= input.len());
                    done += 1;
                }
                Parsed::Invalid => refused += 1,
                Parsed::Partial => {}
            }
        }
        assert!(done > 1000 && refused > 1000, "{done} {refused}");
    }
}
