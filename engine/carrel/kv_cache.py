"""Which KV blocks hold which tokens of which request, and which of them can be shared.

Knows requests, block sizes and the prefix cache of one chat model. Does not know tensors or scheduling policy.

Who owns which part of a request's tokens (block size 4, 11 tokens, 7 of them computed)::

    tokens      0  1  2  3 | 4  5  6  7 | 8  9 10  ·
    block table     #5     |     #2     |     #9
                ├ computed ─────┤├ to compute ──┤├ room for what is sampled
                └ committed ┘
                  shared     private until committed: only this request reads or writes it

A block is **committed** – can be found by other requests – when all its tokens are written, never before, so a step
that fails leaves nothing wrong behind. A committed block is never written again. Shared blocks are therefore full
blocks, and every request writes only into blocks that it alone holds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from carrel.block_pool import BlockKey, BlockPool, KVBlock
from carrel.request import Request


def block_key(parent: bytes, token_ids: Sequence[int]) -> BlockKey:
    """Key of a block of ``token_ids`` after ``parent``, the digest of the block before it."""
    digest = hashlib.sha256(parent + struct.pack(f"{len(token_ids)}I", *token_ids)).digest()
    return BlockKey(digest, parent, tuple(token_ids))


def root_digest(cache_salt: str | None) -> bytes:
    """Parent of a first block. Other salts give other digests, so their requests never share a block."""
    return hashlib.sha256(b"" if cache_salt is None else b"salt:" + cache_salt.encode()).digest()


@dataclass(slots=True)
class _BlockTable:
    blocks: list[KVBlock] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)  # ids of ``blocks``; handed to the worker, only ever appended to
    num_committed: int = 0  # leading blocks that were found in the cache or offered to it
    num_announced: int = 0  # leading blocks that are committed or in ``KVCacheManager._announced``

    def append(self, blocks: Sequence[KVBlock]) -> None:
        self.blocks.extend(blocks)
        self.block_ids.extend([block.block_id for block in blocks])


class KVCacheManager:
    """The KV cache of one chat model.

    >>> cache = KVCacheManager(8, 4, enable_caching=True, max_model_len=32)
    >>> cache.fits(32), cache.fits(33)
    (True, False)
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_caching: bool, max_model_len: int) -> None:
        assert block_size >= 1 and max_model_len >= 1, "sizes are positive"
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.pool = BlockPool(num_blocks, enable_caching=enable_caching)
        self.num_queried_tokens = 0  # of admitted requests
        self.num_hit_tokens = 0  # of those, found in the prefix cache
        self._tables: dict[str, _BlockTable] = {}  # request id → its blocks
        self._announced: dict[bytes, int] = {}  # digest → holders that will commit a block of this content
        self._keys: dict[str, list[BlockKey]] = {}  # request id → keys of its full blocks, as far as they were needed

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free_blocks

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0..1."""
        return 1.0 - self.pool.num_free_blocks / self.pool.num_blocks

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of that many tokens fits when it has the cache to itself."""
        return num_tokens <= self.num_blocks * self.block_size

    def get_computed_blocks(self, request: Request) -> tuple[list[KVBlock], int]:
        """Cached blocks that start this request, and the number of tokens in them.

        Never all tokens: the last one is always computed, for its logits. Who asks for log probabilities of the prompt
        computes every token whose logits are still to be seen.
        """
        blocks: list[KVBlock] = []
        if self.pool.enable_caching:
            most = request.num_prompt_logprobs if request.lacks_prompt_logprobs else request.num_tokens - 1
            for key in self._keys_of(request, most // self.block_size):
                block = self.pool.find(key)
                if block is None:
                    break
                blocks.append(block)
        return blocks, len(blocks) * self.block_size

    def num_coming_tokens(self, request: Request, computed_blocks: Sequence[KVBlock]) -> int:
        """Tokens right after ``computed_blocks`` that other requests are computing now and will commit."""
        num_coming = 0
        if self._announced and not request.lacks_prompt_logprobs:
            for key in self._keys_of(request, (request.num_tokens - 1) // self.block_size)[len(computed_blocks) :]:
                if key.digest not in self._announced:
                    break
                num_coming += self.block_size
        return num_coming

    def allocate_slots(
        self, request: Request, num_new_tokens: int, computed_blocks: Sequence[KVBlock] = (), *, headroom: int = 0
    ) -> list[int] | None:
        """Room for ``num_new_tokens`` more tokens after the computed ones: the request's block ids, None if it is full.

        ``computed_blocks`` are what :meth:`get_computed_blocks` found, when the request holds nothing yet. ``headroom``
        is the number of blocks that must stay free. On None nothing has changed.
        """
        table = self._tables.get(request.request_id)
        if table is None:
            return self._admit(request, num_new_tokens, computed_blocks, headroom)
        assert not computed_blocks, "a request that holds blocks finds no others"
        num_missing = self._blocks_for(request.num_computed_tokens + num_new_tokens) - len(table.block_ids)
        if num_missing > 0:
            if num_missing + headroom > self.pool.num_free_blocks:
                return None
            table.append(self.pool.allocate(num_missing))
        return table.block_ids

    def commit(self, request: Request, num_tokens: int) -> None:
        """The first ``num_tokens`` tokens are written and known: full blocks can now be found."""
        table = self._tables[request.request_id]
        num_full = num_tokens // self.block_size
        if num_full <= table.num_committed or not self.pool.enable_caching:
            return
        keys = self._keys_of(request, num_full)
        for index in range(table.num_committed, num_full):
            self.pool.cache(table.blocks[index], keys[index])
        if table.num_announced > table.num_committed:
            self._retract(keys[table.num_committed : min(num_full, table.num_announced)])
        table.num_committed = num_full

    def free(self, request: Request) -> None:
        """Give back what the request holds, the tail first, so that the tail is evicted first. Nothing held is fine."""
        keys = self._keys.pop(request.request_id, [])
        table = self._tables.pop(request.request_id, None)
        if table is not None:
            self._retract(keys[table.num_committed : table.num_announced])
            self.pool.free(reversed(table.blocks))

    def reset(self) -> None:
        """Forget the prefix cache; requests keep what they hold."""
        self.pool.forget_all()

    def check_integrity(self) -> None:
        """Assert that free + used is the whole pool and that no block has an owner it should not have."""
        self.pool.check_integrity(table.blocks for table in self._tables.values())
        for table in self._tables.values():
            private = table.blocks[table.num_committed :]
            assert all(block.ref_count == 1 for block in private), "a block that is still written is shared"
        num_announced = sum(max(0, table.num_announced - table.num_committed) for table in self._tables.values())
        assert sum(self._announced.values()) == num_announced, "what was announced is not what will be committed"

    def _admit(
        self, request: Request, num_new_tokens: int, computed_blocks: Sequence[KVBlock], headroom: int
    ) -> list[int] | None:
        num_cached_tokens = len(computed_blocks) * self.block_size
        num_new_blocks = self._blocks_for(num_cached_tokens + num_new_tokens) - len(computed_blocks)
        num_revived = sum(block.ref_count == 0 for block in computed_blocks)  # these leave the free list too
        if num_new_blocks + num_revived + headroom > self.pool.num_free_blocks:
            return None
        self.pool.touch(computed_blocks)  # first, or they could be evicted by the allocation
        table = _BlockTable(num_committed=len(computed_blocks))
        table.append(computed_blocks)
        table.append(self.pool.allocate(num_new_blocks))
        self._tables[request.request_id] = table
        self._announce(request, table)
        self.num_queried_tokens += request.num_tokens
        self.num_hit_tokens += num_cached_tokens
        return table.block_ids

    def _announce(self, request: Request, table: _BlockTable) -> None:
        if not self.pool.enable_caching:
            return
        table.num_announced = request.num_tokens // self.block_size
        for key in self._keys_of(request, table.num_announced)[table.num_committed :]:
            self._announced[key.digest] = self._announced.get(key.digest, 0) + 1

    def _retract(self, keys: Sequence[BlockKey]) -> None:
        for key in keys:
            self._announced[key.digest] -= 1
            if self._announced[key.digest] == 0:
                del self._announced[key.digest]

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _keys_of(self, request: Request, num_blocks: int) -> list[BlockKey]:
        keys = self._keys.setdefault(request.request_id, [])
        for index in range(len(keys), num_blocks):
            parent = keys[-1].digest if keys else root_digest(request.cache_salt)
            keys.append(block_key(parent, request.token_ids(index * self.block_size, (index + 1) * self.block_size)))
        return keys[:num_blocks] if len(keys) > num_blocks else keys
