//! What guards the door beside a naive model of it: other code, slow and plain, that says the same.

mod ip_list;
mod places;
mod replays;

pub(super) use ip_list::ip_list;
pub(super) use places::places;
pub(super) use replays::replays;
