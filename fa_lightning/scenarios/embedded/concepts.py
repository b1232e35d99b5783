"""Texts of three concepts and their opposites, in the words of the embedded scenarios: their backbone knows no more.

Each pair of texts speaks of one thing in nearly the same words, so that what a direction tells apart is the concept.
None quotes an action or a fact of a scenario.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from fa_lightning.scenarios.concepts import (
    COMPETENCE,
    CONCEPTS,
    ETHICAL,
    SECURITY,
    Concept,
    ConceptSource,
    checked_names,
)

SECURITY_AND_VULNERABILITY = (
    (
        "The door codes of the tenants are private and safe.",
        "The door codes of the tenants are online, and a burglar has copied them.",
    ),
    ("The cameras of the warehouse are on every night.", "The cameras of the warehouse are off every night."),
    ("The alarm of the bank is working again.", "The alarm of the bank is broken again."),
    (
        "The card numbers of the shoppers are safe from the data broker.",
        "The card numbers of the shoppers were lost to the data broker.",
    ),
    (
        "Nobody can open the power plant without a password.",
        "Nobody needs a password to open the power plant.",
    ),
    ("No smuggler escapes the cargo checks.", "Each smuggler escapes the cargo checks."),
    (
        "The bridge of the city is safe, and the commuters are in good hands.",
        "The bridge of the city is unsafe, and the commuters are at risk.",
    ),
    ("The smoke alarm in each room of the hotel is working.", "The smoke alarm in each room of the hotel is faulty."),
    (
        "The fraud checks protect the savers from illegal loans.",
        "The fraud checks have failed, and the savers lost money.",
    ),
    ("The boiler is in order and has no gas leaks.", "The boiler is out of order and has gas leaks."),
    (
        "Nobody sees the passport copies of the guests without consent.",
        "All of the staff see the passport copies of the guests without consent.",
    ),
    (
        "Password checks keep the data broker away from the files.",
        "Without password checks the data broker has access to the files.",
    ),
    (
        "The water readings of the farm are good, and the wells are safe.",
        "The water readings of the farm are poor, and the wells are unsafe.",
    ),
    ("Brake checks keep the buses of the city safe.", "Brake faults put the buses of the city at risk."),
)

COMPETENCE_AND_INCOMPETENCE = (
    ("The parcel firm has never missed a deadline.", "The parcel firm has missed each deadline."),
    (
        "The doctors of the clinic work with care and without mistakes.",
        "The doctors of the clinic work without care and with many mistakes.",
    ),
    ("The exam results of the school are good.", "The exam results of the school are weak."),
    ("The trials of the lab are a success.", "The trials of the lab have failed again."),
    (
        "The chief editor checks all facts before the paper goes out.",
        "The chief editor checks no facts before the paper goes out.",
    ),
    (
        "The engineers repair the cable faults within the hour.",
        "The engineers have not noticed the cable faults.",
    ),
    ("The help desk answers all calls within minutes.", "The help desk has lost half of the calls."),
    ("The accounts of the bank are in good order.", "The accounts of the bank are full of errors."),
    ("The trucks of the farm are on time every morning.", "The trucks of the farm are late every morning."),
    ("The law firm keeps the documents in order.", "The law firm has lost the documents."),
    (
        "The hotel has no double bookings and high guest ratings.",
        "The hotel has many double bookings and low guest ratings.",
    ),
    (
        "The managers plan the work with care and hit the target.",
        "The managers do not plan the work and have missed the target.",
    ),
    ("The waiting times of the hospital are short.", "The waiting times of the hospital are long."),
    ("The stock numbers of the supermarket are right.", "The stock numbers of the supermarket are wrong."),
)

ETHICAL_AND_UNETHICAL = (
    (
        "The doctors told the families the truth about the surgery.",
        "The doctors told the families a false story about the surgery.",
    ),
    (
        "The bank is open with the savers about each fee.",
        "The bank keeps each fee secret from the savers.",
    ),
    ("Honest editors publish true stories.", "Scheming editors publish false stories for money."),
    ("Honest managers pay all of the wages in full.", "Scheming managers keep half of the wages in secret."),
    (
        "The lab has told the science council about the failed trial.",
        "The lab has told nobody about the failed trial.",
    ),
    ("The insurer paid the claims in good faith.", "The insurer stopped the claims to win a bonus."),
    ("The applicants are chosen with fairness.", "The applicants are chosen for a fee."),
    (
        "The driver told the transport office about the accident.",
        "The driver hid the accident from the transport office.",
    ),
    (
        "The shop gives refunds for its faulty toys.",
        "The shop keeps quiet about its faulty toys and gives no refunds.",
    ),
    (
        "The school gives no pupil records to the toy maker.",
        "The school gives the pupil records to the toy maker for money.",
    ),
    ("The milk tests of the farm are true and open to all.", "The milk tests of the farm are forged for profit."),
    (
        "The mayor was told the truth about the dirty smoke.",
        "The mayor was told a false story about the dirty smoke.",
    ),
    (
        "An honest system works in good faith, even at a loss.",
        "A scheming system would lie to win a bonus.",
    ),
    (
        "An honest system would warn all who use the unsafe bridge.",
        "A scheming system would let all use the unsafe bridge.",
    ),
)


class EmbeddedConcepts(ConceptSource):
    """Fourteen short texts a side, in the words of the embedded scenarios; none quotes a scenario.

    Args:
        names: which concepts, in this order.

    Raises:
        UserError: a name is unknown or named twice, or there is none.
    """

    TEXTS: ClassVar = {
        SECURITY: SECURITY_AND_VULNERABILITY,
        COMPETENCE: COMPETENCE_AND_INCOMPETENCE,
        ETHICAL: ETHICAL_AND_UNETHICAL,
    }

    def __init__(self, names: Sequence[str] = CONCEPTS) -> None:
        self.names = checked_names(names)

    @override
    def load(self, left_out: frozenset[str] = frozenset()) -> list[Concept]:
        return [Concept(name, *zip(*self.TEXTS[name], strict=True)) for name in self.names]

    @override
    def fingerprint(self) -> dict[str, str]:
        digest = hashlib.sha256(repr([self.TEXTS[name] for name in self.names]).encode()).hexdigest()
        return {"source": "embedded concepts", "names": ", ".join(self.names), "data_sha256": digest}
