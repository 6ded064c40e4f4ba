//! The declared inputs and outputs of a model, and checks of tensors against them.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use belljar_abi::{DType, Description, Dim, InputShape, ValueInfo};

use super::shapes::ShapeDifference;
use super::values;
use crate::error::ErrorKind;
use crate::sandbox::Limit;
use belljar_policy::{DeclaredShapes, Policy, ValueRule};
use belljar_tensor::Tensor;

/// The sizes of each symbol in the tensors seen so far: more than one only if the policy does not
/// enforce declared shapes.
pub(super) type Symbols = HashMap<String, Vec<u64>>;

/// The declared inputs and outputs of a model.
#[derive(Default)]
pub(super) struct Contract {
    /// Inputs with a default from an initializer may be omitted.
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    /// Inputs whose value the policy fixes, with their names.
    fixed: Vec<(String, Tensor)>,
    input_rules: Vec<ValueRule>,
    output_rules: Vec<ValueRule>,
    declared_shapes: DeclaredShapes,
    /// Inputs (`true`) and outputs whose shape differences were reported.
    reported: Mutex<HashSet<(bool, String)>>,
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
        Contract { inputs, outputs, ..Contract::default() }
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
            ("inputs", &policy.inputs, &self.inputs, true),
            ("outputs", &policy.outputs, &self.outputs, strict),
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
    pub(super) fn bind<N: AsRef<str>>(&self, inputs: &[(N, Tensor)]) -> Result<Bound, ErrorKind> {
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
        let mut symbols = Symbols::new();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        let mut differences = Vec::new();
        for declared in &self.inputs {
            let name = &declared.name;
            let given = inputs.iter().find(|(given, _)| given.as_ref() == name);
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
            let differs = self.fits(Side::Input, declared, tensor, &mut symbols);
            differences
                .extend(differs.map_err(|why| error(name, why + &to_convert(declared, tensor)))?);
            if let Some(rule) = self.input_rules.iter().find(|rule| rule.name == *name)
                && let Some(why) = values::broken("inputs", rule, tensor)
            {
                return Err(error(name, why));
            }
            let dims = tensor.shape().iter().map(|dim| *dim as u64).collect();
            shapes.push(InputShape { name: name.clone(), dims });
        }
        Ok(Bound { shapes, symbols, differences })
    }

    /// Checks that all declared inputs without a default are given a shape, that no others are, and
    /// that each fits; returns the shapes in declaration order.
    pub(super) fn bind_shapes(&self, given: &[InputShape]) -> Result<Vec<InputShape>, ErrorKind> {
        let error = |name: &str, why: String| ErrorKind::Input { name: name.to_owned(), why };
        for shape in given {
            if !self.inputs.iter().any(|input| input.name == shape.name) {
                let why = format!("the model has no such input; {}", self.wants());
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
                (None, _) if declared.has_default => continue,
                (None, _) => {
                    return Err(error(
                        name,
                        format!("no shape given; the model declares {}", declaration(declared)),
                    ));
                }
                (_, Some(_)) => return Err(error(name, "shape given twice".into())),
            };
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
            self.inputs.iter().partition::<Vec<_>, _>(|input| input.has_default);
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

/// The error for a declaration without a supported element type.
fn no_type(declared: &ValueInfo) -> String {
    match declared.elem_type {
        0 => "the model does not declare it as a tensor with an element type, which is not \
              supported"
            .into(),
        other => {
            let name = DType::onnx_name(other);
            format!("the model declares it as {name}, which is not supported")
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}

/// How a shape differs from its declaration.
enum Misfit {
    /// The rank or a fixed size differs.
    Shape,
    /// A symbol has this other size elsewhere.
    Symbol(String, u64),
}

impl Misfit {
    fn symbol(self) -> Option<(String, u64)> {
        match self {
            Misfit::Shape => None,
            Misfit::Symbol(name, size) => Some((name, size)),
        }
    }

    /// Details in addition to the two shapes.
    fn detail(&self) -> String {
        match self {
            Misfit::Shape => String::new(),
            Misfit::Symbol(name, size) => format!("; {name:?} is {size} elsewhere"),
        }
    }
}

/// How to convert an input to the declared type; empty if it has the declared type.
fn to_convert(declared: &ValueInfo, tensor: &Tensor) -> String {
    let Some(dtype) = declared.dtype().filter(|dtype| *dtype != tensor.dtype()) else {
        return String::new();
    };
    let numpy = match dtype {
        DType::F16 => "np.float16",
        DType::F32 => "np.float32",
        DType::F64 => "np.float64",
        DType::I8 => "np.int8",
        DType::I16 => "np.int16",
        DType::I32 => "np.int32",
        DType::I64 => "np.int64",
        DType::U8 => "np.uint8",
        DType::U16 => "np.uint16",
        DType::U32 => "np.uint32",
        DType::U64 => "np.uint64",
        DType::Bool => "np.bool_",
        DType::String => "np.str_",
        DType::BF16 => "ml_dtypes.bfloat16",
        _ => return String::new(),
    };
    format!(". Convert it: in numpy `.astype({numpy})`")
}

/// The difference of a shape from its declaration, if any; records the sizes of symbols.
fn misfit(declared: &ValueInfo, shape: &[u64], symbols: &mut Symbols) -> Option<Misfit> {
    let dims = declared.shape.as_ref()?;
    let fixed = |(dim, size): (&Dim, &u64)| match dim {
        Dim::Fixed(fixed) => fixed == size,
        Dim::Symbol(_) | Dim::Unknown => true,
    };
    if dims.len() != shape.len() || !dims.iter().zip(shape).all(fixed) {
        return Some(Misfit::Shape);
    }
    let mut found = None;
    for (dim, size) in dims.iter().zip(shape) {
        let Dim::Symbol(name) = dim else { continue };
        let sizes = symbols.entry(name.clone()).or_default();
        if sizes.contains(size) {
            continue;
        }
        if let (Some(other), None) = (sizes.first(), &found) {
            found = Some(Misfit::Symbol(name.clone(), *other));
        }
        sizes.push(*size);
    }
    found
}

/// A declaration in readable form: `image: f32 [batch, 3, 224, 224]`.
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
        under(DeclaredShapes::Report)
    }

    fn under(declared_shapes: DeclaredShapes) -> Contract {
        let mut fixed = value("weight", 1, &[Dim::Fixed(1)]);
        fixed.has_default = true;
        let contract = Contract::new(&Description {
            inputs: vec![
                value("x", 1, &[symbol("n"), Dim::Fixed(2)]),
                fixed,
                value("len", 7, &[symbol("n")]),
            ],
            outputs: vec![value("y", 1, &[symbol("n"), symbol("m"), symbol("m")])],
            ..Description::default()
        });
        contract.under(&Policy::default().with_declared_shapes(declared_shapes)).unwrap()
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
        assert_eq!(bound.symbols["n"], [3]);
        assert_eq!(bound.differences, []);
        let names: Vec<_> = bound.shapes.iter().map(|shape| shape.name.as_str()).collect();
        assert_eq!(names, ["x", "len"]);
    }

    #[test]
    fn an_input_with_a_default_may_be_given_or_left_out() {
        let names = |inputs: &[(&str, Tensor)]| -> Vec<String> {
            let bound = contract().bind(inputs).unwrap();
            bound.shapes.into_iter().map(|shape| shape.name).collect()
        };
        let (x, len) = (("x", f32s(&[3, 2])), ("len", i64s(3)));
        assert_eq!(names(&[x.clone(), len.clone()]), ["x", "len"]);
        assert_eq!(names(&[len, ("weight", f32s(&[1])), x]), ["x", "weight", "len"]);
        let shape = |name: &str, dims: &[u64]| InputShape { name: name.into(), dims: dims.into() };
        let needed = [shape("x", &[3, 2]), shape("len", &[3])];
        assert_eq!(contract().bind_shapes(&needed).unwrap().len(), 2);
        let all = [&needed[..], &[shape("weight", &[1])]].concat();
        assert_eq!(contract().bind_shapes(&all).unwrap().len(), 3);
    }

    #[test]
    fn output_declared_without_a_type_accepts_any_type() {
        let untyped = ValueInfo { name: "h".into(), elem_type: 0, shape: None, has_default: false };
        let with_shape = ValueInfo { shape: Some(vec![Dim::Fixed(2)]), ..untyped.clone() };
        for (output, differences) in [(untyped, [0, 0]), (with_shape, [1, 0])] {
            let outputs = vec![output];
            let contract = Contract::new(&Description { outputs, ..Description::default() });
            for (tensor, differences) in [f32s(&[2, 3]), i64s(2)].into_iter().zip(differences) {
                let outputs = [("h".to_owned(), tensor)];
                let found = contract.check_outputs(Symbols::new(), &outputs).unwrap();
                assert_eq!(found.len(), differences);
            }
        }
    }

    #[test]
    fn inputs_that_no_tensor_can_satisfy_are_refused_before_a_run() {
        let unacceptable = |elem_type, dims: &[u64], limit| {
            let open = vec![Dim::Unknown; dims.len()];
            let inputs = vec![value("x", elem_type, &open)];
            let contract = Contract::new(&Description { inputs, ..Description::default() });
            let shapes = [InputShape { name: "x".into(), dims: dims.to_vec() }];
            contract
                .unacceptable(&shapes, limit)
                .map(|one| (one.kind.to_string(), one.for_all_shapes))
        };
        assert_eq!(unacceptable(1, &[2, 3], 24), None);
        assert_eq!(unacceptable(8, &[1 << 40], 24), None, "strings");
        let (text, for_all) = unacceptable(1, &[2, 3], 23).unwrap();
        assert!(text.contains("limits.input-size") && !for_all, "{text}");
        let (text, _) = unacceptable(11, &[1 << 40, 1 << 40], 4 << 30).unwrap();
        assert!(text.contains("limits.input-size"), "{text}");
        for elem_type in [0, 14, 99] {
            let (text, for_all) = unacceptable(elem_type, &[1], 24).unwrap();
            assert!(
                text.contains("input x") && text.contains("not supported") && for_all,
                "{text}"
            );
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let (x, len) = (|| ("x", f32s(&[3, 2])), || ("len", i64s(3)));
        let weight = ("weight", f32s(&[2]));
        let cases = [
            (vec![x()], "not given"),
            (vec![x(), len(), ("z", i64s(1))], "no such input"),
            (vec![x(), len(), x()], "given twice"),
            (vec![x(), len(), weight], "the model declares weight: f32 [1]"),
            (vec![("x", f32s(&[3, 3])), len()], "the model declares x: f32 [n, 2]"),
            (vec![("x", f32s(&[3])), len()], "the model declares x: f32 [n, 2]"),
            (vec![("x", i64s(3)), len()], "it is i64"),
        ];
        for declared_shapes in [DeclaredShapes::Report, DeclaredShapes::Strict] {
            for (inputs, expected) in &cases {
                let err = under(declared_shapes).bind(inputs).err().map(|err| err.to_string());
                let says = err.as_ref().is_some_and(|err| err.contains(expected));
                assert!(says, "{expected}: {err:?}");
            }
        }
    }

    #[test]
    fn a_symbol_with_two_sizes_is_refused_only_when_strict() {
        let inputs = [("x", f32s(&[3, 2])), ("len", i64s(4))];
        let err = under(DeclaredShapes::Strict).bind(&inputs).err().unwrap().to_string();
        assert!(err.contains("\"n\" is 3 elsewhere"), "{err}");
        let shapes = [
            InputShape { name: "x".into(), dims: vec![3, 2] },
            InputShape { name: "len".into(), dims: vec![4] },
        ];
        assert!(under(DeclaredShapes::Strict).bind_shapes(&shapes).is_err());
        assert!(contract().bind_shapes(&shapes).is_ok());
        let bound = contract().bind(&inputs).unwrap();
        let [difference] = &bound.differences[..] else { panic!("{:?}", bound.differences) };
        assert!(difference.is_input);
        assert_eq!((&*difference.name, &*difference.found), ("len", &[4][..]));
        assert_eq!(difference.symbol, Some(("n".to_owned(), 3)));
        // An output may have either size, without a further difference.
        for size in [3, 4] {
            let y = [("y".to_owned(), f32s(&[size, 1, 1]))];
            assert_eq!(contract().check_outputs(bound.symbols.clone(), &y), Ok(vec![]));
        }
    }

    #[test]
    fn undeclared_outputs_are_refused() {
        let bound = Symbols::from([("n".to_owned(), vec![3])]);
        let y = |shape: &[usize]| ("y".to_owned(), f32s(shape));
        let strict = under(DeclaredShapes::Strict);
        for contract in [&contract(), &strict] {
            let check =
                |outputs: &[(String, Tensor)]| contract.check_outputs(bound.clone(), outputs);
            assert_eq!(check(&[y(&[3, 4, 4])]), Ok(vec![]));
            for outputs in [
                vec![],
                vec![("z".to_owned(), f32s(&[3, 4, 4]))],
                vec![y(&[3, 4, 4]), y(&[3, 4, 4])],
                vec![("y".to_owned(), i64s(3))],
            ] {
                assert!(check(&outputs).is_err(), "{outputs:?}");
            }
        }
        for shape in [&[2, 4, 4][..], &[3, 4, 5], &[3, 4], &[]] {
            assert!(strict.check_outputs(bound.clone(), &[y(shape)]).is_err(), "{shape:?}");
            let found = contract().check_outputs(bound.clone(), &[y(shape)]).unwrap();
            let [difference] = &found[..] else { panic!("{found:?}") };
            assert!(!difference.is_input && difference.found == shape, "{difference}");
        }
    }

    #[test]
    fn each_input_and_output_is_reported_once() {
        let contract = contract();
        let difference = |is_input, name: &str| ShapeDifference {
            is_input,
            name: name.into(),
            declared: vec![],
            found: vec![1],
            symbol: None,
        };
        let (input, output) = (difference(true, "x"), difference(false, "x"));
        let both = [input.clone(), output.clone()];
        assert_eq!(contract.unreported(&both[..1]), [input]);
        assert_eq!(contract.unreported(&both), [output]);
        assert_eq!(contract.unreported(&both), []);
    }
}
