//! What a model declares about its inputs and outputs, and whether tensors keep to it.

use std::collections::HashMap;

use belljar_abi::{DType, Description, Dim, InputShape, ValueInfo};

use super::values;
use crate::error::ErrorKind;
use crate::policy::{Policy, ValueRule};
use crate::tensor::Tensor;

/// Values of the symbolic dimensions, as the tensors seen so far fix them.
pub(super) type Symbols = HashMap<String, u64>;

/// The declared inputs and outputs of a model.
#[derive(Default)]
pub(super) struct Contract {
    /// Inputs without a value of their own.
    inputs: Vec<ValueInfo>,
    /// Inputs that an initializer gives a value.
    constants: Vec<String>,
    outputs: Vec<ValueInfo>,
    /// Inputs that the policy gives their one value, and their names.
    fixed: Vec<(String, Tensor)>,
    input_rules: Vec<ValueRule>,
    output_rules: Vec<ValueRule>,
}

/// Inputs that keep to the contract.
pub(super) struct Bound {
    /// Their shapes, in the order of declaration.
    pub(super) shapes: Vec<InputShape>,
    pub(super) symbols: Symbols,
}

impl Contract {
    pub(super) fn new(description: &Description) -> Contract {
        let (constants, inputs) =
            description.inputs.iter().cloned().partition::<Vec<_>, _>(|input| input.has_default);
        let constants = constants.into_iter().map(|input| input.name).collect();
        let outputs = description.outputs.clone();
        Contract { inputs, constants, outputs, ..Contract::default() }
    }

    /// The same with a policy's rules, which must make sense for this model.
    pub(super) fn under(mut self, policy: &Policy) -> Result<Contract, ErrorKind> {
        let error = |table: &str, rule: &ValueRule, key: &str, why: String| ErrorKind::Rule {
            key: values::key(table, rule, key),
            why,
        };
        for (table, rules, declared) in
            [("inputs", &policy.inputs, &self.inputs), ("outputs", &policy.outputs, &self.outputs)]
        {
            for rule in rules {
                let Some(declared) = declared.iter().find(|value| value.name == rule.name) else {
                    let what = if table == "inputs" { "input" } else { "output" };
                    let why = format!("the model has no such {what}");
                    return Err(error(table, rule, "", why));
                };
                values::sensible(rule, declared)
                    .map_err(|(key, why)| error(table, rule, key, why))?;
            }
        }
        for rule in &policy.inputs {
            let declared = self.inputs.iter().find(|value| value.name == rule.name);
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
        Ok(self)
    }

    /// The inputs that have their one value from the policy.
    pub(super) fn fixed(&self) -> &[(String, Tensor)] {
        &self.fixed
    }

    fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|(fixed, _)| fixed == name)
    }

    /// Inputs that cross at each run.
    pub(super) fn crosses(&self, name: &str) -> bool {
        !self.is_fixed(name)
    }

    /// Checks that exactly the declared inputs are there, and that each fits.
    pub(super) fn bind<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Bound, ErrorKind> {
        let error = |name: &str, why: String| ErrorKind::Input { name: name.to_owned(), why };
        for (at, (name, _)) in inputs.iter().enumerate() {
            let name = name.as_ref();
            if inputs.iter().take(at).any(|(earlier, _)| earlier.as_ref() == name) {
                return Err(error(name, "it is given twice".into()));
            }
            if self.constants.iter().any(|constant| constant == name) {
                let why = "the model fixes it with an initializer, and overriding that is not \
                           implemented; leave it out";
                return Err(error(name, why.into()));
            }
            if !self.inputs.iter().any(|input| input.name == name) {
                return Err(error(name, format!("the model has no such input; {}", self.wants())));
            }
        }
        let mut symbols = Symbols::new();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        for declared in &self.inputs {
            let name = &declared.name;
            let given = inputs.iter().find(|(given, _)| given.as_ref() == name);
            if let Some((_, value)) = self.fixed.iter().find(|(fixed, _)| fixed == name) {
                fits(declared, value, &mut symbols).map_err(|why| error(name, why))?;
                if given.is_some_and(|(_, given)| given != value) {
                    let why = format!(
                        "the policy gives it its one value (`inputs.{name}.value`), and this is \
                         another one; leave it out"
                    );
                    return Err(error(name, why));
                }
                continue;
            }
            let (_, tensor) =
                given.ok_or_else(|| error(name, format!("it is not given; {}", self.wants())))?;
            fits(declared, tensor, &mut symbols).map_err(|why| error(name, why))?;
            if let Some(rule) = self.input_rules.iter().find(|rule| rule.name == *name)
                && let Some(why) = values::broken("inputs", rule, tensor)
            {
                return Err(error(name, why));
            }
            let dims = tensor.shape().iter().map(|dim| *dim as u64).collect();
            shapes.push(InputShape { name: name.clone(), dims });
        }
        Ok(Bound { shapes, symbols })
    }

    /// Checks that exactly the declared inputs get a shape, and that each fits; puts the shapes in
    /// the order of declaration.
    pub(super) fn bind_shapes(&self, given: &[InputShape]) -> Result<Vec<InputShape>, ErrorKind> {
        let error = |name: &str, why: String| ErrorKind::Input { name: name.to_owned(), why };
        for shape in given {
            if !self.inputs.iter().any(|input| input.name == shape.name) {
                let why = format!("the model takes no such input; {}", self.wants());
                return Err(error(&shape.name, why));
            }
        }
        let mut symbols = Symbols::new();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        for declared in self.inputs.iter().filter(|input| !self.is_fixed(&input.name)) {
            let name = &declared.name;
            let mut of_it = given.iter().filter(|shape| shape.name == *name);
            let shape = match (of_it.next(), of_it.next()) {
                (Some(shape), None) => shape.clone(),
                (None, _) => return Err(error(name, "it is given no shape".into())),
                (_, Some(_)) => return Err(error(name, "it is given a shape twice".into())),
            };
            shape_fits(declared, &shape.dims, &mut symbols).map_err(|why| {
                let declared = declaration(declared);
                error(name, format!("{:?} does not fit {declared}{why}", shape.dims))
            })?;
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// Checks that exactly the declared outputs are there, in order, and that each fits.
    pub(super) fn check_outputs(
        &self,
        mut symbols: Symbols,
        outputs: &[(String, Tensor)],
    ) -> Result<(), String> {
        let names = outputs.iter().map(|(name, _)| name);
        if !names.eq(self.outputs.iter().map(|declared| &declared.name)) {
            return Err("the outputs are not the ones the model declares".into());
        }
        for (declared, (name, tensor)) in self.outputs.iter().zip(outputs) {
            fits(declared, tensor, &mut symbols)
                .map_err(|why| format!("output {name:?} breaks the model's declaration: {why}"))?;
        }
        Ok(())
    }

    /// Holds outputs against the policy's rules. One that breaks its rule withholds all: what they
    /// say together is not the answer that the policy allows.
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

    /// What is told of outputs that keep to the rules.
    pub(super) fn told(&self, outputs: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
        let told = |(name, tensor): (String, Tensor)| match self
            .output_rules
            .iter()
            .find(|rule| rule.name == name)
        {
            Some(rule) => (name, values::told(rule, tensor)),
            None => (name, tensor),
        };
        outputs.into_iter().map(told).collect()
    }

    fn wants(&self) -> String {
        let inputs: Vec<String> = self.inputs.iter().map(declaration).collect();
        match inputs.as_slice() {
            [] => "it takes none".into(),
            inputs => format!("it takes {}", inputs.join(", ")),
        }
    }
}

/// Whether a tensor is of the declared type and shape, with every symbol standing for one number.
fn fits(declared: &ValueInfo, tensor: &Tensor, symbols: &mut Symbols) -> Result<(), String> {
    let broken = || {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        format!("it is {dtype} {shape:?}, declared is {}", declaration(declared))
    };
    match declared.dtype() {
        Some(dtype) if dtype == tensor.dtype() => {}
        Some(_) => return Err(broken()),
        None if declared.elem_type == 0 => {
            return Err(
                "the model declares no tensor of a known type, which is not supported".into()
            );
        }
        None => {
            let name = DType::onnx_name(declared.elem_type);
            return Err(format!("the model declares it as {name}, which is not supported"));
        }
    }
    let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
    shape_fits(declared, &shape, symbols).map_err(|why| broken() + &why)
}

/// As `fits`, for a shape alone. `Err` has more to say about what does not fit, or nothing.
fn shape_fits(declared: &ValueInfo, shape: &[u64], symbols: &mut Symbols) -> Result<(), String> {
    let Some(dims) = &declared.shape else { return Ok(()) };
    if dims.len() != shape.len() {
        return Err(String::new());
    }
    for (dim, size) in dims.iter().zip(shape) {
        match dim {
            Dim::Unknown => {}
            Dim::Fixed(fixed) if fixed == size => {}
            Dim::Fixed(_) => return Err(String::new()),
            Dim::Symbol(name) => {
                let bound = *symbols.entry(name.clone()).or_insert(*size);
                if bound != *size {
                    return Err(format!("; {name:?} is {bound} elsewhere"));
                }
            }
        }
    }
    Ok(())
}

/// A declaration, as a person writes it: `image: f32 [batch, 3, 224, 224]`.
pub(super) fn declaration(value: &ValueInfo) -> String {
    let dtype = DType::onnx_name(value.elem_type);
    let Some(dims) = &value.shape else { return format!("{}: {dtype}", value.name) };
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("{}: {dtype} [{}]", value.name, dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, elem_type: u32, dims: &[Dim]) -> ValueInfo {
        let shape = Some(dims.to_vec());
        ValueInfo { name: name.into(), elem_type, shape, has_default: false }
    }

    fn symbol(name: &str) -> Dim {
        Dim::Symbol(name.into())
    }

    fn contract() -> Contract {
        let mut fixed = value("weight", 1, &[Dim::Fixed(1)]);
        fixed.has_default = true;
        Contract::new(&Description {
            inputs: vec![
                value("x", 1, &[symbol("n"), Dim::Fixed(2)]),
                fixed,
                value("len", 7, &[symbol("n")]),
            ],
            outputs: vec![value("y", 1, &[symbol("n"), symbol("m"), symbol("m")])],
            ..Description::default()
        })
    }

    fn f32s(shape: &[usize]) -> Tensor {
        Tensor::new(vec![0.0f32; shape.iter().product()], shape).unwrap()
    }

    fn i64s(count: usize) -> Tensor {
        Tensor::new(vec![0i64; count], &[count]).unwrap()
    }

    #[test]
    fn fitting_inputs_are_bound_in_declared_order() {
        let bound = contract().bind(&[("len", i64s(3)), ("x", f32s(&[3, 2]))]).unwrap();
        assert_eq!(bound.symbols["n"], 3);
        let names: Vec<_> = bound.shapes.iter().map(|shape| shape.name.as_str()).collect();
        assert_eq!(names, ["x", "len"]);
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let (x, len) = (|| ("x", f32s(&[3, 2])), || ("len", i64s(3)));
        let weight = ("weight", f32s(&[1]));
        let cases = [
            (vec![x()], "not given"),
            (vec![x(), len(), ("z", i64s(1))], "no such input"),
            (vec![x(), len(), x()], "given twice"),
            (vec![x(), len(), weight], "initializer"),
            (vec![("x", f32s(&[3, 3])), len()], "declared is x: f32 [n, 2]"),
            (vec![("x", f32s(&[3])), len()], "declared is x: f32 [n, 2]"),
            (vec![("x", i64s(3)), len()], "it is i64"),
            (vec![x(), ("len", i64s(4))], "\"n\" is 3 elsewhere"),
        ];
        for (inputs, expected) in cases {
            let err = contract().bind(&inputs).err().map(|err| err.to_string());
            assert!(err.as_ref().is_some_and(|err| err.contains(expected)), "{expected}: {err:?}");
        }
    }

    #[test]
    fn outputs_must_be_the_declared_ones() {
        let bound = Symbols::from([("n".to_owned(), 3)]);
        let check = |outputs: &[(String, Tensor)]| contract().check_outputs(bound.clone(), outputs);
        let y = |shape: &[usize]| ("y".to_owned(), f32s(shape));
        assert_eq!(check(&[y(&[3, 4, 4])]), Ok(()));
        for outputs in [
            vec![],
            vec![("z".to_owned(), f32s(&[3, 4, 4]))],
            vec![y(&[3, 4, 4]), y(&[3, 4, 4])],
            vec![y(&[2, 4, 4])],
            vec![y(&[3, 4, 5])],
            vec![y(&[3, 4])],
            vec![("y".to_owned(), i64s(3))],
        ] {
            assert!(check(&outputs).is_err(), "{outputs:?}");
        }
    }
}
