//! The arguments. `cargo xtask bench` builds what is needed and passes the paths; type them by hand
//! only to compare builds that xtask does not know.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::plans::Wanted;

const USAGE: &str = "\
usage: belljar-bench --root DIR --belljar FILE --tract FILE --python FILE [--node FILE --web DIR]
                     [--json FILE] [--plot FILE] [--quick] [--model NAME]... [--table ID]...
                     [--cli FILE]
       belljar-bench --root DIR --belljar FILE --against FILE [--policy FILE]
                     [--against-policy FILE] [--quick] [--model NAME]...
       belljar-bench --root DIR --belljar FILE --lengths MODEL [--quick]
       belljar-bench --root DIR --belljar FILE --python FILE --plans MODEL --inputs FILE
                     [--other FILE] [--quick]
       belljar-bench --root DIR --belljar FILE --python FILE --models FILE [--json FILE] [--quick]
       belljar-bench --root DIR --from FILE --plot FILE

`cargo xtask bench` passes the paths.";

/// All tables, in their order.
pub(crate) const TABLES: [&str; 9] = [
    "run",
    "run-two-threads",
    "rate",
    "cold",
    "workers",
    "first",
    "memory",
    "sandboxes",
    "targets",
];

/// What to do.
pub(crate) struct Options {
    /// The repository, which has the models and expectations, and receives the results.
    pub(crate) root: PathBuf,
    /// The `belljar` program, of the same build as the library this program is linked to.
    pub(crate) belljar: PathBuf,
    /// The command line that is started cold; `belljar` unless an older build is measured.
    pub(crate) cli: PathBuf,
    /// The program `tract-peer`.
    pub(crate) tract: PathBuf,
    /// A Python that can import onnxruntime.
    pub(crate) python: PathBuf,
    /// node, and the folder in which it finds onnxruntime-web; `None` without node.
    pub(crate) web: Option<(PathBuf, PathBuf)>,
    /// The file for the results as JSON.
    pub(crate) json: PathBuf,
    /// The file for a plot of them.
    pub(crate) plot: Option<PathBuf>,
    /// Fewer rounds: to see that everything runs.
    pub(crate) quick: bool,
    /// Only these models; all if empty.
    pub(crate) models: Vec<String>,
    /// Only these tables; all if empty.
    tables: Vec<String>,
    pub(crate) mode: Mode,
}

pub(crate) enum Mode {
    /// Measure everything.
    Measure,
    /// Draw existing results.
    Draw(PathBuf),
    /// Compare two builds of Belljar.
    Against(Against),
    /// Run a model of texts at many lengths.
    Lengths(PathBuf),
    /// Run a model from a plan for all sizes and from one for the sizes of its inputs.
    Plans(Wanted),
    /// Run the models that this file lists, by kind.
    Kinds(PathBuf),
    /// Start so many sandboxes and print their memory, as a child of a measurement.
    Sandboxes(Sandboxes),
}

pub(crate) struct Against {
    /// The other build, which this one must not be slower than.
    pub(crate) program: PathBuf,
    /// The policies that this and the other build run under, if not the default one.
    pub(crate) policy: Option<PathBuf>,
    pub(crate) old_policy: Option<PathBuf>,
}

pub(crate) struct Sandboxes {
    pub(crate) count: usize,
    pub(crate) processes: bool,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut arguments = arguments;
        let mut paths: Vec<(String, PathBuf)> = Vec::new();
        let (mut quick, mut models, mut tables) = (false, Vec::new(), Vec::new());
        let (mut sandboxes, mut isolation) = (None, None);
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--root" | "--belljar" | "--tract" | "--python" | "--node" | "--web" | "--cli"
                | "--json" | "--plot" | "--from" | "--against" | "--policy"
                | "--against-policy" | "--lengths" | "--plans" | "--inputs" | "--other"
                | "--models" => {
                    let value = path(&value()?)?;
                    paths.push((flag, value));
                }
                "--model" => models.push(value()?),
                "--table" => tables.push(value()?),
                "--sandboxes" => sandboxes = Some(value()?.parse().context("--sandboxes")?),
                "--isolation" => isolation = Some(value()?),
                "--quick" => quick = true,
                _ => bail!("unknown argument {flag:?}\n{USAGE}"),
            }
        }
        if let Some(unknown) = tables.iter().find(|id| !TABLES.contains(&id.as_str())) {
            bail!("unknown table {unknown:?}; use one of {}", TABLES.join(", "));
        }
        let mut take = |flag: &str| {
            let at = paths.iter().position(|(name, _)| name == flag)?;
            Some(paths.swap_remove(at).1)
        };
        let root = take("--root").context(USAGE)?;
        let lengths = take("--lengths").map(Mode::Lengths);
        let kinds = take("--models").map(Mode::Kinds);
        let plans = take("--plans").zip(take("--inputs"));
        let other = take("--other");
        let plans = plans.map(|(model, inputs)| Mode::Plans(Wanted { model, inputs, other }));
        let mode = match (take("--from"), take("--against"), sandboxes) {
            (Some(results), None, None) => Mode::Draw(results),
            (None, Some(program), None) => Mode::Against(Against {
                program,
                policy: take("--policy"),
                old_policy: take("--against-policy"),
            }),
            (None, None, Some(count)) => {
                let processes = isolation.as_deref() != Some("thread");
                Mode::Sandboxes(Sandboxes { count, processes })
            }
            (None, None, None) => lengths.or(plans).or(kinds).unwrap_or(Mode::Measure),
            _ => bail!("{USAGE}"),
        };
        // A mode requires only the flags that it uses.
        let measures = matches!(mode, Mode::Measure);
        let mut needed = |flag: &str, when: bool| match take(flag) {
            None if when => bail!("{flag} is missing\n{USAGE}"),
            found => Ok(found.unwrap_or_default()),
        };
        let belljar = needed("--belljar", !matches!(mode, Mode::Draw(_)))?;
        let tract = needed("--tract", measures)?;
        let python =
            needed("--python", measures || matches!(mode, Mode::Plans(_) | Mode::Kinds(_)))?;
        Ok(Options {
            cli: take("--cli").unwrap_or_else(|| belljar.clone()),
            belljar,
            tract,
            python,
            web: take("--node").zip(take("--web")),
            json: take("--json").unwrap_or_else(|| {
                let name = if matches!(mode, Mode::Kinds(_)) { "models" } else { "results" };
                root.join(format!("target/bench/{name}.json"))
            }),
            plot: take("--plot"),
            root,
            quick,
            models,
            tables,
            mode,
        })
    }

    /// Rounds, in each of which every peer has its turn.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { 3.min(full) } else { full }
    }

    /// Whether this table is wanted.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|table| table == id)
    }
}

/// The absolute path, for other processes. Symbolic links stay: resolving that of a virtual
/// environment's Python would give the system's Python.
fn path(text: &str) -> Result<PathBuf> {
    std::path::absolute(text).with_context(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn each_mode_requires_only_the_flags_it_uses() {
        let all = "--root /r --belljar /b --tract /t --python /p";
        let found = parse(&format!("{all} --table cold --quick")).unwrap();
        assert!(matches!(found.mode, Mode::Measure));
        assert!(found.wants("cold") && !found.wants("run") && found.rounds(15) == 3);
        assert!(matches!(parse("--root /r --from /x --plot /y").unwrap().mode, Mode::Draw(_)));
        let gate = parse("--root /r --belljar /b --against /old --policy /p").unwrap();
        assert!(matches!(gate.mode, Mode::Against(Against { policy: Some(_), .. })));
        let kinds = parse("--root /r --belljar /b --python /p --models /index.json").unwrap();
        assert!(matches!(kinds.mode, Mode::Kinds(_)));
        assert_eq!(kinds.json, PathBuf::from("/r/target/bench/models.json"));
        for wrong in
            ["", "--root /r", "--root /r --against /old", &format!("{all} --table x"), "--nonsense"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
