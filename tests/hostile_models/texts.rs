//! Operators on strings: ambiguous input is refused, and the time of a pattern is bounded by its
//! length and that of the string.

use belljar::Tensor;

use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, STRING, fixed, int_attribute, ints_attribute, node,
    string_attribute, strings_attribute, value, value_of_any_shape,
};
use crate::{host_still_answers, refused, run};

fn on_texts(op: &str, dims: &[i64], outputs: &[(&str, i64)], attributes: &[Message]) -> Vec<u8> {
    let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
    let graph = Graph {
        nodes: vec![node(op, &["x"], &names, attributes)],
        inputs: vec![value("x", STRING, &fixed(dims))],
        outputs: outputs.iter().map(|(name, dtype)| value_of_any_shape(name, *dtype)).collect(),
        ..Graph::default()
    };
    let import = Message::new().int(2, 20);
    Message::new().int(1, 9).message(7, graph.message()).message(8, import).finish()
}

fn texts(texts: &[&str]) -> [(&'static str, Tensor); 1] {
    let owned: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    [("x", Tensor::new(owned, &[texts.len()]).unwrap())]
}

fn pattern(pattern: &str) -> Vec<u8> {
    on_texts("RegexFullMatch", &[1], &[("y", BOOL)], &[string_attribute("pattern", pattern)])
}

fn fits(of: &str, text: &str) -> bool {
    let outputs = run(&pattern(of), &texts(&[text])).unwrap_or_else(|err| panic!("{of}: {err}"));
    outputs[0].1.as_slice::<bool>().unwrap()[0]
}

#[test]
fn patterns_match_the_whole_string() {
    for (of, yes, no) in [
        ("a", "a", "aa"),
        ("a|bc", "bc", "ac"),
        ("(a|b)*c", "ababc", "abab"),
        ("[^a-c]+", "xyz\n", "xbz"),
        (".", "日", "\n"),
        ("\\d{2,3}", "123", "1234"),
        ("\\w+", "a_1", "é"),
        ("\\s", "\t", "\x0b"),
        ("^\\bfoo\\b$", "foo", "foo "),
        ("[]a]+", "a]", "["),
        ("a{0}", "", "a"),
        ("\\x41\\x{65e5}", "A日", "A"),
        ("(?:a?){3}", "aa", "aaaa"),
    ] {
        assert!(fits(of, yes), "{of} fits {yes:?}");
        assert!(!fits(of, no), "{of} does not fit {no:?}");
    }
}

#[test]
fn ambiguous_patterns_are_refused() {
    for of in [
        "(?i)a",
        "(?=a)",
        "(?<=a)b",
        "(?P=n)",
        "\\1",
        "\\pL",
        "\\p{Greek}",
        "\\Qa\\E",
        "\\C",
        "\\Z",
        "\\07",
        "[[:alpha:]]",
        "a{",
        "a{,3}",
        "{2}",
        "a}",
        "a**",
        "a{2}{3}",
        "a++",
        "*a",
        "(a",
        "a)",
        "[a",
        "[b-a]",
        "[a-\\d]",
        "\\",
        "\\x",
        "\\xg1",
        "\\x{110000}",
        "\\x{d800}",
        "a{1001}",
        "a{3,2}",
        "(?P<>a)",
        "(?P<n",
        "\\é",
    ] {
        let err = run(&pattern(of), &texts(&["a"])).expect_err(of);
        assert_eq!(err.exit_code(), 4, "{of}: {err}");
    }
}

#[test]
fn patterns_are_bounded_in_time() {
    refused(&pattern(&"a".repeat(5000)), &texts(&["a"]), "more than 4096");
    refused(&pattern(&"(".repeat(200)), &texts(&["a"]), "deeper than 64");
    refused(&pattern("((a{100}){100}){100}"), &texts(&["a"]), "more than 20000 steps");
    refused(&pattern("(a{1000}b{1000}){1000}"), &texts(&["a"]), "more than 20000 steps");
    // Patterns with exponential time in backtracking engines.
    let long = "a".repeat(5000);
    for of in ["(a*)*b", "(a|a)*b", "(a|aa)+b", "(.*)(.*)(.*)(.*)b", "(a?){20}a{20}", "((a*)*)*"] {
        let whole = fits(of, &long);
        assert_eq!(whole, of.ends_with("*)*"), "{of}");
    }
    host_still_answers();
}

#[test]
fn strings_that_implementations_treat_differently_are_refused() {
    let normal =
        |attributes: &[Message]| on_texts("StringNormalizer", &[2], &[("y", STRING)], attributes);
    let upper = [string_attribute("case_change_action", "UPPER")];
    let outputs = run(&normal(&upper), &texts(&["a", "Bc"])).unwrap();
    assert_eq!(outputs[0].1.as_slice::<String>().unwrap(), ["A", "BC"]);
    refused(&normal(&upper), &texts(&["a", "ß"]), "not ASCII");
    let turkish = [string_attribute("locale", "tr_TR")];
    refused(&normal(&turkish), &texts(&["a", "I"]), "\"locale\" has the value");
    let stop = [strings_attribute("stopwords", &["a b"])];
    refused(&normal(&stop), &texts(&["a", "b"]), "a stop word has a space");
    let split = |attributes: &[Message]| {
        on_texts("StringSplit", &[1], &[("y", STRING), ("n", INT64)], attributes)
    };
    refused(&split(&[]), &texts(&["a\u{a0}b"]), "white space that is not ASCII");
    refused(&split(&[int_attribute("maxsplit", -1)]), &texts(&["a"]), "the value -1");
    let outputs = run(&split(&[]), &texts(&["  a b "])).unwrap();
    assert_eq!(outputs[0].1.as_slice::<String>().unwrap(), ["a", "b"]);
}

#[test]
fn mismatched_vocabularies_are_refused() {
    let model = |counts: &[i64], columns: &[i64], longest: i64, pool: &[&str]| {
        let attributes = [
            string_attribute("mode", "TF"),
            int_attribute("min_gram_length", 1),
            int_attribute("max_gram_length", longest),
            int_attribute("max_skip_count", 0),
            ints_attribute("ngram_counts", counts),
            ints_attribute("ngram_indexes", columns),
            strings_attribute("pool_strings", pool),
        ];
        on_texts("TfIdfVectorizer", &[3], &[("y", FLOAT)], &attributes)
    };
    let x = || texts(&["a", "b", "a"]);
    let outputs = run(&model(&[0, 1], &[1, 0], 2, &["a", "a", "b"]), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 2.0]);
    for (counts, columns, longest, why) in [
        (&[0, 1][..], &[0, i64::MAX][..], 2, "ngram_indexes must be between"),
        (&[0, 1], &[0, -1], 2, "ngram_indexes must be between"),
        (&[0, 1], &[0], 2, "fewer entries than there are sequences"),
        (&[0, 1], &[0, 1, 2], 2, "2 sequences do not match 3"),
        (&[0, 9], &[0, 1], 2, "ngram_counts has 0 before 9"),
        (&[0, -1], &[0, 1], 2, "ngram_counts has 0 before -1"),
        (&[1, 1], &[0, 1], 2, "ngram_counts starts with 1"),
        (&[0], &[0, 1, 2], 2, "no entry for sequences of 2"),
        (&[0, 1], &[], 2, "ngram_indexes is empty"),
    ] {
        refused(&model(counts, columns, longest, &["a", "a", "b"]), &x(), why);
    }
    refused(&model(&[0], &[0, 1], 1, &["a", "a"]), &x(), "duplicate sequence");
    let odd = model(&[0, 2], &[0, 1, 2], 2, &["a", "b", "c"]);
    refused(&odd, &x(), "1 tokens cannot be divided into sequences of 2");
}
