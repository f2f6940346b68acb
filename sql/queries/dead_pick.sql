-- dead_pick: walk over the next dead events, and say which of them a person means.
--
-- takes    after (bigint) and after_event (text of a uuid): the walk begins behind this event;
--          limit_rows (bigint): how far it goes; as_of (timestamptz): the clock for older_than and
--          newer_than; the filters as dead_list
-- returns  id, event_id (text) and meant (boolean) of each dead event on the walk, in the order of
--          id and event_id; fewer than limit_rows only at the end
-- reads    limit_rows entries of the index of the dead
-- locks    nothing: retry_dead and drop_dead look again
--
-- Bounded by what is walked over, not by what is found: with a filter, the planner's guess of how
-- many match is so wrong that it would sort all the rest for every chunk.
select p.id,
       p.event_id::text,
       (%(subject)s::text is null or p.subject ~ %(subject)s::text)
       and (%(key)s::text is null or coalesce(p.key = %(key)s::text, false))
       and (%(error)s::text is null or strpos(lower(p.last_error), lower(%(error)s::text)) > 0)
       and (%(error_regex)s::text is null or p.last_error ~* %(error_regex)s::text)
       and (%(code)s::int is null or coalesce(p.last_code = %(code)s::int, false))
       and (%(older_than)s::float8 is null
            or p.dead_at < %(as_of)s::timestamptz - make_interval(secs => %(older_than)s::float8))
       and (%(newer_than)s::float8 is null
            or p.dead_at >= %(as_of)s::timestamptz - make_interval(secs => %(newer_than)s::float8))
         as meant
  from :"schema".parked as p
 where p.id >= %(after)s::bigint
   and (p.id, p.event_id) > (%(after)s::bigint, %(after_event)s::text::uuid)
   and p.dead_at is not null
 order by p.id, p.event_id
 limit %(limit_rows)s::bigint
