-- outbox: the first migration. The log of events, the cursor that moves over it, and what is kept
-- beside it.
--
-- takes    schema (psql variable): an existing, empty schema
-- locks    nothing that is in use
--
-- Columns have base types, so that any driver's plain INSERT works. What can't be published is
-- refused in the producer's own statement by one CHECK: see sql/functions/publishable.sql.
set search_path = pg_catalog, pg_temp;

do $encoding$
begin
  -- NATS and JSON carry UTF-8, and the rules name characters by their code points.
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the outbox needs a database in UTF8, this one is in %',
                    pg_catalog.current_setting('server_encoding')
      using hint = 'create the database with: encoding ''UTF8'' template template0';
  end if;
end
$encoding$;

-- migration: which migrations this schema has, and of which text. Versions from 1 up are files of
-- sql/migrations, in their order; they only ever grow. Version 0 stands for sql/functions and
-- sql/views together, which are replaced whenever their text differs.
create table :"schema".migration (
  version    int         primary key,
  name       text        not null,
  checksum   text        not null,
  applied_at timestamptz not null default clock_timestamp()
);

create table :"schema".outbox (
  -- no cache for the sequence: ids of one key must ascend in the order of writing
  id              bigint      generated always as identity primary key,
  xid             xid8        not null default pg_current_xact_id(),
  created_at      timestamptz not null default clock_timestamp(),
  event_id        uuid        not null default gen_random_uuid(),
  idempotency_key text,
  subject         text        not null,
  key             text,
  payload         json,
  payload_bytes   bytea,
  headers         jsonb
);

-- Not valid for good: what an older release let in can be dumped and restored when the rules have
-- become tighter. Base types and one CHECK, for a domain's type stops drivers that ask for a
-- parameter's type, and of many conditions each costs every statement.
--
-- The first condition passes the commonest events without a call, which saves half of what the
-- CHECK costs an INSERT of many rows, and costs a one-row INSERT 6 µs; the function has the rules.
-- Each of its parts is as strict as the function's or stricter.
alter table :"schema".outbox
  add constraint outbox_publishable check (
    num_nulls(idempotency_key, payload_bytes, headers) = 3
    and subject ~ '^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$'
    and key ~ '^[!-~]+$'
    and octet_length(subject || key) <= 255
    and pg_column_size(payload) <= 4096
    and created_at <@ '[2000-01-01 00:00:00+00, 2200-01-01 00:00:00+00)'::tstzrange
    or :"schema".publishable(
      tableoid, created_at, idempotency_key, subject, key, payload, payload_bytes, headers
    )
  ) not valid;

-- Not compressed, so that the relay can bound a page in bytes without fetching the payloads.
alter table :"schema".outbox alter column payload set storage external;
alter table :"schema".outbox alter column payload_bytes set storage external;

-- The cursor's access path: what is new since a snapshot, without a look at what is old.
create index outbox_xid_id on :"schema".outbox (xid, id);
create unique index outbox_idempotency_key on :"schema".outbox (idempotency_key)
  where idempotency_key is not null;

-- Insert at one end, delete ranges at the other: fractions of the table mean nothing here, counts
-- do. Vacuum comes after 100,000 inserts (to set the visibility map while pages are in memory) or
-- 20,000 deletes (to give the space back before the next ones need it), and does not pause: a
-- vacuum that naps falls behind 10,000 rows a second.
alter table :"schema".outbox set (
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0,
  toast.autovacuum_vacuum_insert_scale_factor = 0,
  toast.autovacuum_vacuum_insert_threshold = 100000,
  toast.autovacuum_vacuum_scale_factor = 0,
  toast.autovacuum_vacuum_threshold = 20000,
  toast.autovacuum_vacuum_cost_delay = 0
);

-- cursor: one row, which says what has been delivered and which term may move it.
--
-- base                everything it sees is delivered or parked
-- target, last_id     while a backlog is paged through: the window's end, and the last id read
-- epoch, holder       the present term's number, and its holder, random per term; a settlement of
--                     another term changes nothing
-- system_identifier   the cluster to which the stored transaction ids belong
create table :"schema".cursor (
  id                boolean     primary key default true,
  base              pg_snapshot not null default '1:1:',
  target            pg_snapshot,
  last_id           bigint      not null default 0,
  epoch             bigint      not null default 0,
  holder            text,
  term_began_at     timestamptz,
  settled_at        timestamptz,
  system_identifier bigint      not null,

  constraint cursor_has_one_row check (id)
)
-- Free space keeps this row's versions on its own block, where they are pruned without vacuum;
-- vacuum comes often all the same, for it is one block.
with (
  fillfactor = 10,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 500,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0
);
insert into :"schema".cursor (system_identifier)
select s.system_identifier from pg_control_system() as s;

-- settled: what was settled when, a mark for each sixteenth of the retention. Retention counts from
-- the settlement, not from created_at, which a late committer drew long before.
create table :"schema".settled (
  settled_at timestamptz primary key,
  base       pg_snapshot not null
);

-- report: what the leader last said of itself, for who asks for the status. One row.
create table :"schema".report (
  id          boolean     primary key default true,
  epoch       bigint      not null default 0,
  reported_at timestamptz,
  lag_breaker text,
  bus_breaker text,
  delivered   bigint      not null default 0,
  refused     bigint      not null default 0,
  wakes_bell  bigint      not null default 0,
  wakes_poll  bigint      not null default 0,

  constraint report_has_one_row check (id)
) with (fillfactor = 10);
insert into :"schema".report default values;

-- stream: every stream that was ever learnt, with every subject filter it ever had. An event whose
-- subject was captured once waits for its stream; one that never was is refused.
create table :"schema".stream (
  name      text        not null,
  subject   text        not null,
  learnt_at timestamptz not null default clock_timestamp(),
  primary key (name, subject)
);

-- parked: events that are not stored and that the cursor has passed, by reference: subject, key and
-- payload are those of the outbox row, which is not pruned while one refers to it.
--
-- A parked event is dead (dead_at is set: nothing more happens by itself) or live. A live one is due
-- at next_attempt_at; without that it waits behind an earlier event of its key. The first live event
-- of a key that nothing blocks always has it.
--
-- id         the outbox row's; it is this event's only if event_id agrees
-- held_by    the outage that holds the event up; empty if it was refused, or waits
-- errors     every refusal, newest last, at most 50: [{"at", "attempt", "code", "error"}]
-- retries    how often a person had it tried again: a part of its message id from then on
create table :"schema".parked (
  event_id         uuid        primary key,
  id               bigint      not null,
  key              text,
  subject          text        not null,
  created_at       timestamptz not null,
  attempts         int         not null default 0,
  retries          int         not null default 0,
  next_attempt_at  timestamptz,
  first_refused_at timestamptz not null default clock_timestamp(),
  last_refused_at  timestamptz not null default clock_timestamp(),
  last_error       text        not null,
  last_code        int,
  dead_at          timestamptz,
  held_by          text        not null default '',
  errors           jsonb       not null default '[]',
  retried_by       text,
  retried_at       timestamptz
);

-- what prune must leave; what is due, outage by outage; the live of a key in order, and those of
-- them that wait for an earlier one; all of a key; the dead; those that an outage holds up; the
-- oldest
create index parked_id on :"schema".parked (id);
create index parked_due on :"schema".parked (held_by, next_attempt_at, id)
  where dead_at is null and next_attempt_at is not null;
create index parked_live on :"schema".parked (key, id) where dead_at is null;
create index parked_waiting on :"schema".parked (key, id)
  where dead_at is null and next_attempt_at is null;
create index parked_key_id on :"schema".parked (key, id);
create index parked_dead on :"schema".parked (id) where dead_at is not null;
create index parked_held on :"schema".parked (id) where dead_at is null and held_by <> '';
create index parked_oldest on :"schema".parked (created_at) where dead_at is null;

-- Vacuum by count, not by fraction: rows come and go in bulk when a stream was out.
alter table :"schema".parked set (
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0
);

-- decision: who had a dead event tried again, or dropped it, and when. No payload.
create table :"schema".decision (
  id         bigint      generated always as identity primary key,
  decided_at timestamptz not null default clock_timestamp(),
  decided_by text        not null,
  action     text        not null check (action in ('retry', 'drop')),
  parked_id  bigint      not null,
  event_id   uuid        not null,
  subject    text        not null,
  key        text,
  attempts   int         not null,
  last_error text
);
create index decision_parked_id on :"schema".decision (parked_id);
create index decision_event_id on :"schema".decision (event_id);
