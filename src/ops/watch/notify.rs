//! Notifications of alarms: the operator's command, or a POST to the operator's webhook.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;

use crate::audit::record::GatewayId;
use crate::children;
use crate::config;
use crate::ops::alarm::{Alarm, Board};
use crate::outbound;
use crate::retry::{Backoff, RetryPolicy};

/// Longest time for a command or a webhook. *Chosen*: sending a mail takes less, and the next notification has to wait
/// for it.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Pauses between attempts. *Chosen*: a webhook that restarts is back after the second pause.
const RETRY: RetryPolicy = RetryPolicy::new(Duration::from_secs(2), Duration::from_secs(4));

/// Attempts for one notification. *Chosen*: with the pauses of [`RETRY`] they take about six seconds, and the next
/// notification has to wait for them.
const ATTEMPTS_MAX: usize = 3;

/// One notification.
#[derive(Clone, Debug)]
pub(super) struct Notification {
    pub(super) alarm: Alarm,
    /// True if the alarm is raised, false if it is cleared.
    pub(super) raised: bool,
    pub(super) message: String,
}

/// Sends notifications.
#[derive(Debug)]
pub(super) struct Notifier {
    command: Vec<String>,
    webhook: Option<(reqwest::Client, String)>,
    gateway_id: Option<GatewayId>,
}

impl Notifier {
    pub(super) fn new(config: &config::Alarms, gateway_id: Option<GatewayId>) -> Self {
        let client = |url: &str| outbound::client_builder(url).timeout(NOTIFICATION_TIMEOUT).build();
        let webhook = config.webhook_url.as_ref().and_then(|url| match client(url) {
            Ok(client) => Some((client, url.clone())),
            Err(error) => {
                tracing::error!(error = %error.without_url(), "cannot make a client for alarms.webhook_url; ignoring it");
                None
            }
        });
        Self { command: config.command.clone(), webhook, gateway_id }
    }

    /// Sends notifications one by one, each to the command and to the webhook, if they are configured.
    pub(super) async fn run(self, mut notifications: mpsc::Receiver<Notification>, board: Board) {
        while let Some(notification) = notifications.recv().await {
            if !self.command.is_empty() {
                with_retries(&notification, &board, || self.execute(&notification)).await;
            }
            if let Some((client, url)) = &self.webhook {
                with_retries(&notification, &board, || self.post(client, url, &notification)).await;
            }
        }
    }

    /// Runs the command. If it takes too long, kills it with all processes that it started.
    async fn execute(&self, notification: &Notification) -> Result<(), String> {
        let [program, arguments @ ..] = self.command.as_slice() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let gateway_id = self.gateway_id.map(|id| id.to_string()).unwrap_or_default();
        command.env("ALARM_NAME", notification.alarm.name()).env("ALARM_STATE", notification.state());
        command.env("ALARM_TEXT", notification.message.replace('\0', "\u{fffd}")).env("ALARM_GATEWAY_ID", gateway_id);
        let started = children::start_group(command).await;
        let mut child = started.map_err(|error| format!("cannot run alarms.command: {error}"))?;
        // I6: one command at a time, and for a limited time.
        let ended = tokio::time::timeout(NOTIFICATION_TIMEOUT, child.process.wait()).await;
        let killed = |_| format!("alarms.command took longer than {NOTIFICATION_TIMEOUT:?} and was killed");
        let status = ended.map_err(killed)?.map_err(|error| format!("cannot wait for alarms.command: {error}"))?;
        // It may leave a process behind, for example one that sends a message.
        if let Some(group) = child.group.take() {
            group.release();
        }
        if status.success() { Ok(()) } else { Err(format!("alarms.command failed: {status}")) }
    }

    async fn post(&self, client: &reqwest::Client, url: &str, notification: &Notification) -> Result<(), String> {
        let body = serde_json::json!({
            "alarm": notification.alarm,
            "state": notification.state(),
            "text": notification.message,
            "gateway_id": self.gateway_id,
        });
        let request = client.post(url).header("content-type", "application/json").body(body.to_string());
        // I8: the URL of a webhook is often a secret.
        let response = request.send().await.map_err(|error| format!("alarms.webhook_url: {}", error.without_url()))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("alarms.webhook_url answered {status}")) }
    }
}

/// Calls `send` until it succeeds or [`ATTEMPTS_MAX`] attempts have failed.
async fn with_retries<F: Future<Output = Result<(), String>>>(
    notification: &Notification,
    board: &Board,
    mut send: impl FnMut() -> F,
) {
    let mut pauses = Backoff::new(RETRY);
    let mut attempts = 0;
    while let Err(error) = send().await {
        attempts += 1;
        if attempts == ATTEMPTS_MAX {
            tracing::error!(
                alarm = notification.alarm.name(),
                attempts,
                error,
                "alarm notification failed; dropping it"
            );
            board.notifications_failed().add(1);
            return;
        }
        tokio::time::sleep(pauses.next_pause()).await;
    }
}

impl Notification {
    fn state(&self) -> &'static str {
        if self.raised { "raised" } else { "cleared" }
    }
}
