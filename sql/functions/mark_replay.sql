-- mark_replay: put the next events of a replay among the parked, for the relay that leads (R-ORDER).
--
-- takes    replay; ids (bigint[]): rows of the outbox, whole keys one behind the other, each key in
--          the order of id; empty to mark none; first_id: the first id of the last one's key; goes_on:
--          the last one's key has more to come; ended: this was all
-- returns  marked: how many of ids were put among the parked. Those that are parked already are not,
--          nor those whose rows are gone
-- locks    the replay's row, and the last event marked before; the new rows
--
-- From the first event of a key on until its last one is stored the fence is closed, so that no
-- live event of the key comes between. Where a key goes on behind the chunk, its last event is not
-- due for 20 s, unless the next call lets it go; a call without ids, but with goes_on, gives it
-- another 20 s. So a key is held up for that long at most when whoever replays has died.
--
-- The first of each key is due at once. If another one stands before it, due puts it back: asking
-- the fence here would miss one that leaves at the same moment.
--
-- Runs with the owner's rights, as begin_replay does, which has written the audit.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".mark_replay(
  replay   bigint,
  ids      bigint[],
  first_id bigint,
  goes_on  boolean,
  ended    boolean
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, :"schema", pg_temp
as $mark$
#variable_conflict use_column
declare
  this       record;
  many       constant int     := cardinality(mark_replay.ids);
  holds_last constant boolean := mark_replay.goes_on and cardinality(mark_replay.ids) = 0;
  before_key text;
  inserted   bigint;
begin
  select r.* into this
    from replay as r
   where r.id = mark_replay.replay
     and r.ended_at is null
     for update;
  if not found then
    raise exception 'replay % is not there, or has ended', mark_replay.replay
      using errcode = 'no_data_found';
  end if;

  update parked as p
     set next_attempt_at = clock_timestamp() + interval '20 s' * holds_last::int
   where p.id = this.place
     and p.replay = this.id
     and p.dead_at is null
     and p.attempts = 0
     and p.held_by = ''
     and p.next_attempt_at is not null
  returning p.key into before_key;

  insert into parked (
    event_id, id, key, subject, created_at, retries, next_attempt_at, last_error, replay
  )
  select o.event_id, o.id, left(o.key, 500), o.subject,
         case when o.created_at between '0001-01-01 UTC'::timestamptz and '9999-12-31 UTC'::timestamptz
              then o.created_at else clock_timestamp() end,
         case when this.same_id then (
           select count(*)::int from decision as d
            where d.event_id = o.event_id and d.action = 'retry'
         ) else 0 end,
         case
           when mark_replay.goes_on and m.place = many
             then clock_timestamp() + interval '20 s'
           when o.key is null
                or o.key is distinct from lag(o.key) over (order by m.place)
                   and o.key is distinct from before_key
             then clock_timestamp()
         end,
         'is published again by replay ' || this.id,
         this.id
    from unnest(mark_replay.ids) with ordinality as m (id, place)
    join outbox as o on o.id = m.id
    join cursor as c on pg_visible_in_snapshot(o.xid, c.base)
   where pg_visible_in_snapshot(o.xid, this.base)
   order by m.place
      on conflict (event_id) do nothing;
  get diagnostics inserted = row_count;

  update replay as r
     set marked = r.marked + inserted,
         place_first = case when many = 0 then r.place_first else mark_replay.first_id end,
         place = case when many = 0 then r.place else mark_replay.ids[many] end,
         kept_until = clock_timestamp() + interval '10 min' * (not mark_replay.ended)::int,
         ended_at = case when mark_replay.ended then clock_timestamp() end
   where r.id = this.id;
  return inserted;
end
$mark$;

revoke all on function :"schema".mark_replay(bigint, bigint[], bigint, boolean, boolean) from public;
