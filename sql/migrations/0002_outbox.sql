-- outbox: the log of events. Rows are inserted once and never updated.
--
-- takes    schema (psql variable)
-- locks    nothing that is in use
--
-- What can't be published is refused at the door, whether it comes by INSERT, COPY or emit: see
-- sql/functions/refuse_poison.sql. What comes in rings the doorbell: see sql/functions/ring.sql.
do $encoding$
begin
  -- NATS and JSON carry UTF-8, and the rules for poison name characters by their code points.
  if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the outbox needs a database in UTF8, this one is in %',
                    pg_catalog.current_setting('server_encoding')
      using hint = 'create the database with: encoding ''UTF8'' template template0';
  end if;
end
$encoding$;

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

create trigger refuse_poison
  before insert or update of idempotency_key, subject, key, payload, payload_bytes, headers
  on :"schema".outbox
  for each row execute function :"schema".refuse_poison();

create trigger doorbell
  after insert on :"schema".outbox
  for each statement execute function :"schema".ring();
