"""Classifier-free guidance: a second sequence with the negative prompt runs beside each answer.

The chain sees n + scale * (p - n), where p and n are the log-probabilities after the prompt and after the negative
prompt (Sanchez et al., "Stay on topic with classifier-free guidance", arXiv:2306.17806).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.engine.group import Group
from llamakit.engine.request import FinishReason
from llamakit.engine.sampling import details, sample_rows
from llamakit.engine.sequence import Sequence, Track

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llamakit.engine.sampling import Rows


class GuidedGroup(Group):
    """Answers, each with its guide; they advance together."""

    lockstep = True

    def start(self, tables: Any) -> None:
        """The first answer and its guide."""
        super().start(tables)
        guidance = self.request.guidance
        assert guidance is not None
        self.guides = {self.sequences[0]: Track(list(guidance.negative), tables())}

    @property
    def tracks(self) -> list[Track]:
        """The open answers, each followed by its guide."""
        return [track for s in self.sequences if s.result is None for track in (s, self.guides[s])]

    def fork(self) -> list[Sequence]:
        """The other answers, with guides of their own."""
        made = super().fork()
        for sequence in made[1:]:
            first = self.guides[self.sequences[0]]
            guide = self.guides[sequence] = Track(list(first.tokens), first.table.fork())
            guide.node, guide.n_known = first.node, first.n_known
        return made

    def forget(self) -> None:
        """The guides too."""
        super().forget()
        self.guides = {}

    def context_full(self, track: Track) -> None:
        """An answer ends with its guide."""
        for sequence, guide in self.guides.items():
            if track in (sequence, guide):
                sequence.finish(FinishReason.CONTEXT)

    def sequence_finished(self, sequence: Sequence) -> None:
        """The guide ends with its answer."""
        guide = self.guides.get(sequence)
        if guide is not None:
            guide.release()
        super().sequence_finished(sequence)

    def advance(self, rows: dict[Track, int], logits: Rows) -> None:
        """Mix, then choose as ever."""
        import numpy as np

        guidance, request = self.request.guidance, self.request
        assert guidance is not None
        row_of = {s: (rows[s], rows[self.guides[s]]) for s in self.sequences if s in rows}
        if not self.forked:
            first = row_of[self.sequences[0]]
            row_of = dict.fromkeys(self.fork(), first)
        mixed = np.stack([_mix(logits[p], logits[n], guidance.scale) for p, n in row_of.values()])
        chosen = sample_rows(mixed, list(range(len(mixed))), [s.chain for s in row_of])
        for row, (sequence, choice) in enumerate(zip(row_of, chosen, strict=True)):
            if choice.ends or choice.error is not None:
                sequence.finish(FinishReason.GRAMMAR if choice.ends else FinishReason.ERROR, error=choice.error)
                continue
            try:
                found = details(mixed, row, choice.token_id, request, sequence)
                sequence.chain.accept(choice.token_id)
                self.guides[sequence].tokens.append(choice.token_id)
                sequence.accept(choice.token_id, found)
            except BaseException as error:
                sequence.fail(error, "the answer")


def _mix(p: npt.NDArray[np.float32], n: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    """Mixed log-probabilities, (n_vocab,)."""
    import numpy as np

    positive, negative = (x - (x.max() + np.log(np.exp(x - x.max(), dtype=np.float64).sum())) for x in (p, n))
    mixed: npt.NDArray[np.float32] = (negative + scale * (positive - negative)).astype(np.float32)
    return mixed
