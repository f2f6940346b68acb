-- replay: what a person has published again, and which parked events are there for it.
--
-- takes    schema (psql variable): a schema with the migrations before this one
-- locks    parked and decision against everything, for as long as an index over the parked takes;
--          producers touch neither
--
-- replay: one row for each replay that was begun. It may be continued until it has ended.
--
-- wanted          the filters, as the command gave them
-- same_id         whether the messages bear the ids that they had before
-- base            what it sees was delivered when the replay began; nothing else is replayed
-- first_id, last_id, events   the range of what matched, and how many
-- marked          how many of them were put among the parked
-- place_first, place   how far that came: the first id of the last one's key, and its own
-- kept_until      until then prune leaves the rows of the range, so that none goes before its turn
set search_path = pg_catalog, pg_temp;

create table :"schema".replay (
  id          bigint      generated always as identity primary key,
  began_at    timestamptz not null default clock_timestamp(),
  asked_by    text        not null,
  wanted      jsonb       not null,
  same_id     boolean     not null,
  base        pg_snapshot not null,
  first_id    bigint      not null,
  last_id     bigint      not null,
  events      bigint      not null,
  marked      bigint      not null default 0,
  place_first bigint      not null default -9223372036854775808,
  place       bigint      not null default -9223372036854775808,
  kept_until  timestamptz not null,
  ended_at    timestamptz
);

-- A parked event with a replay was delivered before. It counts neither as parked nor for the lag.
alter table :"schema".parked add column replay bigint;
create index parked_replay on :"schema".parked (replay) where replay is not null;
drop index :"schema".parked_oldest;
create index parked_oldest on :"schema".parked (created_at) where dead_at is null and replay is null;

-- A replay is one decision about many events, which stand in its row.
alter table :"schema".decision
  add column replay bigint,
  alter column parked_id drop not null,
  alter column event_id drop not null,
  alter column subject drop not null,
  alter column attempts drop not null,
  drop constraint decision_action_check,
  add constraint decision_action_check check (action in ('retry', 'drop', 'replay')),
  add constraint decision_is_about_something check (
    (action = 'replay') = (replay is not null)
    and num_nulls(parked_id, event_id, subject, attempts) = case when replay is null then 0 else 4 end
  );

-- Both have one more parameter now; a call without it means the same as before.
-- In a new schema there are none, which is nothing to tell a person.
set client_min_messages = warning;
drop function if exists :"schema".message_id(text, text, uuid, int);
drop function if exists :"schema".retry_dead(uuid[], timestamptz, text);
reset client_min_messages;
