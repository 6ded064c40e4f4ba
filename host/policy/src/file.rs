//! Parses TOML text into a checked [`Policy`]: the tables that every policy has. `granted` reads
//! those of guest programs.

use toml::de::DeTable;

use super::Quotas;
use super::keys::{self, Table};
use super::mistakes::kind;
use super::reader::{Absent, Reader, Value};
use super::{
    Compute, Confinement, DeclaredShapes, Kernels, Limits, ModelPin, Policy, PolicyError, bounds,
    quota_bounds,
};

impl Policy {
    /// Reads a policy from text. `origin` is what errors call it, usually a path.
    ///
    /// The text may come from anywhere, but the *policy* must come from the operator: for a file,
    /// use [`Policy::load`], which checks who owns it. Paths in grants are not resolved: see
    /// [`Policy::resolve_in`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, PolicyError> {
        let reader = Reader { text, origin, format: keys::POLICY, absent: Absent::Default };
        let document = DeTable::parse(text).map_err(|error| reader.syntax(&error))?;
        reader.policy(document.get_ref())
    }
}

impl Reader<'_> {
    fn policy(&self, document: &DeTable<'_>) -> Result<Policy, PolicyError> {
        // Checked first, because another version may have other keys.
        self.version(document)?;
        let mut policy = Policy::default();
        // Keys that depend on whether the policy is for a program, with their positions.
        let mut grants = Vec::new();
        for entry in self.entries(document, &keys::TOP) {
            let (key, span, value) = entry?;
            let table = |home: &'static Table| self.table(home, &span, value);
            match key {
                "version" => {}
                "confinement" => policy.confinement = self.confinement(value)?,
                "declared-shapes" => policy.declared_shapes = self.declared_shapes(value)?,
                "model" => self.model(table(&keys::MODEL)?, &mut policy.model)?,
                "limits" => self.limits(table(&keys::LIMITS)?, &mut policy.limits)?,
                "compute" => self.compute(table(&keys::COMPUTE)?, &mut policy.compute)?,
                "program" => policy.program = Some(self.program(table(&keys::PROGRAM)?, &span)?),
                "models" => policy.models = self.models(&span, value)?,
                "filesystem" => policy.filesystem = self.filesystem(&span, value)?,
                "network" => policy.network = self.network(&span, value)?,
                "quotas" => self.quotas(table(&keys::QUOTAS)?, &mut policy.quotas)?,
                "inputs" => {
                    policy.inputs = self.rules(table(&keys::INPUTS)?, &keys::INPUTS)?;
                }
                "outputs" => {
                    policy.outputs = self.rules(table(&keys::OUTPUTS)?, &keys::OUTPUTS)?;
                }
                _ => return Err(self.unknown(key, &span, &keys::TOP)),
            }
            if matches!(
                key,
                "models" | "filesystem" | "network" | "quotas" | "model" | "inputs" | "outputs"
            ) {
                grants.push((key, span.start, value));
            }
        }
        self.check_whole(&policy, &grants)?;
        Ok(policy)
    }

    pub(super) fn confinement(&self, value: &Value<'_>) -> Result<Confinement, PolicyError> {
        Ok(match self.choice("confinement", value, keys::CONFINEMENTS)? {
            0 => Confinement::Strict,
            _ => Confinement::BestEffort,
        })
    }

    pub(super) fn declared_shapes(&self, value: &Value<'_>) -> Result<DeclaredShapes, PolicyError> {
        Ok(match self.choice("declared-shapes", value, keys::DECLARED_SHAPES)? {
            0 => DeclaredShapes::Report,
            _ => DeclaredShapes::Strict,
        })
    }

    fn model(&self, table: &DeTable<'_>, model: &mut ModelPin) -> Result<(), PolicyError> {
        for entry in self.entries(table, &keys::MODEL) {
            let (key, span, value) = entry?;
            match key {
                "sha256" => model.sha256 = Some(self.digest("model.sha256", value)?),
                _ => return Err(self.unknown(key, &span, &keys::MODEL)),
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self, table: &DeTable<'_>, to: &mut Limits) -> Result<(), PolicyError> {
        for entry in self.entries(table, &keys::LIMITS) {
            let (key, span, v) = entry?;
            match key {
                "memory" => to.memory = self.size("limits.memory", v, bounds::MEMORY)?,
                "run-time" => to.run_time = self.time("limits.run-time", v, bounds::RUN_TIME)?,
                "prepare-time" => {
                    to.prepare_time = self.time("limits.prepare-time", v, bounds::PREPARE_TIME)?;
                }
                "model-size" => {
                    to.model_size = self.size("limits.model-size", v, bounds::MODEL_SIZE)?;
                }
                "input-size" => {
                    to.input_size = self.size("limits.input-size", v, bounds::INPUT_SIZE)?;
                }
                "output-size" => {
                    to.output_size = self.size("limits.output-size", v, bounds::OUTPUT_SIZE)?;
                }
                "log-size" => to.log_size = self.size("limits.log-size", v, bounds::LOG_SIZE)?,
                "stack" => to.stack = self.size("limits.stack", v, bounds::STACK)?,
                "snapshots" => {
                    to.snapshots = self.count("limits.snapshots", v, bounds::SNAPSHOTS)?
                }
                _ => return Err(self.unknown(key, &span, &keys::LIMITS)),
            }
        }
        Ok(())
    }

    pub(super) fn quotas(&self, table: &DeTable<'_>, to: &mut Quotas) -> Result<(), PolicyError> {
        use quota_bounds as bounds;
        for entry in self.entries(table, &keys::QUOTAS) {
            let (key, span, v) = entry?;
            match key {
                "bytes-written" => {
                    to.bytes_written =
                        self.size("quotas.bytes-written", v, bounds::BYTES_WRITTEN)?;
                }
                "files-created" => {
                    to.files_created =
                        self.count("quotas.files-created", v, bounds::FILES_CREATED)?;
                }
                "open-handles" => {
                    to.open_handles = self.count("quotas.open-handles", v, bounds::OPEN_HANDLES)?;
                }
                "connections" => {
                    to.connections = self.count("quotas.connections", v, bounds::CONNECTIONS)?;
                }
                "bytes-sent" => {
                    to.bytes_sent = self.size("quotas.bytes-sent", v, bounds::BYTES_SENT)?;
                }
                "bytes-received" => {
                    to.bytes_received =
                        self.size("quotas.bytes-received", v, bounds::BYTES_RECEIVED)?;
                }
                _ => return Err(self.unknown(key, &span, &keys::QUOTAS)),
            }
        }
        Ok(())
    }

    fn compute(&self, table: &DeTable<'_>, compute: &mut Compute) -> Result<(), PolicyError> {
        for entry in self.entries(table, &keys::COMPUTE) {
            let (key, span, value) = entry?;
            match key {
                "deterministic" => {
                    compute.deterministic = self.switch("compute.deterministic", value)?;
                }
                "kernels" => compute.kernels = self.kernels(value)?,
                "threads" => compute.threads = self.threads(value)?,
                "seed" => compute.seed = Some(self.whole("compute.seed", value, 0, u32::MAX)?),
                _ => return Err(self.unknown(key, &span, &keys::COMPUTE)),
            }
        }
        Ok(())
    }

    pub(super) fn kernels(&self, value: &Value<'_>) -> Result<Kernels, PolicyError> {
        Ok(match self.choice("compute.kernels", value, keys::KERNELS)? {
            0 => Kernels::Native,
            _ => Kernels::Sandbox,
        })
    }

    pub(super) fn threads(&self, value: &Value<'_>) -> Result<u32, PolicyError> {
        let most = keys::THREADS.max;
        match super::reader::unsigned(value) {
            Some(threads) if (keys::THREADS.min..=most).contains(&threads) => Ok(threads),
            _ => {
                let why = match value.get_ref().as_integer() {
                    Some(_) => "not a valid number of threads".to_owned(),
                    None => format!("{}, not a number", kind(value)),
                };
                let hint = format!("write a number from 1 to {most}");
                Err(self.value("compute.threads", value, why, hint))
            }
        }
    }
}
