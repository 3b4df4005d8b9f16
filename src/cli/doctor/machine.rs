//! What the configuration and the limits of the system say by themselves.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::{Case, Finding};

pub(super) async fn configuration(case: Arc<Case>) -> Vec<Finding> {
    const SUBJECT: &str = "configuration";
    let warnings = case.warnings.iter();
    let findings: Vec<_> =
        warnings.map(|warning| Finding::warn(SUBJECT, warning.to_string(), "see the README, Configuration")).collect();
    if findings.is_empty() { vec![Finding::ok(SUBJECT, "no objections")] } else { findings }
}

pub(super) async fn open_files(case: Arc<Case>) -> Vec<Finding> {
    const SUBJECT: &str = "open files";
    let wanted = 2 * u64::from(case.config.concurrency) + 24;
    vec![match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => Finding::warn(
            SUBJECT,
            format!("a limit of {limit} allows {} connections at the same time", limit.saturating_sub(24) / 2),
            format!(
                "if that is too few, raise the limit to {wanted} (procd: limits nofile; systemd: LimitNOFILE), or set \
                 concurrency to what you need"
            ),
        ),
        Some(limit) => Finding::ok(SUBJECT, format!("the limit of {limit} is enough")),
        None => Finding::ok(SUBJECT, "there is no limit"),
    }]
}
