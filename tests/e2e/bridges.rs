//! Real servers that are restarted while clients on official SDKs are connected: the official example server, bridges
//! from HTTP to stdio servers, and a server on an old SDK. The sessions of the clients continue.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::clients_and_servers::{modern_node, node_program, python_beside};
use crate::common::gatepost::{BINARY, Setup};
use crate::common::process;
use crate::common::wait::{SOON, until};
use crate::session::Session;

/// A server at a port of its own, which it gets as an argument or a variable. Dropping it ends it with its children.
struct PortServer {
    port: u16,
    /// Program and arguments, in which `PORT` stands for the port.
    words: Vec<String>,
    child: Option<Child>,
}

impl PortServer {
    fn new(words: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let words = words.iter().map(|word| word.replace("PORT", &port.to_string())).collect();
        Self { port, words, child: None }
    }

    fn start(&mut self) {
        let mut command = Command::new(&self.words[0]);
        // The tests' own node, which the programs of packages look for.
        let path = std::env::join_paths([modern_node().parent().unwrap().to_owned(), "/usr/bin".into(), "/bin".into()]);
        command.args(&self.words[1..]).env("PATH", path.unwrap()).env("PORT", self.port.to_string()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    fn is_up(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).ok();
            child.wait().unwrap();
        }
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The servers, by their aliases, with the name of the member of `echo` that has the text.
fn servers() -> Vec<(&'static str, &'static str, PortServer)> {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let everything = text(node_program("mcp-server-everything"));
    let (supergateway, node) = (text(node_program("supergateway")), text(modern_node()));
    let proxy = text(python_beside("mcp-proxy", "mcp-proxy"));
    let stdio = format!("{BINARY} example-backend");
    let bridge = [&*node, &supergateway, "--stdio", &stdio, "--outputTransport", "streamableHttp", "--port", "PORT"];
    let stateful = [&bridge[..], &["--stateful"]].concat();
    vec![
        ("everything", "message", PortServer::new(&[&node, &everything, "streamableHttp"])),
        ("supergateway", "text", PortServer::new(&bridge)),
        ("stateful", "text", PortServer::new(&stateful)),
        ("proxy", "text", PortServer::new(&[&proxy, "--port", "PORT", "--", BINARY, "example-backend"])),
    ]
}

fn echo(session: &mut Session, tool: &str, member: &str) -> Result<String, String> {
    let mut arguments = json!({});
    arguments[member] = Value::from("hi");
    session.call(tool, &arguments)
}

#[test]
fn sessions_outlive_restarts_of_real_servers() {
    let mut servers = servers();
    let mut setup = Setup::new();
    for (alias, _, server) in &mut servers {
        server.start();
        setup.set(&format!("backends.{alias}.url"), &format!("http://127.0.0.1:{}/mcp", server.port));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/old_server.py");
    setup.backend("old", &[python_beside("mcp-1.3", "python").to_str().unwrap(), script]);
    let all_up = |servers: &[(&str, &str, PortServer)]| {
        until("the servers listen", SOON, || servers.iter().all(|(.., server)| server.is_up()));
    };
    all_up(&servers);
    let gatepost = setup.start();
    let connect = |path: &str, era: &str| Session::start(&format!("{}{path}", gatepost.url()), era);
    let mut all = ["legacy", "modern"].map(|era| connect("/mcp", era));
    let mut single: Vec<_> = servers.iter().map(|(alias, ..)| connect(&format!("/mcp/{alias}"), "legacy")).collect();
    let mut old = connect("/mcp/old", "legacy");
    let mut works = |servers: &[(&str, &str, PortServer)], tries: usize| {
        for ((alias, member, _), session) in servers.iter().zip(&mut single) {
            let federated = all.iter_mut().map(|session| (session, format!("{alias}__echo")));
            for (session, tool) in federated.chain([(session, "echo".to_owned())]) {
                let answers: Vec<_> = (0..tries).map(|_| echo(session, &tool, member)).collect();
                let is_answered = answers.last().unwrap().as_ref().is_ok_and(|text| text.contains("hi"));
                assert!(is_answered, "{alias} {tool}: {answers:?}\n{}", setup.log());
                assert!(session.tools().contains(&tool), "{alias}");
            }
        }
    };
    works(&servers, 1);
    assert_eq!(echo(&mut old, "echo", "text").unwrap(), "hi");
    for (.., server) in &mut servers {
        server.end();
        server.start();
    }
    all_up(&servers);
    // One call on a connection to the killed server may fail; it is not made twice.
    works(&servers, 2);
    let pid: u32 = old.call("pid", &json!({})).unwrap().parse().unwrap();
    process::signal(pid, Signal::SIGKILL);
    until("the old server is started again", SOON, || echo(&mut old, "echo", "text").is_ok());
    assert_ne!(old.call("pid", &json!({})).unwrap(), pid.to_string());
}
