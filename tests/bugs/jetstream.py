"""Bugs of the JetStream adapter."""

from tests.bugs.bug import HANGS, Bug

PROOF = "tests/jetstream/test_jetstream_proof.py"
PATHS = "tests/jetstream/test_jetstream_paths.py"
IDENTITY = "tests/jetstream/test_jetstream_identity.py"
ROUTING = "tests/jetstream/test_jetstream_routing.py"
OUTAGES = "tests/jetstream/test_jetstream_outages.py"
NOISE = "tests/jetstream/test_jetstream_noise.py"
HIDDEN = "tests/jetstream/test_jetstream_hidden.py"
READ = "tests/jetstream/test_jetstream_answers.py"
FRAMES = "tests/jetstream/test_jetstream_frames.py"
PERMIT = "tests/jetstream/test_jetstream_permit.py"
TTL = "tests/jetstream/test_jetstream_ttl.py"
FAULTS = "tests/jetstream/test_jetstream_faults.py"
SERVERS = "tests/jetstream/test_jetstream_servers.py"

CODES = "relay/jetstream/codes.py"
ANSWERS = "relay/jetstream/answers.py"
WINDOWED = "relay/jetstream/windowed.py"
DUPLICATES = "relay/jetstream/duplicates.py"
BUS = "relay/jetstream/bus.py"
DIAGNOSIS = "relay/jetstream/diagnosis.py"

LOSS = (
    Bug(
        "an answer that came too late is a permit to send",
        "relay/jetstream/connection.py",
        "        while not self._permit.granted():  # an answer",
        "        if not self._permit.granted():  # an answer",
        (
            "tests/jetstream/test_jetstream_permit.py::test_an_answer_that_came_too_late_is_no_permit",
        ),
    ),
    Bug(
        "an error answer is taken for an ack",
        ANSWERS,
        "        return read_error(error, name, expected.stream)\n",
        "        return Stored(expected.stream, 1)\n",
        (PROOF, PATHS),
    ),
    Bug(
        "another stream's answer is proof",
        ANSWERS,
        "        if home and self.stream in {HIDDEN, name}:\n            return True\n",
        "        if home:\n            return True\n",
        (PROOF,),
    ),
    Bug(
        "another domain's answer is proof",
        ANSWERS,
        "        home = self.domain is None or domain == self.domain or is_error\n",
        "        home = True\n",
        (NOISE,),
    ),
    Bug(
        "an answer without a sequence is proof",
        ANSWERS,
        "    if not by or not seq:\n",
        "    if not by or seq is None:\n",
        (READ,),
    ),
    Bug(
        "a batch counts for more than was sent of it",
        ANSWERS,
        " or seq is None or not count or count > sent:\n",
        " or seq is None or not count:\n",
        (READ,),
    ),
    Bug(
        "another batch's final answer is proof",
        ANSWERS,
        '    if not by or answer.get("batch") != batch or seq is None',
        "    if not by or seq is None",
        (PROOF,),
    ),
    Bug(
        "a batch of duplicates alone is never proven",
        ANSWERS,
        "!= batch or seq is None or not count",
        "!= batch or not seq or not count",
        (PROOF,),
    ),
    Bug(
        "an ack is matched to the wrong event",
        WINDOWED,
        "        place = int(rest)\n        ack = self._quick(payload)\n",
        "        place = max(self._in_flight, default=int(rest))\n"
        "        ack = self._quick(payload)\n",
        (PATHS,),
    ),
    Bug(
        "where an answer goes can be guessed",
        "relay/jetstream/connection.py",
        "    return secrets.token_urlsafe(_TOKEN_BYTES)\n",
        '    return "a" * _TOKEN_BYTES\n',
        (PROOF,),
    ),
    Bug(
        "two answers that can't both be true prove something",
        WINDOWED,
        "            self.result.contradicted = True\n",
        "            return\n",
        (PROOF,),
    ),
)

ORDER = (
    Bug(
        "a key's event for one stream passes its earlier one for another",
        "relay/jetstream/rounds.py",
        "            turn += before != lane\n",
        "            turn += 0\n",
        (OUTAGES, ROUTING),
    ),
    Bug(
        "those behind a refused event of their key are sent",
        WINDOWED,
        "            behind = self._chains.block(place)\n",
        "            behind: list[int] = []\n            self._chains.release(place)\n",
        (PATHS,),
    ),
    Bug(
        "behind a probe a key goes on past what the probe did not store",
        BUS,
        "        fence.note(events[:PROBE], [outcome for outcome in outcomes"
        " if outcome is not None])\n",
        "",
        (OUTAGES,),
    ),
)

ONCE = (
    Bug(
        "nobody looks whose message a duplicate is",
        DUPLICATES,
        "        return bool(stored.duplicate) and not",
        "        return place < 0 and not",
        (IDENTITY,),
    ),
    Bug(
        "any message under a producer's key is taken for the event's own",
        DUPLICATES,
        "        if found.event_id == event.event_id:\n",
        "        if found.message_id == event.message_id:\n",
        (IDENTITY,),
    ),
    Bug(
        "events with a producer's key go by batches, where duplicates have no name",
        BUS,
        "        return stream, apart or not event.message_id.startswith(self._own_ids)\n",
        "        return stream, apart\n",
        (IDENTITY,),
    ),
)

TERM = (
    Bug(
        "it writes without a look at the permit",
        "relay/jetstream/connection.py",
        "        while not self._permit.granted():  # an answer",
        "        while self._permit is None:  # an answer",
        (PERMIT,),
    ),
    Bug(
        "what was buffered goes out when the connection is closed",
        "relay/jetstream/connection.py",
        "    transport.abort()\n",
        "    transport.close()\n",
        (FAULTS, "tests/jetstream/test_jetstream_connection.py"),
    ),
)

FATE = (
    Bug(
        "the size of an event is checked without its headers",
        "relay/jetstream/frames.py",
        "    if length > MAX_HEADER_BYTES or size > max_bytes:\n"
        "        return _oversize(length, len(payload), max_bytes)\n"
        "    return frame.encode()",
        "    if length > MAX_HEADER_BYTES or len(payload) > max_bytes:\n"
        "        return _oversize(length, len(payload), max_bytes)\n"
        "    return frame.encode()",
        (PATHS, FRAMES),
    ),
    Bug(
        "an error that nobody knows is a refusal",
        CODES,
        "UNKNOWN: Final = Code(\n    Kind.NOT_NOW,",
        "UNKNOWN: Final = Code(\n    Kind.THIS_EVENT,",
        (FRAMES,),
    ),
    Bug(
        "a full subject holds up its stream",
        CODES,
        '    if number == STREAM_FULL and "per subject" in text:\n',
        '    if number == 0 and "per subject" in text:\n',
        (FRAMES,),
    ),
    Bug(
        "an event is refused by a limit that was raised since",
        DIAGNOSIS,
        "        if stream.doubted and (is_raised or (no_ttl and not stream.no_ttl)):\n",
        "        if stream.doubted and limit < 0:\n",
        (PATHS + "::test_a_limit_that_was_raised_behind_the_bus_s_back_refuses_nothing",),
    ),
    Bug(
        "an event goes out though its stream keeps no ttl",
        "relay/jetstream/streams.py",
        '"" if config.get("allow_msg_ttl") else',
        '"" if config else',
        (TTL,),
    ),
    Bug(
        "a subject that once was captured is refused where its stream is gone",
        "relay/jetstream/routing.py",
        "        once = self.streams.once(subject, only)\n",
        "        once = None\n",
        (ROUTING,),
    ),
    Bug(
        "another stream than the configured one is published to",
        "relay/jetstream/routing.py",
        "            if only is None or stream.name == only:\n",
        "            if only is None or stream.name:\n",
        (HIDDEN,),
    ),
    Bug(
        "the streams are asked for once a subject",
        "relay/jetstream/routing.py",
        "            await self.look()\n            for subject in unsure:\n"
        "                routes[subject] = self.resolve(subject)\n",
        "            for subject in unsure:\n                await self.look()\n"
        "                routes[subject] = self.resolve(subject)\n",
        (ROUTING, "tests/jetstream/test_jetstream_streams.py"),
        HANGS,
    ),
    Bug(
        "a stream that took nothing is sent all there is",
        BUS,
        "        if stream.held is None or len(events) <= PROBE:\n",
        "        if True:\n",
        (OUTAGES,),
    ),
    Bug(
        "a denial beats a proof",
        WINDOWED,
        "            self._denied.discard(place)\n            self._outcomes[place] = answer\n",
        "            self._denied.discard(place)\n",
        (NOISE,),
    ),
)

AROUND = (
    Bug(
        "what is held without a byte is called sent",
        "relay/jetstream/rounds.py",
        "            outcomes[place] = held.get(event.subject, route)\n",
        "            outcomes[place] = route\n",
        (OUTAGES,),
    ),
    Bug(
        "a server that is not announced any more is tried",
        "relay/jetstream/servers.py",
        "            self._newest, self._tls_name = connection, tls_name\n",
        "            self._newest, self._tls_name = self._newest or connection, tls_name\n",
        (SERVERS,),
    ),
    Bug(
        "an address that a later INFO does not name is kept",
        "relay/jetstream/connection.py",
        '        self.announced = info.pop("connect_urls")\n',
        '        self.announced = [*self.announced, *info.pop("connect_urls")]\n',
        (SERVERS,),
    ),
    Bug(
        "a configured server is tried after all that are announced",
        "relay/jetstream/servers.py",
        "        by_turns = zip_longest(self._announced(), configured)\n",
        "        by_turns = zip_longest([*self._announced(), *configured], [])\n",
        (SERVERS,),
    ),
)

BUGS: tuple[Bug, ...] = LOSS + ORDER + ONCE + TERM + FATE + AROUND
