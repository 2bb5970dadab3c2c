//! Control of a Postgres beyond starting it: stopping, freezing, its files, its socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use super::postgres::{Cluster, Database, SUPERUSER, children, hand_over};
use super::process::signal;

/// Stops the server cleanly, disconnecting its clients.
pub fn stop_server(cluster: &mut Cluster) {
    signal(cluster.pid(), Signal::SIGINT);
    cluster.reap();
}

/// Stops all processes of the server with SIGSTOP: connections stay open, nothing answers.
pub fn freeze(cluster: &Cluster) {
    signal(cluster.pid(), Signal::SIGSTOP);
    for id in children(cluster.pid()) {
        signal(id, Signal::SIGSTOP);
    }
}

/// Continues a frozen server.
pub fn thaw(cluster: &Cluster) {
    for id in children(cluster.pid()).into_iter().chain([cluster.pid()]) {
        signal(id, Signal::SIGCONT);
    }
}

/// Writes a file of the data directory, for example `pg_hba.conf`. The server reads it when it is told to.
pub fn write_to_data(cluster: &Cluster, name: &str, text: &str) {
    let path = cluster.dir.join("data").join(name);
    fs::write(&path, text).unwrap();
    hand_over(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A URL over the Unix socket for `database`.
pub fn socket_url(cluster: &Cluster, database: &str) -> String {
    format!("postgres://{SUPERUSER}@localhost:{}/{database}?host={}", cluster.port, cluster.dir.display())
}

/// The name of `database`.
pub fn name(database: &Database) -> &str {
    database.url.rsplit_once('/').unwrap().1
}
