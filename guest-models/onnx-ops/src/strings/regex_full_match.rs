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
pub(crate) struct FullMatch {
    steps: Arc<Vec<Step>>,
}

pub(crate) const OPERATORS: &[Registration] = &[own("RegexFullMatch", build_regex_full_match)];

fn build_regex_full_match(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(FullMatch::of(node.get_attr("pattern")?)?, node)
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
    fn of(pattern: &str) -> TractResult<FullMatch> {
        let mut steps = Vec::new();
        add(&parse(pattern)?, &mut steps)?;
        push(&mut steps, Step::Done)?;
        Ok(FullMatch { steps: Arc::new(steps) })
    }

    /// A pattern of parts of strings, which does not depend on the text around them.
    pub(crate) fn of_parts(pattern: &str) -> TractResult<FullMatch> {
        let compiled = FullMatch::of(pattern)?;
        let places = compiled.steps.iter().any(|step| matches!(step, Step::At(_)));
        ensure!(!places, "the pattern {pattern:?} has ^, $ or \\b, which is not implemented here");
        let empty = compiled.matches("", &mut compiled.front());
        ensure!(
            !empty,
            "the pattern {pattern:?} matches empty text, which is not implemented here"
        );
        Ok(compiled)
    }

    fn front(&self) -> Front {
        Front { at: vec![], seen: vec![0; self.steps.len()], round: 0 }
    }

    /// The parts of a text that match, from left to right, each as long as possible.
    pub(crate) fn parts(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        let (mut parts, mut start, mut front) = (Vec::new(), 0, self.front());
        while let Some(c) = text[start..].chars().next() {
            match self.longest(&text[start..], &mut front) {
                Some(length) => {
                    parts.push(start..start + length);
                    start += length;
                }
                None => start += c.len_utf8(),
            }
        }
        parts
    }

    /// The number of bytes of the longest match at the start of a text.
    fn longest(&self, text: &str, front: &mut Front) -> Option<usize> {
        let (mut now, mut longest) = (vec![0], None);
        for (place, c) in text.char_indices() {
            self.follow(&now, None, None, front);
            now.clear();
            for at in &front.at {
                match &self.steps[*at] {
                    Step::One(ranges) if has(ranges, c) => now.push(at + 1),
                    Step::Done => longest = Some(place),
                    _ => {}
                }
            }
            if now.is_empty() {
                return longest;
            }
        }
        self.follow(&now, None, None, front);
        let done = front.at.iter().any(|at| self.steps[*at] == Step::Done);
        if done { Some(text.len()) } else { longest }
    }

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
        let mut front = self.front();
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
