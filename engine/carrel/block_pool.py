"""The KV blocks of one chat model: who holds each one, which are free, which can be found again.

Knows reference counts, the order of eviction and the keys of cached blocks. Does not know requests, tokens per block or
tensors: a block is a number, the worker owns the memory behind it.

::

    free, nothing kept in it ──allocate──▶ held (ref_count ≥ 1) ──free──▶ free, key kept ──find, touch──▶ held again
              ▲                               │  key set by cache()             │
              └───────free (no key)───────────┘◀────────allocate (key dropped)──┘

The free list is the order of eviction: the head goes first. Blocks with no key join at the head, for nothing is lost
with them; blocks with a key join at the tail, in the order they are freed, which is the tail of a sequence first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class BlockKey(NamedTuple):
    """What a full block holds: its tokens, and all tokens before them by the digest of the parent (and the salt)."""

    digest: bytes  # over parent and token_ids
    parent: bytes  # digest of the block before; of the salt for the first block
    token_ids: tuple[int, ...]


@dataclass(slots=True, eq=False)
class KVBlock:
    """One block. ``previous`` and ``next`` link the free list and are None in a block that is held."""

    block_id: int
    ref_count: int = 0  # sequences that hold it
    key: BlockKey | None = None  # set while the block can be found
    previous: KVBlock | None = None
    next: KVBlock | None = None


class FreeBlockQueue:
    """A doubly linked list, so that a block in the middle leaves in O(1) when it is hit."""

    def __init__(self, blocks: Iterable[KVBlock]) -> None:
        self._head = KVBlock(-1)  # sentinels: no special case at either end
        self._tail = KVBlock(-1)
        self._head.next, self._tail.previous = self._tail, self._head
        self._num_blocks = 0
        for block in blocks:
            self.append(block)

    def __len__(self) -> int:
        return self._num_blocks

    def __iter__(self) -> Iterator[KVBlock]:
        block = self._head.next
        while block is not None and block is not self._tail:
            yield block
            block = block.next

    def append(self, block: KVBlock) -> None:
        before = self._tail.previous
        assert before is not None, "the tail has a neighbour"
        self._link(before, block, self._tail)

    def prepend(self, block: KVBlock) -> None:
        after = self._head.next
        assert after is not None, "the head has a neighbour"
        self._link(self._head, block, after)

    def popleft(self) -> KVBlock:
        block = self._head.next
        assert block is not None and block is not self._tail, "a block is taken from an empty free list"
        self.remove(block)
        return block

    def remove(self, block: KVBlock) -> None:
        before, after = block.previous, block.next
        assert before is not None and after is not None, f"block {block.block_id} is not in the free list"
        before.next, after.previous = after, before
        block.previous = block.next = None
        self._num_blocks -= 1

    def _link(self, before: KVBlock, block: KVBlock, after: KVBlock) -> None:
        assert block.previous is None and block.next is None, f"block {block.block_id} is in the free list already"
        block.previous, block.next = before, after
        before.next = after.previous = block
        self._num_blocks += 1


class BlockPool:
    """All blocks of one model, numbered 0 … ``num_blocks`` - 1.

    >>> pool = BlockPool(4, enable_caching=True)
    >>> [block.block_id for block in pool.allocate(2)], pool.num_free_blocks
    ([0, 1], 2)
    """

    def __init__(self, num_blocks: int, *, enable_caching: bool) -> None:
        assert num_blocks >= 1, "a pool has at least one block"
        self.enable_caching = enable_caching
        self.blocks = [KVBlock(block_id) for block_id in range(num_blocks)]
        self.free_queue = FreeBlockQueue(self.blocks)
        self._cached: dict[bytes, KVBlock] = {}  # digest → the block that holds it, free or not

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be allocated, those with cached content included."""
        return len(self.free_queue)

    @property
    def num_cached_blocks(self) -> int:
        return len(self._cached)

    def find(self, key: BlockKey) -> KVBlock | None:
        """The block that holds exactly this: the digest finds it, the tokens and the parent confirm it."""
        block = self._cached.get(key.digest)
        return block if block is not None and block.key == key else None

    def allocate(self, num_blocks: int) -> list[KVBlock]:
        """Take blocks from the head of the free list; what was cached in them is forgotten."""
        assert num_blocks <= self.num_free_blocks, "the caller checks num_free_blocks first"
        blocks = [self.free_queue.popleft() for _ in range(num_blocks)]
        for block in blocks:
            self._forget(block)
            block.ref_count = 1
        return blocks

    def touch(self, blocks: Iterable[KVBlock]) -> None:
        """One more sequence holds these blocks."""
        for block in blocks:
            if block.ref_count == 0:
                self.free_queue.remove(block)
            block.ref_count += 1

    def free(self, blocks: Iterable[KVBlock]) -> None:
        """One sequence less holds these blocks. What is given first is evicted first: give the tail first."""
        for block in blocks:
            assert block.ref_count > 0, f"block {block.block_id} is freed twice"
            block.ref_count -= 1
            if block.ref_count == 0:
                if block.key is None:
                    self.free_queue.prepend(block)
                else:
                    self.free_queue.append(block)

    def cache(self, block: KVBlock, key: BlockKey) -> None:
        """The block is full and written: let it be found. The first block of a content keeps the name."""
        assert block.ref_count > 0 and block.key is None, "only a held block gets a key, and only once"
        if self.enable_caching and key.digest not in self._cached:
            block.key = key
            self._cached[key.digest] = block

    def forget_all(self) -> None:
        """Empty the prefix cache. Blocks that are held stay held."""
        for block in list(self._cached.values()):
            self._forget(block)

    def check_integrity(self, tables: Iterable[Sequence[KVBlock]]) -> None:
        """Assert that ``tables``, the blocks of each sequence, and the free list make up the whole pool."""
        held = [0] * self.num_blocks
        for table in tables:
            assert len({block.block_id for block in table}) == len(table), "a sequence holds a block twice"
            for block in table:
                held[block.block_id] += 1
        free_ids = [block.block_id for block in self.free_queue]
        used_ids = [block.block_id for block in self.blocks if block.ref_count > 0]
        assert [block.ref_count for block in self.blocks] == held, "ref counts differ from the sequences' holdings"
        assert sorted(free_ids + used_ids) == list(range(self.num_blocks)), "free + used is not the pool"
        assert len(free_ids) == self.num_free_blocks, "the free list miscounts itself"
        keyed = {block.key.digest: block for block in self.blocks if block.key is not None}
        assert keyed == self._cached, "the cache's map and the blocks' keys differ"

    def _forget(self, block: KVBlock) -> None:
        if block.key is not None:
            del self._cached[block.key.digest]
            block.key = None
