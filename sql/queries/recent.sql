-- recent: the events new since the base, when they fit in one page.
--
-- takes    base (pg_snapshot), limit_rows (int), limit_bytes (bigint), prefix (text, of message ids)
-- returns  first one row without an id: this statement's snapshot, and whether the events overflow
--          the page; then, unless they do, every new event in the order of id
-- reads    at most limit_rows + 1 entries of the index (xid, id) behind the base, and the like for
--          each transaction that was open when the base was taken
-- locks    nothing
--
-- "new" means: xid >= xmax(base), or xid was in flight at the base; and in any case visible in this
-- statement's snapshot (R-PHANTOM): a row that brought a transaction id of its own is new to every
-- snapshot for ever, and has to wait for the next term. Both arms are bounded in rows looked at
-- before anything is sorted, so a backlog of any size costs this statement the same. Neither arm
-- asks for an order: any one row too many says "overflow", and an order by id would invite a walk
-- along the primary key, past everything delivered.
with looked as materialized (
  (
    select o.*
      from :"schema".outbox as o
     where o.xid >= pg_snapshot_xmax(%(base)s::pg_snapshot)
       and o.xid < pg_snapshot_xmax(pg_current_snapshot())
     limit %(limit_rows)s::bigint + 1
  )
  union all
  (
    select late.*
      from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)
     cross join lateral (
       select o.*
         from :"schema".outbox as o
        where o.xid = straggler.xid
        limit %(limit_rows)s::bigint + 1
     ) as late
     limit %(limit_rows)s::bigint + 1
  )
),
bound as materialized (
  select count(*) > %(limit_rows)s::bigint
         or (
           count(*) > 1
           and coalesce(sum(
             coalesce(pg_column_size(n.headers), 0)
             + case
                 when n.payload is not null then
                   case when pg_column_compression(n.payload) is null
                        then pg_column_size(n.payload)
                        else octet_length(n.payload::text) end
                 else octet_length(n.payload_bytes)
               end
           ), 0) > %(limit_bytes)s::bigint
         ) as overflow
    from looked as n
)
select null::bigint as id, null as event_id, null as message_id, null as subject, null as key,
       null::timestamptz as created_at, null as headers, null::bytea as payload,
       pg_current_snapshot()::text as snapshot, overflow
  from bound
union all
select n.id, n.event_id::text,
       :"schema".message_id(%(prefix)s::text, n.idempotency_key, n.event_id, 0),
       n.subject, n.key, n.created_at, :"schema".message_headers(n.headers, n.ttl)::text,
       coalesce(n.payload_bytes, convert_to(n.payload::text, 'UTF8')),
       null, null
  from looked as n, bound
 where not bound.overflow
   and pg_visible_in_snapshot(n.xid, pg_current_snapshot())
 order by id nulls first
