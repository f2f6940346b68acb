-- dead_retry: let dead events be tried again; see sql/functions/retry_dead.sql.
--
-- takes    event_ids (text[] of uuids); as_of (timestamptz): only what was dead by then; by (text):
--          the name a person gives, put behind the login's; pause (float8): s until they are due
-- returns  id of those to which it was done
-- locks    the rows, in the order of id
select d.id
  from :"schema".retry_dead(
         %(event_ids)s::text[]::uuid[], %(as_of)s::timestamptz, %(by)s::text,
         %(pause)s::float8
       ) as d
