use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use belljar_confine::ended::WorkerEnd;

use super::*;
use crate::error::ErrorKind;

struct Folder {
    path: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        let mode = fs::Permissions::from_mode(0o700);
        Folder { path: tempfile::Builder::new().permissions(mode).tempdir().unwrap() }
    }

    fn supervision(
        &self,
        quarantine_after: Option<u32>,
    ) -> (Supervision, Receiver<SupervisionNotice>) {
        let (sender, notices) = channel();
        let settings = Settings { back_off: (Duration::ZERO, Duration::ZERO), quarantine_after };
        let notices_to = Arc::new(move |notice| drop(sender.send(notice)));
        (Supervision::new(settings, Some(self.path.path()), notices_to), notices)
    }

    fn file(&self, digest: Digest, suffix: &str) -> PathBuf {
        self.path.path().join(format!("quarantine/{digest}{suffix}"))
    }
}

fn crash() -> WorkerLoss {
    WorkerLoss { end: WorkerEnd::Signal(11), began: true, served: true }
}

fn model() -> Digest {
    Digest::of(b"a model")
}

#[track_caller]
fn is_refused(result: Result<(), NoWorker>) -> Quarantined {
    match result {
        Err(NoWorker::Quarantined(quarantined)) => quarantined,
        other => panic!("not in quarantine: {other:?}"),
    }
}

#[test]
fn deaths_with_too_few_answers_between_them_lead_to_quarantine() {
    let folder = Folder::new();
    let (supervision, notices) = folder.supervision(Some(3));
    let record = supervision.record(model()).unwrap();
    // Two deaths, and enough answers to clear them.
    for _ in 0..2 {
        supervision.lost(&record, "m.onnx", &crash());
    }
    for _ in 0..3 {
        supervision.answered(&record);
    }
    assert!(!folder.file(model(), ".strikes").exists());
    // Three deaths with too few answers between them.
    for _ in 0..3 {
        supervision.admit(&record).unwrap();
        supervision.answered(&record);
        supervision.lost(&record, "m.onnx", &crash());
    }
    let quarantined = is_refused(supervision.admit(&record));
    assert_eq!((quarantined.deaths, quarantined.model), (3, model()));
    assert!(quarantined.to_string().contains("SIGSEGV"), "{quarantined}");
    assert!(matches!(notices.try_recv(), Ok(SupervisionNotice::Quarantined(_))));
    assert!(notices.try_recv().is_err());
    // Another model is not affected.
    supervision.record(Digest::of(b"another")).unwrap();

    assert!(supervision.release(model()).unwrap());
    supervision.admit(&record).unwrap();
    assert!(!supervision.release(model()).unwrap());
    // Its deaths were cleared.
    supervision.lost(&record, "m.onnx", &crash());
    supervision.admit(&record).unwrap();
}

#[test]
fn only_losses_that_the_model_may_have_caused_count() {
    let folder = Folder::new();
    let (supervision, _) = folder.supervision(Some(1));
    let record = supervision.record(model()).unwrap();
    let kill = WorkerEnd::Signal(9);
    // Killed from outside while it waited; and exited before its first request.
    supervision.lost(&record, "m", &WorkerLoss { end: kill.clone(), began: false, served: true });
    let early = WorkerLoss { end: WorkerEnd::Exit(1), began: false, served: false };
    supervision.lost(&record, "m", &early);
    supervision.admit(&record).unwrap();
    // Killed while it handled a request: it may have exhausted the machine's memory.
    for loss in [
        WorkerLoss { end: kill, began: true, served: true },
        WorkerLoss { end: WorkerEnd::Signal(11), began: false, served: true },
        WorkerLoss { end: WorkerEnd::ProtocolViolation("!".into()), began: true, served: false },
    ] {
        supervision.lost(&record, "m", &loss);
        is_refused(supervision.admit(&record));
        supervision.release(model()).unwrap();
    }
}

#[test]
fn out_of_memory_kills_only_extend_the_delay() {
    let folder = Folder::new();
    let (sender, notices) = channel();
    let back_off = (Duration::from_secs(1000), Duration::from_secs(5000));
    let settings = Settings { back_off, quarantine_after: Some(1) };
    let notices_to = Arc::new(move |notice| drop(sender.send(notice)));
    let supervision = Supervision::new(settings, Some(folder.path.path()), notices_to);
    let record = supervision.record(model()).unwrap();
    let loss = |began, counted| {
        let end = WorkerEnd::OutOfMemory { counted };
        WorkerLoss { end, began, served: true }
    };
    // A kill while it waited has no consequence.
    supervision.lost(&record, "m", &loss(false, true));
    supervision.await_start(&record, Duration::ZERO).unwrap();
    // Kills while it handled requests, any number of times.
    for number in 1..=20 {
        supervision.lost(&record, "m", &loss(true, number % 2 == 0));
        supervision.admit(&record).unwrap();
        let waits = supervision.await_start(&record, Duration::ZERO);
        let err = ErrorKind::from(waits.expect_err("there is no delay"));
        let text = err.to_string();
        assert!(text.contains("memory ran out") && text.contains("limits.memory"), "{text}");
        let ErrorKind::BackOff { deaths, wait, .. } = err else { panic!("{text}") };
        assert_eq!(deaths, number);
        assert!(wait <= back_off.1);
    }
    assert!(notices.try_recv().is_err());
    assert!(supervision.quarantined().unwrap().is_empty());
    assert!(!folder.path.path().join("quarantine").exists());
    // An answer ends the delay.
    supervision.answered(&record);
    supervision.await_start(&record, Duration::ZERO).unwrap();
    // Any other death counts at once.
    supervision.lost(&record, "m", &crash());
    is_refused(supervision.admit(&record));
}

#[test]
fn deaths_and_quarantine_persist_across_processes() {
    let folder = Folder::new();
    for death in 1..=3 {
        let (supervision, _) = folder.supervision(Some(3));
        let record = supervision.record(model()).unwrap();
        supervision.lost(&record, "m.onnx", &crash());
        assert_eq!(folder.file(model(), "").exists(), death == 3);
        assert_eq!(folder.file(model(), ".strikes").exists(), death < 3);
    }
    let mode = fs::metadata(folder.file(model(), "")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // This also applies to hosts that count no deaths.
    for count in [Some(3), Some(100), None] {
        let (supervision, _) = folder.supervision(count);
        let found = is_refused(supervision.record(model()).map(drop));
        assert_eq!((found.deaths, found.label.as_str()), (3, "m.onnx"));
        assert!(found.since.is_some());
        assert_eq!(supervision.quarantined().unwrap().len(), 1);
    }
    // A running process sees the release by another process.
    let (running, _) = folder.supervision(Some(1));
    let other = running.record(Digest::of(b"another")).unwrap();
    running.lost(&other, "o", &crash());
    is_refused(running.admit(&other));
    let (operator, _) = folder.supervision(Some(1));
    assert!(operator.release(Digest::of(b"another")).unwrap());
    running.admit(&other).unwrap();
    assert!(operator.release(model()).unwrap());
    assert!(operator.quarantined().unwrap().is_empty());
}

#[test]
fn processes_that_run_the_same_model_count_together() {
    let folder = Folder::new();
    let (one, two) = (folder.supervision(Some(4)).0, folder.supervision(Some(4)).0);
    let records = (one.record(model()).unwrap(), two.record(model()).unwrap());
    for _ in 0..2 {
        one.lost(&records.0, "m", &crash());
        two.lost(&records.1, "m", &crash());
    }
    assert!(folder.file(model(), "").exists());
    is_refused(two.admit(&records.1));
    is_refused(one.record(model()).map(drop));
}

#[test]
fn an_unreadable_record_means_quarantine() {
    let name = |suffix| format!("{}{suffix}", model());
    type Damage = fn(&std::path::Path);
    let ways: [Damage; 6] = [
        |path| fs::write(path, b"{not json").unwrap(),
        |path| fs::write(path, b"").unwrap(),
        |path| {
            fs::write(path, b"{}").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        },
        |path| symlink("/nowhere", path).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
        },
    ];
    for suffix in ["", ".strikes"] {
        for (number, damage) in ways.iter().enumerate() {
            let folder = Folder::new();
            let inner = folder.path.path().join("quarantine");
            fs::create_dir(&inner).unwrap();
            fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
            damage(&inner.join(name(suffix)));
            let (supervision, _) = folder.supervision(Some(5));
            let found = is_refused(supervision.record(model()).map(drop));
            assert!(found.why.contains("cannot be read"), "{suffix} {number}");
            assert_eq!(supervision.quarantined().unwrap().len(), 1, "{suffix} {number}");
        }
    }
}

#[test]
fn a_model_is_refused_if_the_folder_is_open_to_others() {
    for which in ["", "quarantine"] {
        let folder = Folder::new();
        let inner = folder.path.path().join("quarantine");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        let open = folder.path.path().join(which);
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
        let (supervision, _) = folder.supervision(None);
        let refused = supervision.record(model()).map(drop);
        let is_private = |err: &PrivateError| matches!(err, PrivateError::NotPrivate { .. });
        assert!(matches!(&refused, Err(NoWorker::Store(err)) if is_private(err)), "{refused:?}");
    }
}

#[test]
fn a_model_is_refused_if_another_user_could_replace_the_folder() {
    let folder = Folder::new();
    let (above, state) = (folder.path.path().join("above"), folder.path.path().join("above/state"));
    fs::create_dir_all(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = Settings { quarantine_after: Some(1), ..Settings::default() };
    let supervision = || Supervision::new(settings, Some(&state), Arc::new(|_| {}));
    let first = supervision();
    first.lost(&first.record(model()).unwrap(), "m", &crash());
    is_refused(supervision().record(model()).map(drop));
    // A user who can write to the parent folder moves the record away.
    for mode in [0o770, 0o775, 0o757, 0o777] {
        fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&state, above.join("aside")).unwrap();
        let refused = supervision().record(model()).map(drop).unwrap_err();
        let NoWorker::Store(err @ PrivateError::Replaceable { .. }) = &refused else {
            panic!("{refused:?}")
        };
        let (text, fix) = (err.to_string(), format!("chmod go-w {}", above.display()));
        assert!(text.contains(&fix) && text.contains("BELLJAR_STATE_DIR"), "{text}");
        assert!(supervision().quarantined().is_err());
        assert!(!state.exists(), "a new folder was made in its place");
        fs::rename(above.join("aside"), &state).unwrap();
    }
    // In a sticky folder like /tmp, only the owner of an entry can move it.
    for mode in [0o1777, 0o755, 0o700] {
        fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
        is_refused(supervision().record(model()).map(drop));
    }
    // A parent folder of another user, which only root can create.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&above, Some(12_345), None).unwrap();
        let refused = ErrorKind::from(supervision().record(model()).map(drop).unwrap_err());
        assert!(refused.to_string().contains("belongs to uid 12345"), "{refused}");
    }
}

#[test]
fn without_a_folder_deaths_count_in_this_process_only() {
    let (sender, notices) = channel();
    let settings = Settings { quarantine_after: Some(2), ..Settings::default() };
    let notices_to = Arc::new(move |notice| drop(sender.send(notice)));
    let supervision = Supervision::new(settings, None, notices_to);
    let record = supervision.record(model()).unwrap();
    supervision.lost(&record, "m", &crash());
    assert!(matches!(notices.try_recv(), Ok(SupervisionNotice::NotStored(_))));
    supervision.lost(&record, "m", &crash());
    is_refused(supervision.admit(&record));
    assert_eq!(supervision.quarantined().unwrap().len(), 1);
    assert!(supervision.release(model()).unwrap());
    supervision.admit(&record).unwrap();
}

#[test]
fn deaths_that_cannot_be_stored_still_count() {
    let folder = Folder::new();
    let (supervision, notices) = folder.supervision(Some(2));
    let record = supervision.record(model()).unwrap();
    fs::write(folder.path.path().join("quarantine"), b"in the way").unwrap();
    supervision.lost(&record, "m", &crash());
    assert!(matches!(notices.try_recv(), Ok(SupervisionNotice::NotStored(_))));
    supervision.admit(&record).unwrap();
    supervision.lost(&record, "m", &crash());
    is_refused(supervision.admit(&record));
    drop(record);
    is_refused(supervision.record(model()).map(drop));
}

#[test]
fn a_request_waits_for_a_start_within_its_patience_only() {
    let folder = Folder::new();
    let settings = Settings {
        back_off: (Duration::from_millis(2), Duration::from_secs(3600)),
        quarantine_after: None,
    };
    let supervision = Supervision::new(settings, Some(folder.path.path()), Arc::new(|_| {}));
    let record = supervision.record(model()).unwrap();
    supervision.lost(&record, "m", &crash());
    supervision.await_start(&record, Duration::from_secs(60)).unwrap();
    for _ in 0..30 {
        supervision.lost(&record, "m", &crash());
    }
    let refused = supervision.await_start(&record, back_off::PATIENCE);
    assert!(
        matches!(&refused, Err(NoWorker::BackOff { deaths: 31, wait, .. }) if wait.as_secs() > 3000),
        "{refused:?}"
    );
    // Other models are not delayed, and an answer ends the delay.
    let other = supervision.record(Digest::of(b"another")).unwrap();
    supervision.await_start(&other, Duration::ZERO).unwrap();
    supervision.answered(&record);
    supervision.await_start(&record, Duration::ZERO).unwrap();
    assert!(!folder.path.path().join("quarantine").exists());
}

#[test]
fn the_number_of_stored_death_records_is_bounded() {
    let folder = Folder::new();
    let (supervision, _) = folder.supervision(Some(2));
    let inner = folder.path.path().join("quarantine");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
    for number in 0..1100u32 {
        let name = format!("{}.strikes", Digest::of(&number.to_le_bytes()));
        let path = inner.join(name);
        fs::write(&path, b"{\"deaths\":1,\"answers\":0}").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let before = fs::read_dir(&inner).unwrap().count();
    for _ in 0..2 {
        let record = supervision.record(Digest::of(b"new")).unwrap();
        supervision.lost(&record, "m", &crash());
    }
    // One record was added and the oldest removed; then the new one became a quarantine.
    assert_eq!(fs::read_dir(&inner).unwrap().count(), before);
    assert_eq!(supervision.quarantined().unwrap().len(), 1);
}
