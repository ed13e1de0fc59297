-- outbox-relay: the log, its cursors and who runs. SQLite 3.35 and later.

create table outbox_meta (
    only_row        integer primary key default 1 check (only_row = 1),
    version         integer not null,
    compatible_from integer not null,
    log_id          text    not null,
    -- How long delivered messages are kept, in seconds.
    retention_s     integer not null default 86400 check (retention_s > 0)
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
    -- Refused until the relay can keep it: a message must not be sent as if it had no expiry.
    expires_at   text check (expires_at is null),
    key_id       text,
    check (payload is not null or key is not null)
);

create table outbox_cursor (
    relay       text not null,
    lane        text not null,
    after_seq   integer not null default 0,
    epoch       integer not null default 0,
    owner       text,
    lease_until real,
    cluster_id  text,
    moved_at    real not null default ((julianday('now') - 2440587.5) * 86400.0),
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

insert into outbox_lane (generation, lane) values (0, 'default');
insert into outbox_cursor (relay, lane) values ('default', 'default');
insert into outbox_meta (version, compatible_from, log_id) values (1, 1,
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
          '-' || substr('89ab', 1 + abs(random() % 4), 1) || substr(hex(randomblob(2)), 2) ||
          '-' || hex(randomblob(6))));
