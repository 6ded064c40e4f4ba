//! Patterns in the syntax of RE2, as far as it is read in one way everywhere: what the whole of a
//! text is held against. Flags, classes of Unicode and what else is not listed here is refused.

use tract_onnx::tract_hir::internal::*;

/// Bytes of a pattern.
const LONGEST: usize = 4096;
/// Groups within groups.
const DEPTH: usize = 64;
/// Repetitions, as in RE2.
const REPEATS: u32 = 1000;

/// Characters from one to another.
pub(super) type Ranges = Vec<(char, char)>;

#[derive(Clone, Debug)]
pub(super) enum Part {
    Class(Ranges),
    All(Vec<Part>),
    Either(Vec<Part>),
    Repeat(Box<Part>, u32, Option<u32>),
    At(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Start,
    End,
    WordEdge,
    NoWordEdge,
}

pub(super) fn parse(pattern: &str) -> TractResult<Part> {
    ensure!(pattern.len() <= LONGEST, "a pattern of {} bytes, above {LONGEST}", pattern.len());
    let mut parser = Parser { rest: pattern };
    let part = parser.either(0)?;
    ensure!(parser.rest.is_empty(), "the pattern has a ) without its (");
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
        ensure!(depth <= DEPTH, "groups lie deeper than {DEPTH} in each other");
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
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => (0, None),
            _ => return Ok(part),
        };
        let sign = self.next();
        let (least, most) = if sign == Some('{') { self.counts()? } else { (least, most) };
        // Whether it is greedy makes no difference to whether all of a text fits.
        self.take("?");
        let again = matches!(self.peek(), Some('*' | '+' | '?' | '{'));
        ensure!(!again, "a repetition is repeated");
        Ok(Part::Repeat(Box::new(part), least, most))
    }

    fn counts(&mut self) -> TractResult<(u32, Option<u32>)> {
        let end = self.rest.find('}').context("a { without its }")?;
        let inside = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let number = |text: &str| {
            let plain =
                !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
            ensure!(plain, "a {{ that is no repetition is not implemented");
            let number: u32 = text.parse()?;
            ensure!(number <= REPEATS, "{number} repetitions are above {REPEATS}");
            Ok(number)
        };
        let (least, most) = match inside.split_once(',') {
            None => (number(inside)?, Some(number(inside)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        ensure!(most.is_none_or(|most| least <= most), "{least} to fewer repetitions");
        Ok((least, most))
    }

    fn one(&mut self, depth: usize) -> TractResult<Part> {
        let Some(next) = self.next() else { bail!("the pattern ends too early") };
        Ok(match next {
            '(' => {
                self.group()?;
                let part = self.either(depth + 1)?;
                ensure!(self.take(")"), "the pattern has a ( without its )");
                part
            }
            '[' => Part::Class(self.class()?),
            '.' => Part::Class(others(&[('\n', '\n')])),
            '^' => Part::At(Place::Start),
            '$' => Part::At(Place::End),
            '*' | '+' | '?' | '{' | '}' => bail!("a {next} that repeats nothing"),
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

    /// Passes over what follows the ( of a group.
    fn group(&mut self) -> TractResult<()> {
        if !self.take("?") || self.take(":") {
            return Ok(());
        }
        ensure!(self.take("P<") || self.take("<"), "flags and conditions are not implemented");
        let end = self.rest.find('>').context("a name of a group does not end")?;
        let name = &self.rest[..end];
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // A condition on what is before would begin in the same way.
        ensure!(plain && !name.is_empty(), "a group has no plain name");
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    /// What follows a backslash, as a set of characters.
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
            let end = self.rest.find('}').context("a { without its }")?;
            let text = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            text
        } else {
            let text = self.rest.get(..2).context("\\x without its two digits")?;
            self.rest = &self.rest[2..];
            text
        };
        let plain = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(plain, "\\x without a number");
        char::from_u32(u32::from_str_radix(text, 16)?).context("\\x of what is no character")
    }

    /// What follows a [.
    fn class(&mut self) -> TractResult<Ranges> {
        let negated = self.take("^");
        let mut ranges = Ranges::new();
        let mut first = true;
        loop {
            ensure!(!self.rest.starts_with("[:"), "[: is not implemented");
            let Some(next) = self.next() else { bail!("the pattern has a [ without its ]") };
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
            let Some(next) = self.next() else { bail!("the pattern has a [ without its ]") };
            let to = if next == '\\' { self.escape()? } else { vec![(next, next)] };
            let (&[(from, end)], &[(start, to)]) = (&*from, &*to) else {
                bail!("a range between sets of characters")
            };
            ensure!(from == end && start == to && from <= to, "a range that goes backwards");
            ranges.push((from, to));
        }
        Ok(if negated { others(&ranges) } else { sorted(&ranges) })
    }
}

fn digits() -> Ranges {
    vec![('0', '9')]
}

pub(super) fn word() -> Ranges {
    vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]
}

/// RE2's, which has no vertical tab.
fn space() -> Ranges {
    vec![('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]
}

/// The same characters in order, none twice.
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
