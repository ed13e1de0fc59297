-- outbox-relay: the log, its cursors and who runs. PostgreSQL 13 and later.

create table outbox_meta (
    only_row        boolean primary key default true check (only_row),
    version         integer not null,
    compatible_from integer not null,
    log_id          uuid    not null default gen_random_uuid(),
    -- The WAL timeline the log was last read on: after a fail-over or a restore to a point in time
    -- sequence numbers may be used again, so the log gets a new log_id.
    timeline        text,
    -- How long delivered messages are kept, in seconds. outbox_slot() must fit it.
    retention_s     integer not null default 86400 check (retention_s > 0),
    -- How many messages may wait before writers warn or refuse; null: as many as there are.
    backlog_limit   bigint  constraint outbox_meta_backlog_limit_check check (backlog_limit > 0),
    backlog_action  text    constraint outbox_meta_backlog_action_check
                    check (backlog_action in ('warn', 'raise')),
    -- How many waited when a relay last counted them, when that was, and where the sequence stood:
    -- where no relay runs that counts, writers add what has been written since.
    backlog_messages bigint not null default 0,
    backlog_seq      bigint not null default 0,
    backlog_at       timestamptz
);
comment on table outbox_meta is 'outbox-relay: version of these tables, identity of the log';

-- Cache 1: with more, a session draws numbers in advance and their order means nothing.
-- Not owned by the table, so that "truncate … restart identity" leaves it alone.
create sequence outbox_message_seq as bigint cache 1;
comment on sequence outbox_message_seq is 'outbox-relay: order of messages within the log';

-- Which of the four partitions a row goes to, in turn. Each is written to for half of the retention:
-- when its turn comes again it has been due for emptying for half of the retention, and what is kept
-- at any time is at most 1.5 times the retention.
create function outbox_slot() returns smallint
    language sql volatile parallel safe
    as $$ select (extract(epoch from clock_timestamp())::bigint / 43200 % 4)::smallint $$;

create table outbox_message (
    -- A row's xid must be assigned before its seq is drawn, else the floor of a cursor could lie
    -- above a row that is still to come. Defaults are evaluated in the order of columns, which
    -- nobody should rely on: the condition makes it a dependency of the data.
    seq          bigint      not null default nextval(
                     case when pg_current_xact_id() is null then null
                          else 'outbox_message_seq'::regclass end),
    slot         smallint    not null default outbox_slot(),
    xid          xid8        not null default pg_current_xact_id(),
    created_at   timestamptz not null default clock_timestamp(),
    id           uuid        not null default gen_random_uuid(),
    topic        text        not null
                 -- Not '^[…]{1,249}$', which takes 7 µs a row.
                 constraint outbox_message_topic_check
                 check (topic !~ '[^A-Za-z0-9._-]' and length(topic) between 1 and 249),
    key          text
                 constraint outbox_message_key_check check (octet_length(key) <= 1024),
    payload      bytea,
    type         text,
    content_type text,
    headers      jsonb
                 constraint outbox_message_headers_check
                 check (jsonb_typeof(headers) in ('object', 'array')),
    traceparent  text,
    tracestate   text,
    lane         text,
    -- Not to be sent from then on.
    expires_at   timestamptz
                 constraint outbox_message_expires_at_check check (isfinite(expires_at)),
    key_id       text,
    constraint outbox_message_tombstone_check check (payload is not null or key is not null),
    -- seq first: the relay reads in its order. With slot first the planner would sort the table.
    constraint outbox_message_pkey primary key (seq, slot)
) partition by list (slot);
comment on table outbox_message is 'outbox-relay: the log of messages, append-only';

create table outbox_message_0 partition of outbox_message for values in (0);
create table outbox_message_1 partition of outbox_message for values in (1);
create table outbox_message_2 partition of outbox_message for values in (2);
create table outbox_message_3 partition of outbox_message for values in (3);

create index outbox_message_xid_idx on outbox_message (xid, seq);

-- What is not to be sent yet: until a time, or until a condition is released, or both. A relay moves
-- rows that are due into the log, where they take their place; the checks are those of the log, so
-- that no row can be refused there.
create table outbox_scheduled (
    -- Among rows that are due at the same time, the order of writing.
    no           bigint      generated always as identity,
    -- Not before. Null: as soon as the condition is released.
    due_at       timestamptz
                 constraint outbox_scheduled_due_at_check
                 check (due_at >= '0001-01-01 00:00:00+00' and due_at < '10000-01-01 00:00:00+00'),
    -- Null once it is released: the row is `waiting` before, and `scheduled` from then on.
    wait_for     text
                 constraint outbox_scheduled_wait_for_check
                 check (wait_for !~ '[^A-Za-z0-9._-]' and length(wait_for) between 1 and 64),
    created_at   timestamptz not null default clock_timestamp(),
    id           uuid        not null default gen_random_uuid(),
    topic        text        not null
                 constraint outbox_scheduled_topic_check
                 check (topic !~ '[^A-Za-z0-9._-]' and length(topic) between 1 and 249),
    key          text
                 constraint outbox_scheduled_key_check check (octet_length(key) <= 1024),
    payload      bytea,
    type         text,
    content_type text,
    headers      jsonb
                 constraint outbox_scheduled_headers_check
                 check (jsonb_typeof(headers) in ('object', 'array')),
    traceparent  text,
    tracestate   text,
    lane         text,
    expires_at   timestamptz
                 constraint outbox_scheduled_expires_at_check check (isfinite(expires_at)),
    key_id       text,
    constraint outbox_scheduled_tombstone_check check (payload is not null or key is not null),
    constraint outbox_scheduled_reason_check check (due_at is not null or wait_for is not null),
    constraint outbox_scheduled_pkey primary key (no)
);
comment on table outbox_scheduled is 'outbox-relay: messages that wait for a time or a condition';

create index outbox_scheduled_due_idx on outbox_scheduled (due_at, no) where wait_for is null;
create index outbox_scheduled_wait_for_idx on outbox_scheduled (wait_for) where wait_for is not null;
create index outbox_scheduled_id_idx on outbox_scheduled (id);

create table outbox_cursor (
    relay       text        not null,
    lane        text        not null,
    -- Delivered: every plan below plan_no, and of that plan the messages up to after_seq.
    plan_no     bigint      not null default 0,
    after_seq   bigint      not null default 0,
    -- The lease. An epoch is one term of one owner; every write of the owner names it.
    epoch       bigint      not null default 0,
    owner       text,
    lease_until timestamptz,
    cluster_id  text,
    -- The relay name began with what was written at this time; null: with all that the log had.
    starts_at   timestamptz,
    -- How the messages up to here were delivered: with exactly-once Kafka may know a later position.
    delivery    text        not null default 'at-least-once'
                constraint outbox_cursor_delivery_check
                check (delivery in ('at-least-once', 'exactly-once')),
    -- Part of the name under which Kafka knows who publishes exactly once, and how far.
    origin      uuid        not null default gen_random_uuid(),
    -- Equal to the row's own xmin unless the row came here by dump and restore.
    written_by  xid8        not null default pg_current_xact_id(),
    moved_at    timestamptz not null default clock_timestamp(),
    -- How many relays in a row have died at this place. From the third on, few messages are handed
    -- over at a time, and the last of them is noted before; and the message with which so many of
    -- them died, alone, is a suspect.
    crashes        integer not null default 0,
    handed_seq     bigint,
    suspect_seq    bigint,
    suspect_deaths integer not null default 0,
    constraint outbox_cursor_pkey primary key (relay, lane)
) with (fillfactor = 10);
comment on table outbox_cursor is 'outbox-relay: how far each relay name has delivered, and who holds the lane';

-- Plans are never changed: a reporting transaction that holds back vacuum would make an updated
-- row slower with every batch. The primary key doubles as a fence.
create table outbox_plan (
    relay        text        not null,
    lane         text        not null,
    plan_no      bigint      not null,
    epoch        bigint      not null,
    last         pg_snapshot not null,
    floor        bigint      not null,
    target       pg_snapshot not null,
    target_floor bigint      not null,
    next_floor   bigint      not null,
    -- Tells it from a plan of the same number that was made before the database went back in time.
    token        uuid        not null default gen_random_uuid(),
    -- The lanes under which its messages are selected.
    generation   bigint      not null default 0,
    constraint outbox_plan_pkey primary key (relay, lane, plan_no)
);
comment on table outbox_plan is 'outbox-relay: what each batch consists of, written before it is sent';

-- A change of lanes makes a new generation; the highest is the present one. Those before tell who
-- must have come how far before a stream may go on.
create table outbox_lane (
    generation bigint  not null,
    lane       text    not null,
    priority   integer not null default 0,
    shards     integer not null default 1
               constraint outbox_lane_shards_check check (shards between 1 and 64),
    constraint outbox_lane_pkey primary key (generation, lane)
);
comment on table outbox_lane is 'outbox-relay: the lanes of the log, generation by generation';

create table outbox_process (
    relay      text        not null,
    process    text        not null,
    version    text        not null,
    state      text        not null,
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp(),
    constraint outbox_process_pkey primary key (relay, process)
);
comment on table outbox_process is 'outbox-relay: the relay processes that run';

-- What cannot be sent now. Copies, so that the log's space never waits for them. A row moves with its
-- message's place in the order (seq) and is deleted when the message is delivered or discarded.
create table outbox_held (
    relay           text        not null,
    lane            text        not null,
    seq             bigint      not null,
    created_at      timestamptz not null,
    id              uuid        not null,
    topic           text        not null,
    key             text,
    payload         bytea,
    type            text,
    content_type    text,
    headers         jsonb,
    traceparent     text,
    tracestate      text,
    expires_at      timestamptz,
    key_id          text,
    state           text        not null
                    constraint outbox_held_state_check
                    check (state in ('retrying', 'blocked', 'dead', 'expired')),
    -- Whether later messages of its key wait behind it.
    blocks          boolean     not null
                    constraint outbox_held_blocks_check
                    check (key is not null or not blocks),
    attempts        integer     not null default 0,
    -- Null while retrying: its topic is waited for.
    next_attempt_at timestamptz
                    constraint outbox_held_next_attempt_at_check
                    check (next_attempt_at is null or state = 'retrying'),
    fault           text,
    error           text,
    held_at         timestamptz not null default clock_timestamp(),
    changed_at      timestamptz not null default clock_timestamp(),
    constraint outbox_held_pkey primary key (relay, seq)
);
comment on table outbox_held is 'outbox-relay: messages that cannot be sent now, for each relay name';

-- Each of these holds the few rows it is asked for, also when a million wait behind one key. The
-- first has one row for each key that is stopped: the message that stops it.
create unique index outbox_held_head_idx on outbox_held (relay, lane, topic, key)
    where blocks and state <> 'blocked';
create index outbox_held_next_idx on outbox_held (relay, lane, topic, key, seq)
    where state = 'blocked';
create index outbox_held_due_idx on outbox_held (relay, lane, next_attempt_at, seq)
    where next_attempt_at is not null;
create index outbox_held_topic_idx on outbox_held (relay, lane, topic, seq)
    where state = 'retrying' and next_attempt_at is null;
create index outbox_held_state_idx on outbox_held (relay, state, seq)
    where state <> 'blocked';

-- What is not to be sent for the time being. Null stands for every relay name, lane or topic.
create table outbox_pause (
    id     bigint      generated always as identity
           constraint outbox_pause_pkey primary key,
    relay  text,
    lane   text,
    topic  text,
    at     timestamptz not null default clock_timestamp(),
    actor  text        not null,
    reason text
);
comment on table outbox_pause is 'outbox-relay: what operators have paused';

create unique index outbox_pause_what_idx
    on outbox_pause (coalesce(relay, ''), coalesce(lane, ''), coalesce(topic, ''));

-- What operators did. Rows are only added; one command may add several, with the same action.
create table outbox_audit (
    id       bigint      generated always as identity
             constraint outbox_audit_pkey primary key,
    at       timestamptz not null default clock_timestamp(),
    action   uuid        not null,
    actor    text        not null,
    source   text        not null,
    command  text        not null,
    what     jsonb       not null,
    messages bigint      not null
);
comment on table outbox_audit is 'outbox-relay: what operators did, when, and to how many messages';

insert into outbox_lane (generation, lane) values (0, 'default');
insert into outbox_cursor (relay, lane) values ('default', 'default');
insert into outbox_plan (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor)
    values ('default', 'default', 0, 0, '3:3:', 0, '3:3:', 0, 0);
insert into outbox_meta (version, compatible_from) values (1, 1);
