-- inbox_prune: forget messages that a consumer took long ago; one bounded chunk.
--
-- takes    consumer; retention: longer than any copy of a message can come late; chunk_rows
-- returns  how many rows went
-- locks    the deleted rows
--
-- Parked messages are remembered for as long as they are parked.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".inbox_prune(
  consumer   text,
  retention  interval,
  chunk_rows int default 10000
) returns bigint
language sql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $prune$
  with gone as (
    delete from inbox as i
     where i.ctid = any (array(
             select o.ctid
               from inbox as o
              where o.consumer = $1
                and o.taken_at < clock_timestamp() - $2
                and not exists (select from inbox_parked as p
                                 where p.consumer = o.consumer and p.message_id = o.message_id)
              order by o.taken_at
              limit $3
                for update skip locked
           ))
    returning 1
  )
  select count(*) from gone
$prune$;
