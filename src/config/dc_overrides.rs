//! `[[dc-overrides]]`, as mtg 2.1.9 and 2.1.10 had it: tables with `dc` and `ips`. They become lines `dc-override.<n>`.

use super::raw::{RawValue, Statement};

/// The section.
pub(super) const SECTION: &str = "dc-overrides";

/// What the owner should write.
pub(super) const ADVICE: &str = "[[dc-overrides]] is deprecated, write dc-override.N = ip:port instead, N being the DC";

/// One table.
struct Table {
    line: u32,
    dc: Option<u16>,
    addresses: Option<(RawValue, u32)>,
}

/// Puts lines of today in the place of these tables; what is wrong with a table is a line and a text.
pub(super) fn rewrite(statements: Vec<Statement>) -> (Vec<Statement>, Vec<(u32, &'static str)>) {
    let (mut kept, mut tables, mut errors) = (Vec::new(), Vec::<Table>::new(), Vec::new());
    for statement in statements {
        let Some(line) = statement.element else {
            kept.push(statement);
            continue;
        };
        if tables.last().is_none_or(|table| table.line != line) {
            tables.push(Table { line, dc: None, addresses: None });
        }
        let Some(table) = tables.last_mut() else { continue };
        let name = statement.key.rsplit('.').next().unwrap_or_default();
        match (name, statement.value) {
            ("dc", RawValue::One(text)) if table.dc.is_none() => match text.parse() {
                Ok(number @ 1..=0x7fff) => table.dc = Some(number),
                _ => errors.push((statement.line, "dc is not a whole number from 1 to 32767")),
            },
            ("ips", value) if table.addresses.is_none() => table.addresses = Some((value, statement.line)),
            _ => errors.push((statement.line, "[[dc-overrides]] has one dc and one ips, and nothing else")),
        }
    }
    let are_whole = errors.is_empty();
    for Table { line, dc, addresses } in tables {
        match (dc, addresses) {
            (Some(dc), Some((value, line))) => kept.push(Statement {
                key: format!("dc-override.{dc}"),
                section: String::new(),
                element: Some(line),
                line,
                value,
            }),
            _ if are_whole => errors.push((line, "[[dc-overrides]] lacks its dc or its ips")),
            _ => {}
        }
    }
    (kept, errors)
}
