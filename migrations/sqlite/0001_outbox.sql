-- outbox-relay: the log, its cursors and who runs. SQLite 3.35 and later.

create table outbox_meta (
    only_row        integer primary key default 1 check (only_row = 1),
    version         integer not null,
    compatible_from integer not null,
    log_id          text    not null,
    -- How long delivered messages are kept, in seconds.
    retention_s     integer not null default 86400 check (retention_s > 0),
    -- How many messages may wait before writers warn or refuse; null: as many as there are.
    backlog_limit   integer check (backlog_limit > 0),
    backlog_action  text check (backlog_action in ('warn', 'raise')),
    -- How many waited when a relay last counted them, when that was, and where the sequence stood:
    -- where no relay runs that counts, writers add what has been written since.
    backlog_messages integer not null default 0,
    backlog_seq      integer not null default 0,
    backlog_at       real
);

-- SQLite has one writer at a time, so the order of seq is the order of commits.
-- AUTOINCREMENT: a number is never used again, even after the row is gone.
create table outbox_message (
    seq          integer primary key autoincrement,
    created_at   real not null default ((julianday('now') - 2440587.5) * 86400.0),
    id           text not null default (
                     lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
                           substr(hex(randomblob(2)), 2) || '-' ||
                           substr('89ab', 1 + abs(random() % 4), 1) ||
                           substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    topic        text not null
                 check (length(topic) between 1 and 249 and topic not glob '*[^A-Za-z0-9._-]*'),
    key          text check (length(cast(key as blob)) <= 1024),
    payload      blob,
    type         text,
    content_type text,
    headers      text check (json_type(headers) in ('object', 'array')),
    traceparent  text,
    tracestate   text,
    lane         text,
    -- Not to be sent from then on; seconds since 1970.
    expires_at   real check (typeof(expires_at) in ('real', 'null')),
    key_id       text,
    check (payload is not null or key is not null)
);

-- What is not to be sent yet: until a time (seconds since 1970), or until a condition is released, or
-- both. A relay moves rows that are due into the log; the checks are those of the log.
create table outbox_scheduled (
    no           integer primary key autoincrement,
    -- A text would compare as greater than any number, and never be due.
    due_at       real check (typeof(due_at) in ('real', 'null')),
    wait_for     text
                 check (length(wait_for) between 1 and 64 and wait_for not glob '*[^A-Za-z0-9._-]*'),
    created_at   real not null default ((julianday('now') - 2440587.5) * 86400.0),
    id           text not null default (
                     lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
                           substr(hex(randomblob(2)), 2) || '-' ||
                           substr('89ab', 1 + abs(random() % 4), 1) ||
                           substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    topic        text not null
                 check (length(topic) between 1 and 249 and topic not glob '*[^A-Za-z0-9._-]*'),
    key          text check (length(cast(key as blob)) <= 1024),
    payload      blob,
    type         text,
    content_type text,
    headers      text check (json_type(headers) in ('object', 'array')),
    traceparent  text,
    tracestate   text,
    lane         text,
    expires_at   real check (typeof(expires_at) in ('real', 'null')),
    key_id       text,
    check (payload is not null or key is not null),
    check (due_at is not null or wait_for is not null)
);

create index outbox_scheduled_due_idx on outbox_scheduled (due_at, no) where wait_for is null;
create index outbox_scheduled_wait_for_idx on outbox_scheduled (wait_for) where wait_for is not null;
create index outbox_scheduled_id_idx on outbox_scheduled (id);

create table outbox_cursor (
    relay       text not null,
    lane        text not null,
    after_seq   integer not null default 0,
    epoch       integer not null default 0,
    owner       text,
    lease_until real,
    cluster_id  text,
    -- The relay name began with what was written at this time; null: with all that the log had.
    starts_at   real,
    -- How the messages up to here were delivered: with exactly-once Kafka may know a later position.
    delivery    text not null default 'at-least-once'
                check (delivery in ('at-least-once', 'exactly-once')),
    -- Part of the name under which Kafka knows who publishes exactly once, and how far.
    origin      text not null default (lower(hex(randomblob(16)))),
    moved_at    real not null default ((julianday('now') - 2440587.5) * 86400.0),
    -- How many relays in a row have died at this place. From the third on, few messages are handed
    -- over at a time, and the last of them is noted before; and the message with which so many of
    -- them died, alone, is a suspect.
    crashes        integer not null default 0,
    handed_seq     integer,
    suspect_seq    integer,
    suspect_deaths integer not null default 0,
    primary key (relay, lane)
) without rowid;

-- A change of lanes makes a new generation; the highest is the present one. It begins after the
-- message `after_seq`, before which the lanes of the generation before it hold.
create table outbox_lane (
    generation integer not null,
    lane       text    not null,
    priority   integer not null default 0,
    shards     integer not null default 1 check (shards between 1 and 64),
    after_seq  integer not null default 0,
    primary key (generation, lane)
) without rowid;

create table outbox_process (
    relay      text not null,
    process    text not null,
    version    text not null,
    state      text not null,
    started_at real not null default ((julianday('now') - 2440587.5) * 86400.0),
    seen_at    real not null default ((julianday('now') - 2440587.5) * 86400.0),
    primary key (relay, process)
) without rowid;

-- What cannot be sent now, as copies. A row keeps its message's place in the order (seq) and is
-- deleted when the message is delivered or discarded.
create table outbox_held (
    relay           text not null,
    lane            text not null,
    seq             integer not null,
    created_at      real not null,
    id              text not null,
    topic           text not null,
    key             text,
    payload         blob,
    type            text,
    content_type    text,
    headers         text,
    traceparent     text,
    tracestate      text,
    expires_at      real,
    key_id          text,
    state           text not null check (state in ('retrying', 'blocked', 'dead', 'expired')),
    -- Whether later messages of its key wait behind it.
    blocks          integer not null check (blocks in (0, 1) and (key is not null or not blocks)),
    attempts        integer not null default 0,
    -- Null while retrying: its topic is waited for.
    next_attempt_at real check (next_attempt_at is null or state = 'retrying'),
    fault           text,
    error           text,
    held_at         real not null default ((julianday('now') - 2440587.5) * 86400.0),
    changed_at      real not null default ((julianday('now') - 2440587.5) * 86400.0),
    primary key (relay, seq)
);

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
    id     integer primary key autoincrement,
    relay  text,
    lane   text,
    topic  text,
    at     real not null default ((julianday('now') - 2440587.5) * 86400.0),
    actor  text not null,
    reason text
);

create unique index outbox_pause_what_idx
    on outbox_pause (coalesce(relay, ''), coalesce(lane, ''), coalesce(topic, ''));

-- What operators did. Rows are only added; one command may add several, with the same action.
create table outbox_audit (
    id       integer primary key autoincrement,
    at       real not null default ((julianday('now') - 2440587.5) * 86400.0),
    action   text not null,
    actor    text not null,
    source   text not null,
    command  text not null,
    what     text not null check (json_type(what) = 'object'),
    messages integer not null
);

insert into outbox_lane (generation, lane) values (0, 'default');
insert into outbox_cursor (relay, lane) values ('default', 'default');
insert into outbox_meta (version, compatible_from, log_id) values (1, 1,
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
          '-' || substr('89ab', 1 + abs(random() % 4), 1) || substr(hex(randomblob(2)), 2) ||
          '-' || hex(randomblob(6))));
