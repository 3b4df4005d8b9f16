//! What the owner and the memory want of sockets.

use std::sync::Arc;

use smol::lock::Semaphore;

use crate::config::Network;
use crate::net::connect::Dialer;
use crate::net::sockopts::{self, ClientSide, KeepAlive};
use crate::proxy::memory::{FRONT_SOCKET, Shares};

pub(crate) fn keep_alive(network: &Network) -> KeepAlive {
    let wanted = network.keep_alive;
    let count = u32::from(wanted.count);
    KeepAlive { is_on: !wanted.disabled, idle: wanted.idle, interval: wanted.interval, count }
}

pub(super) fn client_side(network: &Network, memory: &Shares) -> ClientSide {
    let bytes = network.notsent_lowat.map_or(memory.notsent, |size| u32::try_from(size.0).unwrap_or(u32::MAX));
    let (buffer, backlog) = (memory.socket, memory.backlog);
    ClientSide { mss: network.client_mss, notsent_lowat: (bytes > 0).then_some(bytes), buffer, backlog }
}

/// Who dials Telegram, on the way that the owner wants.
pub(crate) fn telegram_dialer(network: &Network) -> Dialer {
    Dialer::new(Some(keep_alive(network)), (network.bind_ipv4, network.bind_ipv6)).marked(network.mark)
}

/// Who dials the front; `racers` bounds the sockets that dial at once.
pub(super) fn front_dialer(memory: &Shares, racers: &Arc<Semaphore>) -> Dialer {
    let buffer = memory.socket.unwrap_or(usize::MAX).min(FRONT_SOCKET);
    Dialer::new(None, (None, None)).buffered(Some(buffer)).racing(racers)
}

/// Connections that leave by another way than the owner wants, because they have no mark, work as well as any; so
/// nobody would notice.
pub(super) fn warn_of_missing_mark(network: &Network) {
    if let Some(mark) = network.mark
        && let Err(error) = sockopts::try_mark(mark)
    {
        log::warn!(
            "connections to Telegram have no mark and take the usual way; network.mark needs root or the capability CAP_NET_ADMIN mark={mark:#x} error={error}"
        );
    }
}
