//! Lists of networks as FireHOL publishes them, and whether an address is in one.
//!
//! A line is an address, a network in CIDR notation or nothing; `#` starts a comment, and so does `;` in Spamhaus' lists.
//! Networks become ranges, sorted and merged: all that is ever asked is whether an address is in any. A range of IPv4 takes 8.25 bytes, one of IPv6 33.
//!
//! All lists together have a [`Room`], and a list takes its part of it as it is read: what is too large is refused at
//! the first byte too many, and not when it is there as a whole.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest line; what is longer is no network, whatever it is.
const LINE_MAX: usize = 1024;
/// Ranges of a group: with IPv4 they are two cache lines.
const GROUP: usize = 16;
/// Ranges that a list has memory for at first.
const CAPACITY_MIN: usize = 256;
/// The most memory that is taken more for a list of so much, as a part of that.
const GROWTH_PART: usize = 4;
/// New ranges are merged with those in order when they are this part of them.
const TAIL_PART: usize = 16;
/// And when they are so many: what is merged takes memory for a moment.
const TAIL_MIN: usize = 1024;

/// Memory for lists; clones are the same memory.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<AtomicUsize>);

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Bytes that are free.
    #[cfg(test)]
    fn free(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |free: usize| free.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a list has of the room. Dropping it gives that back.
#[derive(Debug)]
struct Lease {
    room: Room,
    bytes: usize,
    /// The most that the list may have.
    limit: usize,
}

impl Lease {
    /// Takes `bytes` more.
    fn extend(&mut self, bytes: usize) -> Result<(), Fault> {
        if self.bytes + bytes > self.limit {
            return Err(Fault::TooLarge { limit: self.limit });
        }
        if !self.room.take(bytes) {
            return Err(Fault::Crowded);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back what is beyond `bytes`.
    fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.room.give_back(less);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

/// A list that has been read.
#[derive(Debug)]
pub(crate) struct IpList {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    networks: usize,
    lease: Lease,
}

/// First and last addresses, in order, with a gap between any two; while they are read, those that came last stand
/// behind in any order.
#[derive(Debug, Default)]
struct Ranges<T> {
    all: Vec<(T, T)>,
    /// How many of them are in order.
    settled: usize,
    /// The first address of each group. A search among these touches much less memory than one among all.
    groups: Vec<T>,
}

/// Reads a list piece by piece.
#[derive(Debug)]
pub(crate) struct Builder {
    list: IpList,
    /// Why nothing more is read.
    fault: Option<Fault>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    lines: u64,
    bad: BadLines,
    /// A line starts as those of HTML and XML do.
    has_markup: bool,
}

/// The lines that are no network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BadLines {
    pub(crate) count: u64,
    /// The number of the first.
    pub(crate) first: u64,
}

/// Why what has been read is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Most of it is something else, such as a page of HTML.
    Garbage,
    /// It takes more than the `limit` bytes that it may.
    TooLarge { limit: usize },
    /// Other lists that are read at the same time have the memory.
    Crowded,
}

impl IpList {
    /// Whether `ip` is in one of the networks. An IPv4 address in the form of IPv6 counts as IPv4.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.overlap(ip.to_bits(), ip.to_bits()),
            IpAddr::V6(ip) => self.v6.overlap(ip.to_bits(), ip.to_bits()),
        }
    }

    /// Whether any address from `first` to `last` is in one of the networks; both are of one family.
    pub(crate) fn overlaps(&self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.overlap(first.to_bits(), last.to_bits()),
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.overlap(first.to_bits(), last.to_bits()),
            _ => false,
        }
    }

    /// How many networks were listed.
    pub(crate) fn networks(&self) -> usize {
        self.networks
    }

    /// Memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

impl Builder {
    /// Reads a list that may have `limit` bytes of the room.
    pub(crate) fn new(room: Room, limit: usize) -> Self {
        let lease = Lease { room, bytes: 0, limit };
        let list = IpList { v4: Ranges::default(), v6: Ranges::default(), networks: 0, lease };
        Self { list, fault: None, line: Vec::new(), lines: 0, has_markup: false, bad: BadLines::default() }
    }

    /// Takes the next bytes of the text, cut anywhere, and says whether more of it is of any use.
    pub(crate) fn feed(&mut self, mut text: &[u8]) -> bool {
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = text.split_at(end);
            if self.line.is_empty() {
                self.add(line);
            } else {
                self.hold(line);
                let whole = std::mem::take(&mut self.line);
                self.add(&whole);
            }
            if self.fault.is_some() {
                return false;
            }
            text = rest.get(1..).unwrap_or_default();
        }
        self.hold(text);
        true
    }

    /// Why no more of the text is of any use.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Ends the text.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(crate) fn finish(mut self) -> Result<(IpList, BadLines), Fault> {
        let last = std::mem::take(&mut self.line);
        if !last.is_empty() {
            self.add(&last);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut list = self.list;
        let is_page = self.has_markup && self.bad.count > list.networks as u64;
        if is_page || (list.networks == 0 && self.bad.count > 0) {
            return Err(Fault::Garbage);
        }
        list.v4.finish();
        list.v6.finish();
        list.lease.shrink_to(list.bytes());
        Ok((list, self.bad))
    }

    /// Keeps the beginning of a line; of one that is too long, enough to tell that it is.
    fn hold(&mut self, part: &[u8]) {
        let room = (LINE_MAX + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        // No more than is held of a line that comes in pieces, so that the pieces make no difference.
        let line = line.get(..=LINE_MAX).unwrap_or(line);
        let is_long = line.len() > LINE_MAX;
        let line = if self.lines == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let mut parts = line.split(|byte| matches!(byte, b'#' | b';'));
        let text = parts.next().unwrap_or_default().trim_ascii();
        let ends_in_comment = parts.next().is_some();
        if text.is_empty() && (ends_in_comment || !is_long) {
            return;
        }
        if is_long || self.add_network(text).is_none() {
            self.bad.count += 1;
            self.has_markup |= text.starts_with(b"<");
            if self.bad.count == 1 {
                self.bad.first = self.lines;
            }
        }
    }

    fn add_network(&mut self, text: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(text).ok()?;
        let (address, length) = match text.split_once('/') {
            // Numbers may have a sign; lengths have none.
            Some((_, length)) if length.starts_with('+') => return None,
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let IpList { v4, v6, networks, lease } = &mut self.list;
        let kept = match address {
            IpAddr::V4(ip) => v4.add(range_v4(ip.to_bits(), length.unwrap_or(32))?, lease),
            IpAddr::V6(ip) => match (mapped(ip), length.unwrap_or(128)) {
                (Some(ip), length @ 96..=128) => v4.add(range_v4(ip, length - 96)?, lease),
                (_, length) => v6.add(range_v6(ip.to_bits(), length)?, lease),
            },
        };
        *networks += 1;
        self.fault = kept.err();
        Some(())
    }
}

/// An address as a number.
trait Number: Copy + Ord {
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

fn range_v4(ip: u32, length: u32) -> Option<(u32, u32)> {
    let host_bits = u32::MAX.checked_shr(length).unwrap_or(0);
    (length <= 32).then_some((ip & !host_bits, ip | host_bits))
}

fn range_v6(ip: u128, length: u32) -> Option<(u128, u128)> {
    let host_bits = u128::MAX.checked_shr(length).unwrap_or(0);
    (length <= 128).then_some((ip & !host_bits, ip | host_bits))
}

fn mapped(ip: Ipv6Addr) -> Option<u32> {
    ip.to_ipv4_mapped().map(u32::from)
}

impl<T: Number> Ranges<T> {
    /// Memory of one, with its part of a group.
    const SIZE: usize = size_of::<(T, T)>() + size_of::<T>().div_ceil(GROUP);

    /// Takes another range.
    fn add(&mut self, range: (T, T), lease: &mut Lease) -> Result<(), Fault> {
        let tail = self.all.len() - self.settled;
        if tail >= TAIL_MIN.max(self.settled / TAIL_PART) {
            self.settle();
        }
        if self.all.len() == self.all.capacity() {
            self.settle();
            // Whoever merges well needs no more memory.
            if self.all.len() >= self.all.capacity() - self.all.capacity() / GROWTH_PART {
                self.grow(lease)?;
            }
        }
        self.all.push(range);
        Ok(())
    }

    /// Gets memory for twice as many ranges, or for as many as may still be.
    fn grow(&mut self, lease: &mut Lease) -> Result<(), Fault> {
        let more = self.all.capacity().max(CAPACITY_MIN);
        let affordable = (lease.limit - lease.bytes) / Self::SIZE;
        let more = more.min(affordable.max(CAPACITY_MIN));
        lease.extend(more * Self::SIZE)?;
        self.all.reserve_exact(self.all.capacity() - self.all.len() + more);
        Ok(())
    }

    /// Puts all ranges in order and joins those that touch. It takes memory for the new ones a second time.
    fn settle(&mut self) {
        let mut tail = self.all.split_off(self.settled);
        tail.sort_unstable();
        join(&mut tail);
        // From the back, so that nothing is written over that is still to be moved.
        self.all.extend_from_slice(&tail);
        let (mut settled, mut place) = (self.settled, self.all.len());
        while let Some(last) = tail.last() {
            place -= 1;
            match settled.checked_sub(1).and_then(|before| self.all.get(before)) {
                Some(range) if range > last => {
                    settled -= 1;
                    self.all.copy_within(settled..=settled, place);
                }
                _ => {
                    if let (Some(slot), Some(range)) = (self.all.get_mut(place), tail.pop()) {
                        *slot = range;
                    }
                }
            }
        }
        join(&mut self.all);
        self.settled = self.all.len();
    }

    /// There will be no more ranges.
    fn finish(&mut self) {
        self.settle();
        self.all.shrink_to_fit();
        self.groups = self.all.iter().step_by(GROUP).map(|range| range.0).collect();
    }

    /// Whether any range has an address from `first` to `last`.
    fn overlap(&self, first: T, last: T) -> bool {
        // The last range that begins in time decides; those before it have ended even earlier.
        let Some(group) = self.groups.partition_point(|start| *start <= last).checked_sub(1) else { return false };
        let ranges = self.all.get(group * GROUP..).unwrap_or_default();
        let ranges = ranges.get(..GROUP).unwrap_or(ranges);
        let candidate = ranges.iter().take_while(|range| range.0 <= last).last();
        candidate.is_some_and(|range| first <= range.1)
    }

    fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<(T, T)>() + self.groups.capacity() * size_of::<T>()
    }
}

/// Joins ranges in order that touch.
fn join<T: Number>(ranges: &mut Vec<(T, T)>) {
    ranges.dedup_by(|next, kept| {
        let touches = kept.1.next().is_none_or(|after| next.0 <= after);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_judged_alike_wherever_it_is_cut() {
        let blanks = " ".repeat(LINE_MAX + 1);
        for (line, bad) in [
            (format!("{blanks}192.0.2.1"), 1),
            (blanks.clone(), 1),
            (" ".repeat(LINE_MAX), 0),
            (format!("192.0.2.1{blanks}"), 1),
            (format!("#{blanks}"), 0),
        ] {
            let text = format!("10.0.0.1\n10.0.0.2\n{line}\n");
            for cut in [0, 18, 19, 100, text.len() - 5, text.len()] {
                let mut builder = builder();
                builder.feed(&text.as_bytes()[..cut]);
                builder.feed(&text.as_bytes()[cut..]);
                let (list, found) = builder.finish().unwrap();
                assert_eq!((list.networks(), found.count), (2, bad), "{} bytes cut at {cut}", line.len());
            }
        }
    }

    fn builder() -> Builder {
        Builder::new(Room::new(8 << 20), 8 << 20)
    }

    fn read(text: &str) -> (IpList, BadLines) {
        let mut builder = builder();
        builder.feed(text.as_bytes());
        builder.finish().unwrap()
    }

    fn holds(list: &IpList, ip: &str) -> bool {
        list.contains(ip.parse().unwrap())
    }

    #[test]
    fn networks_and_addresses_of_both_families_are_found() {
        let (list, bad) = read(
            "\u{feff}# comment\n\n 10.1.2.3/8 # host bits do not count\r\n192.0.2.7\n2001:db8::1/32\n::ffff:198.51.100.0/120\n::1",
        );
        assert_eq!((bad.count, list.networks()), (0, 5));
        for ip in
            ["10.0.0.0", "10.255.255.255", "192.0.2.7", "::ffff:10.0.0.1", "2001:db8:ffff::", "198.51.100.255", "::1"]
        {
            assert!(holds(&list, ip), "{ip}");
        }
        for ip in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::2", "198.51.101.0"] {
            assert!(!holds(&list, ip), "{ip}");
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let (list, _) = read("10.0.0.0/9\n10.128.0.0/9\n10.5.0.0/16\n11.0.0.0/8\n255.255.255.255\n0.0.0.0\n::/0\n::1");
        assert_eq!(list.v4.all, [(0, 0), (0x0a00_0000, 0x0bff_ffff), (u32::MAX, u32::MAX)]);
        assert_eq!(list.v6.all, [(0, u128::MAX)]);
        assert_eq!((list.networks(), list.bytes()), (8, 3 * 8 + 4 + 32 + 16));
        let (all, _) = read("0.0.0.0/0");
        assert!(holds(&all, "0.0.0.0") && holds(&all, "255.255.255.255") && !holds(&all, "::1"));
    }

    #[test]
    fn a_list_of_spamhaus_is_read() {
        let (list, bad) = read("; DROP list\n; 2026/11/25\n127.0.0.2/32 ; SB000001\n203.0.113.0/24 ; SB000002\n");
        assert_eq!((bad.count, list.networks()), (0, 2));
        assert!(list.contains("203.0.113.9".parse().unwrap()) && list.contains("127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn what_is_not_understood_never_loses_the_rest() {
        let (list, bad) = read("// a list\n192.0.2.1\nfoo: bar\n-- end --\n");
        assert_eq!((bad, list.networks()), (BadLines { count: 3, first: 1 }, 1));
    }

    #[test]
    fn bad_lines_are_counted_and_the_others_kept() {
        let long = format!("{}10.0.0.1", " ".repeat(LINE_MAX));
        let (list, bad) = read(&format!(
            "192.0.2.1\n192.0.2.2\n192.0.2.3\n192.0.2.4\n192.0.2.5\n192.0.2.6\n10.0.0.0/33\nx\n1.2.3\n::/129\n{long}\n1.2.3.4/\n"
        ));
        assert_eq!(bad, BadLines { count: 6, first: 7 });
        assert_eq!((list.networks(), list.v4.all.len()), (6, 1));
    }

    #[test]
    fn a_text_of_something_else_is_no_list() {
        for text in ["<html>\n<body>404</body>\n</html>\n", "<pre>\n10.0.0.1\n</pre>\n", "x\ny\n", &"x".repeat(100_000)]
        {
            let mut builder = builder();
            builder.feed(text.as_bytes());
            assert_eq!(builder.finish().unwrap_err(), Fault::Garbage);
        }
        assert_eq!(read("# nothing\n").0.networks(), 0);
    }

    #[test]
    fn cuts_anywhere_change_nothing() {
        let text = "10.0.0.0/8\n# comment\nrubbish\n2001:db8::/32\r\n192.0.2.1";
        let (whole, bad) = read(text);
        for size in 1..text.len() {
            let mut builder = builder();
            assert!(text.as_bytes().chunks(size).all(|piece| builder.feed(piece)));
            let (list, cut_bad) = builder.finish().unwrap();
            assert_eq!((&list.v4.all, &list.v6.all, cut_bad), (&whole.v4.all, &whole.v6.all, bad), "{size}");
        }
    }

    /// The text of a list of scattered networks, in no order.
    fn scattered(count: u32) -> String {
        (0..count).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1) | 1))).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "a list of 100 000 lines take too long")]
    fn a_list_never_takes_more_than_its_limit_while_it_is_read() {
        let (room, limit) = (Room::new(1 << 20), 100_000);
        let mut builder = Builder::new(room.clone(), limit);
        let text = scattered(100_000);
        let fed = text.as_bytes().chunks(1000).take_while(|piece| builder.feed(piece)).count();
        assert!((100..text.len() / 2000).contains(&fed), "{fed}");
        assert!(builder.list.bytes() <= limit && room.free() + limit >= 1 << 20, "{}", builder.list.bytes());
        assert_eq!(builder.finish().unwrap_err(), Fault::TooLarge { limit });
        assert_eq!(room.free(), 1 << 20, "what is refused keeps nothing");
    }

    #[test]
    #[cfg_attr(miri, ignore = "a list of 200 000 lines take too long")]
    fn a_list_whose_networks_join_may_be_of_any_length() {
        let mut builder = Builder::new(Room::new(64 << 10), 64 << 10);
        for n in 0..200_000u32 {
            assert!(builder.feed(format!("{}\n", std::net::Ipv4Addr::from(n)).as_bytes()));
        }
        let (list, _) = builder.finish().unwrap();
        assert_eq!(list.networks(), 200_000);
        assert_eq!(list.v4.all, [(0, 199_999)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "two lists of 5000 lines take too long")]
    fn lists_that_are_read_at_once_share_the_room_and_give_it_back() {
        let room = Room::new(64 << 10);
        let builders = [(); 2].map(|()| Builder::new(room.clone(), 48 << 10));
        let read = builders.map(|mut builder| {
            let _ = builder.feed(scattered(5000).as_bytes());
            builder.finish()
        });
        let [Ok((list, _)), Err(Fault::Crowded)] = read else { panic!("{read:?}") };
        assert_eq!(room.free(), (64 << 10) - list.bytes());
        drop(list);
        assert_eq!(room.free(), 64 << 10);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a list of 40 000 lines take too long")]
    fn what_is_merged_piece_by_piece_is_what_sorting_all_would_give() {
        let text = scattered(40_000);
        let (list, _) = read(&text);
        let mut wanted: Vec<_> = text.lines().map(|ip| u32::from(ip.parse::<std::net::Ipv4Addr>().unwrap())).collect();
        wanted.sort_unstable();
        let mut wanted: Vec<_> = wanted.into_iter().map(|ip| (ip, ip)).collect();
        join(&mut wanted);
        assert!(list.v4.all == wanted);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a list of 1000 lines, and 4100 look-ups take too long")]
    fn every_range_of_a_long_list_is_found_and_no_gap() {
        let text: String = (0..1000u32).map(|n| format!("{}/31\n", std::net::Ipv4Addr::from(n * 4 + 4))).collect();
        let (list, _) = read(&text);
        assert_eq!(list.v4.all.len(), 1000);
        for ip in 0..4100u32 {
            let is_listed = (4..4004).contains(&ip) && ip % 4 < 2;
            assert_eq!(list.contains(std::net::Ipv4Addr::from(ip).into()), is_listed, "{ip}");
        }
    }

    #[test]
    fn overlaps_see_every_kind_of_neighbourhood() {
        let (list, _) = read("10.0.0.0/24\n10.0.2.0/24");
        let overlaps = |first: &str, last: &str| list.overlaps(first.parse().unwrap(), last.parse().unwrap());
        for (first, last) in [
            ("10.0.0.5", "10.0.0.6"),
            ("9.0.0.0", "10.0.0.0"),
            ("10.0.0.255", "10.0.1.0"),
            ("0.0.0.0", "255.255.255.255"),
        ] {
            assert!(overlaps(first, last), "{first} {last}");
        }
        for (first, last) in [("9.0.0.0", "9.255.255.255"), ("10.0.1.0", "10.0.1.255"), ("10.0.3.0", "10.0.3.0")] {
            assert!(!overlaps(first, last), "{first} {last}");
        }
        assert!(!list.overlaps("::".parse().unwrap(), "ffff::".parse().unwrap()));
    }
}
