//! A model that a program has loaded, with the inputs and outputs it has set.

use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendGraph, Id, NamedTensor,
};
use wasmtime_wasi_nn::{ExecutionContext, Graph, Tensor as NnTensor};

use belljar_abi::ValueInfo;

use super::{Failures, Refusal, tensors};
use crate::error::{Error, ErrorKind};
use crate::model::Model;
use crate::sandbox::Limit;
use belljar_tensor::Tensor;
use belljar_text::Escaped;

/// The model as `wasmtime-wasi-nn` sees it.
pub(super) fn graph(model: Model, failures: Failures) -> Graph {
    let graph: Box<dyn BackendGraph> = Box::new(Loaded { model, failures });
    Graph::from(graph)
}

struct Loaded {
    model: Model,
    failures: Failures,
}

impl BackendGraph for Loaded {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(Context {
            model: self.model.clone(),
            failures: self.failures.clone(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        });
        Ok(ExecutionContext::from(context))
    }
}

struct Context {
    model: Model,
    failures: Failures,
    /// Inputs that the program has set individually.
    inputs: Vec<(String, Tensor)>,
    /// Outputs of the last run.
    outputs: Vec<(String, Tensor)>,
}

impl Context {
    /// Finds an input: by its name, or by its position among those without a default.
    fn declared(&self, id: &Id) -> Result<&ValueInfo, Refusal> {
        let mut inputs = self.model.description().inputs.iter();
        let mut needed = inputs.clone().filter(|input| !input.has_default);
        let count = needed.clone().count();
        match id {
            Id::Index(at) => usize::try_from(*at).ok().and_then(|at| needed.nth(at)),
            Id::Name(name) => inputs.find(|input| input.name == *name),
        }
        .ok_or_else(|| {
            Refusal::Tensor(format!("the model has {count} inputs, but no input {}", shown(id)))
        })
    }

    fn set(&mut self, id: &Id, tensor: &NnTensor) -> Result<(), Refusal> {
        let input = self.declared(id)?;
        let name = input.name.clone();
        let scalar = input.shape.as_ref().is_some_and(Vec::is_empty);
        self.inputs.retain(|(known, _)| *known != name);
        let held: u64 = self.inputs.iter().map(|(_, tensor)| tensor.byte_len()).sum();
        let found = held.saturating_add(tensor.data.len() as u64);
        let limit = self.model.policy().limits.input_size;
        if found > limit {
            let limit = ErrorKind::Limit(Limit::InputSize { found, limit });
            return Err(Error::new(limit).into());
        }
        self.inputs.push((name, tensors::from_wasi(tensor, scalar)?));
        Ok(())
    }

    fn run(&self, inputs: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Refusal> {
        Ok(self.model.run_for_tensors(inputs)?)
    }

    /// Runs on the given inputs; inputs that were set individually are unchanged.
    fn compute_named(&mut self, named: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Refusal> {
        let mut inputs = Vec::with_capacity(named.len());
        for NamedTensor { name, tensor } in named {
            let declared = self.declared(&Id::Name(name))?;
            let scalar = declared.shape.as_ref().is_some_and(Vec::is_empty);
            inputs.push((declared.name.clone(), tensors::from_wasi(&tensor, scalar)?));
        }
        let outputs = self.run(&inputs)?;
        let named = |(name, tensor): (String, Tensor)| {
            Ok(NamedTensor { tensor: tensors::to_wasi(&tensor)?, name })
        };
        outputs.into_iter().map(named).collect()
    }

    fn output(&self, id: &Id) -> Result<NnTensor, Refusal> {
        let found = match id {
            Id::Index(at) => usize::try_from(*at).ok().and_then(|at| self.outputs.get(at)),
            Id::Name(name) => self.outputs.iter().find(|(known, _)| known == name),
        };
        let missing = || match self.outputs.len() {
            0 => Refusal::Tensor("the model has no outputs yet: run it before reading them".into()),
            count => Refusal::Tensor(format!(
                "the model has {count} outputs, but no output {}",
                shown(id)
            )),
        };
        tensors::to_wasi(&found.ok_or_else(missing)?.1)
    }
}

impl BackendExecutionContext for Context {
    fn set_input(&mut self, id: Id, tensor: &NnTensor) -> Result<(), BackendError> {
        self.set(&id, tensor).map_err(|refusal| self.failures.note(refusal))
    }

    fn get_output(&mut self, id: Id) -> Result<NnTensor, BackendError> {
        self.output(&id).map_err(|refusal| self.failures.note(refusal))
    }

    fn compute(
        &mut self,
        inputs: Option<Vec<NamedTensor>>,
    ) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        let computed = match inputs {
            Some(named) => self.compute_named(named).map(Some),
            None => {
                // Outputs of an earlier run must not be returned for this one.
                self.outputs.clear();
                self.run(&self.inputs).map(|outputs| {
                    self.outputs = outputs;
                    None
                })
            }
        };
        computed.map_err(|refusal| self.failures.note(refusal))
    }
}

fn shown(id: &Id) -> String {
    match id {
        Id::Index(at) => format!("number {at}"),
        Id::Name(name) => format!("{}", Escaped::cut(name, 100)),
    }
}
