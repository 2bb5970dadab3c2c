-- The audit trail. Every key contains gateway_id, so that the tables distribute by it as they are.

-- One row a gateway: the role whose members may deliver in its name. The owner of the tables makes the row with
-- "gatepost audit gateways add".
CREATE TABLE audit_gateway (
    gateway_id    uuid        PRIMARY KEY,
    owner_role    text        NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    registered_by text        NOT NULL DEFAULT session_user,
    -- The lease that the gateway renews while it runs, by the clock of this server: the epoch that it writes, since when
    -- it renews without a pause, and until when the lease holds.
    lease_epoch   bigint,
    lease_since   timestamptz,
    lease_until   timestamptz,
    -- When the owner decided that it will not come back ("gatepost audit gateways close").
    closed_at     timestamptz
);

-- One row: the id under which the owner's decisions about the trail are recorded, and who may register a gateway: only
-- the owner, or also the first login that delivers in its name.
CREATE TABLE audit_registrar (
    gateway_id   uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    registration text    NOT NULL DEFAULT 'owner' CHECK (registration IN ('owner', 'first')),
    one_row      boolean NOT NULL DEFAULT true UNIQUE CHECK (one_row)
);
INSERT INTO audit_registrar DEFAULT VALUES;

-- One row a stream: how far it was delivered, and the hash of the last record. This cursor moves in the transaction
-- that inserts the rows, so that delivery takes effect exactly once.
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
    ('gateway/opened', 'gateway/damage', 'gateway/takeover', 'gateway/restored', 'trail/accepted', 'trail/resolved',
    'trail/retired', 'trail/hold', 'trail/lifted', 'trail/closed');

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

-- Rows that "gatepost audit resolve-fork" took out of a stream because its gateway did not write them.
CREATE TABLE audit_foreign (
    gateway_id   uuid        NOT NULL,
    epoch        bigint      NOT NULL,
    seq          bigint      NOT NULL,
    hash         bytea       NOT NULL,
    source_table text        NOT NULL,
    source_row   json        NOT NULL,
    moved_at     timestamptz NOT NULL DEFAULT now(),
    moved_by     text        NOT NULL DEFAULT session_user
);
CREATE INDEX audit_foreign_place ON audit_foreign (gateway_id, epoch, seq);

-- Policies that were in retired records, by the digest that records name them with. Never retired.
CREATE TABLE audit_policy (
    policy_digest bytea       PRIMARY KEY,
    policy        text        NOT NULL,
    kept_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_policy_digest_is_sha256 CHECK (octet_length(policy_digest) = 32)
);

-- Signed checkpoints of the gateways' logs (docs/evidence.md), one row a size. A log is named by its first epoch; epoch
-- and seq are the place of the last record in the tree. From "edge", the hashes of the tree's perfect subtrees, proofs
-- can be made after earlier rows of audit_log are retired. Never retired.
CREATE TABLE audit_checkpoint (
    gateway_id uuid        NOT NULL,
    log        bigint      NOT NULL,
    size       bigint      NOT NULL,
    epoch      bigint      NOT NULL,
    seq        bigint      NOT NULL,
    root       bytea       NOT NULL,
    edge       bytea       NOT NULL,
    note       text        NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway_id, log, size),
    CONSTRAINT audit_checkpoint_size_from_1 CHECK (size >= 1),
    CONSTRAINT audit_checkpoint_root_is_sha256 CHECK (octet_length(root) = 32),
    CONSTRAINT audit_checkpoint_edge_is_short CHECK (octet_length(edge) <= 63 * 32),
    CONSTRAINT audit_checkpoint_note_is_short CHECK (octet_length(note) <= 131072)
);

-- What an anchor outside said of a checkpoint: the first time, and the last time. Never retired.
CREATE TABLE audit_anchor (
    gateway_id  uuid        NOT NULL,
    log         bigint      NOT NULL,
    size        bigint      NOT NULL,
    anchor      text        NOT NULL,
    kind        text        NOT NULL,
    first_proof bytea       NOT NULL,
    first_at    timestamptz NOT NULL DEFAULT now(),
    last_proof  bytea       NOT NULL,
    last_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway_id, log, size, anchor),
    CONSTRAINT audit_anchor_kind_known CHECK (kind IN ('witness', 'tsa', 's3', 'command')),
    CONSTRAINT audit_anchor_proofs_are_short CHECK (
        octet_length(first_proof) <= 131072 AND octet_length(last_proof) <= 131072)
);

-- The hashes of retired records that proofs of kept ones need. Never retired.
CREATE TABLE audit_retired_hash (
    gateway_id uuid   NOT NULL,
    epoch      bigint NOT NULL,
    seq        bigint NOT NULL,
    hash       bytea  NOT NULL,
    PRIMARY KEY (gateway_id, epoch, seq),
    CONSTRAINT audit_retired_hash_is_sha256 CHECK (octet_length(hash) = 32)
);

-- All that a gateway's login may do: execute the functions that are granted to gatepost_writer below. They run with the
-- rights of the tables' owner. Every name in them is qualified, because neither the caller's search_path nor its
-- temporary objects may decide what it means. The placeholders are filled in here, once:
--   @schema@   the schema of the tables
--   @columns@  the columns of audit_log
--   @in@       the parameters of a batch: gateway and epoch once, then an array for each further column
--   @passed@   these parameters, to pass them on
--   @arrays@, @fields@, @values@  the arrays, their names as columns, and the values to insert
DO $install$
DECLARE
    stream_columns CONSTANT integer := 2;
    source text := $functions$

-- Fails unless the session's login is a member of the role that owns the gateway. Registers the gateway if it may.
CREATE FUNCTION @schema@.gatepost_check_gateway(gateway uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    -- In the functions that call this one, which are SECURITY DEFINER. A statement that names a table may run on another
    -- server (Citus), which knows nobody but the tables' owner: there, session_user is the owner too.
    tables_owner CONSTANT name := current_user;
    login CONSTANT name := session_user;
    is_owner CONSTANT boolean := pg_has_role(login, tables_owner, 'MEMBER');
    owner name;
BEGIN
    SELECT g.owner_role INTO owner FROM @schema@.audit_gateway g WHERE g.gateway_id = gateway;
    IF owner IS NULL AND EXISTS (SELECT FROM @schema@.audit_registrar r WHERE r.gateway_id = gateway) THEN
        owner := tables_owner;
    ELSIF owner IS NULL AND (is_owner OR (SELECT r.registration = 'first' FROM @schema@.audit_registrar r)) THEN
        INSERT INTO @schema@.audit_gateway (gateway_id, owner_role, registered_by) VALUES (gateway, login, login)
        ON CONFLICT (gateway_id) DO NOTHING;
        SELECT g.owner_role INTO owner FROM @schema@.audit_gateway g WHERE g.gateway_id = gateway;
    END IF;
    IF owner IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'GP001', MESSAGE = format(
            'gateway %s is not registered in this database: the owner of the tables must run '
            '"gatepost audit gateways add %1$s --role %s"', gateway, quote_ident(login));
    END IF;
    IF NOT pg_has_role(login, owner, 'MEMBER') THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format(
            'gateway %s belongs to role %I, of which login %I is not a member', gateway, owner, login);
    END IF;
END $body$;

-- The seqs of the batch that are in the trail already, as after a restore of audit_stream alone. Another record at one
-- of these places is an error.
CREATE FUNCTION @schema@.gatepost_present(gateway uuid, stream_epoch bigint, first_seq bigint, hashes bytea[])
RETURNS bigint[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    present bigint[];
    foreign_seq bigint;
BEGIN
    SELECT array_agg(DISTINCT o.seq), min(o.seq) FILTER (WHERE o.hash <> hashes[(o.seq - first_seq + 1)::integer])
    INTO present, foreign_seq FROM (
        SELECT l.seq, l.hash FROM @schema@.audit_log l WHERE l.gateway_id = gateway AND l.epoch = stream_epoch
            AND l.seq BETWEEN first_seq AND first_seq + cardinality(hashes) - 1
        UNION ALL
        SELECT q.seq, q.hash FROM @schema@.audit_quarantine q WHERE q.gateway_id = gateway AND q.epoch = stream_epoch
            AND q.seq BETWEEN first_seq AND first_seq + cardinality(hashes) - 1) o;
    IF foreign_seq IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'GP003', MESSAGE = format(
            'another record is at %s/%s of gateway %s', stream_epoch, foreign_seq, gateway);
    END IF;
    RETURN present;
END $body$;

-- Inserts a batch, without the seqs in "present". Fails if a trigger keeps rows out.
CREATE FUNCTION @schema@.gatepost_insert(@in@, present bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    expected CONSTANT bigint := cardinality(new_seq) - coalesce(cardinality(present), 0);
    inserted bigint;
BEGIN
    INSERT INTO @schema@.audit_log (@columns@) SELECT @values@ FROM unnest(@arrays@) AS u(@fields@)
    WHERE present IS NULL OR u.seq <> ALL (present);
    GET DIAGNOSTICS inserted = ROW_COUNT;
    IF inserted <> expected THEN
        RAISE EXCEPTION USING ERRCODE = '23000', MESSAGE = format(
            'audit_log took %s of %s rows; a trigger keeps rows out', inserted, expected);
    END IF;
END $body$;

-- Delivers a batch: moves the stream's cursor and inserts the rows, or does neither. Returns false if the cursor is not
-- where the batch begins. The batch must be consecutive records of one stream, each linked to the one before it.
CREATE FUNCTION @schema@.gatepost_deliver(@in@) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    n CONSTANT integer := cardinality(new_seq);
BEGIN
    PERFORM @schema@.gatepost_check_gateway(new_gateway_id);
    -- Arrays of other shapes are not equal to these, whatever is in them.
    IF (n > 0 AND array_ndims(new_hash) = 1 AND array_lower(new_hash, 1) = 1 AND cardinality(new_hash) = n
            AND new_seq = ARRAY(SELECT generate_series(new_seq[1], new_seq[1] + n - 1))
            AND new_prev_hash = array_prepend(new_prev_hash[1], new_hash[1:n - 1])) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'GP002', MESSAGE =
            'the batch is not a chain: each seq must be the one before it plus one, each prev_hash the hash before it';
    END IF;
    UPDATE @schema@.audit_stream SET delivered_seq = new_seq[n], head_hash = new_hash[n], delivered_at = now()
    WHERE gateway_id = new_gateway_id AND epoch = new_epoch
        AND delivered_seq = new_seq[1] - 1 AND head_hash = new_prev_hash[1];
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM @schema@.gatepost_insert(@passed@,
        @schema@.gatepost_present(new_gateway_id, new_epoch, new_seq[1], new_hash));
    RETURN true;
END $body$;

-- Fails if audit_log would refuse this record. Nothing takes effect.
CREATE FUNCTION @schema@.gatepost_dry_run(@in@) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(new_gateway_id);
    IF cardinality(new_seq) <> 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'GP002', MESSAGE = 'a dry run is of one record';
    END IF;
    BEGIN
        PERFORM @schema@.gatepost_insert(@passed@, NULL);
        -- Deferred constraints, which a commit would check.
        SET CONSTRAINTS ALL IMMEDIATE;
        RAISE EXCEPTION USING ERRCODE = 'GP000', MESSAGE = 'rolled back';
    EXCEPTION
        WHEN SQLSTATE 'GP000' THEN NULL;
    END;
END $body$;

-- Like gatepost_deliver, for one record that audit_log refused.
CREATE FUNCTION @schema@.gatepost_quarantine(new_gateway_id uuid, new_epoch bigint, new_seq bigint, new_prev_hash bytea,
    new_hash bytea, new_request_id uuid, new_frame bytea, refused_with text, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    inserted bigint;
BEGIN
    PERFORM @schema@.gatepost_check_gateway(new_gateway_id);
    UPDATE @schema@.audit_stream SET delivered_seq = new_seq, head_hash = new_hash, delivered_at = now()
    WHERE gateway_id = new_gateway_id AND epoch = new_epoch
        AND delivered_seq = new_seq - 1 AND head_hash = new_prev_hash;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF @schema@.gatepost_present(new_gateway_id, new_epoch, new_seq, ARRAY[new_hash]) IS NULL THEN
        INSERT INTO @schema@.audit_quarantine
            (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate, error)
        VALUES (new_gateway_id, new_epoch, new_seq, new_prev_hash, new_hash, new_request_id, new_frame,
            refused_with, reason);
        GET DIAGNOSTICS inserted = ROW_COUNT;
        IF inserted <> 1 THEN
            RAISE EXCEPTION USING ERRCODE = '23000', MESSAGE = format(
                'audit_quarantine took %s of 1 rows; a trigger keeps rows out', inserted);
        END IF;
    END IF;
    RETURN true;
END $body$;

-- The cursor of a stream of the gateway, which begins here if it is new.
CREATE FUNCTION @schema@.gatepost_open_stream(gateway uuid, stream_epoch bigint, OUT seq bigint, OUT hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    INSERT INTO @schema@.audit_stream (gateway_id, epoch) VALUES (gateway, stream_epoch) ON CONFLICT DO NOTHING;
    SELECT s.delivered_seq, s.head_hash INTO seq, hash
    FROM @schema@.audit_stream s WHERE s.gateway_id = gateway AND s.epoch = stream_epoch;
END $body$;

-- Makes the partition of the month of "from" and of the months after it, as far as no partition has a part of them. A
-- month whose rows are in the default partition already stays there. What operators do to partitions does not matter:
-- the bounds of those that are attached count, not their names, and a name that another table has is not used.
CREATE FUNCTION @schema@.gatepost_partitions("from" timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, MDY'
-- Inserts into the default partition wait meanwhile.
SET lock_timeout = '2s' SET default_table_access_method = 'heap' AS $body$
DECLARE
    parent    CONSTANT regclass := to_regclass($name$@schema@.audit_log$name$);
    first_day timestamptz;
    next_day  timestamptz;
    partition text;
    made      integer := 0;
BEGIN
    FOR step IN 0 .. months - 1 LOOP
        first_day := date_trunc('month', "from") + make_interval(months => step);
        next_day := first_day + interval '1 month';
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) AS b
            WHERE i.inhparent = parent AND b.bound LIKE 'FOR VALUES FROM%'
                -- MINVALUE and MAXVALUE have no quotes.
                AND coalesce(substring(b.bound FROM 'FROM [(]''([^'']*)''[)]')::timestamptz, '-infinity') < next_day
                AND coalesce(substring(b.bound FROM 'TO [(]''([^'']*)''[)]')::timestamptz, 'infinity') > first_day);
        FOR attempt IN 1 .. 9 LOOP
            partition := 'audit_log_' || to_char(first_day, 'YYYY_MM')
                || CASE attempt WHEN 1 THEN '' ELSE '_' || attempt END;
            CONTINUE WHEN to_regclass($name$@schema@.$name$ || quote_ident(partition)) IS NOT NULL;
            BEGIN
                EXECUTE format($create$CREATE TABLE @schema@.%I PARTITION OF @schema@.audit_log
                    FOR VALUES FROM (%L) TO (%L)$create$, partition, first_day, next_day);
                made := made + 1;
            EXCEPTION
                -- Made by another gateway at the same time, or its rows are in the default partition.
                WHEN duplicate_table OR unique_violation OR check_violation OR invalid_object_definition THEN NULL;
                WHEN OTHERS THEN
                    RAISE WARNING 'partition % was not made; its rows go to the default partition: %',
                        partition, SQLERRM;
            END;
            EXIT;
        END LOOP;
    END LOOP;
    RETURN made;
END $body$;

-- Makes partitions ahead, at most two years of them and at most two years from now.
CREATE FUNCTION @schema@.gatepost_make_partitions(gateway uuid, "from" timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    IF (months BETWEEN 1 AND 24 AND "from" BETWEEN now() - interval '2 years' AND now() + interval '2 years')
            IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'at most 24 months, within two years from now';
    END IF;
    RETURN @schema@.gatepost_partitions("from", months);
END $body$;

-- The gateways whose lease has expired while their stream is open, and that the owner has not closed.
CREATE FUNCTION @schema@.gatepost_silent_gateways(OUT gateway uuid, OUT until timestamptz) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
    SELECT g.gateway_id, g.lease_until FROM @schema@.audit_gateway g
    WHERE g.lease_until < now() AND g.closed_at IS NULL AND NOT EXISTS (
        SELECT FROM @schema@.audit_stream s JOIN @schema@.audit_log l
            ON l.gateway_id = s.gateway_id AND l.epoch = s.epoch AND l.seq = s.delivered_seq
        WHERE s.gateway_id = g.gateway_id AND s.epoch = g.lease_epoch AND l.method = 'gateway/closed')
    ORDER BY g.gateway_id
$body$;

-- Renews the lease of a gateway for "seconds", of which it renews after a third. Returns silent gateways to one gateway:
-- the first of those that hold a lease, once it renewed for two intervals without a pause, so that after an outage all
-- others had the time to do the same.
CREATE FUNCTION @schema@.gatepost_renew_lease(gateway uuid, stream_epoch bigint, seconds integer, OUT silent uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    -- Citus takes no now() within a CASE.
    moment CONSTANT timestamptz := now();
    since timestamptz;
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    IF (seconds BETWEEN 3 AND 3600) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a lease is for 3 to 3600 seconds';
    END IF;
    UPDATE @schema@.audit_gateway g SET
        lease_since = CASE WHEN g.lease_until >= moment AND g.lease_epoch = stream_epoch THEN g.lease_since
            ELSE moment END,
        lease_epoch = stream_epoch, lease_until = moment + make_interval(secs => seconds), closed_at = NULL
    WHERE g.gateway_id = gateway RETURNING g.lease_since INTO since;
    IF since <= moment - make_interval(secs => seconds * 2 / 3) AND NOT EXISTS (
            SELECT FROM @schema@.audit_gateway g WHERE g.gateway_id < gateway AND g.lease_until >= moment) THEN
        silent := ARRAY(SELECT s.gateway FROM @schema@.gatepost_silent_gateways() s LIMIT 100);
    END IF;
    silent := coalesce(silent, '{}');
END $body$;

-- The largest checkpoint of a log, which its gateway compares with what it signed last.
CREATE FUNCTION @schema@.gatepost_last_checkpoint(gateway uuid, of_log bigint, OUT last_size bigint, OUT last_root bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    SELECT c.size, c.root INTO last_size, last_root FROM @schema@.audit_checkpoint c
    WHERE c.gateway_id = gateway AND c.log = of_log ORDER BY c.size DESC LIMIT 1;
END $body$;

-- The hashes from which a gateway proves to a witness that its log continues: those of the delivered records after the
-- largest checkpoint of at most "wanted" records, and that checkpoint. At most 2^20 hashes.
CREATE FUNCTION @schema@.gatepost_hashes(gateway uuid, of_log bigint, wanted bigint, OUT base_size bigint,
    OUT base_edge bytea, OUT hashes bytea[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    base_epoch bigint;
    base_seq bigint;
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    SELECT c.size, c.edge, c.epoch, c.seq INTO base_size, base_edge, base_epoch, base_seq
    FROM @schema@.audit_checkpoint c WHERE c.gateway_id = gateway AND c.log = of_log AND c.size <= wanted
    ORDER BY c.size DESC LIMIT 1;
    IF base_size IS NULL THEN
        base_size := 0;
        base_edge := '';
        base_epoch := of_log;
        base_seq := 0;
    END IF;
    hashes := ARRAY(SELECT r.hash FROM (
        SELECT l.epoch, l.seq, l.hash FROM @schema@.audit_log l
        WHERE l.gateway_id = gateway AND (l.epoch, l.seq) > (base_epoch, base_seq)
        UNION ALL SELECT q.epoch, q.seq, q.hash FROM @schema@.audit_quarantine q
        WHERE q.gateway_id = gateway AND (q.epoch, q.seq) > (base_epoch, base_seq)
        UNION ALL SELECT h.epoch, h.seq, h.hash FROM @schema@.audit_retired_hash h
        WHERE h.gateway_id = gateway AND (h.epoch, h.seq) > (base_epoch, base_seq)) r
        ORDER BY r.epoch, r.seq LIMIT 1048576);
END $body$;

-- Stores a checkpoint if the last one of the log is the one that the gateway knows ("known_size", "known_root"; NULL: none)
-- and it is larger. Returns the last one afterwards, which is another one if it was not stored: then two gateways write
-- one log, or one went back, or an answer was lost.
CREATE FUNCTION @schema@.gatepost_checkpoint(gateway uuid, new_log bigint, new_size bigint, new_epoch bigint,
    new_seq bigint, new_root bytea, new_edge bytea, new_note text, known_size bigint, known_root bytea,
    OUT last_size bigint, OUT last_root bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    -- The first checkpoint of a log has no row before it that could be locked.
    PERFORM pg_advisory_xact_lock(hashtextextended(format('gatepost checkpoint %s %s', gateway, new_log), 0));
    SELECT c.size, c.root INTO last_size, last_root FROM @schema@.audit_checkpoint c
    WHERE c.gateway_id = gateway AND c.log = new_log ORDER BY c.size DESC LIMIT 1;
    IF last_size IS NOT DISTINCT FROM known_size AND last_root IS NOT DISTINCT FROM known_root
            AND new_size > coalesce(last_size, 0) THEN
        INSERT INTO @schema@.audit_checkpoint (gateway_id, log, size, epoch, seq, root, edge, note)
        VALUES (gateway, new_log, new_size, new_epoch, new_seq, new_root, new_edge, new_note);
        last_size := new_size;
        last_root := new_root;
    END IF;
END $body$;

-- Stores what an anchor said of a stored checkpoint. Returns false if there is no such checkpoint.
CREATE FUNCTION @schema@.gatepost_anchor(gateway uuid, of_log bigint, of_size bigint, of_root bytea, by_anchor text,
    of_kind text, new_proof bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM @schema@.gatepost_check_gateway(gateway);
    IF NOT EXISTS (SELECT FROM @schema@.audit_checkpoint c WHERE c.gateway_id = gateway AND c.log = of_log
            AND c.size = of_size AND c.root = of_root) THEN
        RETURN false;
    END IF;
    INSERT INTO @schema@.audit_anchor (gateway_id, log, size, anchor, kind, first_proof, last_proof)
    VALUES (gateway, of_log, of_size, by_anchor, of_kind, new_proof, new_proof)
    ON CONFLICT (gateway_id, log, size, anchor) DO UPDATE SET last_proof = EXCLUDED.last_proof, last_at = now();
    RETURN true;
END $body$;

-- The number of migrations in this schema.
CREATE FUNCTION @schema@.gatepost_schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT 1';

REVOKE EXECUTE ON FUNCTION @schema@.gatepost_check_gateway, @schema@.gatepost_present, @schema@.gatepost_insert,
    @schema@.gatepost_deliver, @schema@.gatepost_dry_run, @schema@.gatepost_quarantine,
    @schema@.gatepost_open_stream, @schema@.gatepost_partitions, @schema@.gatepost_make_partitions,
    @schema@.gatepost_silent_gateways, @schema@.gatepost_renew_lease, @schema@.gatepost_last_checkpoint,
    @schema@.gatepost_hashes, @schema@.gatepost_checkpoint, @schema@.gatepost_anchor,
    @schema@.gatepost_schema_version FROM PUBLIC;

    $functions$;
    filled record;
BEGIN
    -- A json is passed as text: there is no cast from text[] to json[] that keeps what a json keeps.
    SELECT string_agg(quoted, ', ' ORDER BY attnum) AS columns,
        string_agg(format('%I %s%s', 'new_' || attname, type, CASE WHEN attnum > stream_columns THEN '[]' END),
            ', ' ORDER BY attnum) AS "in",
        string_agg(format('%I', 'new_' || attname), ', ' ORDER BY attnum) AS passed,
        string_agg(format('%I', 'new_' || attname), ', ' ORDER BY attnum) FILTER (WHERE attnum > stream_columns)
            AS arrays,
        string_agg(quoted, ', ' ORDER BY attnum) FILTER (WHERE attnum > stream_columns) AS fields,
        string_agg(CASE WHEN attnum <= stream_columns THEN format('%I', 'new_' || attname)
            WHEN is_json THEN format('u.%s::json', quoted) ELSE 'u.' || quoted END, ', ' ORDER BY attnum) AS "values"
    INTO filled
    FROM (SELECT attnum, attname, quote_ident(attname) AS quoted, atttypid = 'json'::regtype AS is_json,
            CASE WHEN atttypid = 'json'::regtype THEN 'text' ELSE format_type(atttypid, NULL) END AS type
        FROM pg_attribute WHERE attrelid = 'audit_log'::regclass AND attnum > 0) AS attributes;
    source := replace(source, '@schema@', quote_ident(current_schema()));
    source := replace(source, '@columns@', filled.columns);
    source := replace(source, '@in@', filled."in");
    source := replace(source, '@passed@', filled.passed);
    source := replace(source, '@arrays@', filled.arrays);
    source := replace(source, '@fields@', filled.fields);
    EXECUTE replace(source, '@values@', filled."values");
END $install$;

SELECT gatepost_partitions(now(), 4);

-- A gateway's login is a member of gatepost_writer, an auditor's of gatepost_reader. If the migrating role may not
-- create roles, an administrator does, and grants the same.
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
DECLARE
    grantee text;
BEGIN
    FOREACH grantee IN ARRAY ARRAY['gatepost_writer', 'gatepost_reader'] LOOP
        IF NOT has_schema_privilege(grantee, current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), grantee);
        END IF;
    END LOOP;
    GRANT EXECUTE ON FUNCTION gatepost_deliver, gatepost_dry_run, gatepost_quarantine, gatepost_open_stream,
        gatepost_make_partitions, gatepost_renew_lease, gatepost_last_checkpoint, gatepost_hashes, gatepost_checkpoint,
        gatepost_anchor, gatepost_schema_version TO gatepost_writer;
    GRANT SELECT ON audit_gateway, audit_registrar, audit_stream, audit_log, audit_quarantine, audit_foreign,
        audit_policy, audit_checkpoint, audit_anchor, audit_retired_hash TO gatepost_reader;
EXCEPTION
    WHEN undefined_object THEN
        RAISE NOTICE 'role gatepost_writer or gatepost_reader is missing; nothing was granted to it';
END $$;
