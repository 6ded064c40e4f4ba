//! Operators of the ONNX domain on strings.

use crate::entry::Values::{AnyInts, AnyText, AnyTexts, Floats, Int, Text};
use crate::entry::{Operator, Output, any, attr, flag, must, op, t};
use crate::types::{BOOL, F32, I32, I64, STRING};

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    // The locales in which ASCII has the cases that everybody expects.
    op("StringNormalizer", 10, &[t(STRING)])
        .with(&[attr("case_change_action", Text(&["LOWER", "UPPER", "NONE"])), flag("is_case_sensitive"),
            attr("locale", Text(&["", "C", "C.UTF-8", "POSIX", "en_US", "en_US.UTF-8"])), attr("stopwords", AnyTexts)]),
    op("StringConcat", 20, &[t(STRING), t(STRING)]),
    op("StringSplit", 20, &[t(STRING)]).to(&[Output::Like('T'), Output::Is(I64)])
        .with(&[attr("delimiter", AnyText), attr("maxsplit", Int(0, i64::MAX))]),
    op("RegexFullMatch", 20, &[any(STRING)]).to(&[Output::Is(BOOL)]).with(&[must("pattern", AnyText)]),
    op("TfIdfVectorizer", 9, &[any(STRING.or(I32).or(I64))]).to(&[Output::Is(F32)])
        .with(&[must("mode", Text(&["TF", "IDF", "TFIDF"])), must("min_gram_length", Int(1, 64)),
            must("max_gram_length", Int(1, 64)), must("max_skip_count", Int(0, 64)), must("ngram_counts", AnyInts),
            must("ngram_indexes", AnyInts), attr("pool_int64s", AnyInts), attr("pool_strings", AnyTexts),
            attr("weights", Floats)]),
];
