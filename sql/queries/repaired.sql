-- repaired: count what a page published again; end the repair.
--
-- takes    epoch, holder: the term, which must still last; repaired, remembered (bigint): events;
--          over (boolean): all that was delivered before has been read again
-- returns  nothing
-- locks    the rows of the repairs under way, and the oldest beyond a hundred, which it deletes
with mine as (
  select c.epoch from :"schema".cursor as c
   where c.epoch = %(epoch)s::bigint and c.holder = %(holder)s::text
),
counted as (
  update :"schema".repair as r
     set repaired = r.repaired + %(repaired)s::bigint,
         remembered = r.remembered + %(remembered)s::bigint,
         ended_at = case when %(over)s::boolean then clock_timestamp() end
    from mine
   where r.ended_at is null
)
delete from :"schema".repair as r
 using mine
 where r.ended_at is not null
   and r.id < (select max(n.id) - 100 from :"schema".repair as n)
