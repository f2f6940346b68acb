-- unpark: events that were parked are stored now; kept for as long as the stream may lose them.
--
-- takes    event_ids (json: an array)
-- returns  their keys, each once
-- locks    their rows
--
-- The time is that of the settlement's transaction, as that of its checkpoint is.
with stored as (
  delete from :"schema".parked as p
   where p.event_id = any (array(
           select e.id::uuid from json_array_elements_text(%(event_ids)s::json) as e (id)))
  returning p.event_id, p.id, p.key, p.subject, p.created_at, p.retries, p.replay
),
kept as (
  insert into :"schema".unparked (event_id, id, key, subject, created_at, retries, unparked_at)
  select s.event_id, s.id, s.key, s.subject, s.created_at, s.retries, now()
    from stored as s
   where s.replay is null  -- that was delivered before: what is lost of it can be replayed again
)
select distinct s.key from stored as s
