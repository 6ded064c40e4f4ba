//! The warnings of `policy check`: grants that few models need, or that do not do what they seem
//! to.

use std::path::Path;

use belljar::internals::{cache_folder, state_folder};
use belljar_policy::{
    Access, AddressKind, Confinement, FileGrant, LoadedPolicy, NetworkGrant, Peer, Policy, bounds,
};
use belljar_text::Escaped;

/// Folders that hold more than any one program needs.
const BROAD: &[&str] = &[
    "/", "/bin", "/boot", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/root", "/run",
    "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/tmp",
];
/// Folders of kernel interfaces, which are not real files.
const KERNEL_FOLDERS: &[&str] = &["/proc", "/sys", "/dev"];
/// Parts of the names of variables that hold secrets.
const SECRETS: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];

/// Warnings, each with a hint.
type Warnings = Vec<(String, &'static str)>;

/// All warnings about a policy, in the order of the format.
pub(super) fn warnings(loaded: &LoadedPolicy) -> Warnings {
    let policy = &loaded.policy;
    let mut found = Warnings::new();
    if policy.confinement == Confinement::BestEffort {
        found.push((
            "confinement = \"best-effort\": workers may run without a kernel protection layer"
                .to_owned(),
            "use \"strict\" if this machine supports all layers; `belljar doctor` shows them",
        ));
    }
    pins(policy, &mut found);
    program(policy, &mut found);
    for grant in &policy.filesystem {
        file(grant, loaded, policy.program.is_some(), &mut found);
    }
    for grant in policy.models.iter().flat_map(|model| model.files()) {
        file(grant, loaded, false, &mut found);
    }
    for grant in &policy.network {
        peer(grant, &mut found);
    }
    limits(policy, &mut found);
    found
}

fn pins(policy: &Policy, found: &mut Warnings) {
    match &policy.program {
        None if policy.model.sha256.is_none() => found.push((
            "any model is accepted: `model.sha256` is missing".to_owned(),
            "pin the file; `belljar new-policy` writes the pin",
        )),
        Some(program) if program.sha256.is_none() => found.push((
            "any program is accepted: `program.sha256` is missing".to_owned(),
            "pin the file; `sha256sum` prints its digest",
        )),
        _ => {}
    }
}

fn program(policy: &Policy, found: &mut Warnings) {
    let Some(program) = &policy.program else {
        return;
    };
    for name in program.environment.keys() {
        let upper = name.to_ascii_uppercase();
        if SECRETS.iter().any(|secret| upper.contains(secret)) {
            found.push((
                format!(
                    "program.environment: {name} looks like a secret, but policy files are shared"
                ),
                "keep secrets out of policies; a program can send them to any granted peer",
            ));
        }
    }
}

fn file(grant: &FileGrant, loaded: &LoadedPolicy, of_program: bool, found: &mut Warnings) {
    let shown = loaded.shown_path(&grant.host);
    let is = |list: &[&str]| list.iter().any(|path| grant.host == Path::new(path));
    let below = |list: &[&str]| list.iter().any(|path| grant.host.starts_with(path));
    if below(KERNEL_FOLDERS) {
        found.push((
            format!("filesystem.host = {shown}: this is a kernel interface, not a file"),
            "grant a copy of the data that is needed",
        ));
    } else if is(BROAD) {
        found.push((
            format!("filesystem.host = {shown}: a broad grant that includes everything below it"),
            "grant only the file or folder that is needed",
        ));
    }
    if of_program && grant.guest == "/" {
        found.push((
            format!(
                "filesystem.guest = /: the program sees only {shown}, and no other grant is \
                 possible"
            ),
            "use a separate folder, such as /data",
        ));
    }
    if !grant.host.exists() {
        found.push((
            format!("filesystem.host = {shown}: does not exist"),
            "a granted path must exist when a run starts",
        ));
    }
    if !of_program && grant.sha256.is_none() {
        found.push((
            format!(
                "filesystem.host = {shown}: any content is accepted: `filesystem.sha256` is missing"
            ),
            "add the SHA-256 of each file; `belljar new-policy` writes it",
        ));
    }
    if !of_program && grant.sha256.is_some() && grant.host.is_dir() {
        found.push((
            format!(
                "filesystem.host = {shown}: this is a folder, but `filesystem.sha256` is for \
                     one file"
            ),
            "grant each file with its own SHA-256",
        ));
    }
    if grant.access == Access::Write && writes_policies(grant, loaded) {
        found.push((
            format!(
                "filesystem.host = {shown}: a program that may write there can change policies"
            ),
            "keep policies in a separate folder",
        ));
    }
    for (folder, what) in
        [(state_folder(), "the secret that seals its files"), (cache_folder(), "compiled code")]
    {
        let touches = |own: &Path| own.starts_with(&grant.host) || grant.host.starts_with(own);
        if folder.ok().flatten().is_some_and(|own| touches(&own)) {
            found.push((
                format!("filesystem.host = {shown}: Belljar keeps {what} there"),
                "do not grant folders above, in or below Belljar's own folders",
            ));
        }
    }
}

/// Whether a grant includes the folder of this policy or of the ceiling.
fn writes_policies(grant: &FileGrant, loaded: &LoadedPolicy) -> bool {
    let folder = loaded.source.path.parent().unwrap_or(Path::new("/"));
    let rules = loaded.policy.models.iter().filter_map(|model| model.policy.as_deref());
    let ceiling = Path::new(belljar_policy::OPERATORS_CEILING);
    folder.starts_with(&grant.host)
        || rules.chain([ceiling]).any(|path| path.starts_with(&grant.host))
}

fn peer(grant: &NetworkGrant, found: &mut Warnings) {
    let host = Escaped::cut(&grant.host.to_string(), 60).to_string();
    if grant.reaches.contains(&AddressKind::LinkLocal) {
        found.push((
            format!(
                "network.host = {host}: cloud machines get their credentials from link-local \
                 addresses"
            ),
            "remove \"link-local\" from `reaches`",
        ));
    }
    let Peer::Name(name) = &grant.host else { return };
    let inner: Vec<&str> = grant
        .reaches
        .iter()
        .filter(|kind| matches!(kind, AddressKind::Private | AddressKind::Loopback))
        .map(|kind| kind.name())
        .collect();
    let local = name == "localhost" || name.ends_with(".localhost");
    if local && !grant.reaches.contains(&AddressKind::Loopback) {
        found.push((
            format!(
                "network.host = {host}: this is the local machine, but `reaches` does not list \
                 \"loopback\""
            ),
            "set reaches = [\"loopback\"]; otherwise no connection is possible",
        ));
    }
    if !local && !inner.is_empty() {
        found.push((
            format!(
                "network.host = {host}: it may resolve to {} addresses, so the owner of the name \
                 decides which local machine is reached",
                inner.join(" and ")
            ),
            "give the address instead of the name",
        ));
    }
}

fn limits(policy: &Policy, found: &mut Warnings) {
    let most = [
        ("memory", policy.limits.memory == bounds::MEMORY.max),
        ("run-time", policy.limits.run_time == bounds::RUN_TIME.max),
        ("prepare-time", policy.limits.prepare_time == bounds::PREPARE_TIME.max),
    ];
    for (key, _) in most.iter().filter(|(_, is_most)| *is_most) {
        found.push((
            format!("limits.{key}: the maximum of the format is effectively no limit"),
            "measure what is needed with `belljar new-policy`",
        ));
    }
}
