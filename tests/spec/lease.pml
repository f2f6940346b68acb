/*
 * lease: only the leader speaks, and one that stands still is replaced in time (R-TERM).
 *
 * Speaks of  relay/engine/lead.py     "may I still send?", asking anew, losing the term
 *            relay/postgres/store.py  the session lock, its lifetime, beginning a term, the guard
 *
 * Holds      1. At each send the server still counts the sender's session as the lock's holder:
 *               the lease could not have passed to another yet.
 *            2. No settlement succeeds once another term has begun, or has read where to begin.
 *            3. While a relay stands by, the lock is with nobody, or with a relay that stands still
 *               or is cut off, for lifetime + 1 at most.
 *
 * Abstracted Time is a count of ticks of about a second. What is far shorter than a tick takes none:
 *            a standby's try, and the pause between two tries. A request takes up to one tick until
 *            it is done at the server, a wait for a row lock included; its answer takes as long as
 *            it likes. A relay may stand still, or be cut off from Postgres and not from NATS, at
 *            any moment and for any time, but at most one tick passes between a look and the send
 *            behind it. Clocks run alike. A relay learns of its session's end only by asking: the
 *            trust alone has to hold. A settlement that its own session can't carry any more is
 *            let in by another one: the guard alone has to hold. A failover may lose the term begun
 *            last, once; it resets all connections, which a look sees.
 *            There are a few terms, and the last one is not replaced.
 *
 * Variants   Without one, it holds. Each -D brings back one mistake (must be violated):
 *   NO_LOOK             a page in hand is sent without a look at the trust
 *   TRUST_FROM_ANSWER   trust counts from when the answer came, not from when it was asked for
 *   NO_MARGIN           trusted to the last tick of the lifetime
 *   NO_LIFETIME         the server does not end a silent session
 *   LONG_STATEMENT      a statement of the term's session may wait for two ticks (lock_timeout,
 *                       statement_timeout): the server counts its silence from the end of that
 *   NO_GUARD            a settlement is written, whatever term there is
 *   EPOCH_ONLY          it asks for the epoch, not for the holder: a failover gives an epoch twice
 *   READ_BEFORE_BEGIN   a term reads the cursor, and puts its epoch there afterwards
 * or takes away an assumption (must be violated: README, "Not promised"):
 *   CUT_UNTOLD          somebody ends the session before its time, and the relay can't know yet
 *   STILL_BEHIND_LOOK   the relay stands still between its look and its send
 *   CLOCK_STOOD         the relay's clock stands still while the relay does
 * or asks whether something happens at all (must be found):
 *   REACH_ZOMBIE        a relay that was replaced wakes and takes itself for the leader
 *   REACH_REFUSED       the guard turns a settlement down
 *   REACH_BOUNDARY      a send in the last tick before the lease could pass
 *   REACH_VACANT        a relay stands by for lifetime + 1 until it is let in
 */

#define LIFETIME 3
#ifdef NO_MARGIN
#define MARGIN 0
#else
#define MARGIN 1            /* covers what passes between look and send */
#endif
#ifdef LONG_STATEMENT
#define REQUEST 2
#else
#define REQUEST 1
#endif
#define TERMS 3
#define NOBODY 2

mtype = { STANDBY, LEADS, LOOKED };
mtype = { NONE, BEGIN, PROVE, SETTLE, GOT, YES, NO };

/* The relays. */
mtype mode[2] = STANDBY;
mtype call[2] = NONE;       /* the request under way (BEGIN, PROVE, SETTLE), or its answer */
byte since[2];              /* ticks since the call was asked, LIFETIME for more */
byte trust[2] = LIFETIME;   /* ticks since the last proof was asked for, LIFETIME for more */
byte slip[2];               /* ticks since the look */
byte my_epoch[2], my_name[2];
bool still[2], cut_off[2];

/* The server. */
byte lock = NOBODY;
byte silence;               /* ticks since the lock's session was heard */
byte epoch, holder;         /* in the cursor's row */
byte old_epoch, old_holder; /* what a failover may bring back */
byte names;                 /* a name is drawn once */
bool failed_over;

/* What only this model counts. */
bool reads[2];              /* has read where its term is to begin, and not begun it */
byte vacant;

#define ASKS(r) (call[r] == BEGIN || call[r] == PROVE || call[r] == SETTLE)
#define LIVE(r) (!still[r] && !cut_off[r])
#define STANDS_BY(r) (LIVE(r) && mode[r] == STANDBY && call[r] == NONE && epoch < TERMS)
#define MORE(ticks) (ticks < LIFETIME -> ticks + 1 : LIFETIME)

inline forget() {
    mode[me] = STANDBY; call[me] = NONE; trust[me] = LIFETIME; since[me] = 0; slip[me] = 0;
    my_epoch[me] = 0; my_name[me] = 0; reads[me] = false
}

inline ask(what) {
    call[me] = what; since[me] = 0
}

/* Each step of a relay may come at any time, or never, but for what the clock waits for. */
proctype relay(byte me) {
end_run:
    do
    :: d_step {             /* a try that succeeds; the others change nothing */
           STANDS_BY(me) && lock == NOBODY ->
           lock = me; silence = 0; vacant = 0; call[me] = GOT
       }
    :: d_step {
           !still[me] && call[me] == GOT ->
           ask(BEGIN)
#ifdef READ_BEFORE_BEGIN
           ; reads[me] = true
#endif
       }
    :: d_step { LIVE(me) && mode[me] == LEADS && call[me] == NONE -> ask(PROVE) }
    :: d_step { LIVE(me) && mode[me] == LEADS && call[me] == NONE -> ask(SETTLE) }
    :: d_step {
           !still[me] && mode[me] != LOOKED && call[me] == YES ->
           mode[me] = LEADS; call[me] = NONE;
#ifdef TRUST_FROM_ANSWER
           trust[me] = 0;
#else
           trust[me] = since[me];
#endif
           since[me] = 0
       }
    :: d_step { !still[me] && mode[me] != LOOKED && call[me] == NO -> forget() }
    :: d_step {             /* the look */
#ifdef NO_LOOK
           !still[me] && mode[me] == LEADS -> mode[me] = LOOKED
#else
           !still[me] && mode[me] == LEADS && trust[me] < LIFETIME - MARGIN -> mode[me] = LOOKED
#endif
       }
    :: d_step {             /* the send */
           !still[me] && mode[me] == LOOKED ->
           assert(lock == me);
#ifdef REACH_BOUNDARY
           assert(silence < LIFETIME - 1);
#endif
           mode[me] = LEADS; slip[me] = 0
       }
    :: d_step {             /* ends, well or by kill -9: the server sees it at once */
           mode[me] != STANDBY && !cut_off[me] ->
           lock = (lock == me -> NOBODY : lock);
           forget()
       }
    od
}

/* What becomes of a relay's process and of its connection to Postgres. */
proctype weather(byte me) {
end_run:
    do
#ifdef STILL_BEHIND_LOOK
    :: d_step { !still[me] -> still[me] = true }
#else
    :: d_step { !still[me] && mode[me] != LOOKED -> still[me] = true }
#endif
    :: d_step {
           still[me] -> still[me] = false;
           vacant = (lock == me -> 0 : vacant)
#ifdef REACH_ZOMBIE
           ; assert(!(mode[me] == LEADS && lock == 1 - me && epoch > my_epoch[me]))
#endif
       }
    :: d_step {             /* what was asked won't come to the server, and is given up some time */
           !cut_off[me] ->
           cut_off[me] = true;
           call[me] = (ASKS(me) || call[me] == GOT -> NO : call[me])
       }
    :: d_step { cut_off[me] -> cut_off[me] = false; vacant = (lock == me -> 0 : vacant) }
    od
}

#if defined(NO_GUARD)
#define GUARD(r) true
#elif defined(EPOCH_ONLY)
#define GUARD(r) (epoch == my_epoch[r])
#else
#define GUARD(r) (epoch == my_epoch[r] && holder == my_name[r])
#endif

proctype session(byte me) {
end_run:
    do
    :: d_step {
           call[me] == BEGIN ->
           reads[me] = false;
           if
           :: lock == me ->
              silence = 0; call[me] = YES;
              old_epoch = epoch; old_holder = holder;
              epoch++; names++; holder = names;
              my_epoch[me] = epoch; my_name[me] = holder
           :: else -> call[me] = NO
           fi
       }
    :: d_step {
           call[me] == PROVE ->
           silence = (lock == me -> 0 : silence);
           call[me] = (lock == me -> YES : NO)
       }
    :: d_step {
           call[me] == SETTLE ->
           if
           :: GUARD(me) -> assert(holder == my_name[me] && !reads[1 - me])
           :: else ->
#ifdef REACH_REFUSED
              assert(GUARD(me));
#endif
              skip
           fi;
           silence = (lock == me -> 0 : silence);
           call[me] = (lock == me && GUARD(me) -> YES : NO)
       }
    od
}

active proctype server() {
end_run:
    do
#ifndef NO_LIFETIME
    :: d_step { lock != NOBODY && silence >= LIFETIME -> lock = NOBODY; silence = 0 }
#endif
#ifdef CUT_UNTOLD
    :: d_step { lock != NOBODY -> lock = NOBODY; silence = 0 }
#endif
    :: d_step {             /* a standby becomes the primary, and may not have the last term */
           !failed_over && mode[0] != LOOKED && mode[1] != LOOKED ->
           failed_over = true;
           lock = NOBODY; silence = 0; trust[0] = LIFETIME; trust[1] = LIFETIME;
           call[0] = (call[0] == NONE -> NONE : NO);
           call[1] = (call[1] == NONE -> NONE : NO);
           reads[0] = false; reads[1] = false;
           epoch = old_epoch; holder = old_holder
       }
    od
}

#ifdef CLOCK_STOOD
#define RUNS(r) (!still[r])
#else
#define RUNS(r) true
#endif
#define SENDS_NOW(r) (!still[r] && mode[r] == LOOKED && slip[r] >= 1)
#define PUNCTUAL(r) (!(ASKS(r) && since[r] >= REQUEST) && !SENDS_NOW(r))

/* The clock waits for what is always done within the tick. */
active proctype clock() {
end_run:
    do
    :: d_step {
           PUNCTUAL(0) && PUNCTUAL(1) &&
#ifndef NO_LIFETIME
           (lock == NOBODY || silence < LIFETIME) &&
#endif
           !(lock == NOBODY && (STANDS_BY(0) || STANDS_BY(1))) ->
           if
           :: lock != NOBODY && !LIVE(lock % 2) && STANDS_BY(1 - lock % 2) -> vacant++
           :: else -> vacant = 0
           fi;
           assert(vacant <= LIFETIME + 1);
#ifdef REACH_VACANT
           assert(vacant <= LIFETIME);
#endif
           since[0] = (call[0] != NONE && RUNS(0) -> MORE(since[0]) : since[0]);
           since[1] = (call[1] != NONE && RUNS(1) -> MORE(since[1]) : since[1]);
           trust[0] = (RUNS(0) -> MORE(trust[0]) : trust[0]);
           trust[1] = (RUNS(1) -> MORE(trust[1]) : trust[1]);
           slip[0] = (mode[0] == LOOKED -> 1 : 0);
           slip[1] = (mode[1] == LOOKED -> 1 : 0);
           silence = (lock == NOBODY -> 0 : MORE(silence))
       }
    od
}

init {
    atomic {
        run relay(0); run relay(1);
        run weather(0); run weather(1);
        run session(0); run session(1)
    }
}
