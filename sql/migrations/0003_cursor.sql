-- cursor: one row, which says what has been delivered and which term may move it.
--
-- takes    schema (psql variable)
-- locks    nothing that is in use
--
-- base                everything it sees is delivered or parked
-- target, last_id     while a backlog is paged through: the window's end, and the last id read
-- epoch               the number of the present term; a settlement of another epoch changes nothing
-- system_identifier   the cluster to which the stored transaction ids belong
create table :"schema".cursor (
  id                boolean     primary key default true,
  base              pg_snapshot not null default '1:1:',
  target            pg_snapshot,
  last_id           bigint      not null default 0,
  epoch             bigint      not null default 0,
  holder            text,
  term_began_at     timestamptz,
  system_identifier bigint,
  settled_at        timestamptz,
  delivered         bigint      not null default 0,
  refused           bigint      not null default 0,
  wakes_bell        bigint      not null default 0,
  wakes_grant       bigint      not null default 0,
  wakes_poll        bigint      not null default 0,

  constraint cursor_has_one_row check (id)
)
-- This row is updated for every page. Free space keeps its versions on its own block, where they
-- are pruned without vacuum; vacuum comes often all the same, for it is one block.
with (
  fillfactor = 10,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 500,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0
);

insert into :"schema".cursor default values;
