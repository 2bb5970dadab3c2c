//! `gatepost example-backend`: a stdio MCP server to try the gateway with, and to test it.
//!
//! Written on `rmcp`, so that the gateway's own framing meets another implementation's. Calls run side by side: a long
//! `sleep` holds up no other call.

use std::time::Duration;

use anyhow::Context as _;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::{ServerHandler, ServiceExt as _, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;

/// Longest sleep, in milliseconds. *Chosen*: longer than any test waits.
const SLEEP_MS_MAX: u64 = 60_000;

/// Largest answer of `big`, in bytes. *Chosen*: twice the gateway's limit for a line, so that the limit can be tried.
const BIG_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Serves on stdin and stdout until stdin ends.
///
/// # Errors
/// Where the handshake or the transport fails.
pub async fn run() -> anyhow::Result<()> {
    let service = Example.serve(rmcp::transport::stdio()).await.context("serve the example backend on stdio")?;
    service.waiting().await.context("wait for the example backend's end")?;
    Ok(())
}

#[derive(Clone, Debug)]
struct Example;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Echo {
    /// What to say.
    text: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Add {
    /// One number.
    a: f64,
    /// The other.
    b: f64,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Sleep {
    /// How long, in milliseconds; at most 60000.
    ms: u64,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Fail {
    /// What the failure says.
    message: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Big {
    /// How many bytes; at most 33554432.
    bytes: usize,
}

#[tool_router]
impl Example {
    #[tool(description = "Says the text back")]
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

    #[tool(description = "Answers with this many bytes")]
    async fn big(&self, Parameters(Big { bytes }): Parameters<Big>) -> String {
        "x".repeat(bytes.min(BIG_BYTES_MAX))
    }
}

#[tool_handler(name = "gatepost-example")]
impl ServerHandler for Example {}
