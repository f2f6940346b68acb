/*
 * bell: a relay that sleeps is woken by every commit that it has not seen (R-FIRST, R-LOSS).
 *
 * Speaks of  relay/engine/bell.py       when to sleep, to read again, to keep the bell on
 *            relay/postgres/bell.py     lock, N, LISTEN, the unlock that goes on behind `disarm`
 *            relay/postgres/reading.py  what a page says of xmin
 *            the trigger relay_notify in sql/migrations
 *
 * Holds      Whenever the relay sleeps and nothing is on its way to wake it, every committed event
 *            is read, and no transaction that kept silent still runs. With -DLIVENESS: an event
 *            that commits is read in the end. There is no poll here: the bell alone has to do it.
 *
 * Abstracted A transaction's events become visible together, so each writer has one event, and its
 *            number is the event's id. A page holds one event. The listening session may be lost
 *            once, at any moment, with every ring that is on its way. NOTIFY's queue is never half
 *            full, and nobody else holds the lock: both cost the poll by design. That ringers queue
 *            for NOTIFY's own lock is left out: it only takes orders away.
 *
 * Variants   Without one, it holds. Each -D brings back one mistake (must be violated), or asks
 *            whether something happens at all (REACH_...: must be found):
 *   NO_SECOND_READ      sleep on the read from before the lock was taken
 *   ONE_READ_AFTER_N    read once more, whatever still runs
 *   N_BEFORE_LOCK       note the next transaction id, then take the lock
 *   N_FROM_SNAPSHOT     N is a snapshot's xmax, which running ids may exceed
 *   KEPT_LOCK           writers keep the lock to their commit; the relay queues for it and sleeps
 *   ASK_BEFORE_XID      a trigger before the statement: it asks before the transaction has an id
 *   LISTEN_AFTER_READ   LISTEN comes last
 *   CLEAR_AFTER_READ    a ring that came during the read is cleared with the old one
 *   LATE_UNLOCK         `arm` counts on the lock, while the unlock of a `disarm` is under way
 *   STALE_ARM           the session is new, but the relay counts on the old one's lock
 *   HIDDEN_START        a ring that waits hides that the session is new
 *   XMIN_OF_THE_PAGE    a window's page bears its own statement's xmin, not that of the target
 *   RING_BEFORE_COMMIT  the ring arrives before the commit is visible
 *   REACH_RUNG          a ring ends a sleep
 *   REACH_AGAIN         the relay had to read again, for a silent writer, before it slept
 *   REACH_RELOCK        the lock is taken a second time in one session
 *   REACH_NEW_SESSION   a sleep ends because the session is new
 *   ONE_WRITER          with KEPT_LOCK, which holds then: it takes two silent writers to break it
 */

#define WRITERS 3
#ifdef ONE_WRITER
#define STARTED 1
#else
#define STARTED WRITERS
#endif

/* What Postgres knows. */
byte next = 1;              /* the next transaction id */
byte ended = 0;             /* the highest id that has ended: a snapshot's xmax is one above it */
byte xid[WRITERS];          /* 0: none yet */
bool runs[WRITERS];         /* has an id, and has not ended */
bool committed[WRITERS];
byte sharers;               /* who holds the bell's lock shared */
bool locked;                /* the relay holds it exclusively */
bool alive, listening;      /* the relay's session that holds the lock and listens */

/* What a transaction has decided, and what is on its way to the relay. */
bool quiet[WRITERS];       /* has asked, and won't ring */
bool onway[WRITERS];        /* has committed, its ring is not delivered yet */
bool ring, start;           /* rung, or the session is new: kept until the relay clears it */

/* What the relay knows. */
bool seen[WRITERS];         /* read */
bool window[WRITERS];       /* of the window, and not read yet */
bool more;                  /* the page was cut short */
byte xmin;                  /* below it, all had ended; unless `more`, all they wrote is read */
byte n;                     /* the next id when the lock was taken */
bool armed, unlocking, sleeps;
#ifdef KEPT_LOCK
bool queued;                /* the relay waits for the lock: no writer gets it any more */
#define TAKEN (locked || queued)
#else
#define TAKEN locked
#endif

#ifdef LIVENESS
ltl read_in_the_end { [] (committed[0] -> <> seen[0]) }
#endif

/* An id is drawn and shown as running in one step (under XidGenLock). */
inline draw() {
    d_step { xid[me] = next; next++; runs[me] = true }
}

/* Try shared and give back: a moment in which the relay's own try fails. */
inline ask() {
    if
    :: atomic { !TAKEN -> sharers++; quiet[me] = true };
#ifndef KEPT_LOCK
       sharers--
#endif
    :: atomic { TAKEN -> quiet[me] = false; rings = true }
    fi
}

inline finish() {
    runs[me] = false;
#ifndef KEPT_LOCK
    quiet[me] = false;
#endif
    ended = (xid[me] > ended -> xid[me] : ended)
}

proctype writer(byte me) {
    bool rings;
#ifdef ASK_BEFORE_XID
    ask();
    draw();
#else
    draw();                 /* by the INSERT, or long before it */
    ask();
#endif
#ifndef KEPT_LOCK
    if
    :: true                 /* a second statement: who was silent may ring now */
    :: !rings -> ask()
    fi;
#endif
#ifdef RING_BEFORE_COMMIT
    if
    :: rings && listening -> ring = true
    :: else
    fi;
#endif
    if
    :: d_step {             /* becomes visible, and is no longer running, in one step */
           true ->
           committed[me] = true;
           finish();
#ifndef RING_BEFORE_COMMIT
           onway[me] = rings && listening
#endif
       }
    :: d_step { true -> finish() }      /* aborts: no row, no ring */
    :: true -> end_open: false          /* stays open for good */
    fi;
#ifdef KEPT_LOCK
    d_step {                /* locks go after the commit is visible; the grant itself is a ring */
        sharers = (quiet[me] -> sharers - 1 : sharers);
        quiet[me] = false;
        if
        :: sharers == 0 && queued -> queued = false; locked = true; ring = true
        :: else
        fi
    }
#endif
end_rung:                   /* silent, or the session is lost: nothing is on the way */
    d_step { onway[me] -> onway[me] = false; ring = true }
}

/* One page, in one statement: the lowest new event, whether more is known to wait, and xmin. */
inline read() {
    atomic {
        now_xmin = ended + 1;
        left = 0;
        for (i : 0 .. WRITERS - 1) {
            now_xmin = (runs[i] && xid[i] < now_xmin -> xid[i] : now_xmin);
            left = left + (window[i] -> 1 : 0)
        };
        if
        :: left == 0 ->     /* all that is new now: a window, if it is more than one page */
           for (i : 0 .. WRITERS - 1) {
               window[i] = committed[i] && !seen[i];
               left = left + (window[i] -> 1 : 0)
           };
           xmin = now_xmin
        :: else ->          /* a window's xmin is that of its target, whatever was read since */
#ifdef XMIN_OF_THE_PAGE
           xmin = now_xmin;
#endif
           skip
        fi;
        for (i : 0 .. WRITERS - 1) {
            if
            :: window[i] -> window[i] = false; seen[i] = true; left--; break
            :: else
            fi
        };
        more = left > 0;
        i = 0; left = 0; now_xmin = 0
    }
}

active proctype relay() {
    byte i, left, now_xmin;
    bool start_came;
#if defined(REACH_AGAIN) || defined(REACH_RELOCK)
    bool again, held;
#endif

awake:
    read();
    if
    :: more -> goto awake
    :: atomic { !more -> xmin = 0 }; goto awake     /* much comes, or no bell: paced reads */
    :: atomic { !more -> xmin = 0 }                 /* or go to sleep */
    fi;

    /* arm */
#ifdef LATE_UNLOCK
    if
    :: unlocking && locked -> armed = true; goto settle_down
    :: else
    fi;
#else
    if
    :: atomic { unlocking -> unlocking = false; armed = true };  /* not sent yet: taken back */
       goto settle_down                 /* never let go, so N is as good as before */
    :: atomic { !unlocking -> n = 0 }
    fi;
#endif
    atomic { ring = false; start = false };
#ifdef N_BEFORE_LOCK
    n = next;
#endif
#ifdef KEPT_LOCK
    d_step {
        if
        :: sharers == 0 -> locked = true
        :: else -> queued = true
        fi
    };
#else
    if
    :: atomic { alive && sharers == 0 -> locked = true }         /* a failed try: again, later */
    :: !alive -> goto awake
    fi;
#endif
    armed = true;
#ifdef REACH_RELOCK
    assert(!held);
#endif
#if defined(N_FROM_SNAPSHOT)
    n = ended + 1;
#elif !defined(N_BEFORE_LOCK)
    n = next;
#endif

settle_down:
#ifdef NO_SECOND_READ
    goto wait;
#endif
    read();
    if
    :: more -> goto settle_down
#if defined(ONE_READ_AFTER_N) || defined(KEPT_LOCK)
    :: else
#else
    :: atomic { !more && xmin < n -> xmin = 0 };
#ifdef REACH_AGAIN
       again = true;
#endif
       goto settle_down
    :: !more && xmin >= n
#endif
    fi;
#ifdef REACH_AGAIN
    assert(!again);
#endif
#ifdef CLEAR_AFTER_READ
    atomic { ring = false; start_came = start; start = false };
#endif

wait:
    atomic { sleeps = true; xmin = 0 };
end_sleep:
#ifdef CLEAR_AFTER_READ
    atomic { ring || start -> sleeps = false; start_came = start };
#else
    atomic { ring || start -> sleeps = false; start_came = start; ring = false; start = false };
#endif
    if
    :: start_came ->        /* the sessions are new: no lock is held, and nobody rings */
#ifdef REACH_NEW_SESSION
       assert(!start_came);
#endif
       start_came = false;
#ifndef STALE_ARM
       atomic { armed = false; n = 0 };
       goto awake
#endif
    :: else
    fi;
#ifdef REACH_RUNG
    assert(start_came);
#endif
    if
#ifndef NO_SECOND_READ
    :: goto settle_down                 /* little comes: the bell stays on, a ring is one read */
#endif
#ifdef KEPT_LOCK
    :: atomic { true -> locked = false; queued = false; armed = false }
#else
    :: atomic { true -> unlocking = armed && locked; armed = false }
#endif
    fi;
#ifdef REACH_RELOCK
    held = true;
#endif
    goto awake
}

/* The unlock of a `disarm`, behind it. */
active proctype unlocker() {
end_idle:
    do
    :: d_step { unlocking -> unlocking = false; locked = false }
    od
}

/* A ring that waits does not hide that the session is new. */
#ifdef HIDDEN_START
#define SAY_START start = start || !ring
#else
#define SAY_START start = true
#endif

/* The bell's own task: a session that listens, one after the other. */
active proctype keeper() {
    byte i;
    bool lost_one;
end_none:
    do
    :: !alive ->            /* LISTEN, then have the relay read: what came before rang nobody */
#ifdef LISTEN_AFTER_READ
       d_step { alive = true; SAY_START };
       listening = true
#else
       d_step { alive = true; listening = true; SAY_START }
#endif
    :: d_step {             /* the server ends it, once: lock, LISTEN and rings go with it */
           alive && listening && !lost_one ->
           lost_one = true;
           alive = false; listening = false; locked = false; unlocking = false;
           for (i : 0 .. WRITERS - 1) { onway[i] = false };
           i = 0
       }
    od
}

#define NOTHING_COMES (alive && !ring && !start && !onway[0] && !onway[1] && !onway[2])
#ifdef KEPT_LOCK            /* the grant announces who is silent: not missed until then */
#define MISSED(w) (committed[w] && !seen[w] && !quiet[w])
#else
#define MISSED(w) ((committed[w] && !seen[w]) || (runs[w] && quiet[w]))
#endif

#ifndef LIVENESS
/* Enabled in no state, unless the promise is broken there. */
active proctype promise() {
end_kept:
    atomic {
        sleeps && NOTHING_COMES && (MISSED(0) || MISSED(1) || MISSED(2)) -> assert(!sleeps)
    }
}
#endif

init {
    byte w;
    atomic {
        for (w : 0 .. STARTED - 1) { run writer(w) }
    }
}
