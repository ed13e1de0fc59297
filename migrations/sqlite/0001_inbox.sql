-- outbox-relay: the consumer's side. SQLite 3.35 and later.

create table inbox_meta (
    only_row        integer primary key default 1 check (only_row = 1),
    version         integer not null,
    compatible_from integer not null
);

create table inbox_message (
    consumer    text not null,
    message_id  text not null,
    received_at real not null default ((julianday('now') - 2440587.5) * 86400.0),
    primary key (consumer, message_id)
) without rowid;

insert into inbox_meta (version, compatible_from) values (1, 1);
