//! What a gateway's login can do to the trail: execute the functions for its own gateway, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use gatepost::audit::chain::{self, Head};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{AuditRecord, COLUMNS, Digest, Entry, Epoch, GatewayId, Outcome, RecordKey, Seq, Status};
use gatepost::audit::shipper::ShipperState;
use gatepost::audit::sink::postgres::gateways::{Registration, register, registered_gateways, set_registration};
use gatepost::audit::sink::postgres::{self, Options, PostgresSink};
use gatepost::audit::sink::{CursorUpdate, ErrorClass, Sink, SinkError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::name;
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, call, delivered, many, reader, stop};

/// Every table of the trail.
const TABLES: [&str; 11] = [
    "audit_log",
    "audit_log_default",
    "audit_stream",
    "audit_quarantine",
    "audit_gateway",
    "audit_registrar",
    "audit_foreign",
    "audit_policy",
    "audit_checkpoint",
    "audit_anchor",
    "audit_retired_hash",
];

/// A database with the schema, and a login for one gateway.
struct Isolated {
    database: Database,
    owner: PgConnection,
    login: String,
    gateway_id: GatewayId,
}

impl Isolated {
    /// The gateway is registered.
    async fn new() -> Self {
        let mut isolated = Self::unregistered().await;
        let Self { owner, gateway_id, login, .. } = &mut isolated;
        register(owner, gateway_id.0, login, false).await.unwrap();
        isolated
    }

    async fn unregistered() -> Self {
        let database = Cluster::shared().create_database().await;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        postgres::migrate(&mut owner).await.unwrap();
        let login = format!("gateway_{}", name(&database));
        let grant = format!("CREATE ROLE {login} LOGIN IN ROLE gatepost_writer");
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut owner).await.unwrap();
        Self { database, owner, login, gateway_id: GatewayId(Uuid::new_v4()) }
    }

    fn url(&self) -> String {
        self.database.url.replace("//gatepost@", &format!("//{}@", self.login))
    }

    /// The sink of the gateway's login.
    fn sink(&self) -> PostgresSink {
        sink(&self.url())
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    /// Another gateway with an open stream and one record, by the owner.
    async fn other_gateway(&mut self) -> AuditRecord {
        let id = GatewayId(Uuid::new_v4());
        let mut sink = sink(&self.database.url);
        let record = invented(id, Epoch(1), Head::START);
        sink.cursor(id, Epoch(1)).await.unwrap();
        assert_eq!(sink.deliver(std::slice::from_ref(&record)).await.unwrap(), CursorUpdate::Moved);
        record
    }

    async fn owner_runs(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.owner).await.unwrap();
    }

    /// All rows of all tables, as text.
    async fn contents(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for table in TABLES {
            let sql = format!("SELECT t::text FROM {table} t ORDER BY 1");
            let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.owner).await.unwrap();
            all.extend(rows);
        }
        all
    }
}

fn sink(url: &str) -> PostgresSink {
    let options = Options {
        url: url.to_owned(),
        password_file: None,
        statement_timeout: Duration::from_secs(20),
        migrate: false,
    };
    PostgresSink::new(&options).unwrap()
}

/// A record with a valid hash that no gateway wrote.
fn invented(gateway_id: GatewayId, epoch: Epoch, head: Head) -> AuditRecord {
    let outcome = Outcome::answered(Status::Ok, None, b"{}", &RecordKey::from_bytes([0; 32]));
    let entry = Entry::new(call("echo"), outcome, Duration::from_millis(1));
    AuditRecord { position: chain::link(gateway_id, epoch, head, &entry), entry }
}

/// `count` records with a valid chain from `head`.
fn invented_chain(gateway_id: GatewayId, mut head: Head, count: usize) -> Vec<AuditRecord> {
    let next = |_| {
        let record = invented(gateway_id, Epoch(1), head);
        head = Head::after(&record.position);
        record
    };
    (0..count).map(next).collect()
}

fn reason() -> SinkError {
    SinkError { operation: "deliver", class: ErrorClass::Row, sqlstate: None, message: "a test's".to_owned() }
}

fn code(error: &SinkError) -> (ErrorClass, &str) {
    (error.class, error.sqlstate.as_deref().unwrap_or_default())
}

const DENIED: (ErrorClass, &str) = (ErrorClass::Operator, "42501");

#[tokio::test]
async fn gateway_login_has_no_right_but_to_execute_functions() {
    let mut isolated = Isolated::new().await;
    let before = isolated.contents().await;
    let mut connection = isolated.connect().await;
    let mut statements: Vec<String> = ["SELECT FROM", "DELETE FROM", "TRUNCATE", "DROP TABLE"]
        .iter()
        .flat_map(|statement| TABLES.map(|table| format!("{statement} {table}")))
        .collect();
    statements.extend(TABLES.map(|table| format!("INSERT INTO {table} SELECT (NULL::{table}).*")));
    let id = isolated.gateway_id.0;
    statements.extend(
        [
            "UPDATE audit_stream SET delivered_seq = delivered_seq + 1000",
            "UPDATE audit_log SET tool_name = NULL",
            "UPDATE audit_gateway SET owner_role = session_user",
            "UPDATE audit_registrar SET registration = 'first'",
            "UPDATE audit_quarantine SET error = ''",
            "ALTER TABLE audit_log DISABLE TRIGGER ALL",
            "CREATE TRIGGER t BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE RULE r AS ON INSERT TO audit_log DO INSTEAD NOTHING",
            "ALTER FUNCTION gatepost_deliver RESET ALL",
            "SET ROLE gatepost",
            "SELECT gatepost_partitions(now(), 4)",
            "SELECT gatepost_present(NULL, 1, 1, '{}')",
        ]
        .map(str::to_owned),
    );
    statements.push(format!("SELECT gatepost_check_gateway('{id}')"));
    statements.push(insert_call("gatepost_insert", id, ", NULL"));
    for statement in &statements {
        let error = sqlx::raw_sql(AssertSqlSafe(statement.as_str())).execute(&mut connection).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}: {error}");
    }
    assert_eq!(isolated.contents().await, before);
}

/// The call of a function that takes a batch, with empty arrays.
fn insert_call(function: &str, gateway_id: Uuid, more: &str) -> String {
    let arrays: Vec<_> = COLUMNS.iter().skip(2).map(|_| "'{}'").collect();
    format!("SELECT {function}('{gateway_id}', 1, {}{more})", arrays.join(", "))
}

#[tokio::test]
async fn gateway_login_cannot_touch_another_stream() {
    let mut isolated = Isolated::new().await;
    let theirs = isolated.other_gateway().await;
    let registrar: Uuid =
        sqlx::query_scalar("SELECT gateway_id FROM audit_registrar").fetch_one(&mut isolated.owner).await.unwrap();
    let before = isolated.contents().await;
    let mut sink = isolated.sink();
    let id = theirs.position.gateway_id;
    let appended = invented(id, Epoch(1), Head::after(&theirs.position));
    for id in [id, GatewayId(registrar), GatewayId(Uuid::new_v4())] {
        let expected = if before.iter().any(|row| row.contains(&id.0.to_string())) { "42501" } else { "GP001" };
        for epoch in [Epoch(1), Epoch(2)] {
            let error = sink.cursor(id, epoch).await.unwrap_err();
            assert_eq!(code(&error), (ErrorClass::Operator, expected), "{error}");
        }
        let record = invented(id, Epoch(1), Head::START);
        let error = sink.deliver(std::slice::from_ref(&record)).await.unwrap_err();
        assert_eq!(code(&error), (ErrorClass::Operator, expected), "{error}");
        let error = sink.quarantine(&record, &reason()).await.unwrap_err();
        assert_eq!(code(&error), (ErrorClass::Operator, expected), "{error}");
        assert_eq!(code(&sink.dry_run(&record).await.unwrap_err()), (ErrorClass::Operator, expected));
        let partitions = format!("SELECT gatepost_make_partitions('{}', now(), 12)", id.0);
        let error = sqlx::raw_sql(AssertSqlSafe(partitions)).execute(&mut isolated.connect().await).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), expected, "{error}");
    }
    assert_eq!(code(&sink.deliver(std::slice::from_ref(&appended)).await.unwrap_err()), DENIED);
    assert_eq!(isolated.contents().await, before);
}

/// docs/security.md, "What a stolen login can do".
#[tokio::test]
async fn stolen_login_can_only_extend_its_own_streams() {
    let mut isolated = Isolated::new().await;
    let (id, mut sink) = (isolated.gateway_id, isolated.sink());
    // It can open epochs, append records that were never written, and quarantine them.
    for epoch in [Epoch(1), Epoch(7)] {
        assert_eq!(sink.cursor(id, epoch).await.unwrap(), Head::START);
    }
    let records = invented_chain(id, Head::START, 3);
    assert_eq!(sink.deliver(&records[..2]).await.unwrap(), CursorUpdate::Moved);
    assert_eq!(sink.quarantine(&records[2], &reason()).await.unwrap(), CursorUpdate::Moved);
    // It can make partitions of at most two years from now, and no more.
    let mut connection = isolated.connect().await;
    let mut partitions = async |from: &str, months: &str| {
        let sql = format!("SELECT gatepost_make_partitions('{}', {from}, {months})", id.0);
        let made: Result<i32, sqlx::Error> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await;
        made.map_err(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
    };
    assert_eq!(partitions("now()", "24").await, Ok(20));
    for (from, months) in
        [("now()", "25"), ("now()", "0"), ("now() + interval '3 years'", "1"), ("'-infinity'", "1"), ("NULL", "1")]
    {
        assert_eq!(partitions(from, months).await, Err("22023".to_owned()), "{from} {months}");
    }
    // It can neither go back, nor leave out a record, nor change one.
    let head = Head::after(&records[2].position);
    let again = invented(id, Epoch(1), Head::after(&records[0].position));
    assert_eq!(sink.deliver(&[again]).await.unwrap(), CursorUpdate::Unchanged);
    let ahead = Head { seq: Seq(10), hash: head.hash };
    assert_eq!(sink.deliver(&[invented(id, Epoch(1), ahead)]).await.unwrap(), CursorUpdate::Unchanged);
    assert_eq!(sink.quarantine(&invented(id, Epoch(1), ahead), &reason()).await.unwrap(), CursorUpdate::Unchanged);
    let unlinked = invented(id, Epoch(1), Head { hash: Digest::ZERO, ..head });
    assert_eq!(sink.deliver(std::slice::from_ref(&unlinked)).await.unwrap(), CursorUpdate::Unchanged);
    assert_eq!(sink.quarantine(&unlinked, &reason()).await.unwrap(), CursorUpdate::Unchanged);
    assert_eq!(sink.cursor(id, Epoch(1)).await.unwrap(), head);
    let hashes: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT hash FROM audit_log ORDER BY seq").fetch_all(&mut isolated.owner).await.unwrap();
    assert_eq!(hashes, [records[0].position.hash.0.to_vec(), records[1].position.hash.0.to_vec()]);
}

/// Breaks a batch.
type Spoil = fn(&mut Vec<AuditRecord>);

#[tokio::test]
async fn i5_deliver_refuses_what_is_not_a_chain() {
    let mut isolated = Isolated::new().await;
    let (id, mut sink) = (isolated.gateway_id, isolated.sink());
    sink.cursor(id, Epoch(1)).await.unwrap();
    let before = isolated.contents().await;
    let good = invented_chain(id, Head::START, 3);
    let spoils: [(&str, Spoil); 6] = [
        ("a hole", |batch| drop(batch.remove(1))),
        ("a seq twice", |batch| batch[1].position.seq = Seq(1)),
        ("the wrong order", |batch| batch.swap(1, 2)),
        ("a link to another record", |batch| batch[1].position.prev_hash = Digest::ZERO),
        ("another hash in the middle", |batch| batch[1].position.hash = Digest::ZERO),
        ("a seq beyond the hole", |batch| batch[2].position.seq = Seq(4)),
    ];
    for (what, spoil) in spoils {
        let mut batch = good.clone();
        spoil(&mut batch);
        let error = sink.deliver(&batch).await.unwrap_err();
        assert_eq!(code(&error), (ErrorClass::Operator, "GP002"), "{what}: {error}");
    }
    // Arrays whose elements are the right ones, in shapes that would be read differently in different places.
    let hash = |record: &AuditRecord| format!("\\\\x{}", record.position.hash);
    let [first, second, third] = [0, 1, 2].map(|idx| hash(&good[idx]));
    let zero = format!("\\\\x{}", Digest::ZERO);
    let shapes = [
        ("[0:2]={1,2,3}".to_owned(), format!("{{{zero},{first},{second}}}"), format!("{{{first},{second},{third}}}")),
        ("{1,2,3}".to_owned(), format!("{{{zero},{second},{third}}}"), format!("[0:2]={{{first},{second},{third}}}")),
        ("{1,2}".to_owned(), format!("{{{zero},{second}}}"), format!("{{{{{first},{second}}}}}")),
        ("{1,2}".to_owned(), format!("{{{zero},{first}}}"), format!("{{{first},{second},{third}}}")),
        ("{{1,2}}".to_owned(), format!("{{{{{zero},{first}}}}}"), format!("{{{{{first},{second}}}}}")),
        ("{}".to_owned(), "{}".to_owned(), "{}".to_owned()),
        ("{NULL}".to_owned(), "{NULL}".to_owned(), "{NULL}".to_owned()),
    ];
    for (seqs, prev_hashes, hashes) in shapes {
        let rest: Vec<_> = COLUMNS.iter().skip(5).map(|_| "'{}'").collect();
        let sql = format!(
            "SELECT gatepost_deliver('{}', 1, '{seqs}', E'{prev_hashes}', E'{hashes}', {})",
            id.0,
            rest.join(", ")
        );
        let error =
            sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&mut isolated.connect().await).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "GP002", "{sql}: {error}");
    }
    assert_eq!(isolated.contents().await, before);
    assert_eq!(sink.deliver(&good).await.unwrap(), CursorUpdate::Moved);
}

#[tokio::test]
async fn i5_records_that_are_there_already_are_not_inserted_again() {
    let mut isolated = Isolated::new().await;
    let (id, mut sink) = (isolated.gateway_id, isolated.sink());
    sink.cursor(id, Epoch(1)).await.unwrap();
    let records = invented_chain(id, Head::START, 5);
    assert_eq!(sink.deliver(&records[..2]).await.unwrap(), CursorUpdate::Moved);
    assert_eq!(sink.quarantine(&records[2], &reason()).await.unwrap(), CursorUpdate::Moved);
    // A restore that brought back an older audit_stream.
    let set_back = format!("UPDATE audit_stream SET delivered_seq = 0, head_hash = '\\x{}'", Digest::ZERO);
    isolated.owner_runs(&set_back).await;
    let other = invented_chain(id, Head::START, 4);
    let error = sink.deliver(&other).await.unwrap_err();
    assert_eq!(code(&error), (ErrorClass::Operator, "GP003"), "{error}");
    let error = sink.quarantine(&other[0], &reason()).await.unwrap_err();
    assert_eq!(code(&error), (ErrorClass::Operator, "GP003"), "{error}");
    assert_eq!(sink.cursor(id, Epoch(1)).await.unwrap(), Head::START, "the cursor did not move");
    assert_eq!(sink.quarantine(&records[0], &reason()).await.unwrap(), CursorUpdate::Moved);
    assert_eq!(sink.deliver(&records[1..]).await.unwrap(), CursorUpdate::Moved);
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT seq, 'log' FROM audit_log UNION ALL SELECT seq, 'quarantine' FROM audit_quarantine ORDER BY 1",
    )
    .fetch_all(&mut isolated.owner)
    .await
    .unwrap();
    let tables: Vec<_> = rows.iter().map(|(seq, table)| (*seq, table.as_str())).collect();
    assert_eq!(tables, [(1, "log"), (2, "log"), (3, "quarantine"), (4, "log"), (5, "log")]);
}

/// Starts the gateway with its login.
fn start(rig: &Rig, isolated: &Isolated) -> Pipeline {
    Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(isolated.sink())).unwrap()
}

#[tokio::test]
async fn unregistered_gateway_waits_until_the_owner_registers_it() {
    let mut isolated = Isolated::unregistered().await;
    let mut rig = Rig::stored();
    rig.config.gateway_id = Some(isolated.gateway_id);
    let pipeline = start(&rig, &isolated);
    let probe = pipeline.probe();
    many(&pipeline.audit(), 3).await;
    until_async("it is held", SOON, || async { matches!(probe.shipper(), ShipperState::Held { .. }) }).await;
    let ShipperState::Held { error } = probe.shipper() else { panic!("not held") };
    let command = format!("gatepost audit gateways add {} --role {}", isolated.gateway_id, isolated.login);
    assert!(error.contains(&command), "{error}");
    let Isolated { owner, gateway_id, login, database, .. } = &mut isolated;
    assert!(registered_gateways(&mut reader(database).await).await.unwrap().is_empty());
    let registered = register(owner, gateway_id.0, login, false).await.unwrap();
    assert!(registered.may_deliver && registered.registered_by == "gatepost", "{registered:?}");
    delivered(&probe).await;
    stop(pipeline).await;
    assert_eq!(trail::verify_postgres(&isolated.database.pool().await).await.len(), 5);
}

#[tokio::test]
async fn first_login_registers_its_gateway_if_the_owner_allows_it() {
    let mut isolated = Isolated::unregistered().await;
    set_registration(&mut isolated.owner, Registration::First).await.unwrap();
    let (id, mut sink) = (isolated.gateway_id, isolated.sink());
    sink.prepare(id).await.unwrap();
    let gateways = registered_gateways(&mut reader(&isolated.database).await).await.unwrap();
    assert_eq!(
        gateways.iter().map(|gateway| (gateway.gateway_id, &gateway.owner_role)).collect::<Vec<_>>(),
        [(id.0, &isolated.login)]
    );
    // The second login is another.
    let Isolated { owner, database, .. } = &mut isolated;
    let second = format!("second_{}", name(database));
    let grant = format!("CREATE ROLE {second} LOGIN IN ROLE gatepost_writer");
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(owner).await.unwrap();
    let mut other = self::sink(&isolated.database.url.replace("//gatepost@", &format!("//{second}@")));
    assert_eq!(code(&other.cursor(id, Epoch(1)).await.unwrap_err()), DENIED);
    set_registration(&mut isolated.owner, Registration::Owner).await.unwrap();
    let error = other.cursor(GatewayId(Uuid::new_v4()), Epoch(1)).await.unwrap_err();
    assert_eq!(code(&error), (ErrorClass::Operator, "GP001"), "{error}");
    // The owner's own login needs no registration beforehand.
    let mut owners = self::sink(&isolated.database.url);
    owners.prepare(GatewayId(Uuid::new_v4())).await.unwrap();
}

#[tokio::test]
async fn gateway_changes_its_role_only_if_it_is_replaced() {
    let mut isolated = Isolated::new().await;
    let Isolated { owner, gateway_id, login, .. } = &mut isolated;
    let id = gateway_id.0;
    assert_eq!(register(owner, id, login, false).await.unwrap().owner_role, *login);
    let error = register(owner, id, "gatepost_writer", false).await.unwrap_err().to_string();
    assert!(error.contains(login.as_str()) && error.contains("--replace"), "{error}");
    assert_eq!(register(owner, id, "gatepost_writer", true).await.unwrap().owner_role, "gatepost_writer");
    let error = register(owner, id, "nobody at all", true).await.unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    let registrar = sqlx::query_scalar("SELECT gateway_id FROM audit_registrar").fetch_one(&mut *owner).await.unwrap();
    let error = register(owner, registrar, login, true).await.unwrap_err().to_string();
    assert!(error.contains("registrar"), "{error}");
    let mut gateway = isolated.connect().await;
    let error = register(&mut gateway, id, &isolated.login, true).await.unwrap_err();
    assert_eq!(code(&error), DENIED);
}

#[tokio::test]
async fn functions_work_in_a_schema_of_any_name() {
    for schema in ["audit", "Trail's \"own\" $schema"] {
        let Isolated { login, gateway_id, .. } = Isolated::unregistered().await;
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        let database = Cluster::shared().create_database().await;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        let database_name = database.url.rsplit('/').next().unwrap();
        let prepare = format!("CREATE SCHEMA {quoted}; ALTER DATABASE {database_name} SET search_path = {quoted}");
        sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut owner).await.unwrap();
        owner = PgConnection::connect(&database.url).await.unwrap();
        postgres::migrate(&mut owner).await.unwrap();
        register(&mut owner, gateway_id.0, &login, false).await.unwrap();
        let mut url = database.url.replace("//gatepost@", &format!("//{login}@"));
        if schema == "audit" {
            // Named in the URL instead.
            let reset = format!("ALTER DATABASE {database_name} RESET search_path");
            sqlx::raw_sql(AssertSqlSafe(reset)).execute(&mut owner).await.unwrap();
            url.push_str("?options=-csearch_path%3Daudit");
        }
        let mut sink = self::sink(&url);
        sink.prepare(gateway_id).await.unwrap();
        assert_eq!(sink.cursor(gateway_id, Epoch(1)).await.unwrap(), Head::START);
        let records = invented_chain(gateway_id, Head::START, 3);
        sink.dry_run(&records[0]).await.unwrap();
        assert_eq!(sink.deliver(&records[..2]).await.unwrap(), CursorUpdate::Moved);
        assert_eq!(sink.quarantine(&records[2], &reason()).await.unwrap(), CursorUpdate::Moved);
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log").fetch_one(&mut owner).await.unwrap();
        assert_eq!(rows, 2, "{schema}");
    }
}

#[tokio::test]
async fn missing_or_older_schema_is_an_error_for_the_operator() {
    let database = Cluster::shared().create_database().await;
    let error = sink(&database.url).prepare(GatewayId(Uuid::new_v4())).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Operator);
    assert!(error.to_string().contains("run gatepost migrate"), "{error}");
    let mut isolated = Isolated::new().await;
    let older = "CREATE OR REPLACE FUNCTION gatepost_schema_version() RETURNS integer LANGUAGE sql AS 'SELECT 0'";
    isolated.owner_runs(older).await;
    let error = isolated.sink().prepare(isolated.gateway_id).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Operator);
    assert!(error.to_string().contains("the schema has version 0"), "{error}");
}
