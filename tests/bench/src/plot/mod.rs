//! The documentation's tables and pictures, from the JSON files of the measurements.

mod chart;
mod picture;
mod svg;

use std::fs;
use std::path::Path;

use crate::options::PlotOptions;
use crate::report::Report;
use crate::tables;

use self::picture::PICTURES;

/// Writes the tables between their marks, and the pictures beside the JSON files.
pub(crate) fn run(options: &PlotOptions) {
    let mut docs = read(&options.docs);
    for name in ["add", "net", "net-other-node", "library"] {
        let path = options.data.join(name).with_extension("json");
        if !path.exists() {
            eprintln!("{}: no such file; its tables stay unchanged", path.display());
            continue;
        }
        let report = Report::read(&path);
        docs = replace_between(&docs, &format!("{name} conditions"), &tables::conditions(&report));
        for table in tables::of(&report) {
            docs = replace_between(&docs, table.name, &table.text);
        }
        for picture in PICTURES {
            if let Some(svg) = picture.draw(&report) {
                write(&options.data.join(picture.file), &svg);
            }
        }
    }
    write(&options.docs, &docs);
}

/// Replaces the text between two marks.
fn replace_between(docs: &str, name: &str, text: &str) -> String {
    let [begin, end] = [format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->")];
    let parts = docs.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.unwrap_or_else(|| panic!("no marks for {name}: {begin}{end}"));
    format!("{before}{begin}\n{}\n\n{end}{after}", text.trim_end())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    eprintln!("{}", path.display());
}

#[cfg(test)]
mod tests {
    use super::replace_between;

    #[test]
    fn text_between_the_marks_is_replaced() {
        let docs = "before\n<!-- add -->\n\nold\n\n<!-- end of add -->\nafter\n";
        let new = "before\n<!-- add -->\n\nnew\n\n<!-- end of add -->\nafter\n";
        assert_eq!(replace_between(docs, "add", "new\n"), new);
        assert_eq!(replace_between(new, "add", "new"), new);
    }

    #[test]
    #[should_panic(expected = "no marks for net")]
    fn table_without_marks_panics() {
        replace_between("<!-- add -->\n<!-- end of add -->\n", "net", "new");
    }
}
