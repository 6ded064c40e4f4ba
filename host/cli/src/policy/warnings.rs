//! What a policy allows that few need, or that does not mean what it seems to: for `policy check`.

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
/// What the kernel shows as files, and is none.
const OF_THE_KERNEL: &[&str] = &["/proc", "/sys", "/dev"];
/// Parts of the names of variables that hold secrets.
const SECRETS: &[&str] = &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];

/// Each warning with what to do.
type Warnings = Vec<(String, &'static str)>;

/// What is worth a second look, in the order of the format.
pub(super) fn warnings(loaded: &LoadedPolicy) -> Warnings {
    let policy = &loaded.policy;
    let mut found = Warnings::new();
    if policy.confinement == Confinement::BestEffort {
        found.push((
            "confinement = \"best-effort\": a layer of the kernel may be missing around workers"
                .to_owned(),
            "write \"strict\" if the machine has them all; `belljar doctor` says",
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
            "pin the file; `belljar new-policy` does",
        )),
        Some(program) if program.sha256.is_none() => found.push((
            "any program is accepted: `program.sha256` is missing".to_owned(),
            "pin the file by what `sha256sum` prints for it",
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
                    "program.environment: {name} looks like a secret, in a file that is shared"
                ),
                "keep secrets out of policies; a program that has one can send it wherever it may",
            ));
        }
    }
}

fn file(grant: &FileGrant, loaded: &LoadedPolicy, of_program: bool, found: &mut Warnings) {
    let shown = loaded.shown_path(&grant.host);
    let is = |list: &[&str]| list.iter().any(|path| grant.host == Path::new(path));
    let below = |list: &[&str]| list.iter().any(|path| grant.host.starts_with(path));
    if below(OF_THE_KERNEL) {
        found.push((
            format!("filesystem.host = {shown}: what lies there is the kernel's, and no file"),
            "grant a copy of what is needed",
        ));
    } else if is(BROAD) {
        found.push((
            format!("filesystem.host = {shown}: a broad grant, with everything below it"),
            "grant the one file or folder that is needed",
        ));
    }
    if of_program && grant.guest == "/" {
        found.push((
            format!(
                "filesystem.guest = /: {shown} is all that the program sees, and no other \
                     grant can stand beside it"
            ),
            "give it a folder of its own, such as /data",
        ));
    }
    if !grant.host.exists() {
        found.push((
            format!("filesystem.host = {shown}: nothing is there"),
            "what is granted must be there when a run begins",
        ));
    }
    if !of_program && grant.sha256.is_none() {
        found.push((
            format!(
                "filesystem.host = {shown}: any content is accepted: `filesystem.sha256` is missing"
            ),
            "grant each file with the SHA-256 of its content; `belljar new-policy` writes it",
        ));
    }
    if !of_program && grant.sha256.is_some() && grant.host.is_dir() {
        found.push((
            format!("filesystem.host = {shown}: a folder, and `filesystem.sha256` is of one file"),
            "grant each file with its own SHA-256",
        ));
    }
    if grant.access == Access::Write && writes_policies(grant, loaded) {
        found.push((
            format!(
                "filesystem.host = {shown}: a program that may write there can change policies"
            ),
            "keep policies in a folder of their own",
        ));
    }
    for (folder, what) in
        [(state_folder(), "the secret that seals its files"), (cache_folder(), "compiled code")]
    {
        let touches = |own: &Path| own.starts_with(&grant.host) || grant.host.starts_with(own);
        if folder.ok().flatten().is_some_and(|own| touches(&own)) {
            found.push((
                format!("filesystem.host = {shown}: Belljar keeps {what} there"),
                "grant nothing above, in or below Belljar's own folders",
            ));
        }
    }
}

/// Whether policies lie in what is granted, or where the ceiling does.
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
                "network.host = {host}: link-local addresses are where clouds hand out a \
                     machine's credentials"
            ),
            "leave \"link-local\" out of `reaches`",
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
                "network.host = {host}: it is this machine, and `reaches` does not list \
                     \"loopback\""
            ),
            "write reaches = [\"loopback\"], or nothing is ever reached",
        ));
    }
    if !local && !inner.is_empty() {
        found.push((
            format!(
                "network.host = {host}: it may point to {} addresses, so whoever has that name \
                 decides which machine here is reached",
                inner.join(" and ")
            ),
            "name the address itself",
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
            format!("limits.{key}: the most that the format allows is as good as no limit"),
            "measure what is needed; `belljar new-policy` does",
        ));
    }
}
