-- streams: every stream that was ever learnt, with every subject filter it ever had.
--
-- takes    nothing
-- returns  name, subjects (text[])
-- reads    all of them: there are as many as streams and filters
-- locks    nothing
select s.name, array_agg(s.subject order by s.subject) as subjects
  from :"schema".stream as s
 group by s.name
