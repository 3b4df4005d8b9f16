//! The README's tables are those of the program. `MTG_UPDATE=1 cargo test --test readme` writes them anew.

use std::path::{Path, PathBuf};

use nanoserde::DeJson;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares what stands between `<!-- NAME -->` and `<!-- /NAME -->`, or replaces it.
fn check(name: &str, table: &str) {
    let path = file("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("README.md has no {start}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    if std::env::var_os("MTG_UPDATE").is_some() {
        return std::fs::write(path, [before, &start, table, &end, after].concat()).unwrap();
    }
    assert!(found == table, "README.md: the table of {name} is stale, run MTG_UPDATE=1 cargo test --test readme");
}

#[test]
fn tables_are_those_of_the_program() {
    // One test for both, for two at the same time would write one file.
    check("metrics", &mtg::stats::markdown());
    check("keys", &mtg::config::markdown());
}

/// What of Grafana's format a dashboard cannot do without.
#[derive(DeJson)]
struct Dashboard {
    title: String,
    uid: String,
    #[nserde(rename = "schemaVersion")]
    schema_version: u32,
    panels: Vec<Panel>,
}

#[derive(DeJson)]
struct Panel {
    id: u32,
    title: String,
    #[nserde(rename = "gridPos")]
    grid_pos: Area,
    targets: Vec<Target>,
}

/// Of 24 columns.
#[derive(DeJson)]
struct Area {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(DeJson)]
struct Target {
    expr: String,
    #[nserde(rename = "legendFormat")]
    legend_format: String,
    #[nserde(rename = "refId")]
    ref_id: String,
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

fn dashboard() -> (String, Dashboard) {
    let text = std::fs::read_to_string(file("image/grafana/mtg.json")).unwrap();
    let dashboard = DeJson::deserialize_json(&text).unwrap();
    (text, dashboard)
}

#[test]
fn the_dashboard_has_what_grafana_needs() {
    let (_, dashboard) = dashboard();
    assert!(!dashboard.title.is_empty() && !dashboard.uid.is_empty() && dashboard.schema_version >= 36);
    for (at, panel) in dashboard.panels.iter().enumerate() {
        let area = &panel.grid_pos;
        assert!(area.w > 0 && area.h > 0 && area.x + area.w <= 24 && !panel.title.is_empty(), "{}", panel.title);
        for other in &dashboard.panels[..at] {
            let is_clear = panel.id != other.id && !area.overlaps(&other.grid_pos);
            assert!(is_clear, "{} and {}", panel.title, other.title);
        }
        let names: Vec<_> = panel.targets.iter().map(|target| &target.ref_id).collect();
        assert!((0..names.len()).all(|at| !names[..at].contains(&names[at])) && !names.is_empty(), "{}", panel.title);
    }
}

#[test]
fn the_dashboard_asks_for_labels_that_its_metrics_have() {
    let table = mtg::stats::markdown();
    let (_, dashboard) = dashboard();
    let mut seen = 0;
    for target in dashboard.panels.iter().flat_map(|panel| &panel.targets) {
        let row = table.lines().find(|row| {
            let name = row.split('`').nth(1).unwrap_or("-");
            target.expr.contains(&format!("{name}{{")) || target.expr.contains(&format!("{name}|")) || {
                target.expr.contains(&format!("{name}_bucket{{"))
            }
        });
        let row = row.unwrap_or_else(|| panic!("no metric in {}", target.expr));
        let has =
            |label: &str| ["__name__", "job", "instance", "le"].contains(&label) || row.contains(&format!("`{label}`"));
        let inside = |text: &str, start: &str, end: char| -> Vec<String> {
            text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).map(str::to_owned).collect()
        };
        let matchers = inside(&target.expr, "{", '}').concat();
        let matched = matchers.split(',').filter_map(|pair| pair.split(['=', '!']).next());
        let grouped = inside(&target.expr, "by (", ')');
        let shown = inside(&target.legend_format, "{{", '}');
        for label in matched.chain(grouped.iter().map(String::as_str)).chain(shown.iter().map(String::as_str)) {
            assert!(has(label), "{} has no label {label}", target.expr);
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} labels");
}

#[test]
fn the_dashboard_knows_only_metrics_that_exist() {
    let table = mtg::stats::markdown();
    let (dashboard, _) = dashboard();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words =
        dashboard.split(|c| !is_name(c)).filter(|word| word.starts_with("mtg_") || word.starts_with("process_"));
    let mut seen = 0;
    for word in words {
        let suffixes = ["_bucket", "_sum", "_count", "_total"];
        let name = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
        assert!(table.contains(&format!("| `{name}` |")) || table.contains(&format!("| `{word}` |")), "{word}");
        seen += 1;
    }
    assert!(seen > 10, "only {seen} names");
}
