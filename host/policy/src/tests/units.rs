use std::time::Duration;

use super::super::units::{UnitError, format_duration, format_size, parse_duration, parse_size};
use proptest::prelude::*;

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", 0),
        ("0.0", 0),
        ("0 B", 0),
        ("1B", 1),
        ("512 MiB", 512 << 20),
        ("512MiB", 512 << 20),
        ("1.5 GiB", 3 << 29),
        ("1.50 KB", 1500),
        ("0.5 KiB", 512),
        ("007 B", 7),
        ("1 GB", 1_000_000_000),
        ("18446744073709551615 B", u64::MAX),
        ("1.000000000000000000000000000000 B", 1),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn durations() {
    for (text, nanos) in [
        ("0", 0),
        ("1 ms", 1_000_000),
        ("1.5s", 1_500_000_000),
        ("0.000001 ms", 1),
        ("2 min", 120_000_000_000),
        ("24 h", 86_400_000_000_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
    assert_eq!(parse_duration("18446744073709551615 s"), Ok(Duration::from_secs(u64::MAX)));
}

#[test]
fn each_mistake_has_its_own_error() {
    use UnitError::*;
    for (text, error) in [
        ("", Empty),
        ("  ", Empty),
        ("unlimited", Unlimited),
        ("Infinity", Unlimited),
        ("-inf", Unlimited),
        ("-5 MiB", Negative),
        ("-0", Negative),
        ("\u{2212}5 MiB", Negative),
        ("512", MissingUnit),
        ("MiB", NotANumber),
        (".5 MiB", NotANumber),
        ("5. MiB", NotANumber),
        ("1.2.3 MiB", NotANumber),
        ("+5 MiB", NotANumber),
        ("1,5 MiB", NotANumber),
        ("1_000 B", NotANumber),
        ("5  MiB", NotANumber),
        ("5\tMiB", NotANumber),
        ("1e3 B", NotANumber),
        ("nan", NotANumber),
        ("\u{664} MiB", NotANumber),
        ("5 parsec", UnknownUnit(String::new())),
        ("5 mib", UnknownUnit(" (did you mean MiB?)".into())),
        ("5 G", UnknownUnit(" (did you mean GiB?)".into())),
        ("5 bytes", UnknownUnit(" (did you mean B?)".into())),
        ("0.5 B", NotWhole("bytes")),
        ("0.0000000000000000001 GiB", NotWhole("bytes")),
        ("18446744073709551616 B", Overflow),
        ("17179869184 GiB", Overflow),
        ("999999999999999999999999999999999999999999999 B", Overflow),
    ] {
        assert_eq!(parse_size(text), Err(error), "{text}");
    }
    assert_eq!(parse_duration("0.0000001 ms"), Err(NotWhole("nanoseconds")));
    assert_eq!(parse_duration("18446744073709551616 s"), Err(Overflow));
    assert_eq!(parse_duration("5 seconds"), Err(UnknownUnit(" (did you mean s?)".into())));
    assert_eq!(parse_duration("5 m"), Err(UnknownUnit(String::new())));
}

#[test]
fn formats_are_short() {
    for (bytes, text) in [
        (0, "0 B"),
        (1000, "1 KB"),
        (1 << 30, "1 GiB"),
        (3 << 29, "1.5 GiB"),
        (64 << 10, "64 KiB"),
        (47_316_992, "46208 KiB"),
        ((1 << 20) + (1 << 18), "1.25 MiB"),
        (3_163_737, "3163737 B"),
        (u64::MAX, "18446744073709551615 B"),
    ] {
        assert_eq!(format_size(bytes), text);
    }
    for (nanos, text) in [
        (0, "0 ms"),
        (1, "0.000001 ms"),
        (10_800_000, "10.8 ms"),
        (1_500_000_000, "1.5 s"),
        (30_000_000_000, "30 s"),
        (120_000_000_000, "2 min"),
        (86_400_000_000_000, "24 h"),
    ] {
        assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
    }
}

proptest! {
    #[test]
    fn size_round_trip(bytes: u64, shift in 0_u32..64) {
        let bytes = bytes >> shift;
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        let round = (bytes & 0xff) << shift;
        prop_assert_eq!(parse_size(&format_size(round)), Ok(round));
    }

    #[test]
    fn duration_round_trip(secs: u64, nanos in 0_u32..1_000_000_000, shift in 0_u32..64) {
        for duration in [Duration::new(secs >> shift, nanos), Duration::from_secs(secs >> shift)] {
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn never_panics(text in any::<String>(), ugly in "[0-9]{0,50}[.+ -]?[0-9]{0,50} ?[a-zA-Z]{0,4}") {
        let _ = (parse_size(&text), parse_duration(&text));
        let _ = (parse_size(&ugly), parse_duration(&ugly));
    }
}
