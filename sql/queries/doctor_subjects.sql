-- doctor_subjects: the subjects of the newest events.
--
-- takes    nothing
-- returns  subject, each once, at most 100
-- reads    1,000 rows at the end of the outbox
-- locks    nothing
select distinct newest.subject
  from (select o.subject from :"schema".outbox as o order by o.id desc limit 1000) as newest
 order by newest.subject
 limit 100
