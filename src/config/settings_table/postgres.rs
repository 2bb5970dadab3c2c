//! The settings of delivery to Postgres.

use super::spec::Fallback::{Unset, Value};
use super::spec::{MINUTES_10, SettingSpec, count, duration, ms, setting};
use crate::config::value_type::ValueType;

/// `[postgres]`.
pub(super) const POSTGRES: &[SettingSpec] = &[
    setting(
        "postgres.url",
        ValueType::PostgresUrl,
        Unset,
        "The database to which records are delivered. Hosts other than this machine have to prove who they are \
         (`sslmode=verify-full`) unless it names another `sslmode`. Unset: records stay in the outbox. If it contains a password, set it by `GATEPOST_POSTGRES_URL`.",
    ),
    setting(
        "postgres.password_file",
        ValueType::Path,
        Unset,
        "A file with the password for `postgres.url`, read at each connection: a rotated password needs no restart.",
    ),
    setting(
        "postgres.reader_url",
        ValueType::PostgresUrl,
        Unset,
        "The same database with a login that may read the trail, a member of `gatepost_reader`: for the console and \
         `gatepost audit`. Unset: they use `postgres.url`, whose login needs no right to read for delivery. If it \
         contains a password, set it by `GATEPOST_POSTGRES_READER_URL`.",
    ),
    setting(
        "postgres.migrate",
        ValueType::Flag,
        Value("true"),
        "Whether `serve` applies missing migrations at startup; set `false` if another role runs `gatepost migrate`.",
    ),
    setting(
        "postgres.batch_rows_max",
        count("rows", 1, 5000),
        Value("2000"),
        "Most rows in one statement. Beyond a few thousand the throughput does not rise, and a retry costs more.",
    ),
    setting(
        "postgres.batch_bytes_max",
        count("bytes", 64 * 1024, 64 * 1024 * 1024),
        Value("4000000"),
        "Most bytes in one statement; two are in memory at a time.",
    ),
    setting(
        "postgres.statement_timeout",
        duration(ms(100), MINUTES_10),
        Value("\"30s\""),
        "The time after which Postgres cancels a batch, which is then delivered again: a hung server must not stop \
         delivery forever. Searches of the console and of the `audit` commands end after the same time.",
    ),
    setting(
        "postgres.drain_timeout",
        duration(ms(0), MINUTES_10),
        Value("\"10s\""),
        "How long a shutdown continues delivery. Records that are left are safe in the outbox.",
    ),
];
