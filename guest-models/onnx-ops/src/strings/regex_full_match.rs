//! RegexFullMatch (operator set 20): whether a pattern matches a whole string. The pattern is
//! compiled to a list of steps, and a string is read once with the set of all active steps, so that
//! the time is bounded by the product of their lengths (K. Thompson, "Regular Expression Search
//! Algorithm", 1968).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::regex_syntax::{Part, Place, Ranges, parse, word};
use super::strings;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

/// The largest number of steps of a pattern.
const MAX_STEPS: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// One of these characters.
    One(Ranges),
    Either(usize, usize),
    Go(usize),
    At(Place),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FullMatch {
    steps: Arc<Vec<Step>>,
}

pub(crate) const OPERATORS: &[Registration] = &[own("RegexFullMatch", build_regex_full_match)];

fn build_regex_full_match(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mut steps = Vec::new();
    add(&parse(node.get_attr("pattern")?)?, &mut steps)?;
    push(&mut steps, Step::Done)?;
    built(FullMatch { steps: Arc::new(steps) }, node)
}

fn push(steps: &mut Vec<Step>, step: Step) -> TractResult<usize> {
    ensure!(steps.len() < MAX_STEPS, "the pattern has more than {MAX_STEPS} steps");
    steps.push(step);
    Ok(steps.len() - 1)
}

/// Adds the steps of a part, after which the next one begins. The parser has bounded the nesting.
fn add(part: &Part, steps: &mut Vec<Step>) -> TractResult<()> {
    match part {
        Part::Class(ranges) => push(steps, Step::One(ranges.clone())).map(drop),
        Part::At(place) => push(steps, Step::At(*place)).map(drop),
        Part::All(parts) => parts.iter().try_for_each(|part| add(part, steps)),
        Part::Either(ways) => {
            let mut ends = Vec::new();
            for (at, way) in ways.iter().enumerate() {
                if at + 1 == ways.len() {
                    add(way, steps)?;
                    break;
                }
                let choice = push(steps, Step::Go(0))?;
                add(way, steps)?;
                ends.push(push(steps, Step::Go(0))?);
                steps[choice] = Step::Either(choice + 1, steps.len());
            }
            let end = steps.len();
            ends.into_iter().for_each(|at| steps[at] = Step::Go(end));
            Ok(())
        }
        Part::Repeat(part, min, max) => {
            for _ in 0..*min {
                add(part, steps)?;
            }
            let Some(max) = max else {
                let choice = push(steps, Step::Go(0))?;
                add(part, steps)?;
                push(steps, Step::Go(choice))?;
                steps[choice] = Step::Either(choice + 1, steps.len());
                return Ok(());
            };
            let mut choices = Vec::new();
            for _ in *min..*max {
                choices.push(push(steps, Step::Go(0))?);
                add(part, steps)?;
            }
            let end = steps.len();
            choices.into_iter().for_each(|at| steps[at] = Step::Either(at + 1, end));
            Ok(())
        }
    }
}

/// The active steps, without duplicates.
struct Front {
    at: Vec<usize>,
    seen: Vec<u64>,
    round: u64,
}

impl FullMatch {
    fn matches(&self, text: &str, front: &mut Front) -> bool {
        let mut before = None;
        let mut now: Vec<usize> = vec![0];
        let mut chars = text.chars();
        loop {
            let next = chars.clone().next();
            self.follow(&now, before, next, front);
            let Some(c) = chars.next() else {
                return front.at.iter().any(|at| self.steps[*at] == Step::Done);
            };
            now.clear();
            for at in &front.at {
                if let Step::One(ranges) = &self.steps[*at]
                    && has(ranges, c)
                {
                    now.push(at + 1);
                }
            }
            if now.is_empty() {
                return false;
            }
            before = Some(c);
        }
    }

    /// Follows these steps as far as they consume no character.
    fn follow(&self, from: &[usize], before: Option<char>, next: Option<char>, front: &mut Front) {
        front.round += 1;
        front.at.clear();
        let mut open = from.to_vec();
        while let Some(at) = open.pop() {
            if front.seen[at] == front.round {
                continue;
            }
            front.seen[at] = front.round;
            match &self.steps[at] {
                Step::One(_) | Step::Done => front.at.push(at),
                Step::Go(to) => open.push(*to),
                Step::Either(a, b) => open.extend([*a, *b]),
                Step::At(place) if is_at(*place, before, next) => open.push(at + 1),
                Step::At(_) => {}
            }
        }
    }
}

fn is_at(place: Place, before: Option<char>, next: Option<char>) -> bool {
    let of_word = |c: Option<char>| c.is_some_and(|c| has(&word(), c));
    match place {
        Place::Start => before.is_none(),
        Place::End => next.is_none(),
        Place::WordEdge => of_word(before) != of_word(next),
        Place::NoWordEdge => of_word(before) == of_word(next),
    }
}

fn has(ranges: &[(char, char)], c: char) -> bool {
    let at = ranges.partition_point(|(_, to)| *to < c);
    ranges.get(at).is_some_and(|(from, _)| *from <= c)
}

impl Operator for FullMatch {
    fn name(&self) -> &'static str {
        "RegexFullMatch"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (_, dims) = like(required(inputs, 0)?);
        Ok(tvec!((bool::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let mut front = Front { at: vec![], seen: vec![0; self.steps.len()], round: 0 };
        let fits: Vec<bool> =
            strings(tensor)?.iter().map(|text| self.matches(text, &mut front)).collect();
        Ok(tvec!(Tensor::from_shape(tensor.shape(), &fits)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, texts};

    fn matches(pattern: &str, words: &[&str], expected: &[bool]) {
        case("RegexFullMatch").text("pattern", pattern).input(texts(words)).gives(row(expected));
    }

    #[test]
    fn the_whole_string_must_match() {
        matches(
            r"www\.[\w.-]+\.\bcom\b",
            &["www.google.com", "www.x.com/", "x.com"],
            &[true, false, false],
        );
        matches("a|ab", &["a", "ab", "abc", ""], &[true, true, false, false]);
        matches("", &["", "a"], &[true, false]);
        matches("[^0-9]+", &["é", "é1"], &[true, false]);
    }

    #[test]
    fn nested_repetitions_do_not_take_exponential_time() {
        let long = "a".repeat(2000);
        matches("(a*)*b", &[&long], &[false]);
    }

    #[test]
    fn patterns_that_are_not_well_formed_are_refused() {
        for pattern in ["(", "a{2,1}", "[z-a]", "*"] {
            case("RegexFullMatch").text("pattern", pattern).input(texts(&["a"])).fails("");
        }
    }
}
