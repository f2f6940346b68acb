-- The second bank: balances that begin at 0, the movements in the order of their coming, and
-- whatever did not fit: a teller whose balance is not what the movement says it has to be.
create table account (aid int primary key, balance bigint not null);
create table teller (tid int primary key, balance bigint not null);
create table movement (
  n bigint generated always as identity, tid int, bid int, aid int, delta int
);
create table wrong (at timestamptz default clock_timestamp(), tid int, expected bigint, found bigint);
