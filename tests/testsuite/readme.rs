//! What the README and the manual pages say of the program is what the program says.
//! `MTG_UPDATE=1 cargo test --test testsuite readme::` writes tables and commands anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use nanoserde::DeJson;

const PAGES: [&str; 3] = ["image/man/mtg.1.md", "image/man/mtg.conf.5.md", "image/man/mtg.7.md"];
/// Who writes less than this twice says no more than a name or a command.
const SENTENCE: usize = 60;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a page, or replaces it.
fn check(page: &str, made: &[(&str, String)]) {
    let mut text = read(page);
    for (name, table) in made {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("{page} has no {start}"));
        let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no {end}"));
        if std::env::var_os("MTG_UPDATE").is_none() {
            assert!(found == table, "{page}: {name} is stale, run MTG_UPDATE=1 cargo test --test testsuite readme::");
        }
        text = [before, &start, table, &end, after].concat();
    }
    if std::env::var_os("MTG_UPDATE").is_some() {
        std::fs::write(file(page), text).unwrap();
    }
}

#[test]
fn tables_are_those_of_the_program() {
    let keys = ("keys", mtg::config::markdown());
    check(
        "image/man/mtg.conf.5.md",
        &[keys, ("names", mtg::config::other_names()), ("metrics", mtg::stats::markdown())],
    );
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mtg")).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A command's part of mtg(1), out of its help.
fn part(name: &str) -> String {
    let help = help(&[name]);
    let mut blocks = help.trim_end().split("\n\n");
    let about = blocks.next().and_then(|head| head.split_once(": ")).unwrap().1;
    let usage = blocks.next().and_then(|usage| usage.strip_prefix("Usage: ")).unwrap();
    let mut text = format!("### mtg {name}: {about}\n\n```\n{usage}\n```\n");
    for block in blocks {
        if let Some(flags) = block.strip_prefix("Flags:\n") {
            text += "\n| flag | meaning |\n|---|---|\n";
            for flag in flags.lines() {
                let (names, meaning) = flag.trim_start().split_once("  ").unwrap();
                text += &format!("| `{}` | {} |\n", names.trim_end(), meaning.trim_start());
            }
        } else if !block.starts_with("  ") && !block.ends_with("the keys are:") {
            // A list is a paragraph of its own.
            let mut was_item = false;
            text.push('\n');
            for line in block.lines() {
                let is_item = line.starts_with("- ");
                text += if is_item != was_item { "\n" } else { "" };
                text += &format!("{line}\n");
                was_item = is_item;
            }
        }
    }
    text
}

#[test]
fn commands_of_the_manual_page_are_those_of_the_help() {
    let overview = help(&[]);
    let commands = overview.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let made: Vec<_> = names.map(|name| (name, part(name))).collect();
    assert!(made.len() > 5, "{made:?}");
    check("image/man/mtg.1.md", &made);
    let page = read("image/man/mtg.1.md");
    assert_eq!(page.matches("\n### mtg ").count(), made.len(), "a command that the program does not have");
    let synopsis = page.split("```").nth(1).unwrap();
    for (name, part) in made.iter().filter(|(name, _)| *name != "version") {
        let line =
            synopsis.lines().find(|line| line.starts_with(&format!("mtg {name} "))).unwrap_or_else(|| panic!("{name}"));
        for flag in line.split(['[', ']', ' ']).filter(|word| word.starts_with("--")) {
            assert!(part.contains(flag), "{name} has no {flag}");
        }
    }
}

/// The sentences, items of lists and rows of tables of a text, without line breaks.
fn sentences(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        let begins = ["- ", "|", "```", "1. ", "2. ", "3. "].iter().any(|start| line.starts_with(start));
        if begins || line.trim().is_empty() {
            parts.push(String::new());
        }
        let last = parts.last_mut().unwrap();
        *last += &format!(" {}", line.trim());
    }
    let sentences = parts.iter().flat_map(|part| part.split(". ")).map(|text| text.trim().to_owned());
    sentences.filter(|text| text.len() >= SENTENCE).collect()
}

#[test]
fn no_sentence_stands_twice() {
    let mut seen = BTreeMap::new();
    for name in PAGES.iter().chain(&["README.md"]) {
        for sentence in sentences(&read(name)) {
            if let Some(other) = seen.insert(sentence.clone(), name) {
                panic!("{other} and {name} both say: {sentence}");
            }
        }
    }
    assert!(seen.len() > 300, "only {}", seen.len());
}

/// The name that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "- _".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for name in PAGES.iter().chain(&["README.md"]) {
        let text = read(name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file(name) } else { file(name).with_file_name(path) };
            assert!(path.exists(), "{name}: {target}");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading),
                    "{name}: {target}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} links");
}

/// What whoever follows the README makes.
const MADE: [&str; 2] = ["image/site", "image/.env"];

#[test]
fn every_program_and_test_that_is_named_is_there() {
    let mut seen = 0;
    for name in PAGES.iter().chain(&["README.md"]) {
        let text = read(name);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c)) {
            let word = word.trim_end_matches(['.', '/']);
            let is_ours = ["scripts/", "tests/", "image/", "examples/"].iter().any(|start| word.starts_with(start));
            if is_ours && !MADE.contains(&word) {
                assert!(file(word).exists(), "{name}: {word}");
                seen += 1;
            }
        }
        for command in text.split("`cargo test --test testsuite ").skip(1).map(|rest| rest.split('`').next().unwrap()) {
            for filter in command.split_whitespace().filter(|word| *word != "--") {
                let (module, start) = filter.split_once("::").unwrap_or_else(|| panic!("{name}: {filter}"));
                let claims = read(&format!("tests/testsuite/{module}.rs"));
                assert!(claims.contains(&format!("#[test]\nfn {start}")), "{name}: {filter}");
                seen += 1;
            }
        }
        // The name of a test stands alone, in the style of all names of tests.
        for test in text
            .split('`')
            .filter(|word| word.len() > 40 && word.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c)))
        {
            let files = std::fs::read_dir(file("tests/testsuite"))
                .unwrap()
                .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
            assert!(files.into_iter().any(|text| text.contains(&format!("fn {test}()"))), "{name}: {test}");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen}");
}

#[test]
fn within_one_screen_the_readme_says_what_it_is_how_to_run_it_and_where_to_go_on() {
    let readme = read("README.md");
    let screen: Vec<_> = readme.lines().take(40).collect();
    let screen = screen.join("\n");
    for part in [
        "Telegram",
        "cargo run --release -- simple-run",
        "\nscripts/test\n",
        "(#on-a-router",
        "(#on-a-server)",
        "(#in-a-container)",
        "(#web-proxy",
        "mtg v2",
        "(#when-it-does-not-work)",
        "mtg.conf.5.md#all-keys",
    ] {
        assert!(screen.contains(part), "{part}");
    }
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
