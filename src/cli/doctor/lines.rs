//! What decides how clients fare on bad lines: congestion control, and the size of packets on the way out.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Case, Finding};
use crate::net::sockopts::CONGESTION_CONTROL;

/// What Ethernet carries, and so the size of packets where nothing is in the way.
const USUAL_MTU: u32 = 1500;
/// A segment for which every way that carries IPv6 has room, and bounds of those for ways that are narrower still.
const SMALL_SEGMENT: u32 = 1200;
const SEGMENT_MIN: u32 = 536;
/// What a segment's headers take at most.
const HEADERS: u32 = 80;

pub(super) async fn congestion_control(_: Arc<Case>) -> Vec<Finding> {
    const SUBJECT: &str = "congestion control";
    match has_bbr() {
        None => return Vec::new(),
        Some(true) => return vec![Finding::ok(SUBJECT, "clients get bbr, which is fast on bad lines")],
        Some(false) => {}
    }
    let found = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    vec![Finding::warn(
        SUBJECT,
        &format!("clients get {}, for this machine has no bbr", found.trim()),
        &format!("on lines with loss bbr is 5 to 90 times as fast: '{}', then restart mtg", command(Path::new("/"))),
    )]
}

/// Trying would load the module where root may, and so find what the proxy has not.
fn has_bbr() -> Option<bool> {
    let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").ok()?;
    Some(available.split_whitespace().any(|name| name == CONGESTION_CONTROL))
}

/// What a proxy whose clients get `control` lacks, if anything.
pub(in crate::cli) fn bbr_command(control: &str) -> Option<String> {
    let restart = "restart mtg";
    (control != CONGESTION_CONTROL).then(|| match has_bbr() {
        Some(true) => restart.to_owned(),
        _ => format!("{}, then {restart}", command(Path::new("/"))),
    })
}

/// What makes the system have bbr. `root` is `/` but in tests.
fn command(root: &Path) -> &'static str {
    match (root.join("etc/openwrt_release").exists(), root.join("usr/bin/apk").exists()) {
        (true, true) => "apk update && apk add kmod-tcp-bbr",
        (true, false) => "opkg update && opkg install kmod-tcp-bbr",
        (false, _) => "modprobe tcp_bbr && echo tcp_bbr > /etc/modules-load.d/tcp_bbr.conf",
    }
}

pub(super) async fn way_out(case: Arc<Case>) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    let devices = [default_device(&v4), default_device_v6(&v6)];
    let narrowest = devices.into_iter().flatten().filter_map(|device| {
        let mtu = read(&format!("/sys/class/net/{device}/mtu")).trim().parse::<u32>().ok()?;
        Some((mtu, device))
    });
    // A machine without a way out has other findings.
    narrowest.min().map(|(mtu, device)| judge(mtu, device, case.config.network.client_mss)).into_iter().collect()
}

fn judge(mtu: u32, device: &str, client_mss: Option<u16>) -> Finding {
    const SUBJECT: &str = "way out";
    let found = format!("{device} carries packets of {mtu} bytes");
    let segment = SMALL_SEGMENT.min(mtu.saturating_sub(HEADERS)).max(SEGMENT_MIN);
    let is_small_already = client_mss.is_some_and(|size| u32::from(size) <= segment);
    if mtu >= USUAL_MTU || is_small_already {
        return Finding::ok(SUBJECT, &found);
    }
    let advice = format!(
        "if some clients say \"connecting\" for ever, set network.client-mss = {segment}, which costs 2 % of speed: \
         large packets may get lost on such a way, and nobody is told"
    );
    Finding { advice, ..Finding::ok(SUBJECT, &format!("{found}, less than the usual {USUAL_MTU}")) }
}

/// The device of the best default route in `/proc/net/route`: device, destination, gateway, flags, references, uses,
/// metric, mask.
fn default_device(table: &str) -> Option<&str> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[device, "00000000", _, _, _, _, metric, "00000000", ..] = &fields[..] else { return None };
        Some((metric.parse::<u32>().ok()?, device))
    });
    routes.min().map(|(_, device)| device)
}

/// The same in `/proc/net/ipv6_route`: destination, its length, source, its length, gateway, metric, ..., device. The
/// loopback device has an entry that refuses.
fn default_device_v6(table: &str) -> Option<&str> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[destination, "00", _, _, _, metric, _, _, _, device] = &fields[..] else { return None };
        (destination.bytes().all(|digit| digit == b'0') && device != "lo").then_some((metric, device))
    });
    routes.min().map(|(_, device)| device)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      eth1\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      pppoe-wan\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
                      br-lan\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const V6: &str = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
                      00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                      00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                      fe800000000000000000000000000001 00000400 00000001 00000000 00000003     6in4\n\
                      00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                      00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn the_way_out_is_that_of_the_best_default_route() {
        assert_eq!((default_device(V4), default_device_v6(V6)), (Some("pppoe-wan"), Some("6in4")));
        assert_eq!((default_device(""), default_device_v6("nonsense")), (None, None));
    }

    #[test]
    fn small_segments_are_proposed_where_the_way_out_is_narrow_and_they_are_not_set() {
        for (mtu, set, proposed) in
            [(1492, None, "1200"), (1280, Some(1460), "1200"), (1000, None, "920"), (100, None, "536")]
        {
            let finding = judge(mtu, "wan", set);
            assert!(finding.advice.contains(&format!("network.client-mss = {proposed},")), "{finding:?}");
            assert_eq!(finding.grade, Grade::Ok, "most such ways work");
        }
        for (mtu, set) in [(1500, None), (9000, None), (1492, Some(1200)), (1280, Some(536))] {
            assert_eq!(judge(mtu, "wan", set).advice, "", "{mtu} {set:?}");
        }
    }

    #[test]
    fn the_command_for_bbr_is_that_of_the_system() {
        let root = std::env::temp_dir().join(format!("mtg-doctor-lines-{}", std::process::id()));
        assert!(command(&root).starts_with("modprobe tcp_bbr"));
        for (file, start) in [("etc/openwrt_release", "opkg update"), ("usr/bin/apk", "apk update")] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
            assert!(command(&root).starts_with(start));
        }
        fs::remove_dir_all(root).unwrap();
    }
}
