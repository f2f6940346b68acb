-- decide: retry or drop dead messages (see the functions inbox_retry and inbox_drop).
--
-- takes    action (text: retry or drop), ids (bigint[]), who (text)
-- returns  id of each to which it was done
-- locks    their consumers' rows for key share, and their keys
select d.id
  from (select case when %(action)s::text = 'retry'
                    then array(select :"schema".inbox_retry(%(ids)s::bigint[], %(who)s::text))
                    else array(select :"schema".inbox_drop(%(ids)s::bigint[], %(who)s::text))
               end as ids) as done,
       unnest(done.ids) as d (id)
