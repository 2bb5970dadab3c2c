//! Connecting: servers of every form in a URL, servers that ask for too much, and servers, databases and roles with any
//! settings.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::{name, stop_server, write_to_data};
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, delivered, many, one, postgres_sink, stop};
use gatepost::audit::chain::hash_matches;
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::query::{self, Filter};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::ErrorClass;
use gatepost::audit::sink::postgres::{self, Options};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn options(url: &str) -> Options {
    Options { url: url.to_owned(), password_file: None, statement_timeout: Duration::from_secs(20), migrate: true }
}

/// The port and the standing of the server that a URL leads to.
async fn reached(url: &str) -> (i32, bool) {
    let mut connection = postgres::connect(&options(url)).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let sql = "SELECT current_setting('port')::integer, pg_is_in_recovery()";
    sqlx::query_as(sql).fetch_one(&mut *connection).await.unwrap()
}

#[tokio::test]
async fn several_hosts_lead_to_the_one_that_accepts_writes() {
    let (primary, mut standby) = (Cluster::start(), Cluster::start());
    stop_server(&mut standby);
    write_to_data(&standby, "standby.signal", "");
    standby.restart();
    let (first, second) = (i32::from(primary.port), i32::from(standby.port));
    let hosts = |ports: &[u16]| {
        let hosts: Vec<_> = ports.iter().map(|port| format!("{}:{port}", primary.address)).collect();
        format!("postgres://gatepost@{}/postgres", hosts.join(","))
    };
    // Nothing listens on port 1.
    let all = hosts(&[1, standby.port, primary.port]);
    assert_eq!(reached(&all).await, (first, false));
    for (attrs, expected) in [
        ("any", (second, true)),
        ("read-write", (first, false)),
        ("primary", (first, false)),
        ("standby", (second, true)),
        ("prefer-standby", (second, true)),
    ] {
        assert_eq!(reached(&format!("{all}?target_session_attrs={attrs}")).await, expected, "{attrs}");
    }
    assert_eq!(reached(&hosts(&[1, standby.port])).await, (second, true), "a standby is better than none");
    let error = postgres::connect(&options(&(hosts(&[1, standby.port]) + "?target_session_attrs=read-write"))).await;
    let error = error.unwrap_err();
    assert!(error.message.contains("server 1: ") && error.message.contains("server 2: it is a standby"), "{error}");
    assert_eq!(error.class, ErrorClass::Transient, "it may be promoted: {error}");

    // A gateway whose only server is a standby waits for it, without an operator.
    let rig = Rig::stored();
    let pipeline = rig.start_on(&Database { url: hosts(&[standby.port]) });
    let probe = pipeline.probe();
    let waits = || async { matches!(probe.shipper(), ShipperState::Retrying { error } if error.contains("standby")) };
    until_async("it waits", SOON, waits).await;
    let mut admin = PgConnection::connect(&hosts(&[standby.port])).await.unwrap();
    sqlx::raw_sql("SELECT pg_promote()").execute(&mut admin).await.unwrap();
    delivered(&probe).await;
    stop(pipeline).await;
}

#[tokio::test]
async fn name_with_several_addresses_is_tried_at_each() {
    // "localhost" is ::1 and 127.0.0.1 nearly everywhere; a listener at either is found.
    let fake = Fake::start("127.0.0.1".parse().unwrap()).await;
    let url = format!("postgres://u:hunter2@localhost:{}/d?sslmode=disable", fake.address.port());
    let error = postgres::connect(&options(&url)).await.unwrap_err();
    assert!(error.message.contains("clear text"), "{error}");
}

#[tokio::test]
async fn ipv6_literals_and_sockets_connect() {
    let cluster = Cluster::shared();
    let socket = cluster.dir.display().to_string().replace('/', "%2F");
    for url in [
        format!("postgres://gatepost@{socket}:{}/postgres", cluster.port),
        format!("postgres://gatepost@localhost:{}/postgres?host={}", cluster.port, cluster.dir.display()),
        format!("postgres://gatepost@[::ffff:{}]:{}/postgres", cluster.address, cluster.port),
        format!("postgres://gatepost@nowhere.example:{}/postgres?hostaddr={}", cluster.port, cluster.address),
    ] {
        let url = if url.contains("::ffff") { format!("{url}?sslmode=prefer") } else { url };
        assert_eq!(reached(&url).await.0, i32::from(cluster.port));
    }
}

/// A server that offers no TLS and asks for the password in clear text.
struct Fake {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    async fn start(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let received = Arc::clone(&fake.received);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let mut is_request = true;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.lock().unwrap().extend_from_slice(&buffer[..count]);
                    // A request for TLS has eight bytes; then comes the login.
                    let reply: &[u8] = if is_request && count == 8 { b"N" } else { b"R\0\0\0\x08\0\0\0\x03" };
                    is_request = false;
                    stream.write_all(reply).await.ok();
                }
            }
        });
        fake
    }

    fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

#[tokio::test]
async fn i8_password_is_never_sent_in_clear_text_without_tls() {
    for mode in ["disable", "allow", "prefer"] {
        let fake = Fake::start("127.0.0.1".parse().unwrap()).await;
        let url = format!("postgres://u:hunter2@{}/d?sslmode={mode}", fake.address);
        let error = postgres::connect(&options(&url)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{mode}: {error}");
        assert!(error.message.contains("clear text") && error.message.contains("scram-sha-256"), "{error}");
        assert!(fake.received().contains("database"), "it got as far as the login");
        assert!(!fake.received().contains("hunter2"), "{mode}");
    }
}

#[tokio::test]
async fn server_over_a_network_gets_nothing_without_tls_unless_the_url_says_so() {
    // An address of this machine that others can reach; a machine without a network has none.
    let addresses = nix::ifaddrs::getifaddrs().unwrap().filter_map(|address| address.address);
    let mut addresses = addresses.filter_map(|address| Some(address.as_sockaddr_in()?.ip()));
    let Some(address) = addresses.find(|address| !address.is_loopback()) else { return };
    let fake = Fake::start(address.into()).await;
    let error = postgres::connect(&options(&format!("postgres://u:p@{}/d", fake.address))).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Operator, "{error}");
    assert!(error.message.contains("does not offer TLS") && error.message.contains("verify-full"), "{error}");
    assert!(!fake.received().contains("database"), "not even the name of the database");
}

#[tokio::test]
async fn server_that_is_not_postgres_is_a_case_for_an_operator() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
            let received = stream.read(&mut [0; 1024]).await;
            drop(received);
        }
    });
    for mode in ["disable", "prefer", "require"] {
        let url = format!("postgres://u@{address}/d?sslmode={mode}");
        let error = postgres::connect(&options(&url)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{mode}: {error}");
        assert!(error.message.contains("is it the right port?"), "{mode}: {error}");
    }
}

#[tokio::test]
async fn connection_that_was_closed_while_idle_is_no_news() {
    let database = Cluster::shared().create_database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    delivered(&probe).await;
    for _ in 0..3 {
        let ended = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&mut admin).await.unwrap();
        assert_eq!(ended, 1);
        one(&audit, "echo").await;
        delivered(&probe).await;
    }
    assert_eq!(probe.meter().last_error().map(|error| error.error), None);
    stop(pipeline).await;
}

#[tokio::test]
async fn complete_schema_needs_no_right_to_create() {
    let database = Cluster::shared().create_database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    postgres::migrate(&mut admin).await.unwrap();
    let user = format!("frozen_{}", name(&database));
    let freeze = format!(
        "CREATE ROLE {user} LOGIN IN ROLE gatepost_writer; UPDATE audit_registrar SET registration = 'first';
         REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS
             $$BEGIN RAISE EXCEPTION 'DDL is frozen'; END$$;
         CREATE EVENT TRIGGER frozen ON ddl_command_start EXECUTE FUNCTION frozen()"
    );
    sqlx::raw_sql(AssertSqlSafe(freeze)).execute(&mut admin).await.unwrap();
    let url = database.url.replacen("gatepost@", &format!("{user}@"), 1);
    let rig = Rig::stored();
    let pipeline = rig.start_on(&Database { url: url.clone() });
    many(&pipeline.audit(), 3).await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    sqlx::raw_sql("DROP EVENT TRIGGER frozen").execute(&mut admin).await.unwrap();

    // Nor does it wait for another program's migration, which has its lock for as long as it takes.
    let mut migration = PgConnection::connect(&database.url).await.unwrap();
    let lock = "SELECT pg_advisory_lock(('x' || encode('gatepost', 'hex'))::bit(64)::bigint)";
    sqlx::raw_sql(lock).execute(&mut migration).await.unwrap();
    let pipeline = rig.start_on(&Database { url: url.clone() });
    one(&pipeline.audit(), "echo").await;
    delivered(&pipeline.probe()).await;
    stop(pipeline).await;
    migration.close().await.unwrap();

    // Where it is missing, the message names what to do.
    let empty = Cluster::shared().create_database().await;
    let url = empty.url.replacen("gatepost@", &format!("{user}@"), 1);
    let pipeline = Rig::stored().start_on(&Database { url });
    let probe = pipeline.probe();
    let held = || async {
        matches!(probe.shipper(), ShipperState::Held { error }
            if error.contains("gatepost migrate") && error.contains("postgres.migrate = false"))
    };
    until_async("it is held", SOON, held).await;
    drop(pipeline);
}

#[tokio::test]
async fn tables_that_a_crash_would_empty_are_held() {
    let database = Cluster::shared().create_database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    postgres::migrate(&mut admin).await.unwrap();
    sqlx::raw_sql("ALTER TABLE audit_log_default SET UNLOGGED").execute(&mut admin).await.unwrap();
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let probe = pipeline.probe();
    let held = || async {
        matches!(probe.shipper(), ShipperState::Held { error }
            if error.contains("ALTER TABLE audit_log_default SET LOGGED"))
    };
    until_async("it is held", SOON, held).await;
    sqlx::raw_sql("ALTER TABLE audit_log_default SET LOGGED").execute(&mut admin).await.unwrap();
    delivered(&probe).await;
    stop(pipeline).await;
}

#[tokio::test]
async fn reads_end_after_the_time_limit_of_statements() {
    let database = Cluster::shared().create_database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    postgres::migrate(&mut admin).await.unwrap();
    let statement_timeout = Duration::from_millis(200);
    let options = Options { statement_timeout, ..options(&database.url) };
    let mut connection = postgres::connect(&options).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE").execute(&mut admin).await.unwrap();
    let filter = Filter { limit: 1, ..Filter::default() };
    // Far less than any fixed limit.
    let read = tokio::time::timeout(SOON / 2, query::query(&mut connection, &filter)).await;
    let error = read.expect("it ends").unwrap_err();
    assert!(error.to_string().contains("canceling statement due to"), "{error}");
    // A transaction that failed is over when the next one begins.
    sqlx::raw_sql("LOCK TABLE audit_registrar IN ACCESS EXCLUSIVE MODE").execute(&mut admin).await.unwrap();
    let read = tokio::time::timeout(SOON / 2, postgres::registrar::registrar_id(&mut connection)).await;
    let error = read.expect("it ends").unwrap_err();
    assert!(matches!(error.sqlstate.as_deref(), Some("55P03" | "57014")), "{error}");
}

/// Makes a schema, delivers and reads in a database with these settings; each is a name and a value, quoted.
async fn works_with(cluster: &Cluster, settings: &[(String, String)]) {
    let database = cluster.create_database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    for (setting, value) in settings {
        let sql = format!("ALTER DATABASE {} SET {setting} = {value}", name(&database));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    }
    let rig = Rig::stored();
    let sink = postgres_sink(&database);
    let pipeline = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    let probe = pipeline.probe();
    many(&pipeline.audit(), 3).await;
    let done = || async { probe.gauge().delivered == probe.gauge().stamped };
    let fault = || probe.meter().last_error().map(|error| error.error);
    let waited = tokio::time::timeout(SOON, until_async("all is delivered", SOON * 2, done)).await;
    assert!(waited.is_ok(), "{:?} with {settings:?}", fault());
    stop(pipeline).await;
    let mut connection = postgres::connect(&options(&database.url)).await.unwrap();
    let records = query::query(&mut connection, &Filter { limit: 100, ..Filter::default() }).await.unwrap();
    let methods: Vec<_> = records.iter().map(|record| record.entry.call.method.to_string()).collect();
    assert_eq!(records.len(), 5, "{methods:?} with {settings:?}");
    let changed: Vec<_> = records.iter().filter(|record| !hash_matches(&record.position, &record.entry)).collect();
    assert!(changed.is_empty(), "{changed:?} with {settings:?}");
    let reset = format!("ALTER DATABASE {} RESET ALL", name(&database));
    sqlx::raw_sql(AssertSqlSafe(reset)).execute(&mut admin).await.unwrap();
    assert_eq!(trail::verify_postgres(&database.pool().await).await.len(), 5);
}

#[tokio::test]
async fn no_setting_of_the_database_breaks_migrations_delivery_or_reading() {
    let cluster = Cluster::shared();
    let mut admin = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    // All that a role or a database can set, but for what only fills the server's log or describes one transaction.
    let sql = "SELECT name, setting, enumvals FROM pg_settings WHERE context IN ('user', 'superuser')
        AND vartype IN ('bool', 'enum') AND name !~ '^(transaction_|log_|debug_print|trace_|.*_stats$)' ORDER BY name";
    let all: Vec<(String, String, Option<Vec<String>>)> = sqlx::query_as(sql).fetch_all(&mut admin).await.unwrap();
    let flipped = all.iter().filter(|(_, _, values)| values.is_none());
    let flipped = flipped.map(|(name, value, _)| (name.clone(), if value == "on" { "off" } else { "on" }.to_owned()));
    let flipped: Vec<_> = flipped.collect();
    assert!(flipped.len() > 30, "{flipped:?}");
    works_with(cluster, &[]).await;
    works_with(cluster, &flipped).await;
    let choices: Vec<_> = all.iter().filter_map(|(name, _, values)| Some((name, values.as_ref()?))).collect();
    let most = choices.iter().map(|(_, values)| values.len()).max().unwrap();
    for idx in 0..most {
        let chosen = choices.iter().filter_map(|(name, values)| Some(((*name).clone(), values.get(idx)?)));
        let chosen: Vec<_> = chosen.map(|(name, value)| (name, format!("'{value}'"))).collect();
        works_with(cluster, &chosen).await;
    }
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    let texts = [
        ("search_path", "''", 0),
        ("DateStyle", "'German, DMY'", 0),
        ("TimeZone", "'America/St_Johns'", 0),
        ("client_encoding", "'LATIN1'", 0),
        ("extra_float_digits", "-15", 0),
        ("statement_timeout", "'20ms'", 0),
        ("lock_timeout", "'1ms'", 0),
        ("idle_in_transaction_session_timeout", "'1ms'", 0),
        ("idle_session_timeout", "'100ms'", 140_000),
        ("transaction_timeout", "'50ms'", 170_000),
        ("default_tablespace", "'nowhere'", 0),
        ("temp_tablespaces", "'nowhere'", 0),
        ("work_mem", "'64kB'", 0),
        ("from_collapse_limit", "1", 0),
        ("join_collapse_limit", "1", 0),
        ("default_statistics_target", "1", 0),
    ];
    let texts = texts.into_iter().filter(|(_, _, since)| version >= *since);
    let texts: Vec<_> = texts.map(|(name, value, _)| (name.to_owned(), value.to_owned())).collect();
    works_with(cluster, &texts).await;
    works_with(cluster, &[("search_path".to_owned(), "pg_catalog, \"$user\", public".to_owned())]).await;
}
