//! Named dimensions whose size the caller fixes.

use belljar_abi::{Dim, ValueInfo};

use super::{Contract, Symbols};
use crate::error::ErrorKind;
use crate::model::dims::{DimError, added};
use crate::model::values;
use crate::sandbox::PlanShapes;
use belljar_policy::Sizes;

impl Contract {
    /// The contract with sizes for named dimensions, in addition to those that it fixes already.
    pub(in crate::model) fn with_dims<N: AsRef<str>>(
        &self,
        dims: &[(N, u64)],
    ) -> Result<Contract, DimError> {
        let fixed_dims = added(&self.fixed_dims, dims, &self.dim_names())?;
        let contract = Contract { fixed_dims, ..self.clone() };
        contract.check_allowed()?;
        Ok(contract)
    }

    pub(in crate::model) fn fixed_dims(&self) -> &[(String, u64)] {
        &self.fixed_dims
    }

    /// The size that a declared dimension is fixed to by its name.
    pub(in crate::model) fn fixed_size(&self, dim: &Dim) -> Option<u64> {
        let Dim::Symbol(name) = dim else { return None };
        self.fixed_dims.iter().find(|(fixed, _)| fixed == name).map(|(_, size)| *size)
    }

    /// Whether a plan leaves none of the fixed dimensions open.
    pub(in crate::model) fn accepts(&self, plan: &PlanShapes) -> bool {
        plan.open_dims().all(|(name, axis)| {
            let input = self.inputs.iter().find(|input| input.name == name);
            let dim = input.and_then(|input| input.shape.as_ref()?.get(axis));
            dim.is_none_or(|dim| self.fixed_size(dim).is_none())
        })
    }

    /// The sizes of symbols that are known before any tensor.
    pub(super) fn known_symbols(&self) -> Symbols {
        self.fixed_dims.iter().map(|(name, size)| (name.clone(), vec![*size])).collect()
    }

    /// Checks an input's shape against the fixed dimensions. Other ranks are left to other checks.
    pub(super) fn check_fixed_dims(
        &self,
        declared: &ValueInfo,
        shape: &[u64],
    ) -> Result<(), ErrorKind> {
        let dims = declared.shape.as_deref().unwrap_or_default();
        if dims.len() != shape.len() {
            return Ok(());
        }
        for (axis, (dim, found)) in dims.iter().zip(shape).enumerate() {
            if let Some(fixed) = self.fixed_size(dim).filter(|fixed| fixed != found) {
                let (name, dim, found) = (declared.name.clone(), dim.to_string(), *found);
                return Err(ErrorKind::InputDim { name, axis, dim, found, fixed });
            }
        }
        Ok(())
    }

    /// The names of dimensions of inputs, each once.
    fn dim_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for dim in self.inputs.iter().filter_map(|input| input.shape.as_ref()).flatten() {
            if let Dim::Symbol(name) = dim
                && !names.contains(&&**name)
            {
                names.push(&**name);
            }
        }
        names
    }

    /// Checks that the policy allows inputs of the fixed sizes.
    fn check_allowed(&self) -> Result<(), DimError> {
        for rule in &self.input_rules {
            let Some(declared) = self.inputs.iter().find(|input| input.name == rule.name) else {
                continue;
            };
            let dims = declared.shape.iter().flatten().enumerate();
            for (axis, dim) in dims {
                let Some(size) = self.fixed_size(dim) else { continue };
                let excluded = |key: &str, why: String| {
                    let (name, key) = (dim.to_string(), values::key("inputs", rule, key));
                    DimError::Excluded { name, size, key, why }
                };
                let allowed = rule.shape.as_ref().and_then(|shape| shape.get(axis)).copied();
                let allowed = allowed.unwrap_or(Sizes::Any);
                if !allowed.allows(size) {
                    let why = format!("the policy allows {allowed} in dimension {axis}");
                    return Err(excluded("shape", why));
                }
                if rule.value.is_some() && size != 1 {
                    let why = "the policy fixes the value of this input, which has one element";
                    return Err(excluded("value", why.to_owned()));
                }
            }
        }
        Ok(())
    }
}
