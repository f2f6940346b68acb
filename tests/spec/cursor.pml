/*
 * cursor: the snapshot cursor reads each committed row once in a term (R-PHANTOM, R-LOSS, R-ORDER).
 *
 * Speaks of  relay/postgres/reading.py  base, target and last_id, and how a read moves them
 *            relay/engine/deliver.py    publish a page, then settle it
 *            the queries page, begin_term and settle in sql/queries
 *
 * Holds      No row is read twice in a term. When all transactions have ended and a read finds
 *            nothing, every committed row was published, crashes or not; no other row ever was.
 *            Rows of one key, written under a lock of the key, are published by id: no first
 *            publication comes before that of a lower id, and none in a term behind a higher one.
 *
 * Abstracted One row a transaction; two transactions share a key, the third has none. A fourth row
 *            comes from a restored dump, with an xid that no transaction here has had yet.
 *            A snapshot is the set of the ids that had ended: a bit an id. Postgres' xmax is one
 *            above the highest of them, xip is what is missing below, and
 *            pg_visible_in_snapshot(x, s) is the bit x of s. The relay may crash twice, anywhere
 *            between two steps; a settlement may be left out (or lost, which is the same).
 *            That a page is found by walking an index, and bounded in bytes, is left out.
 *
 * Variants   Without one, it holds, with a page of one row or of two (-DLIMIT=2). Each -D brings
 *            back one mistake (must be violated):
 *   ID_ABOVE_LAST          new is what has a higher id than the last
 *   BASE_AFTER_READ        the base is a snapshot from behind the read, not the read's own
 *   NO_XIP                 new is xid >= xmax(base) alone: who ran then is forgotten
 *   ARM_WITHOUT_VISIBLE    what is at or above xmax(base) is new, visible in the target or not
 *   MOVING_TARGET          a window's pages see what became visible since it began
 *   BASE_AT_WINDOW_END     behind a window the base is the last page's snapshot, not the target
 *   ORDER_BY_XID           a page is ordered by xid
 *   SETTLE_BEFORE_PUBLISH  the cursor moves when a page is read
 *   TERM_FROM_MEMORY       a new term goes on where the old one had read to
 *   NO_STAMP               rows from a dump keep their xid when a term begins
 *   NO_KEY_LOCK            not a mistake of the relay: without the lock, nobody promises an order
 * or asks whether something happens at all (must be found):
 *   REACH_STRAGGLER        a row is published behind a row with a higher id
 *   REACH_WINDOW_CRASH     a term begins inside a window
 *   REACH_AGAIN            a second term publishes a row again
 *   REACH_STAMPED          a row from a dump is published
 */

#ifndef LIMIT
#define LIMIT 1
#endif
#define WRITERS 3
#define ROWS 4
#define DUMPED 3            /* the row from a dump */
#define FUTURE 15           /* its xid */
#define CRASHES 2

#define BIT(x) (1 << (x))
#define HAS(snapshot, x) ((snapshot & BIT(x)) != 0)
#define SAME_KEY(a, b) (a < 2 && b < 2)

/* Postgres. */
byte next = 1;              /* the next transaction id */
short ended;                /* the ids that have ended: what a snapshot taken now is */
byte nextval = 2;           /* the sequence; the row from a dump has id 1 */
bool key_held;
byte open = WRITERS + 1;    /* writers, and the dump, that have not ended */
bool committed[ROWS];
byte id[ROWS], xid[ROWS];

/* The cursor as settled, and the world's memory of what was published. */
short d_base, d_target;     /* target 0: no window */
byte d_last;
bool ever[ROWS];            /* published, in any term */

#ifdef NO_KEY_LOCK
#define LOCKS(w) false
#else
#define LOCKS(w) (w < 2)
#endif

/* Visible first, then the locks go. */
inline end() {
    ended = ended | BIT(x); open--; x = 0;
    key_held = (LOCKS(me) -> false : key_held)
}

/* Early drawn or not, every order of ids and xids among the writers can come about. */
proctype writer(byte me) {
    byte x;
    if
    :: d_step { true -> x = next; next++ }      /* by another statement, long before the INSERT */
    :: true
    fi;
    d_step {                                    /* the lock of the key, then the INSERT */
        !LOCKS(me) || !key_held ->
        key_held = key_held || LOCKS(me);
        if
        :: x == 0 -> x = next; next++
        :: else
        fi;
        id[me] = nextval; nextval++; xid[me] = x
    };
    if
    :: d_step { true -> committed[me] = true; end() }
    :: d_step { true -> end() }                 /* aborts: its id is a gap for good */
    fi
}

/* Somebody restores a row from another cluster, at any time. */
active proctype dump() {
    d_step { id[DUMPED] = 1; xid[DUMPED] = FUTURE; committed[DUMPED] = true; open-- }
}

#ifdef ORDER_BY_XID
#define place xid
#else
#define place id
#endif

/* Is row r new, for a statement whose snapshot or target is `upto`? */
#if defined(ID_ABOVE_LAST)
#define NEW(r) (committed[r] && place[r] > last)
#elif defined(NO_XIP)
#define NEW(r) (committed[r] && BIT(xid[r]) > base && HAS(upto, xid[r]) && place[r] > last)
#elif defined(ARM_WITHOUT_VISIBLE)
#define BETWEEN(x) (!HAS(base, x) && HAS(upto, x))
#define NEW(r) (committed[r] && place[r] > last && (BIT(xid[r]) > base || BETWEEN(xid[r])))
#else
#define NEW(r) (committed[r] && !HAS(base, xid[r]) && HAS(upto, xid[r]) && place[r] > last)
#endif

#define BEFORE(a, b) (place[a] < place[b])

/* pick: the row r that comes first among those for which `these` holds; ROWS if there is none. */
#define FIRST(these) \
    pick = ROWS; \
    for (r : 0 .. ROWS - 1) { \
        if \
        :: (these) && (pick == ROWS || BEFORE(r, (pick % ROWS))) -> pick = r \
        :: else \
        fi \
    }

/* One page in one statement; the position moves behind it, in memory. */
inline read() {
    d_step {
        upto = (target != 0 -> target : ended);
#ifdef MOVING_TARGET
        upto = ended;
#endif
        count = 0;
        do
        :: count < LIMIT ->
           FIRST(NEW(r) && !page[r]);
           if
           :: pick < ROWS ->
              assert(!term_read[pick]);             /* once in a term */
              term_read[pick] = true; page[pick] = true; count++
           :: else -> break
           fi
        :: else -> break
        od;
        FIRST(NEW(r) && !page[r]);
        if
        :: pick < ROWS ->                           /* there is more: a window, if not yet one */
           target = upto;
           for (r : 0 .. ROWS - 1) {
               last = (page[r] && place[r] > last -> place[r] : last)
           }
        :: else ->
#ifdef ID_ABOVE_LAST
           for (r : 0 .. ROWS - 1) {
               last = (page[r] && place[r] > last -> place[r] : last)
           };
#else
           last = 0;
#endif
#ifdef BASE_AT_WINDOW_END
           base = ended;
#else
           base = upto;
#endif
           target = 0
        fi;
        r = 0; pick = 0; upto = 0
    }
}

/* The first row of the page, in its order. */
inline publish() {
    d_step {
        FIRST(page[r]);
        assert(committed[pick]);                    /* no phantom */
        for (r : 0 .. ROWS - 1) {
            assert(!(SAME_KEY(r, pick) && committed[r] && id[r] < id[pick] && !ever[r]));
            assert(!(SAME_KEY(r, pick) && id[r] > id[pick] && term_sent[r]));
#ifdef REACH_STRAGGLER
            assert(!(id[r] > id[pick] && ever[r]));
#endif
        };
#ifdef REACH_AGAIN
        assert(!ever[pick]);
#endif
#ifdef REACH_STAMPED
        assert(pick != DUMPED);
#endif
        ever[pick] = true; term_sent[pick] = true; page[pick] = false; count--;
        r = 0; pick = 0
    }
}

inline settle() {
    d_step { d_base = base; d_target = target; d_last = last }
}

active proctype relay() {
    short base, target, upto;
    byte last, count, r, pick, crashes;
    bool page[ROWS], term_read[ROWS], term_sent[ROWS], last_read;

begin:
    atomic {
#ifndef TERM_FROM_MEMORY
        base = d_base; target = d_target; last = d_last;
#endif
        count = 0;
        for (r : 0 .. ROWS - 1) { page[r] = false; term_read[r] = false; term_sent[r] = false };
        r = 0;
#ifdef REACH_WINDOW_CRASH
        assert(target == 0);
#endif
#ifndef NO_STAMP
        if                  /* before the first read, in a transaction of its own */
        :: committed[DUMPED] && xid[DUMPED] >= next ->
           xid[DUMPED] = next; ended = ended | BIT(next); next++
        :: else
        fi
#endif
    };

    do
    :: atomic {
           true ->
           last_read = (open == 0);
           read()
       };
#ifdef BASE_AFTER_READ
       base = (target == 0 -> ended : base);
#endif
#ifdef SETTLE_BEFORE_PUBLISH
       settle();
#endif
       if
       :: last_read && count == 0 && target == 0 -> break
       :: else
       fi;
       do
       :: count > 0 -> publish()
       :: count == 0 -> break
       :: atomic { crashes < CRASHES -> crashes++ }; goto begin
       od;
       if
       :: settle()
       :: true
       fi
    :: atomic { crashes < CRASHES -> crashes++ }; goto begin
    od;

    /* All have ended, and nothing is new. A row from a dump waits for the next term. */
    if
    :: atomic { committed[DUMPED] && !ever[DUMPED] && crashes <= CRASHES -> crashes = CRASHES + 1 };
       goto begin
    :: else
    fi;
    for (r : 0 .. ROWS - 1) { assert(committed[r] == ever[r]) }
}

init {
    byte w;
    atomic {
        for (w : 0 .. WRITERS - 1) { run writer(w) }
    }
}
