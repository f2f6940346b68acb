-- undo: the table is not adopted any more. Rows that still wait are moved first.
--
-- takes    table; schema; function; rows
-- locks    the table, for a moment
drop trigger relay_adopt on :"table";
drop function :"schema".:"function"();
