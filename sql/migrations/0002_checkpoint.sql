-- checkpoint: what each stream held when something was settled, what a stream has lost since, and
-- which parked events are stored.
--
-- takes    schema (psql variable): a schema with 0001_outbox
-- locks    nothing that is in use: it makes new tables only
--
-- A settlement is true for as long as the stream keeps what it acknowledged. JetStream acknowledges
-- from the page cache, so a power cut or an older copy of its store takes acknowledged messages away.
set search_path = pg_catalog, pg_temp;

-- checkpoint: written with the settlement, a ring for each stream. The newest ones are close
-- together, older ones twice as far apart every four: 96 rows a stream cover a month.
--
-- ring          the place in the ring, made of number
-- number        ascends; a new one every 100 ms at most; 0: nothing is known, look at all of it
-- created       when the stream was created, as the server writes it: a stream that was made anew
--               has another one
-- seq           the stream's newest message of ours; what is settled here is at or before it
-- message_id    that message's; empty if it is not known
-- sure          whether the answer named that message beyond doubt
-- after_seq     what of ours stands behind it may not be settled here
-- base, target, last_id   the cursor as this settlement left it
-- top_id        the highest id that had been delivered by then
create table :"schema".checkpoint (
  stream     text        not null,
  ring       int         not null,
  number     bigint      not null,
  created    text        not null,
  seq        bigint      not null,
  message_id text        not null,
  sure       boolean     not null,
  after_seq  bigint      not null,
  base       pg_snapshot not null,
  target     pg_snapshot,
  last_id    bigint      not null,
  top_id     bigint      not null,
  settled_at timestamptz not null default clock_timestamp(),
  primary key (stream, ring)
)
with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0
);

-- repair: a stream was found to have lost messages, and the cursor went back. While ended_at is
-- null, what (base, target, last_id) see was delivered before; of that, only what goes to such a
-- stream is published again.
--
-- seq                 up to which the stream still holds what it acknowledged
-- after_id, up_to_id  what it lost are events of these ids, the first one excluded
-- gone_from, gone_to  those of them that the outbox no longer has; null if it has all
-- repaired            events that were published again
-- remembered          events that JetStream did not store again, for it remembers their message ids
create table :"schema".repair (
  id         bigint      generated always as identity primary key,
  stream     text        not null,
  began_at   timestamptz not null default clock_timestamp(),
  ended_at   timestamptz,
  seq        bigint      not null,
  after_id   bigint      not null,
  up_to_id   bigint      not null,
  gone_from  bigint,
  gone_to    bigint,
  repaired   bigint      not null default 0,
  remembered bigint      not null default 0,
  base       pg_snapshot not null,
  target     pg_snapshot,
  last_id    bigint      not null
);
create index repair_open on :"schema".repair (id) where ended_at is null;

-- unparked: parked events that were stored, for as long as the retention: no place of the cursor
-- says when that was, and a stream that lost them gets them again from here.
create table :"schema".unparked (
  event_id    uuid        not null,
  id          bigint      not null,
  key         text,
  subject     text        not null,
  created_at  timestamptz not null,
  retries     int         not null,
  unparked_at timestamptz not null default clock_timestamp()
)
with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
create index unparked_id on :"schema".unparked (id);
create index unparked_unparked_at on :"schema".unparked (unparked_at);
