//! What the configuration and the limits of the system say by themselves.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::{Case, Finding};
use crate::daemon;
use crate::proxy::{connections_within, descriptors_for};

pub(super) async fn configuration(case: Arc<Case>) -> Vec<Finding> {
    const SUBJECT: &str = "configuration";
    const ADVICE: &str = "change that line, or leave it if it is meant so; 'mtg run --help' explains every key";
    let warnings = case.warnings.iter();
    let mut findings: Vec<_> = warnings.map(|warning| Finding::warn(SUBJECT, &warning.to_string(), ADVICE)).collect();
    if daemon::is_open_to_all(&case.path) {
        findings.push(Finding::warn(
            SUBJECT,
            "every user of this machine can read the file and the secret in it",
            &format!("chmod o-r {}", case.path.display()),
        ));
    }
    if findings.is_empty() { vec![Finding::ok(SUBJECT, "the file has no mistake")] } else { findings }
}

pub(super) async fn open_files(case: Arc<Case>) -> Vec<Finding> {
    const SUBJECT: &str = "open files";
    let wanted = descriptors_for(case.config.concurrency.into());
    vec![match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => Finding::warn(
            SUBJECT,
            &format!(
                "this machine allows {limit} open files, which is enough for {} connections at the same time",
                connections_within(limit)
            ),
            &format!(
                "a family needs some 200: set concurrency to what you need, and this warning is gone; for more \
                 connections raise the limit to {wanted} (ulimit -n; OpenWrt: nofile in /etc/init.d/mtg; systemd: LimitNOFILE)"
            ),
        ),
        Some(limit) => Finding::ok(SUBJECT, &format!("this machine allows {limit}, which is enough")),
        None => Finding::ok(SUBJECT, "this machine has no limit"),
    }]
}
