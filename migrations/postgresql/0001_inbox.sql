-- outbox-relay: the consumer's side. PostgreSQL 13 and later.

create table inbox_meta (
    only_row        boolean primary key default true check (only_row),
    version         integer not null,
    compatible_from integer not null
);
comment on table inbox_meta is 'outbox-relay: version of the inbox tables';

create table inbox_message (
    consumer    text        not null,
    message_id  text        not null,
    received_at timestamptz not null default clock_timestamp(),
    constraint inbox_message_pkey primary key (consumer, message_id)
);
comment on table inbox_message is 'outbox-relay: the messages that have taken effect';

insert into inbox_meta (version, compatible_from) values (1, 1);
