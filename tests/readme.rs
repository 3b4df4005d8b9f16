//! The README's tables are those of the program. `MTG_UPDATE=1 cargo test --test readme` writes them anew.

use std::path::{Path, PathBuf};

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

#[test]
fn the_dashboard_knows_only_metrics_that_exist() {
    let table = mtg::stats::markdown();
    let dashboard = std::fs::read_to_string(file("image/grafana/mtg.json")).unwrap();
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
