"""A server that sends anything in any order never gets two answers, or both secrets of one member."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small_sum import NOW, POLICY, SmallSum, fixed_random, identity, make_terms, vector

from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.terms import context_digest, terms_digest, threshold
from convoy_protos.errors import ProtocolError
from convoy_protos.v1.secure_sum_pb2 import (
    CheckIn,
    Roster,
    SealedShares,
    ShareDelivery,
    UnmaskReply,
    UnmaskRequest,
    VehicleSession,
)

COUNT = 5
SLOTS = st.sets(st.integers(1, COUNT + 1))
# Everybody but a few: sets that come close to what an honest server would ask for.
MOST = st.sets(st.integers(1, COUNT), max_size=2).map(lambda out: set(range(1, COUNT + 1)) - out)
TERMS = [make_terms(minimum_cohort=3), make_terms(minimum_cohort=3, round=8)]


class LyingServer(RuleBasedStateMachine):
    """The server has every other vehicle on its side; vehicle 1 is honest and keeps its session.

    What it says is kept by the context it said it in: a new set of terms is a new sum.
    """

    @initialize(honest_steps=st.lists(MOST, max_size=5))
    def begin(self, honest_steps):
        """The server begins to lie at some time."""
        self.session = b""
        self.check_ins: dict[bytes, bytes] = {}  # by terms
        self.rosters: list[bytes] = []
        self.shares: dict[bytes, bytes] = {}  # by terms
        self.deliveries: list[bytes] = []
        self.bodies: dict[bytes, set[bytes]] = {}  # by terms
        self.requests: list[bytes] = []
        self.answers: dict[bytes, set[bytes]] = {}  # by terms
        self.both: dict[bytes, dict[int, bytes]] = {}  # by terms, what each member dealt to us
        self.others = {
            terms: {
                number: vehicle.check_in(
                    terms, identity(number), POLICY, fixed_random(f"o{number}")
                )
                for number in range(2, COUNT + 1)
            }
            for terms in TERMS
        }
        for members in honest_steps:
            self.go_on_as_an_honest_server_would(members)

    @property
    def held(self):
        """The vehicle's session."""
        return VehicleSession.FromString(self.session)

    @rule(terms=st.sampled_from(TERMS), draw=st.integers(0, 10**6))
    def ask_to_check_in(self, terms, draw):
        """Also again, and for other terms in between."""
        try:
            self.session, reply = vehicle.check_in(
                terms, identity(1), POLICY, fixed_random(f"one {draw}"), held=self.session
            )
        except ProtocolError:
            return
        self.check_ins[terms] = reply
        # New keys for terms that were given up for others are a new beginning.
        for record in (self.shares, self.bodies, self.answers, self.both):
            if not self.held.roster and self.held.stage == VehicleSession.CHECKED_IN:
                record.pop(terms, None)

    @rule(terms=st.sampled_from(TERMS), members=MOST)
    def send_a_roster(self, terms, members):
        """Of whichever members, us among them or not."""
        check_ins = [self.check_ins.get(terms, b"")] if 1 in members else []
        check_ins += [self.others[terms][number][1] for number in sorted(members - {1})]
        members = [CheckIn.FromString(one) for one in check_ins]
        self.give_roster(Roster(members=members).SerializeToString())

    @rule(data=st.data())
    def repeat_a_roster(self, data):
        """One that was taken, perhaps of another sum."""
        if self.rosters:
            self.give_roster(data.draw(st.sampled_from(self.rosters)))

    def give_roster(self, roster):
        """Note what the vehicle says to it."""
        trust = SmallSum(2).trust
        try:
            self.session, reply = vehicle.share(
                self.session, roster, identity(1), trust, NOW, fixed_random("ours")
            )
        except ProtocolError:
            return
        terms = self.held.terms
        self.rosters.append(roster)
        assert self.shares.setdefault(terms, reply) == reply  # one sharing of one secret

    @rule(members=MOST)
    def deliver(self, members):
        """Genuine boxes, of whichever members."""
        held = self.held
        if not held.roster:
            return
        count = len(Roster.FromString(held.roster).members)
        context = context_digest(terms_digest(held.terms), held.roster)
        boxes = []
        for slot in range(1, count + 1):
            sealed = b"" if slot == held.slot or slot not in members else self.box_of(slot, held)
            boxes.append(sealed)
        self.give_delivery(ShareDelivery(context_digest=context, sealed=boxes).SerializeToString())

    def box_of(self, slot, held):
        """What this member really seals for vehicle 1 under the roster that vehicle 1 took."""
        certificate = Roster.FromString(held.roster).members[slot - 1].certificate
        number = next(n for n in range(1, COUNT + 1) if identity(n).certificate == certificate)
        _, reply = vehicle.share(
            self.others[held.terms][number][0],
            held.roster,
            identity(number),
            SmallSum(2).trust,
            NOW,
            fixed_random(f"shares of {number}"),
        )
        return SealedShares.FromString(reply).sealed[held.slot - 1]

    @rule(data=st.data())
    def repeat_a_delivery(self, data):
        """One that was taken."""
        if self.deliveries:
            self.give_delivery(data.draw(st.sampled_from(self.deliveries)))

    def give_delivery(self, delivery):
        """Note whether it was taken."""
        try:
            self.session = vehicle.accept_shares(self.session, delivery)
        except ProtocolError:
            return
        self.deliveries.append(delivery)

    @rule(number=st.integers(1, 3))
    def ask_for_the_update(self, number):
        """The vehicle has three to choose from."""
        terms = self.held.terms
        try:
            session, lanes_P, counters_C = vehicle.masked(self.session, *vector(number))
        except ProtocolError:
            return
        self.session = session
        self.bodies.setdefault(terms, set()).add(lanes_P.tobytes() + counters_C.tobytes())

    @rule(uploaded=st.one_of(MOST, SLOTS), lost=SLOTS)
    def ask_to_unmask(self, uploaded, lost):
        """Whatever slots."""
        self.give_request(uploaded, lost)

    @rule(members=MOST)
    def go_on_as_an_honest_server_would(self, members):
        """The step that the vehicle waits for; otherwise few runs would get to an answer."""
        held = self.held
        if held.stage == VehicleSession.STAGE_UNSPECIFIED:
            self.ask_to_check_in(TERMS[0], 0)
        elif held.stage == VehicleSession.CHECKED_IN:
            self.send_a_roster(held.terms, members | {1})
        elif held.stage == VehicleSession.SHARED and not vehicle._delivered(held):
            self.deliver(set(range(1, COUNT + 1)))
        elif held.stage == VehicleSession.SHARED:
            self.ask_for_the_update(1)
        elif held.stage == VehicleSession.UPLOADED:
            sharers = {slot for slot, box in enumerate(self.boxes(), start=1) if box}
            uploaded = (members | {1}) & sharers
            self.give_request(uploaded, sharers - uploaded)

    def boxes(self):
        """What the vehicle holds of its peers."""
        return ShareDelivery.FromString(self.held.delivery).sealed

    def give_request(self, uploaded, lost):
        """In the context that the vehicle is in."""
        held = self.held
        context = context_digest(terms_digest(held.terms), held.roster)
        self.send_request(
            UnmaskRequest(
                context_digest=context, uploaded=sorted(uploaded), lost=sorted(lost)
            ).SerializeToString()
        )

    @rule(data=st.data())
    def repeat_a_request(self, data):
        """One that was answered."""
        if self.requests:
            self.send_request(data.draw(st.sampled_from(self.requests)))

    def send_request(self, request):
        """Note the answer."""
        held = self.held
        if held.stage == VehicleSession.UPLOADED:
            self.both[held.terms] = self.dealt(held)
            self.members = len(Roster.FromString(held.roster).members)
        try:
            self.session, reply = vehicle.unmask(self.session, request, identity(1))
        except ProtocolError:
            return
        self.requests.append(request)
        self.answers.setdefault(held.terms, set()).add(reply)
        assert len(UnmaskRequest.FromString(request).uploaded) >= max(threshold(self.members), 3)

    def dealt(self, held):
        """Both shares that each member gave us, opened with our own key."""
        boxes = vehicle.ShareBoxes(
            vehicle.X25519PrivateKey.from_private_bytes(held.share_private_key),
            held.slot,
            context_digest(terms_digest(held.terms), held.roster),
        )
        members = Roster.FromString(held.roster).members
        return {
            slot: box if slot == held.slot else boxes.open(slot, members[slot - 1].share_key, box)
            for slot, box in enumerate(self.boxes(), start=1)
            if box
        }

    @invariant()
    def one_answer_of_one_kind(self):
        """Never both secrets of one member, over all answers."""
        for terms, answers in self.answers.items():
            assert len(answers) == 1
            said = {share.share for a in answers for share in UnmaskReply.FromString(a).shares}
            for both in self.both[terms].values():
                assert not {both[:33], both[33:]} <= said

    @invariant()
    def one_vector_under_the_masks(self):
        """However often the server asks."""
        assert all(len(bodies) == 1 for bodies in self.bodies.values())

    @invariant()
    def no_secret_after_the_answer(self):
        """Nothing to steal from the vehicle."""
        held = self.held
        if held.stage == VehicleSession.UNMASKED:
            secrets = (held.mask_private_key, held.share_private_key, held.self_seed, held.delivery)
            assert not any(secrets)


TestLyingServer = pytest.mark.slow(LyingServer.TestCase)
TestLyingServer.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_the_machine_gets_to_an_answer():
    """Otherwise it would prove nothing."""
    server = LyingServer()
    server.begin([])
    everybody = set(range(1, COUNT + 1))
    server.ask_to_check_in(TERMS[0], 1)
    server.send_a_roster(TERMS[0], everybody)
    server.deliver(everybody)
    server.ask_for_the_update(1)
    server.ask_for_the_update(2)
    server.give_request(everybody - {5}, {5})
    server.give_request(everybody, set())
    server.one_answer_of_one_kind()
    server.one_vector_under_the_masks()
    assert server.held.stage == VehicleSession.UNMASKED
    assert len(server.answers[TERMS[0]]) == 1
    assert np.unique([len(body) for body in server.bodies[TERMS[0]]]).size == 1
