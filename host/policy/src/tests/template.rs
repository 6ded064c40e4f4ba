use std::time::Duration;

use super::*;
use proptest::prelude::*;

fn measured() -> Measured {
    Measured {
        model_name: "magika".to_owned(),
        sha256: "AB".repeat(32),
        model_size: 3_163_737,
        peak_memory: 47_316_992,
        prepare_time: Duration::from_micros(812_345),
        run_time: Duration::from_micros(10_800),
        input_bytes: 8192,
        output_bytes: 856,
    }
}

#[test]
fn starting_policy_adds_headroom_and_comments_measurements() {
    let text = starting_policy(&measured());
    let policy = Policy::parse(&text, "x").unwrap();
    assert_eq!(policy.model.sha256, Some([0xab; 32]));
    assert_eq!(policy.limits.memory, 96 << 20);
    assert_eq!(policy.limits.run_time, Duration::from_secs(1));
    assert_eq!(policy.limits.prepare_time, Duration::from_secs(9));
    assert_eq!(policy.limits.model_size, 8 << 20);
    assert_eq!(policy.limits.input_size, 64 << 10);
    assert_says(
        &text,
        &["# Policy for magika\n", "measured: 46208 KiB", "measured: 10.8 ms", "measured: 856 B"],
    );
}

#[test]
fn extreme_measurements_stay_within_bounds() {
    let nothing = Measured {
        model_name: String::new(),
        sha256: String::new(),
        model_size: 0,
        peak_memory: 0,
        prepare_time: Duration::ZERO,
        run_time: Duration::ZERO,
        input_bytes: 0,
        output_bytes: 0,
    };
    let policy = Policy::parse(&starting_policy(&nothing), "x").unwrap();
    assert_eq!(policy.limits.memory, bounds::MEMORY.min);
    assert_eq!(policy.limits.prepare_time, Duration::from_secs(5));
    assert_eq!(policy.model.sha256, None);

    let everything = Measured {
        model_name: "\u{0}".repeat(1_000_000),
        sha256: "\"\nversion = 2".to_owned(),
        model_size: u64::MAX,
        peak_memory: u64::MAX,
        prepare_time: Duration::MAX,
        run_time: Duration::MAX,
        input_bytes: u64::MAX,
        output_bytes: u64::MAX,
    };
    let text = starting_policy(&everything);
    assert!(text.len() < 5000);
    let policy = Policy::parse(&text, "x").unwrap();
    assert_eq!(policy.limits.memory, bounds::MEMORY.max);
    assert_eq!(policy.limits.run_time, bounds::RUN_TIME.max);
}

#[test]
fn model_name_cannot_leave_its_comment() {
    for name in
        ["x\n[limits]\nmemory = \"4 GiB\"", "x\r[limits]", "\u{85}\u{2028}\u{2029}", "\u{0}"]
    {
        let text = starting_policy(&Measured { model_name: name.to_owned(), ..measured() });
        assert_eq!(text.lines().count(), starting_policy(&measured()).lines().count());
        assert_eq!(Policy::parse(&text, "x").unwrap().limits.memory, 96 << 20);
    }
}

proptest! {
    #[test]
    fn starting_policy_always_parses(
        model_name in any::<String>(),
        sha256 in prop_oneof![any::<String>(), "[0-9a-fA-F]{64}"],
        sizes in any::<[u64; 4]>(),
        shift in 0_u32..64,
        times in any::<[u64; 2]>(),
    ) {
        let [model_size, peak_memory, input_bytes, output_bytes] = sizes.map(|n| n >> shift);
        let [run_time, prepare_time] = times.map(|n| Duration::from_nanos(n >> shift));
        let spec = Measured {
            model_name, sha256, model_size, peak_memory, prepare_time, run_time, input_bytes,
            output_bytes,
        };
        let text = starting_policy(&spec);
        let policy = Policy::parse(&text, "x").map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        policy.limits.check().unwrap();
        prop_assert!(policy.limits.memory >= peak_memory.min(bounds::MEMORY.max));
        prop_assert!(policy.limits.run_time >= run_time.min(bounds::RUN_TIME.max));
        prop_assert!(policy.limits.input_size >= input_bytes.min(bounds::INPUT_SIZE.max));
        prop_assert_eq!(text.lines().filter(|l| l.contains("Policy for")).count(), 1);
    }
}

#[cfg(feature = "programs")]
#[test]
fn program_policy_starts_without_grants_and_its_comments_are_valid_grants() {
    use crate::starting_program_policy;
    let sha256 = "ab".repeat(32);
    let text = starting_program_policy("evil\n[program]\nclocks = true", &sha256);
    let policy = Policy::parse(&text, "x").unwrap();
    let program = policy.program.as_ref().unwrap();
    assert_eq!(program.sha256, Some([0xab; 32]));
    assert!(!program.clocks && !program.stdout && program.environment.is_empty());
    assert!(policy.models.is_empty() && policy.filesystem.is_empty() && policy.network.is_empty());

    // Uncommented lines must be valid.
    let granted = |line: &str| match line.strip_prefix("# ") {
        Some(line) if line.starts_with("[[") || line.contains(" = ") => line.to_owned(),
        _ => line.to_owned(),
    };
    let text = starting_program_policy("program.wasm", &sha256);
    let all: Vec<String> = text.lines().map(granted).collect();
    let all = all.join("\n").replace("\"…\"             #", &format!("\"{sha256}\" #"));
    let all = all.replace("arguments = true", "arguments = true\nreason = \"why\"");
    let policy = Policy::parse(&all, "x").unwrap();
    assert!(policy.program.is_some_and(|program| program.randomness));
    assert_eq!((policy.models.len(), policy.filesystem.len(), policy.network.len()), (1, 1, 1));
}
