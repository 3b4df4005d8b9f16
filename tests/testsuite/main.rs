//! What the program claims: a file for each kind of claim, all in one program, for each plays with [`support`], and as
//! programs of their own they take two and a half times as long to build.

mod cli;
mod counts_everything;
mod dials_telegram;
mod embeds;
mod floods;
mod fronts_everyone_else;
mod ip_lists;
mod layering;
mod memory_is_a_budget;
mod never_freezes;
mod parsers_hold;
mod places;
mod proxy_protocol;
mod readme;
mod relay_holds;
mod reloads;
mod replays;
mod serves_clients;
mod socket_options;
mod socks5;
mod stays_up;
#[path = "../support/mod.rs"]
mod support;
mod support_is_sound;
mod tells_its_owner;
#[cfg(feature = "web")]
mod web_proxy;
