-- The audit trail. Every key contains gateway_id, so that the tables distribute by it as they are.

-- One row a stream: how far it was delivered, and the hash of the last record. The gateway moves this cursor in the
-- statement that inserts the rows, so that delivery takes effect exactly once.
CREATE TABLE audit_stream (
    gateway_id    uuid        NOT NULL,
    epoch         bigint      NOT NULL,
    delivered_seq bigint      NOT NULL DEFAULT 0,
    head_hash     bytea       NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000',
    begun_at      timestamptz NOT NULL DEFAULT now(),
    delivered_at  timestamptz,
    PRIMARY KEY (gateway_id, epoch),
    CONSTRAINT audit_stream_epoch_from_1 CHECK (epoch >= 1),
    CONSTRAINT audit_stream_seq_from_0 CHECK (delivered_seq >= 0),
    CONSTRAINT audit_stream_hash_is_sha256 CHECK (octet_length(head_hash) = 32)
) WITH (fillfactor = 50);

-- One row a call, written at its end; also refusals and events of the gateway itself.
CREATE TABLE audit_log (
    gateway_id         uuid             NOT NULL,
    epoch              bigint           NOT NULL,
    seq                bigint           NOT NULL,
    prev_hash          bytea            NOT NULL,
    hash               bytea            NOT NULL,
    request_id         uuid             NOT NULL,
    parent_id          uuid,
    "timestamp"        timestamptz      NOT NULL,
    latency_ms         double precision NOT NULL,
    method             text             NOT NULL,
    tool_name          text,
    backend_name       text,
    resource_uri       text,
    client_role        text,
    client_issuer      text,
    client_subject     text             NOT NULL,
    client_name        text,
    client_id          text,
    actor_subject      text,
    token_id           text,
    client_addr        text,
    session_id         text,
    rpc_id             text,
    context            json,
    -- json, not jsonb: it keeps every byte, so that the record's hash can be computed again.
    request_args       json,
    request_extra      json,
    params_digest      bytea,
    args_digest        bytea,
    response           json,
    response_digest    bytea,
    response_bytes     bigint,
    error_message      text,
    response_status    text             NOT NULL,
    decided_by         text,
    policy_digest      bytea,
    tool_digest        bytea,
    salt_who           bytea            NOT NULL,
    salt_circumstances bytea            NOT NULL,
    salt_content       bytea            NOT NULL,
    PRIMARY KEY (gateway_id, epoch, seq, "timestamp"),
    CONSTRAINT audit_log_epoch_from_1 CHECK (epoch >= 1),
    CONSTRAINT audit_log_seq_from_1 CHECK (seq >= 1),
    CONSTRAINT audit_log_hashes_are_sha256 CHECK (octet_length(prev_hash) = 32 AND octet_length(hash) = 32),
    CONSTRAINT audit_log_salts_are_32_bytes CHECK (
        octet_length(salt_who) = 32 AND octet_length(salt_circumstances) = 32 AND octet_length(salt_content) = 32),
    CONSTRAINT audit_log_latency_not_negative CHECK (latency_ms >= 0),
    CONSTRAINT audit_log_status_known CHECK (response_status IN (
        'ok', 'tool_error', 'error', 'timeout', 'cancelled', 'input_required', 'interrupted',
        'denied', 'unauthenticated', 'malformed', 'rate_limited', 'audit_unavailable'))
) PARTITION BY RANGE ("timestamp");

-- Takes what no month's partition takes, so that a missing partition never refuses a record.
CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;

CREATE INDEX audit_log_timestamp ON audit_log ("timestamp");
CREATE INDEX audit_log_client_subject ON audit_log (client_subject, "timestamp");
CREATE INDEX audit_log_client_name ON audit_log (client_name, "timestamp") WHERE client_name IS NOT NULL;
CREATE INDEX audit_log_tool_name ON audit_log (tool_name, "timestamp");
CREATE INDEX audit_log_parent_id ON audit_log (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX audit_log_response_status ON audit_log (response_status, "timestamp");
-- The few records that say something about other records, which "gatepost audit verify" reads first.
CREATE INDEX audit_log_statements ON audit_log (gateway_id, epoch, seq) WHERE method IN
    ('gateway/opened', 'gateway/damage', 'gateway/takeover', 'trail/accepted', 'trail/resolved');

-- Records that audit_log refused: their bytes, and why. The cursor counts them, so the stream stays without a gap.
CREATE TABLE audit_quarantine (
    gateway_id     uuid        NOT NULL,
    epoch          bigint      NOT NULL,
    seq            bigint      NOT NULL,
    prev_hash      bytea       NOT NULL,
    hash           bytea       NOT NULL,
    request_id     uuid        NOT NULL,
    frame          bytea       NOT NULL,
    sqlstate       text,
    error          text        NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway_id, epoch, seq)
);

-- Makes the partition of the month of "from" and of the months after it, as far as they are missing. A month whose rows
-- already stand in the default partition stays there.
CREATE FUNCTION gatepost_make_partitions("from" timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    first_day timestamptz;
    partition text;
    made      integer := 0;
BEGIN
    FOR step IN 0 .. months - 1 LOOP
        first_day := date_trunc('month', "from") + make_interval(months => step);
        partition := 'audit_log_' || to_char(first_day, 'YYYY_MM');
        IF to_regclass(partition) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %I PARTITION OF audit_log FOR VALUES FROM (%L) TO (%L)',
                               partition, first_day, first_day + interval '1 month');
                made := made + 1;
            EXCEPTION
                -- Made by another gateway at the same time, or its rows are in the default partition.
                WHEN duplicate_table OR unique_violation OR check_violation THEN NULL;
            END;
        END IF;
    END LOOP;
    RETURN made;
END $$;

SELECT gatepost_make_partitions(now(), 4);

-- The gateway writes as gatepost_writer or as a member of it; auditors read as gatepost_reader. Where the migrating
-- role may not create roles, an administrator does, and grants the same.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gatepost_writer') THEN
        CREATE ROLE gatepost_writer NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gatepost_reader') THEN
        CREATE ROLE gatepost_reader NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
        RAISE NOTICE 'roles gatepost_writer and gatepost_reader were not created here';
END $$;

DO $$
BEGIN
    GRANT INSERT ON audit_log, audit_quarantine TO gatepost_writer;
    GRANT SELECT, INSERT ON audit_stream TO gatepost_writer;
    GRANT UPDATE (delivered_seq, head_hash, delivered_at) ON audit_stream TO gatepost_writer;
    GRANT EXECUTE ON FUNCTION gatepost_make_partitions(timestamptz, integer) TO gatepost_writer;
    GRANT SELECT ON audit_stream, audit_log, audit_quarantine TO gatepost_reader;
EXCEPTION
    WHEN undefined_object THEN
        RAISE NOTICE 'role gatepost_writer or gatepost_reader is missing; nothing was granted to it';
END $$;

REVOKE EXECUTE ON FUNCTION gatepost_make_partitions(timestamptz, integer) FROM PUBLIC;
