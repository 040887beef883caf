//! docs/reliability.md lists every file with `unsafe`, with the number of occurrences and the
//! reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn every_file_with_unsafe_blocks_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("src"), root.join("examples"), root.join("tests/testbed/src")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let count = count(&path);
                if count > 0 {
                    found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), count);
                }
            }
        }
    }
    let document = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<String, usize> = rows
        .filter(|(file, _)| file.ends_with(".rs"))
        .filter_map(|(file, rest)| Some((file.to_owned(), rest.split_once(" |")?.0.parse().ok()?)))
        .collect();
    assert_eq!(found, documented);
}

/// Counts blocks, functions, implementations and attributes. The lint `undocumented_unsafe_blocks`
/// enforces a reason for each block and implementation.
fn count(path: &Path) -> usize {
    let source = fs::read_to_string(path).expect("a source file");
    let code = source.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let kinds = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe("];
    code.map(|line| kinds.iter().map(|kind| line.matches(kind).count()).sum::<usize>()).sum()
}
