//! A stand-in for the shell: only `example-backend`.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    gatepost::cli::example_backend::run().await
}
