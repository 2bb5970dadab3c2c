//! Notices of alarms: the operator's command, or a POST to the operator's webhook.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::audit::record::GatewayId;
use crate::config;
use crate::ops::alarm::{Alarm, Board};

/// How long a command or a webhook may take. *Chosen*: a mail is sent in less, and the next notice waits for it.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pauses before a notice is tried again; then it is given up. *Chosen*: a webhook that restarts is back by then.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// One notice.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) alarm: Alarm,
    /// Or cleared.
    pub(super) raised: bool,
    pub(super) words: String,
}

/// Gives notices.
#[derive(Debug)]
pub(super) struct Notifier {
    command: Vec<String>,
    webhook: Option<(reqwest::Client, String)>,
    gateway_id: Option<GatewayId>,
}

impl Notifier {
    pub(super) fn new(config: &config::Alarms, gateway_id: Option<GatewayId>) -> Self {
        let client = || {
            let no_redirects = reqwest::redirect::Policy::none();
            reqwest::Client::builder().timeout(NOTICE_TIMEOUT).redirect(no_redirects).build()
        };
        let webhook = config.webhook_url.as_ref().and_then(|url| match client() {
            Ok(client) => Some((client, url.clone())),
            Err(error) => {
                tracing::error!(error = %error.without_url(), "alarms.webhook_url is of no use");
                None
            }
        });
        Self { command: config.command.clone(), webhook, gateway_id }
    }

    /// Gives notices one by one, each to the command and to the webhook, where there are any.
    pub(super) async fn run(self, mut notices: mpsc::Receiver<Notice>, board: Board) {
        while let Some(notice) = notices.recv().await {
            if !self.command.is_empty() {
                Self::tried(&notice, &board, || self.execute(&notice)).await;
            }
            if let Some((client, url)) = &self.webhook {
                Self::tried(&notice, &board, || self.post(client, url, &notice)).await;
            }
        }
    }

    async fn tried<F: Future<Output = Result<(), String>>>(
        notice: &Notice,
        board: &Board,
        mut give: impl FnMut() -> F,
    ) {
        let mut pauses = RETRY_PAUSES.iter();
        while let Err(error) = give().await {
            let Some(pause) = pauses.next() else {
                tracing::error!(
                    alarm = notice.alarm.name(),
                    error,
                    "a notice of the alarm was not taken and is given up"
                );
                board.unnoticed().add(1);
                return;
            };
            tokio::time::sleep(*pause).await;
        }
    }

    /// Runs the command, and ends it and all that it began when it takes too long.
    async fn execute(&self, notice: &Notice) -> Result<(), String> {
        let [program, arguments @ ..] = self.command.as_slice() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let gateway_id = self.gateway_id.map(|id| id.to_string()).unwrap_or_default();
        command.env("ALARM_NAME", notice.alarm.name()).env("ALARM_STATE", notice.state());
        command.env("ALARM_TEXT", notice.words.replace('\0', "\u{fffd}")).env("ALARM_GATEWAY_ID", gateway_id);
        let mut child = command.spawn().map_err(|error| format!("alarms.command cannot be run: {error}"))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        // I6: one command at a time, and none for ever.
        match tokio::time::timeout(NOTICE_TIMEOUT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("alarms.command ended with {status}")),
            Ok(Err(error)) => Err(format!("alarms.command: {error}")),
            Err(_) => {
                group.map(|group| killpg(group, Signal::SIGKILL));
                Err(format!("alarms.command took longer than {NOTICE_TIMEOUT:?} and was killed"))
            }
        }
    }

    async fn post(&self, client: &reqwest::Client, url: &str, notice: &Notice) -> Result<(), String> {
        let body = serde_json::json!({
            "alarm": notice.alarm,
            "state": notice.state(),
            "text": notice.words,
            "gateway_id": self.gateway_id,
        });
        let request = client.post(url).header("content-type", "application/json").body(body.to_string());
        // I8: the URL of a webhook is often its secret.
        let response = request.send().await.map_err(|error| format!("alarms.webhook_url: {}", error.without_url()))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("alarms.webhook_url answered {status}")) }
    }
}

impl Notice {
    fn state(&self) -> &'static str {
        if self.raised { "raised" } else { "cleared" }
    }
}
