//! Lists the kernels in tract's registries, for a test.

use tract_onnx::tract_core::tract_linalg;

/// One line per kernel, sorted.
pub(crate) fn list() -> String {
    let matmul = tract_linalg::mmm_routines::declared().map(|routine| {
        let kernel = (routine.make)();
        format!("matmul {}", kernel.name())
    });
    let others =
        tract_linalg::routines::declared().map(|routine| format!("routine {}", routine.name()));
    let mut lines: Vec<String> = matmul.chain(others).collect();
    lines.sort();
    lines.join("\n")
}
