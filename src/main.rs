//! A stand-in for the shell, which runs the example backend only.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    gatepost::cli::example_backend::run().await
}
