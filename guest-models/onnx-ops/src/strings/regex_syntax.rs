//! Parses patterns in the part of RE2's syntax on which implementations agree. Flags, Unicode
//! classes and everything else are refused.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, bail, ensure};

/// The largest number of bytes of a pattern.
const MAX_LENGTH: usize = 4096;
/// The largest nesting of groups.
const MAX_DEPTH: usize = 64;
/// The largest repetition count, as in RE2.
const MAX_REPEATS: u32 = 1000;

/// Characters from one to another.
pub(crate) type Ranges = Vec<(char, char)>;

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Class(Ranges),
    All(Vec<Part>),
    Either(Vec<Part>),
    Repeat(Box<Part>, u32, Option<u32>),
    At(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Start,
    End,
    WordEdge,
    NoWordEdge,
}

pub(crate) fn parse(pattern: &str) -> TractResult<Part> {
    ensure!(
        pattern.len() <= MAX_LENGTH,
        "the pattern has {} bytes, more than {MAX_LENGTH}",
        pattern.len()
    );
    let mut parser = Parser { rest: pattern };
    let part = parser.either(0)?;
    ensure!(parser.rest.is_empty(), "the pattern has an unopened )");
    Ok(part)
}

struct Parser<'p> {
    rest: &'p str,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn take(&mut self, wanted: &str) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn either(&mut self, depth: usize) -> TractResult<Part> {
        ensure!(depth <= MAX_DEPTH, "the pattern nests groups deeper than {MAX_DEPTH}");
        let mut ways = vec![self.sequence(depth)?];
        while self.take("|") {
            ways.push(self.sequence(depth)?);
        }
        Ok(Part::Either(ways))
    }

    fn sequence(&mut self, depth: usize) -> TractResult<Part> {
        let mut parts = Vec::new();
        while let Some(next) = self.peek() {
            if next == '|' || next == ')' {
                break;
            }
            let part = self.one(depth)?;
            parts.push(self.repeated(part)?);
        }
        Ok(Part::All(parts))
    }

    fn repeated(&mut self, part: Part) -> TractResult<Part> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => (0, None),
            _ => return Ok(part),
        };
        let sign = self.next();
        let (min, max) = if sign == Some('{') { self.counts()? } else { (min, max) };
        // Greediness does not change whether the whole string matches.
        self.take("?");
        let again = matches!(self.peek(), Some('*' | '+' | '?' | '{'));
        ensure!(!again, "the pattern repeats a repetition");
        Ok(Part::Repeat(Box::new(part), min, max))
    }

    fn counts(&mut self) -> TractResult<(u32, Option<u32>)> {
        let end = self.rest.find('}').or_user_error("the pattern has an unclosed {")?;
        let inside = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let number = |text: &str| {
            let plain =
                !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
            ensure!(plain, "a {{ that is not a repetition is not implemented");
            let number: u32 = text.parse()?;
            ensure!(
                number <= MAX_REPEATS,
                "the pattern repeats {number} times, more than {MAX_REPEATS}"
            );
            Ok(number)
        };
        let (min, max) = match inside.split_once(',') {
            None => (number(inside)?, Some(number(inside)?)),
            Some((min, "")) => (number(min)?, None),
            Some((min, max)) => (number(min)?, Some(number(max)?)),
        };
        ensure!(
            max.is_none_or(|max| min <= max),
            "the pattern has a repetition with a minimum of {min} above its maximum"
        );
        Ok((min, max))
    }

    fn one(&mut self, depth: usize) -> TractResult<Part> {
        let Some(next) = self.next() else { bail!("the pattern ends too early") };
        Ok(match next {
            '(' => {
                self.group()?;
                let part = self.either(depth + 1)?;
                ensure!(self.take(")"), "the pattern has an unclosed (");
                part
            }
            '[' => Part::Class(self.class()?),
            '.' => Part::Class(others(&[('\n', '\n')])),
            '^' => Part::At(Place::Start),
            '$' => Part::At(Place::End),
            '*' | '+' | '?' | '{' | '}' => bail!("the pattern has a {next} with nothing to repeat"),
            '\\' => match self.peek() {
                Some('A') => self.place(Place::Start),
                Some('z') => self.place(Place::End),
                Some('b') => self.place(Place::WordEdge),
                Some('B') => self.place(Place::NoWordEdge),
                _ => Part::Class(self.escape()?),
            },
            plain => Part::Class(vec![(plain, plain)]),
        })
    }

    fn place(&mut self, place: Place) -> Part {
        self.next();
        Part::At(place)
    }

    /// Skips the prefix of a group after its `(`.
    fn group(&mut self) -> TractResult<()> {
        if !self.take("?") || self.take(":") {
            return Ok(());
        }
        ensure!(self.take("P<") || self.take("<"), "flags and conditions are not implemented");
        let end =
            self.rest.find('>').or_user_error("the pattern has a group name without an end")?;
        let name = &self.rest[..end];
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // A lookbehind begins in the same way.
        ensure!(plain && !name.is_empty(), "the pattern has a group name that is not plain");
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    /// The set of characters of an escape, after its backslash.
    fn escape(&mut self) -> TractResult<Ranges> {
        let Some(next) = self.next() else { bail!("the pattern ends in a backslash") };
        let one = |c: char| vec![(c, c)];
        Ok(match next {
            'd' => digits(),
            'D' => others(&digits()),
            'w' => word(),
            'W' => others(&word()),
            's' => space(),
            'S' => others(&space()),
            'n' => one('\n'),
            't' => one('\t'),
            'r' => one('\r'),
            'f' => one('\x0c'),
            'v' => one('\x0b'),
            'a' => one('\x07'),
            'x' => one(self.hexadecimal()?),
            c if c.is_ascii_punctuation() => one(c),
            other => bail!("\\{} is not implemented", other.escape_default()),
        })
    }

    fn hexadecimal(&mut self) -> TractResult<char> {
        let text = if self.take("{") {
            let end = self.rest.find('}').or_user_error("the pattern has an unclosed {")?;
            let text = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            text
        } else {
            let text =
                self.rest.get(..2).or_user_error("the pattern has a \\x without two digits")?;
            self.rest = &self.rest[2..];
            text
        };
        let plain = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(plain, "the pattern has a \\x without a number");
        char::from_u32(u32::from_str_radix(text, 16)?)
            .or_user_error("the pattern has a \\x that is not a character")
    }

    /// The set of characters of a class, after its `[`.
    fn class(&mut self) -> TractResult<Ranges> {
        let negated = self.take("^");
        let mut ranges = Ranges::new();
        let mut first = true;
        loop {
            ensure!(!self.rest.starts_with("[:"), "[: is not implemented");
            let Some(next) = self.next() else { bail!("the pattern has an unclosed [") };
            if next == ']' && !first {
                break;
            }
            first = false;
            let from = if next == '\\' { self.escape()? } else { vec![(next, next)] };
            let range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            if !range {
                ranges.extend(from);
                continue;
            }
            self.next();
            let Some(next) = self.next() else { bail!("the pattern has an unclosed [") };
            let to = if next == '\\' { self.escape()? } else { vec![(next, next)] };
            let (&[(from, end)], &[(start, to)]) = (&*from, &*to) else {
                bail!("the pattern has a range between sets of characters")
            };
            ensure!(
                from == end && start == to && from <= to,
                "the pattern has a range whose end is before its start"
            );
            ranges.push((from, to));
        }
        Ok(if negated { others(&ranges) } else { sorted(&ranges) })
    }
}

fn digits() -> Ranges {
    vec![('0', '9')]
}

pub(crate) fn word() -> Ranges {
    vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]
}

/// RE2's white space, which has no vertical tab.
fn space() -> Ranges {
    vec![('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]
}

/// The same characters, sorted and without duplicates.
fn sorted(ranges: &[(char, char)]) -> Ranges {
    let mut ranges = ranges.to_vec();
    ranges.sort();
    let mut made: Ranges = Vec::new();
    for (from, to) in ranges {
        match made.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => made.push((from, to)),
        }
    }
    made
}

/// All other characters.
fn others(ranges: &[(char, char)]) -> Ranges {
    let mut made = Vec::new();
    let mut next = Some('\0');
    for (from, to) in sorted(ranges) {
        if let Some(start) = next.filter(|start| *start < from) {
            let before = (start..from).next_back();
            made.extend(before.map(|end| (start, end)));
        }
        next = (to..=char::MAX).nth(1);
    }
    made.extend(next.map(|start| (start, char::MAX)));
    made
}
