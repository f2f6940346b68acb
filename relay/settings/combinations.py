"""Combinations of settings that can't work, each with its remedy."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from relay.settings.faults import Fault, shown

if TYPE_CHECKING:
    from relay.settings.model import Settings

_LOGINS: Final = ("nats_creds", "nats_nkey_seed", "nats_user", "nats_token")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One refused combination: broken if ``broken`` says so of the settings.

    Attributes:
        of: the public names that take part; the fault goes under the first one that was given.
        broken: tells by the settings alone.
        says: the rest of the sentence after that name's value.
    """

    of: tuple[str, ...]
    broken: Callable[["Settings"], bool]
    says: str


_RULES: Final = (
    _Rule(
        ("nats_user", "nats_password"),
        lambda s: (s.nats_user is None) != (s.nats_password is None),
        "is only half of a login: set nats_user and nats_password, or neither",
    ),
    _Rule(
        ("nats_tls_cert", "nats_tls_key"),
        lambda s: (s.nats_tls_cert is None) != (s.nats_tls_key is None),
        "is only half of a certificate: set nats_tls_cert and nats_tls_key, or neither",
    ),
    _Rule(
        ("batch_size", "max_batch_size"),
        lambda s: s.batch_size > s.max_batch_size,
        "makes batch_size larger than max_batch_size: lower the first or raise the second",
    ),
    _Rule(
        ("stream_subjects", "stream"),
        lambda s: bool(s.stream_subjects) and s.stream is None,
        "is for no stream: set stream, too",
    ),
    _Rule(
        ("stream_create", "stream"),
        lambda s: s.stream_create and s.stream is None,
        "names no stream to make: set stream, too",
    ),
    _Rule(
        ("stream_create", "stream_subjects"),
        lambda s: s.stream_create and not s.stream_subjects,
        "can't make a stream without subjects: set stream_subjects, too",
    ),
)


def at_odds(
    settings: "Settings", given: Mapping[str, object], faulty: Collection[str]
) -> Iterator[Fault]:
    """Find the combinations that can't work.

    Args:
        settings: valid one by one.
        given: those that are not defaults, by public name, as they were given.
        faulty: names that have a fault already: nothing is said about what they take part in.
    """
    for rule in _RULES:
        if rule.broken(settings) and not set(rule.of) & set(faulty):
            name = next(name for name in rule.of if name in given)
            secret = isinstance(getattr(settings, name), SecretStr)
            yield Fault(name, rule.says, None if secret else shown(given[name]))
    logins = [name for name in _LOGINS if getattr(settings, name) is not None]
    if len(logins) > 1:
        yield Fault(logins[0], f"is one login of several: keep one of {', '.join(logins)}")
