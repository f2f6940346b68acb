-- demo.orders: the demo's business, which the events tell about.
--
-- takes    nothing
-- locks    nothing that is in use
--
-- version is raised by each change of an order, in the transaction that emits the event about it:
-- the producers' own word on the order of a key's events.
create schema demo;

create table demo.orders (
  id           bigint generated always as identity primary key,
  state        text   not null default 'placed' check (state in ('placed', 'paid', 'shipped')),
  version      int    not null default 1,
  amount_cents int    not null
)
-- An order changes twice: with free space its versions stay on their page.
with (fillfactor = 50);

-- what can still be paid or shipped, the oldest first
create index orders_open on demo.orders (id) where state <> 'shipped';
