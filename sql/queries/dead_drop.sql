-- dead_drop: give dead events up for good; see sql/functions/drop_dead.sql.
--
-- takes    event_ids (text[] of uuids); as_of (timestamptz): only what was dead by then; by (text):
--          the name a person gives, put behind the login's
-- returns  id of those to which it was done
-- locks    the parked against writing
select d.id
  from :"schema".drop_dead(
         %(event_ids)s::text[]::uuid[], %(as_of)s::timestamptz, %(by)s::text
       ) as d
