//! The interfaces between a program and its host, as types: the world `belljar:program/program`, and
//! `wasi:nn`, which a program may import.

wasmtime::component::bindgen!({
    path: "../../guest-models/wit",
    inline: "
        package belljar:host;

        world runner {
            include belljar:program/program@0.1.0;
            import wasi:nn/graph@0.2.0-rc-2024-10-28;
            import wasi:nn/inference@0.2.0-rc-2024-10-28;
            import wasi:nn/tensor@0.2.0-rc-2024-10-28;
            import wasi:nn/errors@0.2.0-rc-2024-10-28;
        }
    ",
    world: "belljar:host/runner",
    with: {
        "wasi:nn/graph.graph": super::nn::Graph,
        "wasi:nn/inference.graph-execution-context": super::nn::Context,
        "wasi:nn/tensor.tensor": super::nn::Tensor,
        "wasi:nn/errors.error": super::nn::Error,
    },
    imports: { default: trappable },
});

pub(super) use self::belljar::program::values::{ElementType, Tensor, Value};
pub(super) use wasi::nn;
