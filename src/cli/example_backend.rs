//! `gatepost example-backend`: a stdio MCP server for trials and tests of the gateway.
//!
//! It uses `rmcp`, so that the gateway's framing is tested against another implementation. Calls run concurrently: a
//! long `sleep` does not delay other calls.

use std::time::Duration;

use anyhow::Context as _;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::{ServerHandler, ServiceExt as _, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;

/// Longest sleep, in milliseconds. *Chosen*: longer than any test waits.
const SLEEP_MS_MAX: u64 = 60_000;

/// Largest result of `big`, in bytes. *Chosen*: twice the gateway's limit for a line, so that the limit can be tested.
const BIG_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Serves on stdin and stdout until stdin ends.
///
/// # Errors
/// The handshake or the transport fails.
pub(super) async fn run() -> anyhow::Result<()> {
    let service = Example.serve(rmcp::transport::stdio()).await.context("cannot serve the example backend on stdio")?;
    service.waiting().await.context("the example backend failed")?;
    Ok(())
}

#[derive(Clone, Debug)]
struct Example;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Echo {
    /// The text.
    text: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Add {
    /// The first number.
    a: f64,
    /// The second number.
    b: f64,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Sleep {
    /// Duration in milliseconds; at most 60000.
    ms: u64,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Fail {
    /// The message of the failure.
    message: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Big {
    /// Size of the result in bytes; at most 33554432.
    bytes: usize,
}

#[tool_router]
impl Example {
    #[tool(description = "Returns the text")]
    async fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> String {
        text
    }

    #[tool(description = "Adds two numbers")]
    async fn add(&self, Parameters(Add { a, b }): Parameters<Add>) -> String {
        (a + b).to_string()
    }

    #[tool(description = "Sleeps for some milliseconds")]
    async fn sleep(&self, Parameters(Sleep { ms }): Parameters<Sleep>) -> String {
        let ms = ms.min(SLEEP_MS_MAX);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        format!("slept {ms} ms")
    }

    #[tool(description = "Fails with the message")]
    async fn fail(&self, Parameters(Fail { message }): Parameters<Fail>) -> CallToolResult {
        CallToolResult::error(vec![ContentBlock::text(message)])
    }

    #[tool(description = "Returns a text of this many bytes")]
    async fn big(&self, Parameters(Big { bytes }): Parameters<Big>) -> String {
        "x".repeat(bytes.min(BIG_BYTES_MAX))
    }
}

#[tool_handler(name = "gatepost-example")]
impl ServerHandler for Example {}
