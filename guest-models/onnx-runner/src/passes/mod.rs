//! Steps of tract's optimiser that are done here, because its own may change what a model answers.

mod axes;
mod merge;
mod simplify;

use tract_onnx::tract_core::optim::Optimizer;

/// What tract does with values it knows as expressions of symbols. Shapes are numbers here, so there
/// is nothing to win; and it takes half of an odd number for a whole one.
const BY_EXPRESSIONS: [&str; 3] = ["PropagateUniformTdim", "PropagateRoi", "FoldUniformMask"];

/// An optimiser of tract's, with these steps in the places of its own.
pub(crate) fn in_place_of_tracts(mut optimizer: Optimizer) -> Optimizer {
    optimizer.passes.retain(|pass| {
        let name = format!("{pass:?}");
        !BY_EXPRESSIONS.iter().any(|gone| name.starts_with(gone))
    });
    for pass in &mut optimizer.passes {
        match &*format!("{pass:?}") {
            "PushSplitDown" => *pass = Box::new(merge::MergeSame),
            "declutter" => *pass = Box::<simplify::Simplify>::default(),
            "ChangeAxes" => *pass = Box::new(axes::ThatFit(pass.clone())),
            _ => (),
        }
    }
    optimizer
}
