-- dead_list: parked events for people, without payloads, and how many match in all.
--
-- takes    parked (boolean): the live ones as well, but for what is replayed; subject and
--          error_regex (regular expressions), key, error (a part of the last error, in any case),
--          code (int), older_than and newer_than (s since it died, or was parked), ids (bigint[]) and
--          event_ids (text[] of uuids): null asks for nothing; limit_rows (bigint)
-- returns  at most limit_rows rows in the order of id; is_gone says that the outbox has the event's
--          row no more; waits_for is the parked event of the same key that has to go first; total
--          counts every match; as_of is the clock, or when the last of them died: it may have been set
--          back since
-- reads    the parked once over; for the rows returned the indexes (key, id) of the live and
--          of the dead, and the outbox by id
-- locks    nothing
with matching as materialized (
  select p.id, p.event_id, p.dead_at
    from :"schema".parked as p
   where (p.dead_at is not null or %(parked)s::boolean and p.replay is null)
     and (%(ids)s::bigint[] is null
          or p.id = any (%(ids)s::bigint[])
          or p.event_id = any (%(event_ids)s::text[]::uuid[]))
     and (%(subject)s::text is null or p.subject ~ %(subject)s::text)
     and (%(key)s::text is null or p.key = %(key)s::text)
     and (%(error)s::text is null or strpos(lower(p.last_error), lower(%(error)s::text)) > 0)
     and (%(error_regex)s::text is null or p.last_error ~* %(error_regex)s::text)
     and (%(code)s::int is null or p.last_code = %(code)s::int)
     and (%(older_than)s::float8 is null
          or coalesce(p.dead_at, p.first_refused_at)
             < clock_timestamp() - make_interval(secs => %(older_than)s::float8))
     and (%(newer_than)s::float8 is null
          or coalesce(p.dead_at, p.first_refused_at)
             >= clock_timestamp() - make_interval(secs => %(newer_than)s::float8))
)
select p.id, p.event_id::text, p.subject, p.key, p.attempts, p.retries, p.created_at,
       p.first_refused_at, p.last_refused_at, p.next_attempt_at, p.dead_at, p.held_by,
       p.last_error, p.last_code,
       case when p.dead_at is null then
         coalesce(
           (select min(e.id) from :"schema".parked as e
             where e.key = p.key and e.id < p.id and e.dead_at is null),
           case when p.next_attempt_at is null then
             (select min(e.id) from :"schema".parked as e
               where e.key = p.key and e.id < p.id and e.dead_at is not null)
           end
         )
       end as waits_for,
       o.id is null as is_gone,
       (select count(*) from matching) as total,
       greatest(clock_timestamp(), (select max(m.dead_at) from matching as m)) as as_of
  from (
    select m.event_id from matching as m order by m.id, m.event_id limit %(limit_rows)s::bigint
  ) as shown
  join :"schema".parked as p on p.event_id = shown.event_id
  left join :"schema".outbox as o on o.id = p.id and o.event_id = p.event_id
 order by p.id, p.event_id
