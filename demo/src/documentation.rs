//! Tests of the READMEs: versions, features, links, and texts that they quote.

use std::collections::{BTreeMap, BTreeSet};

/// A README with the manifest and the crate root that it belongs to.
struct Library {
    name: &'static str,
    readme: &'static str,
    manifest: &'static str,
    root: &'static str,
}

const LIBRARIES: [Library; 2] = [
    Library {
        name: "reqwest-wi-auth",
        readme: include_str!("../../reqwest-wi-auth/README.md"),
        manifest: include_str!("../../reqwest-wi-auth/Cargo.toml"),
        root: include_str!("../../reqwest-wi-auth/src/lib.rs"),
    },
    Library {
        name: "tower-oidc-guard",
        readme: include_str!("../../tower-oidc-guard/README.md"),
        manifest: include_str!("../../tower-oidc-guard/Cargo.toml"),
        root: include_str!("../../tower-oidc-guard/src/lib.rs"),
    },
];
/// Texts of other libraries and of the operating system that the sections on troubleshooting quote.
const OTHER_TEXTS: [&str; 5] = [
    "Connection refused",
    "dns error",
    "error sending request",
    "invalid peer certificate: UnknownIssuer",
    "tunnel error",
];
const README: &str = include_str!("../../README.md");
const WORKSPACE: &str = include_str!("../../Cargo.toml");

/// Returns the lines of a section of a manifest.
fn manifest_section<'a>(manifest: &'a str, section: &str) -> impl Iterator<Item = &'a str> {
    let (_, rest) = manifest.split_once(&format!("[{section}]\n")).unwrap();
    rest.lines().take_while(|line| !line.starts_with('['))
}

/// Returns the part of a version that determines compatibility: `1` or `0.8`.
fn compatibility(version: &str) -> String {
    let mut parts = version.split('.');
    match (parts.next(), parts.next()) {
        (Some("0"), Some(minor)) => format!("0.{minor}"),
        (major, _) => major.unwrap_or_default().to_owned(),
    }
}

/// Returns the versions of the workspace's dependencies as far as they determine compatibility.
fn compatible_versions() -> BTreeMap<&'static str, String> {
    let dependencies = manifest_section(WORKSPACE, "workspace.dependencies");
    let version = |value: &str| -> Option<String> {
        let version = match value.split_once("version = \"") {
            Some((_, rest)) => rest,
            None => value.trim().strip_prefix('"')?,
        };
        Some(compatibility(version.split('"').next()?))
    };
    dependencies
        .filter_map(|line| {
            let (name, value) = line.split_once(" = ")?;
            Some((name, version(value)?))
        })
        .collect()
}

/// Returns the part of a README below a heading, up to the next heading of the second level.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// Returns the lines outside of code blocks.
fn prose(readme: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push(line);
        }
    }
    lines
}

/// Returns the content of each code span, delimited by one backtick or by two.
fn code_spans(text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let fence = if rest[start..].starts_with("``") {
            "``"
        } else {
            "`"
        };
        let content = &rest[start + fence.len()..];
        let end = content
            .find(fence)
            .unwrap_or_else(|| panic!("unclosed code span in {text:?}"));
        spans.push(content[..end].trim());
        rest = &content[end + fence.len()..];
    }
    spans
}

#[test]
fn the_versions_in_the_readmes_are_those_of_the_workspace() {
    let versions = compatible_versions();
    for library in &LIBRARIES {
        let (_, table) = library.readme.split_once("\n### Versions\n").unwrap();
        let rows: Vec<_> = table
            .lines()
            .skip_while(|line| !line.starts_with("| ---"))
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert!(rows.len() >= 10, "{rows:?}");
        for row in rows {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            for cell in cells[0].split(", ") {
                let name = cell.trim_start_matches('[').split(']').next().unwrap();
                let expected = versions.get(name);
                let expected = expected.unwrap_or_else(|| panic!("{name} is no dependency"));
                assert_eq!(cells[1], expected, "{}: {name}", library.name);
            }
        }
    }
}

#[test]
fn the_commands_in_the_readmes_add_existing_features_and_versions_of_the_workspace() {
    let versions = compatible_versions();
    let manifests: BTreeMap<_, _> = LIBRARIES
        .iter()
        .map(|library| (library.name, library.manifest))
        .collect();
    let readmes = LIBRARIES.iter().map(|library| library.readme);
    let mut commands = 0;
    for line in readmes.chain([README]).flat_map(str::lines) {
        let Some((_, arguments)) = line.split_once("cargo add ") else {
            continue;
        };
        let arguments = arguments.split(['`', '#']).next().unwrap();
        commands += 1;
        for argument in arguments.split_whitespace() {
            if let Some((name, version)) = argument.split_once('@') {
                // A longer version is necessary for features that were added later than the first compatible version.
                assert_eq!(Some(&compatibility(version)), versions.get(name), "{line}");
            }
        }
        let library = manifests
            .iter()
            .find(|(name, _)| arguments.contains(**name));
        let features = arguments.split("--features ").nth(1);
        let features = features.and_then(|rest| rest.split_whitespace().next());
        if let (Some((_, manifest)), Some(features)) = (library, features) {
            for feature in features.split(',') {
                let line = format!("{feature} = [");
                let exists = manifest_section(manifest, "features").any(|it| it.starts_with(&line));
                assert!(exists, "the feature {feature} in {arguments:?}");
            }
        }
    }
    assert!(commands >= 20, "{commands} commands");
}

#[test]
fn the_readmes_state_the_minimum_version_of_rust() {
    let (_, rest) = WORKSPACE.split_once("rust-version = \"").unwrap();
    let expected = format!("Rust {}", rest.split('"').next().unwrap());
    let readmes = LIBRARIES.iter().map(|library| library.readme);
    for readme in readmes.chain([README]) {
        assert!(readme.contains(&expected), "{expected}");
    }
}

#[test]
fn each_link_to_an_item_is_defined_for_github_and_for_rustdoc() {
    for library in &LIBRARIES {
        let mut defined = BTreeSet::new();
        for line in library.readme.lines() {
            let Some((label, url)) = line
                .strip_prefix("[`")
                .and_then(|line| line.split_once("`]: "))
            else {
                continue;
            };
            assert!(defined.insert(label), "{label} is defined twice");
            let module = library.name.replace('-', "_");
            if url.starts_with(&format!(
                "https://docs.rs/{}/latest/{module}/",
                library.name
            )) {
                // Otherwise rustdoc would use the URL, and would not notice that the item is renamed.
                let definition = format!("[`{label}`]: crate::");
                assert!(library.root.contains(&definition), "{definition} in lib.rs");
                let item = label.rsplit("::").next().unwrap();
                assert!(url.contains(item), "{label} leads to {url}");
            }
        }
        let is_definition = |line: &&str| line.starts_with("[`") && line.contains("`]: ");
        let mut lines = prose(library.readme);
        lines.retain(|line| !is_definition(line));
        let text = lines.join("\n");
        let uses: BTreeSet<_> = text
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split_once("`]"))
            // A text that the label or the URL of its link follows is no label itself.
            .filter(|(_, rest)| !rest.is_empty() && !rest.starts_with('('))
            .map(|(label, _)| label)
            .collect();
        let unpaired: Vec<_> = uses.symmetric_difference(&defined).collect();
        assert!(unpaired.is_empty(), "{}: {unpaired:?}", library.name);
    }
}

/// Returns the anchors of a README's headings of one level, as GitHub and rustdoc make them.
fn anchors(readme: &str, level: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| -> String {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let lines = prose(readme);
    let headings = lines.iter().filter_map(|line| line.strip_prefix(level));
    headings.map(anchor).collect()
}

#[test]
fn the_links_of_the_root_readme_lead_to_sections() {
    let mut links = 0;
    for library in &LIBRARIES {
        let anchors = &anchors(library.readme, "## ") | &anchors(library.readme, "### ");
        let target = format!("]({}/README.md#", library.name);
        for rest in README.split(&target).skip(1) {
            let anchor = rest.split(')').next().unwrap();
            assert!(anchors.contains(anchor), "{}: #{anchor}", library.name);
            links += 1;
        }
    }
    assert!(links >= 8, "{links} links");
}

#[test]
fn the_contents_of_a_readme_lead_to_its_sections() {
    for library in &LIBRARIES {
        let lines = prose(library.readme);
        let sections = anchors(library.readme, "## ");
        let parts = anchors(library.readme, "### ");
        let text = lines.join("\n");
        let links = |text: &str| -> BTreeSet<String> {
            let targets = text.split("](#").skip(1);
            targets
                .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
                .collect()
        };
        for link in links(&text) {
            let exists = sections.contains(&link) || parts.contains(&link);
            assert!(exists, "{}: #{link} is no heading", library.name);
        }
        let contents = links(text.split("\n## ").next().unwrap());
        let missing: Vec<_> = sections.difference(&contents).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", library.name);
    }
}

#[test]
fn the_tables_on_troubleshooting_quote_texts_that_the_libraries_contain() {
    // A string that is continued on the next line, and one with quotes, as they are at run time.
    let sources: Vec<String> = crate::test_support::library_sources()
        .iter()
        .map(|source| {
            let mut parts = source.split("\\\n");
            let first = parts.next().unwrap_or_default().to_owned();
            let joined = parts.fold(first, |joined, part| joined + part.trim_start());
            joined.replace("\\\"", "\"")
        })
        .collect();
    let is_quoted = |text: &str| {
        let lines = sources.iter().flat_map(|source| source.lines());
        lines.into_iter().any(|line| {
            let mut rest = Some(line);
            for part in text.split('…').map(str::trim) {
                rest = rest.and_then(|rest| Some(rest.split_once(part)?.1));
            }
            rest.is_some()
        })
    };
    for library in &LIBRARIES {
        let troubleshooting = section(library.readme, "Troubleshooting");
        let mut quotes = 0;
        for part in troubleshooting.split("\n### ") {
            // The texts of the compiler are checked by `.ci/quick_start`.
            if part.starts_with("Programs that do not compile\n") {
                continue;
            }
            let rows = part.lines().filter(|line| line.starts_with("| "));
            for row in rows {
                let symptom = row.trim_start_matches("| ").split(" | ").next().unwrap();
                // Single words are names, and what starts with a digit is a status.
                let is_text =
                    |span: &&str| span.contains(' ') && !span.starts_with(char::is_numeric);
                for span in code_spans(symptom).into_iter().filter(is_text) {
                    let exists = is_quoted(span) || OTHER_TEXTS.contains(&span);
                    assert!(exists, "{}: {span:?} is in no library", library.name);
                    quotes += 1;
                }
            }
        }
        assert!(quotes >= 10, "{}: {quotes} quotes", library.name);
    }
}

#[test]
fn the_troubleshooting_of_the_guard_explains_each_reason() {
    let guard = LIBRARIES[1].readme;
    let troubleshooting = section(guard, "Troubleshooting");
    let mut reasons = BTreeSet::new();
    for source in crate::test_support::library_sources() {
        let functions = source.split("fn reason(&self) -> &'static str {\n").skip(1);
        for function in functions {
            let body = function.split("\n    }\n").next().unwrap();
            let arms = body.split("=> \"").skip(1);
            reasons.extend(arms.map(|arm| arm.split('"').next().unwrap().to_owned()));
        }
    }
    assert!(reasons.len() >= 19, "{reasons:?}");
    for reason in reasons {
        let is_explained = troubleshooting.contains(&format!("`{reason}`"));
        assert!(is_explained, "{reason} is not in the troubleshooting");
    }
}
