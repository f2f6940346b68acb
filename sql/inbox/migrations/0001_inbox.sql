-- inbox: the first migration. What a consumer's database remembers of the messages it has taken.
--
-- takes    schema (psql variable): an existing schema; an outbox may be in it as well
-- locks    nothing that is in use
--
-- A message is taken by the row in inbox that the transaction of its effect inserts: either its
-- effect is committed with that row, or the row's message is in inbox_parked.
set search_path = pg_catalog, pg_temp;

-- inbox_migration: which files of sql/inbox/migrations this schema has, and of which text.
create table :"schema".inbox_migration (
  version    int         primary key,
  name       text        not null,
  checksum   text        not null,
  applied_at timestamptz not null default clock_timestamp()
);

create table :"schema".inbox (
  consumer   text        not null,
  message_id text        not null,
  taken_at   timestamptz not null default clock_timestamp(),
  primary key (consumer, message_id)
);
create index inbox_taken_at on :"schema".inbox (consumer, taken_at);

-- Insert at one end, delete at the other: counts mean something here, fractions do not.
alter table :"schema".inbox set (
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0
);

-- inbox_consumer: one row a consumer; who leads, and how far it is.
--
-- epoch, holder      the present term's number and its holder; a transaction of another term writes
--                    nothing
-- lease_until        by this database's clock; whoever finds it past may begin the next term
-- stream, subjects   what is read; position counts for these alone
-- position           every message up to this stream sequence, stored by position_at, is taken
-- dead_blocks        whether a dead message blocks its key
create table :"schema".inbox_consumer (
  name        text        primary key,
  epoch       bigint      not null default 0,
  holder      text        not null default '',
  lease_until timestamptz not null default 'epoch',
  stream      text        not null default '',
  subjects    text[]      not null default '{}',
  position    bigint      not null default 0,
  position_at timestamptz not null default 'epoch',
  dead_blocks boolean     not null default true
)
-- Free space keeps this row's versions on its own block, where they are pruned without vacuum.
with (
  fillfactor = 10,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0
);

-- inbox_parked: messages whose handler raised, and behind each one the later messages of its key.
--
-- A parked message is dead (dead_at is set: nothing more happens by itself) or live. A live one is
-- due at next_attempt_at; without that it waits behind an earlier message of its key.
--
-- id         ascending in the order of the stream within a key
-- errors     every refusal, newest last, at most 50: [{"at", "attempt", "error"}]
create table :"schema".inbox_parked (
  id               bigint      generated always as identity primary key,
  consumer         text        not null,
  message_id       text        not null,
  stream           text        not null,
  sequence         bigint      not null,
  stored_at        timestamptz not null,
  subject          text        not null,
  key              text,
  headers          json        not null,
  payload          bytea       not null,
  attempts         int         not null default 0,
  next_attempt_at  timestamptz,
  first_refused_at timestamptz,
  last_refused_at  timestamptz,
  last_error       text        not null default '',
  dead_at          timestamptz,
  errors           jsonb       not null default '[]',
  unique (consumer, message_id)
);

-- what is due; a key's live in order; those of a key that are due; a key's in order; the dead
create index inbox_parked_due on :"schema".inbox_parked (consumer, next_attempt_at)
  where dead_at is null and next_attempt_at is not null;
create index inbox_parked_live on :"schema".inbox_parked (consumer, key, id) where dead_at is null;
create index inbox_parked_key_due on :"schema".inbox_parked (consumer, key)
  where dead_at is null and next_attempt_at is not null;
create index inbox_parked_key on :"schema".inbox_parked (consumer, key, id);
create index inbox_parked_dead on :"schema".inbox_parked (consumer, id) where dead_at is not null;

-- inbox_decision: who had a dead message tried again, or dropped it, and when. No payload.
create table :"schema".inbox_decision (
  id         bigint      generated always as identity primary key,
  decided_at timestamptz not null default clock_timestamp(),
  decided_by text        not null,
  action     text        not null check (action in ('retry', 'drop')),
  consumer   text        not null,
  message_id text        not null,
  subject    text        not null,
  key        text,
  attempts   int         not null,
  last_error text        not null
);
