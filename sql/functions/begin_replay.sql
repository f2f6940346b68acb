-- begin_replay: note that a person has events published again, or goes on with that; the audit.
--
-- takes    replay: one to go on with, or null for a new one, of which then: wanted, the filters;
--          same_id; first_id, last_id, events: the range of what matches, and how many; who: the
--          name a person gives, put behind the login's, at most 500 characters of it
-- returns  the replay's id
-- locks    the new row; of one to go on with, its row
--
-- It publishes nothing: mark_replay hands events to the relay that leads. The base is the settled
-- one: what is not delivered yet is no replay's.
--
-- Runs with the owner's rights, as retry_dead does: no operator writes the audit in any other way.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".begin_replay(
  replay   bigint,
  wanted   jsonb,
  same_id  boolean,
  first_id bigint,
  last_id  bigint,
  events   bigint,
  who      text
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, :"schema", pg_temp
as $begin$
#variable_conflict use_column
declare
  decided_by constant text := session_user || coalesce(' (' || left(who, 500) || ')', '');
  begun      bigint;
begin
  if begin_replay.replay is null then
    insert into replay (
      asked_by, wanted, same_id, base, first_id, last_id, events, kept_until
    )
    select decided_by, begin_replay.wanted, begin_replay.same_id, c.base, begin_replay.first_id,
           begin_replay.last_id, begin_replay.events, clock_timestamp() + interval '10 min'
      from cursor as c
    returning id into begun;
  else
    update replay as r
       set kept_until = clock_timestamp() + interval '10 min'
     where r.id = begin_replay.replay
       and r.ended_at is null
    returning r.id into begun;
  end if;
  if begun is null then
    raise exception 'replay % is not there, or has ended', begin_replay.replay
      using errcode = 'no_data_found';
  end if;
  insert into decision (decided_by, action, replay) values (decided_by, 'replay', begun);
  return begun;
end
$begin$;

revoke all on function :"schema".begin_replay(
  bigint, jsonb, boolean, bigint, bigint, bigint, text
) from public;
