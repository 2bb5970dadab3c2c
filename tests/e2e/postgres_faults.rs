//! What a Postgres does to a gateway: one fault at a time, begun and lifted when the test says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::postgres::{Cluster, Database, hand_over};
use crate::common::postgres_control::{freeze, stop_server, thaw, write_to_data};
use crate::common::wait::{SOON, until_async};

/// The role that the gateway delivers as: a member of `gatepost_writer`, no superuser.
pub const GATEWAY_ROLE: &str = "gateway";

/// The file that fills the small disk.
const FILLER: &str = "filler";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    None,
    /// SIGKILL to all its processes, started again when lifted.
    Killed,
    /// A fast shutdown, started again when lifted.
    Stopped,
    /// SIGSTOP to all its processes, SIGCONT when lifted.
    Frozen,
    /// A fast shutdown and a start.
    Restarted,
    /// `pg_hba.conf` rejects the gateway's role, and its session is ended.
    Refused,
    /// Other sessions hold all of `max_connections`.
    ConnectionsHeld,
    /// The role may have no connection.
    ConnectionLimit,
    /// `default_transaction_read_only` for the server.
    ReadOnly,
    /// The tablespace has not a block left.
    DiskFull,
    /// Another session has locked `audit_log`, so that the statement times out.
    LogLocked,
    /// The same with `audit_stream`, where the cursor is.
    StreamLocked,
    /// EXECUTE on `gatepost_deliver` is revoked.
    DeliverRevoked,
    /// EXECUTE on `gatepost_open_stream` is revoked.
    StreamRevoked,
}

/// Every fault.
pub const ALL: [Fault; 14] = [
    Fault::None,
    Fault::Killed,
    Fault::Stopped,
    Fault::Frozen,
    Fault::Restarted,
    Fault::Refused,
    Fault::ConnectionsHeld,
    Fault::ConnectionLimit,
    Fault::ReadOnly,
    Fault::DiskFull,
    Fault::LogLocked,
    Fault::StreamLocked,
    Fault::DeliverRevoked,
    Fault::StreamRevoked,
];

/// A Postgres of its own on which faults come and go.
#[derive(Debug)]
pub struct Victim {
    pub cluster: Cluster,
    pub database: Database,
    /// Where the database's files are: a small file system.
    space: PathBuf,
    /// Sessions that are the fault.
    held: Vec<PgConnection>,
}

impl Victim {
    /// A running server whose database lies in `space`.
    pub async fn start(space: PathBuf) -> Self {
        let cluster = Cluster::start();
        let database = create_database_in(&cluster, &space).await;
        Self { cluster, database, space, held: Vec::new() }
    }

    /// The role that [`Self::gateway_url`] names. The migrations come first: they make `gatepost_writer`.
    pub async fn create_gateway_role(&self) {
        self.admin(&format!("CREATE ROLE {GATEWAY_ROLE} LOGIN IN ROLE gatepost_writer")).await;
        self.admin("UPDATE audit_registrar SET registration = 'first'").await;
    }

    pub fn gateway_url(&self) -> String {
        self.database.url.replace("gatepost@", &format!("{GATEWAY_ROLE}@"))
    }

    /// Makes it so, and returns when it is so.
    pub async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::None => {}
            Fault::Killed => self.cluster.kill(),
            Fault::Stopped => stop_server(&mut self.cluster),
            Fault::Frozen => freeze(&self.cluster),
            Fault::Restarted => {
                stop_server(&mut self.cluster);
                self.cluster.restart();
            }
            Fault::Refused => {
                let reject =
                    format!("local all all trust\nhost all {GATEWAY_ROLE} all reject\nhost all all all trust\n");
                write_to_data(&self.cluster, "pg_hba.conf", &reject);
                self.admin("SELECT pg_reload_conf()").await;
                self.end_gateway_sessions().await;
            }
            Fault::ConnectionLimit => {
                self.admin(&format!("ALTER ROLE {GATEWAY_ROLE} CONNECTION LIMIT 0")).await;
                self.end_gateway_sessions().await;
            }
            Fault::ConnectionsHeld => {
                self.hold_all_connections().await;
                // The place that the gateway gives up is anybody's: its own, if it is quick.
                self.admin(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatepost'",
                )
                .await;
                self.hold_all_connections().await;
            }
            Fault::ReadOnly => self.set_read_only("on").await,
            Fault::DiskFull => self.fill(),
            Fault::LogLocked => self.lock("audit_log").await,
            Fault::StreamLocked => self.lock("audit_stream").await,
            Fault::DeliverRevoked => {
                self.admin("REVOKE EXECUTE ON FUNCTION gatepost_deliver FROM gatepost_writer").await;
            }
            Fault::StreamRevoked => {
                self.admin("REVOKE EXECUTE ON FUNCTION gatepost_open_stream FROM gatepost_writer").await;
            }
        }
    }

    /// Takes it away again.
    pub async fn lift(&mut self, fault: Fault) {
        match fault {
            Fault::None | Fault::Restarted => {}
            Fault::Killed | Fault::Stopped => self.cluster.restart(),
            Fault::Frozen => thaw(&self.cluster),
            Fault::Refused => {
                write_to_data(&self.cluster, "pg_hba.conf", "local all all trust\nhost all all all trust\n");
                self.admin("SELECT pg_reload_conf()").await;
            }
            Fault::ConnectionLimit => self.admin(&format!("ALTER ROLE {GATEWAY_ROLE} CONNECTION LIMIT -1")).await,
            Fault::ReadOnly => self.set_read_only("off").await,
            Fault::DiskFull => fs::remove_file(self.space.join(FILLER)).unwrap(),
            Fault::ConnectionsHeld | Fault::LogLocked | Fault::StreamLocked => {
                for session in self.held.drain(..) {
                    session.close().await.unwrap();
                }
            }
            Fault::DeliverRevoked => {
                self.admin("GRANT EXECUTE ON FUNCTION gatepost_deliver TO gatepost_writer").await;
            }
            Fault::StreamRevoked => {
                self.admin("GRANT EXECUTE ON FUNCTION gatepost_open_stream TO gatepost_writer").await;
            }
        }
    }

    async fn admin(&self, statement: &str) {
        let mut session = self.connect_admin().await;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut session).await.unwrap();
        session.close().await.unwrap();
    }

    /// A session of the superuser's, which may write on a read-only server.
    async fn connect_admin(&self) -> PgConnection {
        let mut session = PgConnection::connect(&self.database.url).await.unwrap();
        sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut session).await.unwrap();
        session
    }

    /// Ends the gateway's sessions once it can have no new one.
    async fn end_gateway_sessions(&self) {
        let url = self.gateway_url();
        until_async("the gateway is kept out", SOON, || async { PgConnection::connect(&url).await.is_err() }).await;
        self.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatepost'").await;
    }

    async fn hold_all_connections(&mut self) {
        while let Ok(session) = PgConnection::connect(&self.gateway_url()).await {
            self.held.push(session);
        }
    }

    async fn set_read_only(&self, value: &str) {
        self.admin(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}")).await;
        self.admin("SELECT pg_reload_conf()").await;
        until_async("the server has read its configuration", SOON, || async {
            let mut session = PgConnection::connect(&self.database.url).await.unwrap();
            let shown: String =
                sqlx::query_scalar("SHOW default_transaction_read_only").fetch_one(&mut session).await.unwrap();
            session.close().await.unwrap();
            shown == value
        })
        .await;
    }

    /// Allocates whatever the file system has left.
    fn fill(&self) {
        let file = File::create(self.space.join(FILLER)).unwrap();
        let mut end = 0;
        for step in [1 << 20, 4096] {
            loop {
                match fallocate(&file, FallocateFlags::empty(), end, step) {
                    Ok(()) => end += step,
                    Err(Errno::ENOSPC) => break,
                    Err(error) => panic!("the small disk cannot be filled: {error}"),
                }
            }
        }
    }

    async fn lock(&mut self, table: &str) {
        let mut session = self.connect_admin().await;
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await.unwrap();
        self.held.push(session);
    }
}

/// A database whose files are in the empty directory `dir`.
async fn create_database_in(cluster: &Cluster, dir: &Path) -> Database {
    let space = dir.join("tablespace");
    fs::create_dir(&space).unwrap();
    hand_over(dir);
    hand_over(&space);
    let mut admin = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", space.display());
    sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    cluster.create_database_with("TABLESPACE small").await
}
