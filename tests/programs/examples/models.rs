//! The models that a program loads: only those of its policy, each under its own limits.

use crate::support;

use belljar::{Digest, ErrorKind, Isolation, Policy, Value};
use support::host;

use super::{
    MAGIKA, assert_answers, assert_fails, load, magika, misbehaves, names_the_type, on_disk,
    policy, program_bytes, run_command,
};

#[test]
fn program_loads_only_models_of_its_policy() {
    let host = host(Isolation::Process);
    let both = format!(
        "{}[[models]]\nname = \"silero\"\nsha256 = \"{}\"\npath = \"magika.onnx\"\n",
        magika(true),
        "00".repeat(32)
    );
    let program = misbehaves(&host, &policy(&both));
    run_command(&program, "model magika").unwrap();
    run_command(&program, "compute").unwrap();
    run_command(&program, "names 100").unwrap();
    for name in ["Magika", "magika.onnx", "", "../magika", "magika\u{0}", "\u{1b}[2J"] {
        let err =
            assert_fails(run_command(&program, &format!("model {name}")), 3, "add [[models]]");
        assert!(matches!(err.kind(), ErrorKind::NotGranted(_)), "{err}");
    }
    // A refused request alone does not fail the run.
    run_command(&program, "model-anyway other").unwrap();
    // The file does not have the granted digest.
    let err = assert_fails(run_command(&program, "model silero"), 3, "the policy pins");
    assert!(err.to_string().contains("model silero"), "{err}");
    // An error of the model is reported as such.
    let err = assert_fails(run_command(&program, "misfit"), 4, "the model declares bytes: i32 [");
    assert!(err.to_string().contains("model magika"), "{err}");
    assert_answers(&program);
    // Without a grant the model cannot be loaded, even if its file exists.
    let program = misbehaves(&host, &policy(""));
    assert_fails(run_command(&program, "model magika"), 3, "add [[models]]");
}

#[test]
fn program_provides_only_models_with_a_granted_digest() {
    let host = host(Isolation::Process);
    let program = misbehaves(&host, &policy(&magika(false)));
    let model = std::fs::read(support::models().join("magika.onnx")).unwrap();
    let bring = |order: &str, bytes: Vec<u8>| {
        program.run(&[("do", Value::from(order)), ("model", Value::Bytes(bytes))])
    };
    bring("bring-and-run", model.clone()).unwrap();
    bring("bring", model.clone()).unwrap();
    let mut other = model.clone();
    other.push(0);
    let err = assert_fails(bring("bring", other.clone()), 3, "add [[models]]");
    assert!(err.to_string().contains(&Digest::of(&other).to_string()), "{err}");
    assert_fails(bring("bring", Vec::new()), 3, "add [[models]]");
    // It cannot be loaded by its name.
    assert_fails(run_command(&program, "model magika"), 3, "add path");
}

#[test]
fn models_run_under_their_own_limits_and_within_the_programs_time() {
    let host = host(Isolation::Process);
    let grant = magika(true);
    let program = misbehaves(&host, &policy(&format!("[limits]\nrun-time = \"1 s\"\n{grant}")));
    assert_fails(run_command(&program, "compute-for-ever"), 5, "`limits.run-time`");
    run_command(&program, "compute").unwrap();
    // The program's limits apply to a model without its own policy.
    let limits = "[limits]\nmodel-size = \"1 MiB\"";
    let program = misbehaves(&host, &policy(&format!("{limits}\n{grant}")));
    let err = assert_fails(run_command(&program, "compute"), 5, "`limits.model-size`");
    assert!(err.to_string().contains("magika"), "{err}");
}

/// Magika with its larger initializers in a file `magika.data`; and that file.
fn magika_in_two() -> (Vec<u8>, Vec<u8>) {
    use support::onnx;
    use support::protobuf::{Field, Kind, Message, Value};
    let whole = std::fs::read(support::models().join("magika.onnx")).unwrap();
    let mut model = Message::parse(Kind::Model, &whole).unwrap();
    let mut data = Vec::new();
    model.visit(&mut |tensor| {
        let raw_data = tensor.fields.iter().position(|field| field.number == 9);
        let Some(at) = raw_data.filter(|_| tensor.kind == Kind::Tensor) else { return };
        let Value::Bytes(bytes) = &tensor.fields[at].value else { return };
        if bytes.len() < 1000 {
            return;
        }
        let (offset, length) = (data.len().to_string(), bytes.len().to_string());
        data.extend_from_slice(bytes);
        tensor.fields.remove(at);
        let entries = [("location", "magika.data"), ("offset", &offset), ("length", &length)];
        let mut put = |number, value| tensor.fields.push(Field { number, value });
        for (key, value) in entries {
            let entry = onnx::Message::new().bytes(1, key).bytes(2, value).finish();
            put(13, Value::Bytes(entry));
        }
        put(14, Value::Int(1));
    });
    assert!(data.len() > whole.len() / 2);
    (model.bytes(), data)
}

#[test]
fn model_of_a_program_gets_files_of_its_own_policy() {
    let host = host(Isolation::Process);
    let (model, data) = magika_in_two();
    let folder = on_disk("");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("magika.onnx"), &model).unwrap();
    std::fs::write(at("magika.data"), &data).unwrap();
    // With grants in the program's policy, and in the model's.
    let policy = |of_program: &str, of_model: &str| {
        std::fs::write(at("magika.toml"), format!("version = 1\n{of_model}")).unwrap();
        let (grant, digest) = (magika(true), Digest::of(&model).to_string());
        let grant = grant.replace(MAGIKA, &digest) + "policy = \"magika.toml\"\n";
        let text = format!("version = 1\n[program]\n{grant}{of_program}");
        std::fs::write(at("policy.toml"), text).unwrap();
        Policy::load(&at("policy.toml")).unwrap().policy
    };
    let grant = |guest: &str| {
        format!("[[filesystem]]\nhost = \"magika.data\"\nguest = {guest:?}\nreason = \"r\"\n")
    };
    let weights = grant("/magika.data");
    names_the_type("file-type", &policy("", &weights));
    // The file is granted to the model, not to the program.
    let attacks = load(&host, &program_bytes("attacks"), &policy("", &weights)).unwrap();
    for (order, says) in [("folders", ""), ("open a / magika.data read", "error not held")] {
        let outputs = run_command(&attacks, order).unwrap();
        let [(_, Value::Text(found))] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(found.trim(), says, "{order}");
    }
    let refused = |policy: &Policy, code: u8, says: &str| {
        let program = misbehaves(&host, policy);
        let err = assert_fails(run_command(&program, "compute"), code, says);
        assert!(err.to_string().contains("model magika"), "{err}");
        assert_answers(&program);
    };
    // The model cannot use the program's files, nor a file with another digest.
    refused(&policy(&weights, ""), 4, "[[filesystem]]");
    refused(&policy("", &grant("/other.data")), 3, "guest = \"/magika.data\"");
    let granted = policy("", &weights);
    std::fs::rename(at("magika.data"), at("elsewhere")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), at("magika.data")).unwrap();
    refused(&granted, 3, "symbolic link");
}
