//! The declared inputs and outputs of a model, and checks of tensors against them and against the
//! policy's rules.

mod declared;
mod dims;
mod open;
mod parts;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use belljar_abi::{Description, InputShape, Part, ValueInfo};

use super::shapes::ShapeDifference;
use super::values;
use crate::error::ErrorKind;
use crate::sandbox::Limit;
use belljar_policy::{DeclaredShapes, Policy, ValueRule};
use belljar_tensor::Tensor;

pub(super) use declared::declaration;
use declared::{Misfit, misfit, no_type, to_convert};
pub(super) use parts::NamedPart;
use parts::may_be_omitted;

/// The sizes of each symbol in the tensors seen so far: more than one only if the policy does not
/// enforce declared shapes.
pub(super) type Symbols = HashMap<String, Vec<u64>>;

/// The declared inputs and outputs of a model.
#[derive(Clone, Default)]
pub(super) struct Contract {
    declared_inputs: Vec<ValueInfo>,
    declared_outputs: Vec<ValueInfo>,
    /// The tensors that the inputs cross as. Inputs with a default from an initializer may be
    /// omitted, and those of optionals.
    inputs: Vec<ValueInfo>,
    /// Which part of its input each of them is.
    input_parts: Vec<Part>,
    outputs: Vec<ValueInfo>,
    /// Inputs whose value the policy fixes, with their names.
    fixed: Vec<(String, Tensor)>,
    /// Named dimensions whose size the caller fixes.
    fixed_dims: Vec<(String, u64)>,
    input_rules: Vec<ValueRule>,
    output_rules: Vec<ValueRule>,
    declared_shapes: DeclaredShapes,
    /// Inputs (`true`) and outputs whose shape differences were reported.
    reported: Arc<Mutex<HashSet<(bool, String)>>>,
}

/// Inputs that satisfy the contract.
pub(super) struct Bound {
    /// Their shapes, in declaration order.
    pub(super) shapes: Vec<InputShape>,
    pub(super) symbols: Symbols,
    /// Inputs with symbols of several sizes.
    pub(super) differences: Vec<ShapeDifference>,
}

/// Why inputs of some shapes cannot be accepted.
pub(super) struct Unacceptable {
    pub(super) kind: ErrorKind,
    pub(super) for_all_shapes: bool,
}

impl Contract {
    pub(super) fn new(description: &Description) -> Contract {
        let (inputs, outputs) = (description.inputs.clone(), description.outputs.clone());
        let parts = parts::of_inputs(&inputs);
        Contract {
            inputs: parts.iter().map(|one| one.info.clone()).collect(),
            input_parts: parts.iter().map(|one| one.part).collect(),
            outputs: parts::of_outputs(&outputs).into_iter().map(|one| one.info).collect(),
            declared_inputs: inputs,
            declared_outputs: outputs,
            ..Contract::default()
        }
    }

    /// The contract with a policy's rules, which must be valid for this model.
    pub(super) fn under(mut self, policy: &Policy) -> Result<Contract, ErrorKind> {
        let error = |table: &str, rule: &ValueRule, key: &str, why: String| ErrorKind::Rule {
            key: values::key(table, rule, key),
            why,
        };
        // Where declared output shapes are not enforced, the policy's shapes are.
        let strict = policy.declared_shapes == DeclaredShapes::Strict;
        for (table, rules, declared, shape_binds) in [
            ("inputs", &policy.inputs, &self.declared_inputs, true),
            ("outputs", &policy.outputs, &self.declared_outputs, strict),
        ] {
            for rule in rules {
                let Some(declared) = declared.iter().find(|value| value.name == rule.name) else {
                    let what = if table == "inputs" { "input" } else { "output" };
                    let why = format!("the model has no such {what}");
                    return Err(error(table, rule, "", why));
                };
                values::validate_rule(rule, declared, shape_binds)
                    .map_err(|(key, why)| error(table, rule, key, why))?;
            }
        }
        for rule in &policy.inputs {
            let declared = self.declared_inputs.iter().find(|value| value.name == rule.name);
            if let (Some(value), Some(declared)) = (rule.value, declared) {
                let tensor = values::fixed(value, declared);
                let tensor = tensor.map_err(|why| error("inputs", rule, "value", why))?;
                if let Some(why) = values::broken("inputs", rule, &tensor) {
                    return Err(error("inputs", rule, "value", why));
                }
                self.fixed.push((rule.name.clone(), tensor));
            }
        }
        self.input_rules.clone_from(&policy.inputs);
        self.output_rules.clone_from(&policy.outputs);
        self.declared_shapes = policy.declared_shapes;
        Ok(self)
    }

    /// The inputs whose value the policy fixes.
    pub(super) fn fixed(&self) -> &[(String, Tensor)] {
        &self.fixed
    }

    fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|(fixed, _)| fixed == name)
    }

    /// Whether an input is sent to the sandbox at each run.
    pub(super) fn is_sent(&self, name: &str) -> bool {
        !self.is_fixed(name)
    }

    /// Checks that all declared inputs without a default are given, that no others are, and that
    /// each fits.
    pub(super) fn bind<N: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        inputs: &[(N, T)],
    ) -> Result<Bound, ErrorKind> {
        let error = |name: &str, why: String| ErrorKind::Input { name: name.to_owned(), why };
        for (at, (name, _)) in inputs.iter().enumerate() {
            let name = name.as_ref();
            if inputs.iter().take(at).any(|(earlier, _)| earlier.as_ref() == name) {
                return Err(error(name, "given twice".into()));
            }
            if !self.inputs.iter().any(|input| input.name == name) {
                return Err(error(name, format!("the model has no such input; {}", self.wants())));
            }
        }
        let mut symbols = self.known_symbols();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        let mut differences = Vec::new();
        for (declared, part) in self.inputs.iter().zip(&self.input_parts) {
            let name = &declared.name;
            let given = inputs.iter().find(|(given, _)| given.as_ref() == name);
            let given = given.map(|(given, tensor)| (given, tensor.borrow()));
            if let Some((_, value)) = self.fixed.iter().find(|(fixed, _)| fixed == name) {
                let differs = self.fits(Side::Input, declared, value, &mut symbols);
                differences.extend(differs.map_err(|why| error(name, why))?);
                if given.is_some_and(|(_, given)| given != value) {
                    let why = format!(
                        "the policy fixes its value (`inputs.{name}.value`), and a different value \
                         is given; omit it"
                    );
                    return Err(error(name, why));
                }
                continue;
            }
            let tensor = match given {
                Some((_, tensor)) => tensor,
                None if declared.has_default => continue,
                None => return Err(error(name, format!("not given; {}", self.wants()))),
            };
            let dims: Vec<u64> = tensor.shape().iter().map(|dim| *dim as u64).collect();
            self.check_fixed_dims(declared, &dims)?;
            let differs = self.fits(Side::Input, declared, tensor, &mut symbols);
            differences
                .extend(differs.map_err(|why| error(name, why + &to_convert(declared, tensor)))?);
            if let Some(rule) = self.input_rules.iter().find(|rule| rule.name == *name)
                && let Some(why) = values::broken("inputs", rule, tensor)
            {
                return Err(error(name, why));
            }
            shapes.push(InputShape { name: name.clone(), dims: parts::planned(*part, dims) });
        }
        Ok(Bound { shapes, symbols, differences })
    }

    /// Checks that all declared inputs without a default are given a shape, that no others are, and
    /// that each fits; returns the shapes in declaration order.
    pub(super) fn bind_shapes(&self, given: &[InputShape]) -> Result<Vec<InputShape>, ErrorKind> {
        let error = |name: &str, why: String| ErrorKind::Input { name: name.to_owned(), why };
        for shape in given {
            if !self.declared_inputs.iter().any(|input| input.name == shape.name) {
                let why = format!("the model has no such input; {}", self.wants());
                return Err(error(&shape.name, why));
            }
        }
        let given = self.part_shapes(given);
        let mut symbols = self.known_symbols();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        for declared in self.inputs.iter().filter(|input| !self.is_fixed(&input.name)) {
            let name = &declared.name;
            let mut of_it = given.iter().filter(|shape| shape.name == *name);
            let shape = match (of_it.next(), of_it.next()) {
                (Some(shape), None) => shape.clone(),
                (None, _) if declared.has_default => continue,
                (None, _) => {
                    return Err(error(
                        name,
                        format!("no shape given; the model declares {}", declaration(declared)),
                    ));
                }
                (_, Some(_)) => return Err(error(name, "shape given twice".into())),
            };
            self.check_fixed_dims(declared, &shape.dims)?;
            if let Some(misfit) = misfit(declared, &shape.dims, &mut symbols)
                && self.enforced(Side::Input, &misfit)
            {
                let declared = declaration(declared);
                let why = format!("{:?} does not fit {declared}{}", shape.dims, misfit.detail());
                return Err(error(name, why));
            }
            if let Some(rule) = self.input_rules.iter().find(|rule| rule.name == *name)
                && let Some(why) = values::broken_shape("inputs", rule, &shape.dims)
            {
                return Err(error(name, why));
            }
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// Why no inputs of these shapes can be accepted, whatever their values: a required input has
    /// an unsupported element type, or the inputs are too large together.
    pub(super) fn unacceptable(&self, shapes: &[InputShape], limit: u64) -> Option<Unacceptable> {
        let needed = |input: &&ValueInfo| !input.has_default && !self.is_fixed(&input.name);
        let untyped = self.inputs.iter().filter(needed).find(|input| input.dtype().is_none());
        if let Some(input) = untyped {
            let (name, why) = (input.name.clone(), no_type(input));
            return Some(Unacceptable {
                kind: ErrorKind::Input { name, why },
                for_all_shapes: true,
            });
        }
        let size = |shape: &InputShape| {
            let declared = self.inputs.iter().find(|input| input.name == shape.name)?;
            // The size of a string depends on its text.
            let element = declared.dtype()?.size()? as u64;
            Some(shape.dims.iter().fold(element, |size, dim| size.saturating_mul(*dim)))
        };
        let found = shapes.iter().filter_map(size).fold(0, u64::saturating_add);
        let kind = ErrorKind::Limit(Limit::InputSize { found, limit });
        (found > limit).then_some(Unacceptable { kind, for_all_shapes: false })
    }

    /// Checks that exactly the declared outputs are present, in order and with their element types.
    /// Returns differences from declared shapes that the policy does not enforce.
    pub(super) fn check_outputs(
        &self,
        mut symbols: Symbols,
        outputs: &[(String, Tensor)],
    ) -> Result<Vec<ShapeDifference>, String> {
        let names = outputs.iter().map(|(name, _)| name);
        if !names.eq(self.outputs.iter().map(|declared| &declared.name)) {
            return Err("the outputs differ from those the model declares".into());
        }
        let mut differences = Vec::new();
        for (declared, (name, tensor)) in self.outputs.iter().zip(outputs) {
            let differs =
                self.fits(Side::Output, declared, tensor, &mut symbols).map_err(|why| {
                    format!("output {name:?} violates the model's declaration: {why}")
                })?;
            differences.extend(differs);
        }
        Ok(differences)
    }

    /// The differences that were not reported before, one for each input and output.
    pub(super) fn unreported(&self, differences: &[ShapeDifference]) -> Vec<ShapeDifference> {
        if differences.is_empty() {
            return Vec::new();
        }
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |difference: &&ShapeDifference| {
            reported.insert((difference.is_input, difference.name.clone()))
        };
        differences.iter().filter(is_new).cloned().collect()
    }

    /// Checks a tensor against the declared type and shape. `Ok` is the difference in shape if
    /// shapes are not enforced.
    fn fits(
        &self,
        side: Side,
        declared: &ValueInfo,
        tensor: &Tensor,
        symbols: &mut Symbols,
    ) -> Result<Option<ShapeDifference>, String> {
        let broken = |detail: &str| {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            format!(
                "it is {dtype} {shape:?}, but the model declares {}{detail}",
                declaration(declared)
            )
        };
        match declared.dtype() {
            Some(dtype) if dtype == tensor.dtype() => {}
            Some(_) => return Err(broken("")),
            // An output declared without an element type may have any.
            None if side == Side::Output && declared.elem_type == 0 => {}
            None => return Err(no_type(declared)),
        }
        let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
        match misfit(declared, &shape, symbols) {
            None => Ok(None),
            Some(misfit) if self.enforced(side, &misfit) => Err(broken(&misfit.detail())),
            Some(misfit) => Ok(Some(ShapeDifference {
                is_input: side == Side::Input,
                name: declared.name.clone(),
                declared: declared.shape.clone().unwrap_or_default(),
                found: tensor.shape().to_vec(),
                symbol: misfit.symbol(),
            })),
        }
    }

    /// Whether a tensor with this difference is refused.
    fn enforced(&self, side: Side, misfit: &Misfit) -> bool {
        let strict = self.declared_shapes == DeclaredShapes::Strict;
        strict || (side == Side::Input && matches!(misfit, Misfit::Shape))
    }

    /// Checks outputs against the policy's rules. If one violates its rule, all outputs are
    /// withheld, because only together they are the result that the policy allows.
    pub(super) fn check_rules(&self, outputs: &[(String, Tensor)]) -> Result<(), ErrorKind> {
        for rule in &self.output_rules {
            let of_it = outputs.iter().filter(|(name, _)| *name == rule.name);
            for (name, tensor) in of_it {
                if let Some(why) = values::broken("outputs", rule, tensor) {
                    return Err(ErrorKind::Withheld { name: name.clone(), why });
                }
            }
        }
        Ok(())
    }

    /// The parts of outputs that the rules let out.
    pub(super) fn disclosed(&self, outputs: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
        let disclosed = |(name, tensor): (String, Tensor)| match self
            .output_rules
            .iter()
            .find(|rule| rule.name == name)
        {
            Some(rule) => (name, values::disclosed(rule, tensor)),
            None => (name, tensor),
        };
        outputs.into_iter().map(disclosed).collect()
    }

    fn wants(&self) -> String {
        let (optional, needed) =
            self.declared_inputs.iter().partition::<Vec<_>, _>(|input| may_be_omitted(input));
        let needed: Vec<String> = needed.into_iter().map(declaration).collect();
        let needed = match needed.as_slice() {
            [] => "the model takes none".into(),
            needed => format!("the model takes {}", needed.join(", ")),
        };
        // Old models declare all of their weights as inputs.
        match &*optional {
            [] => needed,
            [one] => format!("{needed}, and may take {}", declaration(one)),
            more => format!("{needed}, and may take {} others that have defaults", more.len()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}
