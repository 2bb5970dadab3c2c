//! `gatepost health`: the condition of a running gateway in one line, for the probes of containers and for people.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::StatusCode;
use serde::Deserialize;

use super::config_args::{CONFIG_HELP, ConfigArgs};
use super::configuration::load;
use super::exit::usage;
use super::output::print;
use crate::audit::shipper::ShipperState;
use crate::ops::status::Condition;
use crate::outbound::{body, client_builder};

/// Longest wait for the answer. *Chosen*: less than the 3 s that the image's probe and a person have for the command; a
/// gateway answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer, in bytes. *Chosen*: far above the answer of a gateway, whose largest part is the error of Postgres.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// `gatepost health`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// Address of the operations listener, instead of ops.listen of the configuration
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    address: Option<SocketAddr>,
}

/// The answer of `/readyz`.
#[derive(Debug, Deserialize)]
struct Readiness {
    status: Condition,
    /// Missing if auditing is off.
    postgres: Option<ShipperState>,
    ring: Option<Ring>,
    backends: Backends,
}

#[derive(Debug, Deserialize)]
struct Ring {
    outbox: Outbox,
}

#[derive(Debug, Deserialize)]
struct Outbox {
    disk_full: bool,
    full: bool,
}

#[derive(Debug, Deserialize)]
struct Backends {
    up: usize,
    configured: usize,
}

/// Prints the condition of the gateway: ready or degraded.
///
/// # Errors
/// The gateway cannot audit calls, or does not answer.
pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let address = match args.address {
        Some(address) => address,
        None => load(ConfigArgs { config: args.config.clone(), ..ConfigArgs::default() }.find().path())?.ops.listen.ok_or_else(|| {
            usage("ops.listen is \"off\", so that a gateway with this configuration cannot be asked: set it to an address")
        })?,
    };
    let address = reachable(address);
    let readiness = ask(address).await.with_context(|| format!("the gateway at {address} is not healthy"))?;
    let line = line(&readiness);
    if readiness.status == Condition::Failed {
        bail!("{line}");
    }
    Ok(print(&format!("{line}\n"))?)
}

/// The address at which this machine reaches a listener: loopback for one that listens on all addresses.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, listener.port())
}

async fn ask(address: SocketAddr) -> anyhow::Result<Readiness> {
    let url = format!("http://{address}/readyz");
    // A probe asks this address and no proxy. Without TLS it needs no authorities, which small images do not have.
    let client = client_builder(&url).no_proxy().tls_certs_only([]).timeout(TIMEOUT).build();
    let client = client.context("cannot make an HTTP client")?;
    let no_answer = "no answer: is it running, and is this its ops.listen?";
    let response = client.get(&url).send().await.context(no_answer)?;
    let status = response.status();
    // I6: the answer is read up to its limit.
    let body = body(response, ANSWER_BYTES_MAX).await.context("the answer ended early")?;
    let too_large = || format!("the answer is larger than {ANSWER_BYTES_MAX} bytes: is this its ops.listen?");
    let body = body.with_context(too_large)?;
    if !matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) {
        bail!("the answer has status {status}: is this its ops.listen?");
    }
    serde_json::from_slice(&body).context("the answer is not that of a gateway: is this its ops.listen?")
}

/// The condition in one line, with the reasons why it is not the best one.
fn line(readiness: &Readiness) -> String {
    let outbox = match readiness.ring.as_ref().map(|ring| &ring.outbox) {
        Some(Outbox { disk_full: true, .. }) => "the disk of the outbox is full",
        Some(Outbox { full: true, .. }) => "the quota of the outbox is used up",
        _ => "the outbox cannot store",
    };
    let (condition, calls) = match readiness.status {
        Condition::Ready => ("ready", None),
        Condition::Degraded => ("degraded", None),
        Condition::Failed => ("failed", Some(format!("calls cannot be audited, {outbox}"))),
    };
    let postgres = match &readiness.postgres {
        None => Some("auditing is off".to_owned()),
        Some(ShipperState::StoreOnly | ShipperState::Delivering) => None,
        Some(ShipperState::Starting) => Some("nothing was delivered to Postgres yet".to_owned()),
        Some(ShipperState::Retrying { error }) => Some(format!("records wait for Postgres: {error}")),
        Some(ShipperState::Held { error }) => Some(format!("delivery waits for an operator: {error}")),
        Some(ShipperState::Forked { error }) => Some(format!("a stream is forked: {error}")),
    };
    let Backends { up, configured } = readiness.backends;
    let backends = (up != configured).then(|| format!("{up} of {configured} backends up"));
    let reasons: Vec<String> = [calls, backends, postgres].into_iter().flatten().collect();
    if reasons.is_empty() { condition.to_owned() } else { format!("{condition}: {}", reasons.join("; ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_has_the_condition_and_its_reasons() {
        let failed = |full: bool, disk_full: bool| {
            json!({
                "status": "failed", "postgres": {"state": "store_only"}, "backends": {"up": 2, "configured": 2},
                "ring": {"outbox": {"full": full, "disk_full": disk_full}}
            })
        };
        for (answer, wanted) in [
            (
                json!({"status": "ready", "postgres": {"state": "delivering"}, "backends": {"up": 2, "configured": 2}}),
                "ready",
            ),
            (
                json!({"status": "ready", "audit": "off", "backends": {"up": 0, "configured": 0}}),
                "ready: auditing is off",
            ),
            (
                json!({
                    "status": "degraded", "postgres": {"state": "retrying", "error": "connection refused"},
                    "ring": {"records": 3, "outbox": {"full": false, "disk_full": false}},
                    "backends": {"up": 1, "configured": 2}
                }),
                "degraded: 1 of 2 backends up; records wait for Postgres: connection refused",
            ),
            (failed(false, false), "failed: calls cannot be audited, the outbox cannot store"),
            (failed(true, false), "failed: calls cannot be audited, the quota of the outbox is used up"),
            (failed(true, true), "failed: calls cannot be audited, the disk of the outbox is full"),
        ] {
            assert_eq!(line(&serde_json::from_value(answer).unwrap()), wanted);
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listener, wanted) in [
            ("0.0.0.0:8809", "127.0.0.1:8809"),
            ("[::]:8809", "[::1]:8809"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("127.0.0.1:8809", "127.0.0.1:8809"),
        ] {
            assert_eq!(reachable(listener.parse().unwrap()), wanted.parse().unwrap());
        }
    }
}
