-- poison: refused by the columns' types instead of a trigger.
--
-- takes    schema (psql variable)
-- locks    outbox, exclusively, for as long as it takes to rewrite nothing
--
-- What can't be published is refused in the producer's own statement, whether it comes by INSERT,
-- UPDATE, COPY or emit, and whoever writes. A domain's test is planned once a session and costs no
-- trigger and no copy of the row: see README, Measured. Each passes at once what nearly every event
-- looks like, and asks a function about the rest: that one decides, and says what is wrong.
--
-- Not validated: what the outbox holds was refused by the same rules before.
drop trigger refuse_poison on :"schema".outbox;
drop view :"schema".pending;

create domain :"schema".event_subject         as text;
create domain :"schema".event_key             as text;
create domain :"schema".event_idempotency_key as text;
create domain :"schema".event_payload         as json;
create domain :"schema".event_payload_bytes   as bytea;
create domain :"schema".event_headers         as jsonb;

-- While a domain has no test this rewrites nothing.
alter table :"schema".outbox
  alter column subject         type :"schema".event_subject,
  alter column key             type :"schema".event_key,
  alter column idempotency_key type :"schema".event_idempotency_key,
  alter column payload         type :"schema".event_payload,
  alter column payload_bytes   type :"schema".event_payload_bytes,
  alter column headers         type :"schema".event_headers;

-- A new type takes its own way of storing; uncompressed is how the relay bounds a page in bytes
-- without fetching the payloads.
alter table :"schema".outbox
  alter column payload       set storage external,
  alter column payload_bytes set storage external;

alter domain :"schema".event_subject add constraint event_subject check (
  regexp_like(value, '^[A-Za-z0-9-][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$') and octet_length(value) <= 255
  or :"schema".check_subject(value)
) not valid;
alter domain :"schema".event_key add constraint event_key check (
  value is null
  or regexp_like(value, '^[!-~]+$') and octet_length(value) <= 255
  or :"schema".check_key(value, 'key')
) not valid;
alter domain :"schema".event_idempotency_key add constraint event_idempotency_key check (
  value is null
  or regexp_like(value, '^[!-~]+$') and octet_length(value) <= 255
  or :"schema".check_key(value, 'idempotency_key')
) not valid;
alter domain :"schema".event_payload add constraint event_payload check (
  value is null
  or pg_column_size(value) <= 4096  -- even compressed, 255 times at best, that is less than 1 MiB
  or :"schema".check_payload_size(octet_length(value::text), 'payload')
) not valid;
alter domain :"schema".event_payload_bytes add constraint event_payload_bytes check (
  value is null
  or octet_length(value) <= 1048576
  or :"schema".check_payload_size(octet_length(value), 'payload_bytes')
) not valid;
alter domain :"schema".event_headers add constraint event_headers check (
  value is null or :"schema".check_headers(value)
) not valid;

alter table :"schema".outbox
  add constraint outbox_one_of_payload_and_payload_bytes_is_given check (
    (payload is null) <> (payload_bytes is null)
    or :"schema".check_one_payload(payload is not null)
  ) not valid;

-- pending: committed events that are not settled yet. As long as the backlog: for people.
-- "New since the base" is written as two arms that the index (xid, id) can answer; in a window,
-- the part of it that is done goes out again.
create view :"schema".pending as
with new as (
  select o.id, o.xid, o.created_at, o.event_id, o.idempotency_key, o.subject, o.key,
         c.target, c.last_id
    from :"schema".cursor as c
    join :"schema".outbox as o on o.xid >= pg_snapshot_xmax(c.base)
   where c.id
  union all
  select o.id, o.xid, o.created_at, o.event_id, o.idempotency_key, o.subject, o.key,
         c.target, c.last_id
    from :"schema".cursor as c
   cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
    join :"schema".outbox as o on o.xid between straggler.xid and straggler.xid
   where c.id
)
select n.id, n.created_at, n.event_id, n.idempotency_key::text, n.subject::text, n.key::text
  from new as n
 where n.target is null
    or n.id > n.last_id
    or not pg_visible_in_snapshot(n.xid, n.target);
