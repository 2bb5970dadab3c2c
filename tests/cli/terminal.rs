//! Tables on a terminal: their width, their colours and their times; and times as a person writes them.

use std::process::Command;

use crate::common::gatepost::{BINARY, Setup};
use crate::common::mcp::Era;
use crate::common::python::python_program;
use crate::run::run;
use serde_json::json;

/// Runs a command on a terminal of a width: `WIDTH COMMAND ...`.
const ON_TERMINAL: &str = r"
import fcntl, os, pty, struct, sys, termios
width, command = int(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 40, width, 0, 0))
    os.execvp(command[0], command)
output = b''
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    if not part:
        break
    output += part
sys.stdout.write(output.decode().replace('\r\n', '\n'))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// A gateway's outbox with a call, a denied call and an error with a long text.
async fn outbox() -> Setup {
    let setup = Setup::new();
    let gatepost = setup.start();
    let admin = gatepost.client(Era::Modern, "admin").await;
    admin.call("example__echo", json!({"text": "a".repeat(400)})).await.unwrap();
    admin
        .call("example__fail", json!({"message": "the disk of the backend is full, and so is that of its neighbour"}))
        .await
        .ok();
    let echo = gatepost.client(Era::Modern, "echo").await;
    echo.call("example__add", json!({"a": 1, "b": 2})).await.unwrap();
    assert_eq!(gatepost.terminate(), Some(0));
    setup
}

/// The output of a command on a terminal: standard output and standard error.
fn on_terminal(setup: &Setup, width: usize, variables: &[(&str, &str)], args: &[&str]) -> String {
    let command = setup.command(args);
    let mut python = Command::new(python_program("python"));
    python.args(["-c", ON_TERMINAL, &width.to_string()]).arg(command.get_program()).args(command.get_args());
    python.current_dir(setup.dir()).env_clear().env("TERM", "xterm").envs(variables.iter().copied());
    let output = python.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // The end of a dead gateway's trail is not proven.
    let wanted = if args.contains(&"verify") { 4 } else { 0 };
    assert_eq!(output.status.code(), Some(wanted), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The text without its colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap().to_owned();
    first + &parts.map(|part| part.split_once('m').unwrap().1).collect::<String>()
}

const COMMANDS: [&[&str]; 6] = [
    &["audit", "query"],
    &["audit", "tail"],
    &["outbox", "list"],
    &["outbox", "tail"],
    &["audit", "verify"],
    &["outbox", "stats"],
];

#[tokio::test]
async fn tables_fit_the_terminal_and_say_what_they_leave_out() {
    let setup = outbox().await;
    for args in &COMMANDS[..4] {
        for width in [60, 80, 200] {
            let text = plain(&on_terminal(&setup, width, &[], args));
            let rows = text.lines().filter(|line| !line.starts_with("gatepost: "));
            let longest = rows.map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width, "{args:?}: {longest} columns on {width}:\n{text}");
            assert!(text.contains("denied") && text.contains("EPOCH/SEQ"), "{args:?}: {text}");
            let says = text.contains("gatepost: not shown in this width: ") && text.contains("--wide");
            assert_eq!(says, width < 200, "{args:?} on {width}:\n{text}");
        }
        let wide = plain(&on_terminal(&setup, 60, &[], &[*args, &["--wide"]].concat()));
        assert!(wide.contains(&"a".repeat(400)) && wide.contains("ERROR"), "{args:?}: {wide}");
        // Nothing is cut for a pipe, unless a width is given.
        let (code, piped, _) = run(&setup, args);
        assert!(code == Some(0) && piped.contains(&"a".repeat(400)), "{args:?}: {piped}");
    }
    let mut command = setup.command(&["audit", "query"]);
    let narrow = String::from_utf8(command.env("COLUMNS", "100").output().unwrap().stdout).unwrap();
    assert!(narrow.lines().all(|line| line.len() <= 100) && narrow.contains("..."), "{narrow}");
}

#[tokio::test]
async fn columns_are_chosen_by_name_and_json_stays_as_it_is() {
    let setup = outbox().await;
    let (code, text, _) = run(&setup, &["audit", "query", "--columns", "position,status,client_subject,request_args"]);
    let headings: Vec<_> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!((code, &headings[..]), (Some(0), &["EPOCH/SEQ", "STATUS", "client_subject", "request_args"][..]));
    let (code, _, stderr) = run(&setup, &["audit", "query", "--columns", "position,stauts"]);
    assert!(code == Some(2) && stderr.contains("stauts") && stderr.contains("response_status"), "{stderr}");
    let (_, whole, _) = run(&setup, &["audit", "query", "--json"]);
    let on_terminal = on_terminal(&setup, 60, &[], &["audit", "query", "--json", "--local", "--color", "always"]);
    let records = |text: &str| text.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(records(&whole), records(&on_terminal));
    let (code, _, stderr) = run(&setup, &["audit", "query", "--json", "--columns", "who"]);
    assert!(code == Some(2) && stderr.contains("--columns"), "{stderr}");
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let setup = outbox().await;
    let has_colors = |text: &str| text.contains('\u{1b}');
    for args in COMMANDS {
        assert!(has_colors(&on_terminal(&setup, 100, &[], args)), "{args:?}");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            assert!(!has_colors(&on_terminal(&setup, 100, &[variable], args)), "{args:?} {variable:?}");
        }
        assert!(!has_colors(&on_terminal(&setup, 100, &[], &[args, &["--color", "never"]].concat())), "{args:?}");
        let (_, piped, _) = run(&setup, args);
        let (_, always, _) = run(&setup, &[args, &["--color", "always"]].concat());
        assert!(!has_colors(&piped) && has_colors(&always), "{args:?}");
        if args[1] != "verify" {
            assert_eq!(plain(&always), piped, "{args:?}");
        }
    }
    let text = on_terminal(&setup, 200, &[], &["audit", "query"]);
    assert!(text.contains("\u{1b}[33mdenied\u{1b}[0m") && text.contains("\u{1b}[31mtool_error\u{1b}[0m"), "{text:?}");
}

#[tokio::test]
async fn times_are_local_on_request_and_read_as_people_write_them() {
    let setup = outbox().await;
    let query = |zone: &str, args: &[&str]| {
        let mut command = setup.command(&[&["audit", "query", "--columns", "time"], args].concat());
        let output = command.env("TZ", zone).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {stderr}");
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    // Asia/Kolkata, without a need for a database of zones.
    let (utc, local) = (query("IST-5:30", &[]), query("IST-5:30", &["--local"]));
    assert!(utc.iter().all(|time| time.ends_with('Z')) && local.iter().all(|time| time.ends_with("+05:30")));
    let moments = |times: &[String]| -> Vec<_> {
        times.iter().map(|time| chrono::DateTime::parse_from_rfc3339(time).unwrap()).collect()
    };
    assert_eq!(moments(&utc), moments(&local));

    // Midnight of the reader's zone is not that of UTC: no record is from before this time.
    let all = utc.len();
    for since in ["yesterday", "2026-01-01", "2026-01-01 09:00", "2026-01-01T09:00", "1h"] {
        assert_eq!(query("UTC", &["--since", since]).len(), all, "{since}");
        assert_eq!(query("UTC", &["--until", since]).len(), 0, "{since}");
    }
    let first = &moments(&utc)[0];
    let minute = first.format("%Y-%m-%d %H:%M").to_string();
    assert_eq!(query("IST-5:30", &["--since", &minute]).len(), all);
    assert_eq!(query("IST-5:30", &["--until", &minute]).len(), 0);
    // The same clock in this zone was 5.5 hours earlier, and in the other direction later.
    assert_eq!(query("IST-5:30", &["--local", "--since", &minute]).len(), all);
    assert_eq!(query("XXX5:30", &["--local", "--since", &minute]).len(), 0);
    assert_eq!(query("XXX5:30", &["--local", "--until", &minute]).len(), all);
    let (code, _, stderr) = run(&setup, &["audit", "query", "--since", "last week"]);
    assert!(code == Some(2) && stderr.contains("yesterday") && stderr.contains("2026-11-24 09:00"), "{stderr}");
}

#[test]
fn debug_is_outbox_and_the_version_has_three_spellings() {
    let setup = Setup::new();
    assert_eq!(setup.start().terminate(), Some(0));
    let (code, stdout, stderr) = run(&setup, &["debug", "stats"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, run(&setup, &["outbox", "stats"]).1);
    let of = |args: &[&str]| {
        let output = Command::new(BINARY).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(of(&["version"]), format!("gatepost {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!((of(&["version"]), of(&["version"])), (of(&["-V"]), of(&["--version"])));
    assert!(of(&["--help"]).contains("[alias: debug]"), "{}", of(&["--help"]));
}
