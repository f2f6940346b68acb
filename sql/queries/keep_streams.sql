-- keep_streams: remember streams and their filters; what was remembered before stays.
--
-- takes    names, subjects (text[]), side by side
-- returns  nothing
-- locks    the new rows
insert into :"schema".stream (name, subject)
select distinct given.name, given.subject
  from unnest(%(names)s::text[], %(subjects)s::text[]) as given (name, subject)
    on conflict (name, subject) do nothing
