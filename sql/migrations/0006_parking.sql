-- parking: the parked become a queue, which the relay tries again, and people decide on the dead.
--
-- takes    schema (psql variable)
-- locks    parked, cursor and the status view, exclusively, for as long as it takes to rewrite nothing
--
-- A parked row is dead (dead_at is set: nothing more happens by itself) or live. A live one is due at
-- next_attempt_at; without that it waits behind an earlier event of its key. The first live row of a
-- key that nothing blocks always has it.
--
-- held_by  the outage of a stream that holds the event up; empty if it was refused, or waits
-- errors   every refusal, newest last, at most 50: [{"at", "attempt", "code", "error"}]
-- retries  how often a person had it tried again: a part of its message id from then on
alter table :"schema".parked
  add column held_by    text        not null default '',
  add column errors     jsonb       not null default '[]',
  add column retries    int         not null default 0,
  add column retried_by text,
  add column retried_at timestamptz;

update :"schema".parked as p
   set errors = jsonb_build_array(jsonb_build_object(
         'at', p.last_refused_at, 'attempt', p.attempts, 'code', p.last_code, 'error', p.last_error));

-- what is due, outage by outage; the live of a key in order, and those of them that wait for an
-- earlier one; the dead; the oldest that an outage holds up
drop index :"schema".parked_next_attempt_at;
create index parked_due on :"schema".parked (held_by, next_attempt_at, id)
  where dead_at is null and next_attempt_at is not null;
create index parked_live on :"schema".parked (key, id) where dead_at is null;
create index parked_waiting on :"schema".parked (key, id)
  where dead_at is null and next_attempt_at is null;
create index parked_dead on :"schema".parked (id) where dead_at is not null;
create index parked_held on :"schema".parked (id) where dead_at is null and held_by <> '';

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

-- where the leader's breakers stand; null before it first said so
alter table :"schema".cursor
  add column lag_breaker text,
  add column bus_breaker text;

-- status: one row. Cheap at any size: it looks at no more than 10,000 events that wait, and says by
-- backlog_is_capped that there may be more. "dead" is part of "parked". In a window it looks
-- behind last_id only: a few that committed late at a lower id are counted when the window ends.
-- What an outage of its stream holds up counts for the lag. Above 10,000, parked, dead and held are
-- what vacuum or analyze counted last.
create or replace view :"schema".status as
with c as materialized (
  select k.* from :"schema".cursor as k where k.id
),
waiting as materialized (
  select w.created_at
    from (
      (
        select o.created_at
          from c cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is null
               and o.xid >= pg_snapshot_xmax(c.base)
             order by o.xid, o.id
             limit 10000
          ) as o
      )
      union all
      (
        select o.created_at
          from c
         cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
         cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is null
               and o.xid between straggler.xid and straggler.xid
             order by o.xid, o.id
             limit 10000
          ) as o
      )
      union all
      (
        select o.created_at
          from c cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is not null
               and o.id > c.last_id
               and not pg_visible_in_snapshot(o.xid, c.base)
             order by o.id
             limit 10000
          ) as o
      )
    ) as w
   limit 10000
),
backlog as (
  select count(*) as events, min(w.created_at) as oldest_created_at from waiting as w
),
bounded as (
  select (select count(*)
            from (select from :"schema".parked as p order by p.id limit 10000) as k) as parked,
         (select count(*)
            from (select from :"schema".parked as p
                   where p.dead_at is not null order by p.id limit 10000) as k) as dead,
         (select count(*)
            from (select from :"schema".parked as p
                   where p.dead_at is null and p.held_by <> '' order by p.id limit 10000) as k)
           as held,
         (select p.created_at from :"schema".parked as p
           where p.dead_at is null and p.held_by <> '' order by p.id limit 1) as oldest_held_at
),
estimate as (
  select s.relname, s.reltuples::bigint as events
    from pg_index as i
    join pg_class as s on s.oid = i.indexrelid
   where i.indrelid = (select p.tableoid from :"schema".parked as p limit 1)
),
refused as (
  select case when b.parked < 10000 then b.parked
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_pkey')) end as parked,
         case when b.dead < 10000 then b.dead
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_dead')) end as dead,
         case when b.held < 10000 then b.held
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_held')) end as held,
         b.oldest_held_at
    from bounded as b
)
select c.epoch,
       c.holder,
       c.term_began_at,
       c.settled_at,
       c.delivered,
       c.refused,
       b.events as backlog,
       b.events >= 10000 as backlog_is_capped,
       least(b.oldest_created_at, r.oldest_held_at) as oldest_created_at,
       coalesce(greatest(extract(
         epoch from clock_timestamp() - least(b.oldest_created_at, r.oldest_held_at)), 0), 0)::float8
         as lag_seconds,
       r.parked,
       r.dead,
       c.base,
       c.target,
       c.last_id,
       c.wakes_bell,
       c.wakes_grant,
       c.wakes_poll,
       c.lag_breaker,
       c.bus_breaker,
       r.held
  from c, backlog as b, refused as r;
