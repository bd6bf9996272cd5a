"""What the decoder remembers of one text."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from gptwo.engine.prefix_cache import BLOCK, Block
from gptwo.engine.run import Feed, Resources, Room
from gptwo.errors import DecoderError


class Past:
    """The keys and values of a text, as far as they are computed: a sequence of the decoder, once there is one.

    Nothing is taken for computed before `commit`, so that a step that was interrupted can be done again.
    """

    def __init__(self, resources: Resources, *, shares: bool = True) -> None:
        """shares: whether blocks of earlier texts are used, and this one's held for later ones."""
        self.handle: int | None = None
        self._resources, self._may_share = resources, shares
        self._window = resources.decoder.config.n_positions
        self._start = 0  # of the text, what stands in the decoder's first position
        self._held = 0
        self._blocks: list[Block] = []  # of the prefix cache, which share this text's memory

    def feed(
        self, ids: Sequence[int], room: Room, drafts: Sequence[int] = (), *, rows_from: int | None = None
    ) -> Feed | None:
        """What of a text is to be computed next, and guesses behind it; None if that has to wait.

        rows_from: the logits behind every token from this place of the text on are wanted, not only those behind the
        last and the guesses.
        Once the text is longer than the model's window of positions, that is all of it: learned positions cannot be
        shifted, so the last window is computed anew.
        """
        start = max(0, len(ids) - self._window)
        if start != self._start:
            self._start, self._held = start, 0
        if self.handle is None and not self._open(ids):
            return None
        assert self.handle is not None
        wanted = len(ids) - start - self._held
        if wanted > 1 and self._shares and len(self._blocks) * BLOCK == self._held // BLOCK * BLOCK:
            self._resources.prefixes.promise(self._blocks, ids)
        count = room.take(wanted)
        if not count:
            return None
        complete = count == wanted
        first = start + self._held
        token_ids = [*ids[first : first + count], *drafts]
        silent = count - 1 if complete else count
        if rows_from is not None:
            silent = min(max(0, rows_from - first), count)
        rows = range(silent, len(token_ids))
        return Feed(self.handle, self._held, token_ids, len(drafts), rows, complete)

    def commit(self, feed: Feed, ids: Sequence[int], accepted: int = 0) -> None:
        """The tokens of `feed` are computed, and so many of its guesses are part of the text `ids` now."""
        count = len(feed.token_ids) - feed.drafts
        self._held = feed.keep + count + accepted
        self._resources.statistics.computed_tokens += count
        if self._shares and self._held // BLOCK > feed.keep // BLOCK:
            self._resources.prefixes.keep(feed.handle, self._held, ids, self._blocks)

    def fork(self) -> Past:
        """The past of another text that goes on from here."""
        assert self.handle is not None
        other = Past(self._resources, shares=self._may_share)
        other.handle = self._resources.decoder.fork(self.handle)
        other._start, other._held, other._blocks = self._start, self._held, list(self._blocks)
        return other

    def close(self) -> None:
        """Free the memory; may be called twice."""
        if self.handle is not None:
            with contextlib.suppress(DecoderError):  # closed already, if an interruption came before the line below
                self._resources.decoder.close(self.handle)
            self.handle = None

    @property
    def _shares(self) -> bool:
        return self._may_share and self._start == 0

    def _open(self, ids: Sequence[int]) -> bool:
        """Begin, with as much of the text as is held already; False while another request computes more of it."""
        decoder, prefixes, statistics = self._resources.decoder, self._resources.prefixes, self._resources.statistics
        if not self._shares:
            self.handle = decoder.open()
            return True
        blocks = prefixes.find(ids)
        if prefixes.is_promised(blocks, ids):
            return False
        self.handle = decoder.fork(blocks[-1].handle) if blocks else decoder.open()
        self._blocks, self._held = blocks, len(blocks) * BLOCK
        statistics.prefix_lookups += 1
        statistics.prefix_hits += bool(blocks)
        statistics.prefix_tokens += self._held
        return True
