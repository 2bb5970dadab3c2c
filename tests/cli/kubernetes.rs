//! `examples/kubernetes.yaml`: valid for the API, and enough for a gateway to start.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::python::python_program;
use crate::sandbox::{ADDRESS, Sandbox};
use gatepost::config::Config;
use serde_json::Value;

/// The oldest version that the example names, and the newest that the schemas are there for.
const VERSIONS: [&str; 2] = ["1.29", "1.37"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of a file, or the complaint of the API's schemas.
fn validated(file: &Path) -> Result<Vec<Value>, String> {
    let mut command = Command::new(python_program("python"));
    command.arg(root().join("tests/cli/manifests.py")).arg(file).args(VERSIONS);
    let output = command.output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(serde_json::from_slice(&output.stdout).unwrap()) } else { Err(complaint) }
}

fn documents() -> Vec<Value> {
    validated(&root().join("examples/kubernetes.yaml")).unwrap()
}

/// The only document of this kind, or that with this name.
fn document<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    all.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name).unwrap_or_else(|| panic!("{kind}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

/// The configuration of the example, whose secrets are files of this machine.
fn config(all: &[Value]) -> Config {
    let text = text(&document(all, "ConfigMap", "gatepost")["data"]["gatepost.toml"]);
    Config::parse(text, None, []).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// A quantity such as `256Mi`, in bytes.
fn quantity(value: &Value) -> u64 {
    let text = text(value);
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap());
    let unit: u64 = [("Mi", 1 << 20), ("Gi", 1 << 30)].into_iter().find(|(name, _)| *name == unit).unwrap().1;
    number.parse::<u64>().unwrap() * unit
}

#[test]
fn the_manifests_are_valid_for_the_oldest_and_the_newest_api() {
    let all = documents();
    let kinds: Vec<&str> = all.iter().map(|one| text(&one["kind"])).collect();
    let wanted =
        ["ConfigMap", "Service", "Service", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job"];
    assert_eq!(kinds, wanted);
    validated(&root().join("examples/retire-cronjob.yaml")).unwrap();
    // A key that the API does not have, and a value of another type, are found.
    let yaml = fs::read_to_string(root().join("examples/kubernetes.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (right, wrong) in [("fsGroupChangePolicy:", "fsGroupPolicy:"), ("maxSkew: 1", "maxSkew: one")] {
        let file = dir.path().join("wrong.yaml");
        fs::write(&file, yaml.replacen(right, wrong, 1)).unwrap();
        let complaint = validated(&file).unwrap_err();
        assert!(complaint.contains("StatefulSet gatepost, Kubernetes 1.29"), "{complaint}");
    }
}

#[test]
fn the_manifests_agree_with_each_other_and_with_the_configuration() {
    let all = documents();
    let config = config(&all);
    let spec = &document(&all, "StatefulSet", "gatepost")["spec"];
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    let port = |name: &str| {
        let ports = list(&container["ports"]);
        ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].as_u64().unwrap()
    };
    assert_eq!(port("mcp"), u64::from(config.server.listen.port()));
    assert_eq!(port("ops"), u64::from(config.ops.listen.unwrap().port()));
    assert_eq!(config.server.secrets_group.as_deref(), Some(pod["securityContext"]["fsGroup"].to_string().as_str()));

    // Replicas are named by a headless Service; clients have another, without the operations listener.
    let replicas = document(&all, "Service", text(&spec["serviceName"]));
    assert_eq!(replicas["spec"]["clusterIP"], "None");
    let clients = &document(&all, "Service", "gatepost")["spec"];
    assert!(clients["clusterIP"].is_null() && list(&clients["ports"]).iter().all(|port| port["name"] == "mcp"));
    let labels = &spec["template"]["metadata"]["labels"];
    for selector in [
        &spec["selector"]["matchLabels"],
        &replicas["spec"]["selector"],
        &clients["selector"],
        &document(&all, "NetworkPolicy", "gatepost")["spec"]["podSelector"]["matchLabels"],
        &document(&all, "PodDisruptionBudget", "gatepost")["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    // Each rule of the policy is for named ports and named peers.
    for rule in list(&document(&all, "NetworkPolicy", "gatepost")["spec"]["ingress"]) {
        let is_mcp = rule["ports"][0]["port"] == "mcp";
        assert_eq!(list(&rule["ports"]).len(), 1);
        assert_eq!(list(&rule["from"]).len(), if is_mcp { 2 } else { 1 }, "{rule}");
    }

    for (probe, path) in [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "ops");
    }
    let stop = config.server.drain_timeout + config.audit.store_timeout + config.postgres.drain_timeout;
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > stop.as_secs());

    // What clients can occupy (docs/operations.md, "Memory and connections"), and a quarter for all else.
    let bounded = config.server.request_bytes_max as u64
        + config.server.replay_bytes_max as u64
        + config.audit.ring_bytes_max as u64
        + (9 << 20)
        + (128 << 20);
    let memory = quantity(&container["resources"]["limits"]["memory"]);
    assert!(bounded <= memory / 4 * 3, "{bounded} of {memory}");
    let disk = quantity(&spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]);
    assert!(disk > config.audit.outbox_bytes_max + config.audit.outbox_bytes_max / 8);

    // The gateway cannot change the trail, and each replica has its own secret; the owner's is the job's alone.
    assert!(!config.postgres.migrate);
    assert!(!spec.to_string().contains("gatepost-owner") && spec.to_string().contains("://gateway_$(ORDINAL)@"));
    let job = &document(&all, "Job", "gatepost-migrate")["spec"]["template"]["spec"];
    assert_eq!(job["containers"][0]["args"], serde_json::json!(["migrate"]));
    assert!(job.to_string().contains("gatepost-owner"));
    for pod in [pod, job] {
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(
            (&context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"]),
            (&false.into(), &true.into())
        );
    }
}

/// The secrets of the example, as its head names them.
fn secret(name: &str, key: &str) -> String {
    match (name, key) {
        ("gatepost-logins", _) => format!("the password of {key}"),
        ("gatepost-reader", "url") => "postgres://auditor:secret@postgres.example.com/audit".to_owned(),
        ("gatepost-state", "key") => "5f".repeat(32),
        _ => panic!("the head of the example does not name {key} of {name}"),
    }
}

/// What the kubelet does to the files of a volume of a pod with an `fsGroup`. *Spec*: `SetVolumeOwnership` of
/// Kubernetes: the group may read and, in a volume for writing, write; directories give new files their group.
fn own(path: &Path, group: u32, is_writable: bool) {
    let metadata = fs::metadata(path).unwrap();
    std::os::unix::fs::chown(path, None, Some(group)).unwrap();
    let for_all = if is_writable { 0o660 } else { 0o440 };
    let for_dirs = if metadata.is_dir() { 0o2110 } else { 0 };
    fs::set_permissions(path, Permissions::from_mode(metadata.permissions().mode() | for_all | for_dirs)).unwrap();
    for entry in fs::read_dir(path).into_iter().flatten() {
        own(&entry.unwrap().path(), group, is_writable);
    }
}

/// The volumes of the first replica, as the kubelet makes them, by name.
fn volumes(sandbox: &Sandbox, all: &[Value], group: u32) -> BTreeMap<String, PathBuf> {
    let spec = &document(all, "StatefulSet", "gatepost")["spec"];
    let mut volumes = BTreeMap::new();
    for volume in list(&spec["template"]["spec"]["volumes"]) {
        let name = text(&volume["name"]);
        // A configuration or a secret is behind links, so that it is replaced at once.
        let mode = |source: &Value| u32::try_from(source["defaultMode"].as_u64().unwrap()).unwrap();
        let dir = if let Some(secret_volume) = volume.get("secret") {
            let source = text(&secret_volume["secretName"]);
            let dir = sandbox.make_dir(name, 0o777, (0, 0));
            let keys: &[&str] = if source == "gatepost-logins" { &["password-0", "password-1"] } else { &["key"] };
            for key in keys {
                behind_links(&dir, key, &secret(source, key), mode(secret_volume));
            }
            own(&dir, group, false);
            dir
        } else if let Some(map) = volume.get("configMap") {
            let dir = sandbox.make_dir(name, 0o777, (0, 0));
            for (key, value) in document(all, "ConfigMap", text(&map["name"]))["data"].as_object().unwrap() {
                behind_links(&dir, key, text(value), mode(map));
            }
            own(&dir, group, false);
            dir
        } else {
            assert!(volume.get("emptyDir").is_some(), "{volume}");
            sandbox.make_dir(name, 0o2777, (0, group))
        };
        volumes.insert(name.to_owned(), dir);
    }
    // A new file system of a disk belongs to root.
    let claim = text(&spec["volumeClaimTemplates"][0]["metadata"]["name"]);
    volumes.insert(claim.to_owned(), sandbox.make_dir(claim, 0o2775, (0, group)));
    volumes
}

fn behind_links(dir: &Path, name: &str, text: &str, mode: u32) {
    let data = dir.join("..2026_12_01");
    if !data.exists() {
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink("..2026_12_01", dir.join("..data")).unwrap();
    }
    Sandbox::make_file(&data, name, text, mode, (0, 0));
    std::os::unix::fs::symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
}

/// The environment of the first replica: that of the image, of the container, and of the cluster.
fn environment(all: &[Value], container: &Value) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("HOME".to_owned(), "/home/gatepost".to_owned())]);
    let mut links = vec![("kubernetes", 443)];
    for service in all.iter().filter(|one| one["kind"] == "Service" && one["spec"]["clusterIP"].is_null()) {
        links.push((text(&service["metadata"]["name"]), 8808));
    }
    // The variables of Services, which the example turns off, do no harm to those who leave them on.
    for (service, port) in links {
        let name = service.to_uppercase();
        let tcp = format!("tcp://10.96.0.7:{port}");
        for (suffix, value) in [
            ("SERVICE_HOST", "10.96.0.7"),
            ("SERVICE_PORT", &port.to_string()),
            ("SERVICE_PORT_MCP", &port.to_string()),
            ("PORT", &tcp),
            (&format!("PORT_{port}_TCP"), &tcp),
            (&format!("PORT_{port}_TCP_PROTO"), "tcp"),
            (&format!("PORT_{port}_TCP_PORT"), &port.to_string()),
            (&format!("PORT_{port}_TCP_ADDR"), "10.96.0.7"),
        ] {
            env.insert(format!("{name}_{suffix}"), value.to_owned());
        }
    }
    for variable in list(&container["env"]) {
        let from = &variable["valueFrom"];
        let value = if let Some(value) = variable["value"].as_str() {
            value.replace("$(ORDINAL)", &env["ORDINAL"])
        } else if let Some(key) = from.get("secretKeyRef") {
            secret(text(&key["name"]), text(&key["key"]))
        } else {
            assert!(text(&from["fieldRef"]["fieldPath"]).contains("pod-index"), "{variable}");
            "0".to_owned()
        };
        env.insert(text(&variable["name"]).to_owned(), value);
    }
    env
}

#[test]
fn a_replica_starts_with_the_environment_and_the_files_of_the_manifest() {
    let all = documents();
    let pod = &document(&all, "StatefulSet", "gatepost")["spec"]["template"]["spec"];
    let number = |key: &str| u32::try_from(pod["securityContext"][key].as_u64().unwrap()).unwrap();
    let (user, group) = (number("runAsUser"), number("fsGroup"));
    assert_eq!((number("runAsGroup"), group), (user, user));
    // Only root can give a volume to another user; what the manifest says is checked above for every user.
    let Some(mut sandbox) = Sandbox::new(user) else { return };
    let volumes = volumes(&sandbox, &all, group);
    let container = &pod["containers"][0];
    sandbox.env = environment(&all, container);
    sandbox.cwd = "/var/lib/gatepost".to_owned();
    for mount in list(&container["volumeMounts"]) {
        let volume = &volumes[text(&mount["name"])];
        let source = match (mount["subPath"].as_str(), mount["subPathExpr"].as_str()) {
            (Some(path), _) => sandbox.make_dir(&format!("{}/{path}", text(&mount["name"])), 0o2777, (0, group)),
            // Kubernetes mounts the file behind the links.
            (_, Some(path)) => fs::canonicalize(volume.join(path.replace("$(ORDINAL)", "0"))).unwrap(),
            _ => volume.clone(),
        };
        sandbox.mount(source, text(&mount["mountPath"]), mount["readOnly"] != true);
    }
    let args: Vec<String> = list(&container["args"]).iter().map(|arg| text(arg).to_owned()).collect();

    for epoch in 1..=2 {
        let gateway = sandbox.start(&args);
        // Neither Postgres nor the backend is there; calls are audited.
        let (code, said) = gateway.health();
        assert_eq!(code, Some(0), "{said}\n{}", sandbox.log());
        assert!(said.starts_with("degraded: 0 of 1 backends up; "), "{said}");
        // The kubelet and Prometheus use the pod's address, as the host too.
        let pod = format!("{ADDRESS}:8809");
        for path in ["healthz", "readyz", "metrics"] {
            let answer = gateway.get(&format!("http://{pod}/{path}"), &pod);
            assert!(answer.ends_with("\n200"), "{path}: {answer}");
        }
        // A caller without a token learns where to get one.
        let answer = gateway.get("http://127.0.0.1:8808/.well-known/oauth-protected-resource/mcp", "mcp.example.com");
        assert!(answer.contains("https://login.example.com") && answer.ends_with("\n200"), "{answer}");
        assert!(gateway.get("http://127.0.0.1:8808/mcp", "gatepost:8808").ends_with("\n401"));
        let metrics = gateway.get(&format!("http://{pod}/metrics"), &pod);
        assert!(metrics.contains(&format!("\ngatepost_epoch {epoch}.0\n")), "the outbox continues: {metrics}");
        assert_eq!(gateway.terminate(), Some(0), "{}", sandbox.log());
        // The kubelet may give the volume to the group again at each start.
        own(&volumes["outbox"], group, true);
    }
}
