-- ahead: look for a window's rows by the index of what is new, one piece of one range at a time.
--
-- takes    target (pg_snapshot): the window's end; last_id (bigint): only rows behind it;
--          after_xid (text of an xid8), after_id (bigint): the piece begins behind them; up_to_xid
--          (text of an xid8): and ends with it; limit_rows (bigint): or behind so many
-- returns  ids (bigint[], in no order); xid (text), id: where the piece ended, null if nothing was
--          looked at; more (boolean): whether the range goes on
-- reads    limit_rows entries of the index (xid, id)
-- locks    nothing
--
-- For a window that is sparse here: a walk along the primary key would pass everything delivered.
with looked as materialized (
  select o.xid, o.id
    from :"schema".outbox as o
   where (o.xid, o.id) > (%(after_xid)s::text::xid8, %(after_id)s::bigint)
     and o.xid <= %(up_to_xid)s::text::xid8
   order by o.xid, o.id
   limit %(limit_rows)s::bigint
)
select array(
         select l.id
           from looked as l
          where l.id > %(last_id)s::bigint
            and pg_visible_in_snapshot(l.xid, %(target)s::pg_snapshot)
       ) as ids,
       ended.xid::text, ended.id,
       (select count(*) from looked) = %(limit_rows)s::bigint as more
  from (select 1) as once
  left join lateral (
    select l.xid, l.id from looked as l order by l.xid desc, l.id desc limit 1
  ) as ended on true
