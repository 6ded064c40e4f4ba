//! Random sequences of operations with unusual names.

use proptest::prelude::*;

use crate::program::wasi::sequences;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_operations_reaches_outside(bytes in prop::collection::vec(any::<u8>(), 0..240)) {
        let folder = tempfile::tempdir().unwrap();
        sequences::run(&bytes, &folder.path().canonicalize().unwrap());
    }
}
