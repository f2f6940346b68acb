"""What is run over the models, and what each run has to show: data for ``python -m tests.spec``.

A run that holds is exhausted. A run that breaks brings a mistake into the model, or takes an
assumption away, and has to violate the promise that is named. A run that finds asks whether
something happens at all: a model in which nothing happens keeps every promise.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# What the checker prints of a violation. One text a promise, so that a variant can't pass by
# breaking another one.
OVERSLEPT = "!(sleeps)"  # R-FIRST: asleep with an event that nothing will announce
NEVER_READ = "acceptance cycle"  # R-LOSS: committed, and not read in all eternity
LOST = "(committed[r]==ever[r])"  # R-LOSS: committed and not published, or the other way round
TWICE = "!(term_read[pick])"  # R-PHANTOM: read twice in one term
OUT_OF_ORDER = "(id[r]<id[pick])"  # R-ORDER: published before a lower id of its key
SENT_LATE = "(lock==me)"  # R-TERM: sent when the lease could have passed to another
SETTLED_LATE = "!(reads[(1-me)])"  # R-TERM: settled after another term has begun
REPLACED_LATE = "(vacant<=(3+1))"  # R-TERM: nobody leads, for longer than lifetime + 1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the checker.

    Attributes:
        model: the file's name without ``.pml``.
        defines: what the preprocessor is told, ``NAME`` or ``NAME=value``.
        shows: what has to be violated; "" if the promise has to hold.
    """

    model: str
    defines: tuple[str, ...] = ()
    shows: str = ""

    @property
    def name(self) -> str:
        """The run's name for people."""
        return " ".join((self.model, *self.defines))

    @property
    def path(self) -> Path:
        """The model's file."""
        return HERE / f"{self.model}.pml"

    @property
    def variant(self) -> bool:
        """Whether this is another model than the relay's."""
        return bool(self.shows) or "ONE_WRITER" in self.defines

    @property
    def liveness(self) -> bool:
        """Whether cycles are looked for, under weak fairness, instead of states."""
        return "LIVENESS" in self.defines


RUNS = (
    Run("bell"),
    Run("bell", ("LIVENESS",)),
    Run("bell", ("NO_SECOND_READ",), OVERSLEPT),
    Run("bell", ("ONE_READ_AFTER_N",), OVERSLEPT),
    Run("bell", ("ONE_READ_AFTER_N", "LIVENESS"), NEVER_READ),
    Run("bell", ("N_BEFORE_LOCK",), OVERSLEPT),
    Run("bell", ("N_FROM_SNAPSHOT",), OVERSLEPT),
    Run("bell", ("KEPT_LOCK", "ONE_WRITER")),
    Run("bell", ("KEPT_LOCK",), OVERSLEPT),
    Run("bell", ("KEPT_LOCK", "LIVENESS"), NEVER_READ),
    Run("bell", ("ASK_BEFORE_XID",), OVERSLEPT),
    Run("bell", ("LISTEN_AFTER_READ",), OVERSLEPT),
    Run("bell", ("CLEAR_AFTER_READ",), OVERSLEPT),
    Run("bell", ("LATE_UNLOCK",), OVERSLEPT),
    Run("bell", ("STALE_ARM",), OVERSLEPT),
    Run("bell", ("HIDDEN_START",), OVERSLEPT),
    Run("bell", ("XMIN_OF_THE_PAGE",), OVERSLEPT),
    Run("bell", ("RING_BEFORE_COMMIT",), OVERSLEPT),
    Run("bell", ("REACH_RUNG",), "start_came"),
    Run("bell", ("REACH_AGAIN",), "!(again)"),
    Run("bell", ("REACH_RELOCK",), "!(held)"),
    Run("bell", ("REACH_NEW_SESSION",), "!(start_came)"),
    Run("cursor"),
    Run("cursor", ("LIMIT=2",)),
    Run("cursor", ("ID_ABOVE_LAST",), LOST),
    Run("cursor", ("BASE_AFTER_READ",), LOST),
    Run("cursor", ("NO_XIP",), LOST),
    Run("cursor", ("ARM_WITHOUT_VISIBLE",), TWICE),
    Run("cursor", ("MOVING_TARGET",), LOST),
    Run("cursor", ("BASE_AT_WINDOW_END",), LOST),
    Run("cursor", ("ORDER_BY_XID",), OUT_OF_ORDER),
    Run("cursor", ("SETTLE_BEFORE_PUBLISH",), LOST),
    Run("cursor", ("TERM_FROM_MEMORY",), LOST),
    Run("cursor", ("NO_STAMP",), LOST),
    Run("cursor", ("NO_KEY_LOCK",), OUT_OF_ORDER),
    Run("cursor", ("REACH_STRAGGLER",), "((id[r]>id[pick])&&ever[r])"),
    Run("cursor", ("REACH_WINDOW_CRASH",), "(target==0)"),
    Run("cursor", ("REACH_AGAIN",), "!(ever[pick])"),
    Run("cursor", ("REACH_STAMPED",), "(pick!=3)"),
    Run("lease"),
    Run("lease", ("NO_LOOK",), SENT_LATE),
    Run("lease", ("TRUST_FROM_ANSWER",), SENT_LATE),
    Run("lease", ("NO_MARGIN",), SENT_LATE),
    Run("lease", ("NO_LIFETIME",), REPLACED_LATE),
    Run("lease", ("LONG_STATEMENT",), REPLACED_LATE),
    Run("lease", ("NO_GUARD",), SETTLED_LATE),
    Run("lease", ("EPOCH_ONLY",), SETTLED_LATE),
    Run("lease", ("READ_BEFORE_BEGIN",), SETTLED_LATE),
    Run("lease", ("CUT_UNTOLD",), SENT_LATE),
    Run("lease", ("STILL_BEHIND_LOOK",), SENT_LATE),
    Run("lease", ("CLOCK_STOOD",), SENT_LATE),
    Run("lease", ("REACH_ZOMBIE",), "(epoch>my_epoch[me])"),
    Run("lease", ("REACH_REFUSED",), "(holder==my_name[me])"),
    Run("lease", ("REACH_BOUNDARY",), "(silence<(3-1))"),
    Run("lease", ("REACH_VACANT",), "(vacant<=3)"),
)
