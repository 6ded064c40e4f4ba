//! The kernels that tract's registries hold in this build, for a test to look at.

use tract_onnx::tract_core::tract_linalg;

/// One line a kernel, sorted.
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
