-- dead_lock: let nobody else change the parked until this transaction ends.
--
-- takes    nothing
-- returns  nothing
-- locks    the parked against writing; reading goes on
--
-- Whoever takes an event away lets the next of its key be due. If the relay took one away and a
-- person another one of the same key, each not yet seeing what the other does, the next would be
-- left behind by both.
lock table :"schema".parked in share row exclusive mode
