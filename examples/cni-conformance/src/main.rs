//! Tests a CNI plugin against the rules of the specification, from outside.

mod compare;
mod known;
mod options;
mod progress;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use cnikit::conformance::{self, Report, Rule, Suite, Table};

use known::Known;
use options::{Format, Options};
use progress::Line;

/// A "must" rule is broken.
const FAILURES: u8 = 1;

/// There is no verdict. The command line, the environment or the plugin's first `ADD` failed, or
/// every rule was skipped.
const NO_VERDICT: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILURES),
        Err(error) => {
            eprintln!("cni-conformance: {error}");
            ExitCode::from(NO_VERDICT)
        }
    }
}

/// Runs the requested command; returns whether nothing failed.
fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    if options.list {
        return list(options).map(|()| true);
    }
    if !options.compare.is_empty() {
        let reports = options.compare.iter().map(|path| compare::read(path)).collect::<Result<Vec<_>, _>>()?;
        return write(options, &compare::table(&reports)).map(|()| true);
    }
    let suite = suite(options)?;
    let known = options.known.as_deref().map(Known::read).transpose()?;
    let mut line = Line::new(options.color.on(&io::stderr()));
    let report = suite.run_with(&mut |progress| line.show(progress));
    line.clear();
    let report = report?;
    write(options, &render(options, &report)?)?;
    report.require_verdict()?;
    let Some(known) = known else { return Ok(report.is_conformant()) };
    let difference = known.difference(&options.name.clone().unwrap_or_else(|| report.plugin_name()), &report);
    eprint!("{difference}");
    Ok(difference.is_conformant())
}

fn suite(options: &Options) -> Result<Suite, Box<dyn std::error::Error>> {
    let (Some(plugin), Some(config)) = (&options.plugin, &options.config) else {
        return Err("--plugin and --config are required; see --help".into());
    };
    let text = fs::read(config).map_err(|error| format!("cannot read {}: {error}", config.display()))?;
    let config = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", config.display()))?;
    let mut suite = Suite::new(plugin, config)?.timeout(options.timeout()).ifname(&options.ifname);
    if options.chained {
        suite = suite.chained();
    }
    suite = options.cni_path.iter().fold(suite, Suite::with_cni_path);
    suite = options.versions.iter().copied().fold(suite, Suite::with_version);
    suite = options.only.iter().fold(suite, Suite::only);
    suite = options.skip.iter().fold(suite, Suite::skip);
    if let Some(script) = &options.prepare {
        suite = suite.prepare(fs::canonicalize(script).map_err(|error| format!("{}: {error}", script.display()))?);
    }
    suite.validate().map_err(|error| format!("{error}; --list prints the rules"))?;
    Ok(suite)
}

fn list(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    let any = |patterns: &[String], rule: &Rule| patterns.iter().any(|pattern| rule.matches(pattern));
    let wanted = |rule: &&Rule| (options.only.is_empty() || any(&options.only, rule)) && !any(&options.skip, rule);
    for rule in conformance::rules().filter(wanted) {
        let (title, since) = (rule.section.title(), rule.since);
        text += &format!("{:<7} {:<32} {since:<6} {title:<38} {}\n", rule.level, rule.id, rule.description);
    }
    write(options, &text)
}

fn render(options: &Options, report: &Report) -> Result<String, serde_json::Error> {
    Ok(match options.format {
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Junit => report.to_junit(),
        Format::Table => {
            let color = options.output.is_none() && options.color.on(&io::stdout());
            Table::new(report).color(color).to_string()
        }
    })
}

fn write(options: &Options, text: &str) -> Result<(), Box<dyn std::error::Error>> {
    let unwritable = |path: &Path| format!("cannot write {}", path.display());
    match &options.output {
        Some(path) => {
            let mut file = File::create(path).map_err(|error| format!("{}: {error}", unwritable(path)))?;
            file.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", unwritable(path)))?;
        }
        // A reader that closes the pipe early, such as head, is not an error.
        None => match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        },
    }
    Ok(())
}

impl options::Color {
    fn on(self, stream: &impl io::IsTerminal) -> bool {
        match self {
            options::Color::Always => true,
            options::Color::Never => false,
            options::Color::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
        }
    }
}
