/* SPDX-License-Identifier: Apache-2.0 */
/* cut_long: groups of more than TC_CUT_SHORT rows, by all blocks of the device. What its files
 * share (cut/long.cu: the launch): the work as the device sees it, how a block meets its tile, and
 * the stages that all rules begin with.
 *
 * A tile is a run of 2,048, 4,096 or 8,192 rows of one group, one block's work in every stage or
 * kernel. Which groups are long, and which tiles they have, is found on the device first (begin).
 * Between kernels: every one lets the next start right behind its own wait, not before: whatever a
 * kernel finds before its wait is then complete up to the kernel before the last. That is how
 * blocks look up their tile and load its rows while the kernel before them still runs. */
#ifndef TAILCUT_CUT_LONG_CUH_
#define TAILCUT_CUT_LONG_CUH_

#include "common/sync.cuh"
#include "cut/otsu.cuh"

/* Cuts every group of more than TC_CUT_SHORT rows and leaves the others alone, but where
 * tc_cut_long_takes_all: then those too. scratch: as many bytes as tc_cuda_cut_scratch says, of any
 * content, left with any content. */
bool tc_cut_long_takes_all(const tc_cut_args &args);
cudaError_t tc_cut_long(const tc_cut_args *args, char *scratch, const tc_chain *chain);
void tc_cut_long_load(cudaError_t *error);

#define TC_LONG_THREADS 512
#define TC_LONG_WARPS (TC_LONG_THREADS / 32)
#define TC_LONG_TILES 128 /* of one group, at most */
#define TC_LONG_BINS 2048 /* of 1,024 curve values each, the last one of 1,025 */
#define TC_LONG_SPAN 8    /* bins whose single values are counted at once */
#define TC_LONG_LEVELS 3  /* digits of a key */
#define TC_LONG_DIGITS 2048
#define TC_LONG_DIGIT_BITS 11

typedef tc_block<TC_LONG_WARPS> tc_long_block;

/* One tile of one group; 64 bytes, so that a warp reads it at once. */
struct alignas(64) tc_long_tile {
  tc_group group;
  int32_t number, flags;      /* as tc_cut_group; number -1: no tile */
  int32_t slot, first, tiles; /* the group's place among the long ones, its tiles */
  int32_t index;              /* of this tile in its group */
  int32_t base;               /* rows of the groups before */
  int32_t unused[5];
};

/* Rows with a key below `key` stay, and of those with this key the first k. While width is not 0
 * that is not known: the last to stay is the k-th of the rows with keys in [key, key + 2^width). */
struct tc_long_cut {
  uint32_t key;
  int32_t width, k;
  int32_t candidates, usable, whole; /* N, N'; kept whole for want of a reference or a curve */
};

/* OTSU's state of a group. A packed prefix: count << 42 | sum of offsets (cut/long_otsu.cuh). A bin
 * is alive that can hold the answer; none is: keep all. */
struct alignas(128) tc_long_state {
  uint64_t bins[TC_LONG_BINS];          /* packed, by bin */
  uint32_t values[TC_LONG_SPAN * 1024]; /* rows of each, of bins alive, where they are so few */
  uint32_t taken[TC_LONG_BINS];         /* places of `entries` in use, by bin */
  uint32_t candidates;                  /* with roles only */
  uint32_t arrived;                     /* tiles whose best is there */
  uint32_t zeroed_to[30]; /* begin zeroes all up to here; the rest is written before it is read */
  tc_best best;
  uint64_t all;                  /* packed, of all */
  uint32_t alive;                /* how many */
  uint32_t listed[TC_LONG_BINS]; /* the bins that are alive, in order; */
  uint64_t before[TC_LONG_BINS]; /* packed, before each of them */
};

/* What the kernels get. */
struct tc_long {
  tc_cut_args cut;
  int32_t slots, bound; /* groups and tiles, at most */
  int32_t rows;         /* of a tile */
  int32_t most_left;    /* rows of a group that is left alone; -1: none is */
  tc_long_tile *tiles;  /* [bound] */
  uint32_t *found;      /* [bound] emit's look-back: 1 << 31 | ties << 14 | kept */
  tc_stats *stats;      /* [bound] */
  tc_best *best;        /* [bound] */
  tc_long_cut *cuts;    /* [slots][TC_LONG_LEVELS] */
  /* By value: */
  tc_long_state *states; /* [slots] */
  uint32_t *digits;      /* [slots][TC_LONG_LEVELS][TC_LONG_DIGITS] */
  uint32_t *entries;     /* by row of all long groups */
  /* By sorting, likewise: */
  uint64_t *items[2]; /* key << 32 | row */
  int32_t *q;
  uint32_t *marks;  /* 0: the row stays; shares the memory of items[0] */
  uint32_t *counts; /* [bound][256] */
};

/* What the kept rows are known by. */
enum tc_long_mode { TC_LONG_OTSU, TC_LONG_SELECT, TC_LONG_MARKS };

/* Copies a tile's description into shared memory; a barrier must follow. One warp's half: the words
 * are one line for the whole grid, and thousands of requests for it would queue up. */
__device__ __forceinline__ void tc_long_open(const tc_long &a, uint32_t tile,
                                             tc_long_tile &shared) {
  static_assert(sizeof(tc_long_tile) == 64, "16 words");
  if (threadIdx.x < 16) {
    ((uint32_t *)&shared)[threadIdx.x] = __ldcg((const uint32_t *)(a.tiles + tile) + threadIdx.x);
  }
}

/* Waits until `count` blocks have said that a stage's work is done; NULL: no need to. A barrier is
 * in here. */
__device__ __forceinline__ void tc_long_await(const uint32_t *done, uint32_t count) {
  if (threadIdx.x == 0 && done != nullptr) {
    while (tc_load_acquire(done) != count) {
    }
  }
  __syncthreads();
}

__device__ __forceinline__ tc_cut_group tc_long_group(const tc_long &a, const tc_long_tile &tile) {
  return tc_cut_group_of(a.cut, tile.group, tile.number, tile.flags);
}

/* Which rows of a tile a thread has: a warp owns 128 * QUADS consecutive ones, a lane 4 consecutive
 * ones of each 128. */
template <int QUADS>
__device__ __forceinline__ int32_t tc_long_first(int32_t index) {
  const int32_t warp = index * TC_LONG_WARPS + (int32_t)(threadIdx.x >> 5);
  return warp * 128 * QUADS + (int32_t)(threadIdx.x & 31) * 4;
}
__device__ __forceinline__ int32_t tc_long_row(int32_t first, int i) {
  return first + (i >> 2) * 128 + (i & 3);
}

/* A thread's rows: scores as the rule sees them (order LOW negates), a bit per row for what is no
 * candidate (or behind the end), and for what stays all the same. */
template <int QUADS>
struct tc_long_rows {
  float s[4 * QUADS];
  uint32_t none, stays;
};

/* The loads of whole pieces are in a branch of their own: as predicated ones the compiler would put
 * each beside its use. */
template <int QUADS>
__device__ __forceinline__ void tc_long_load(const tc_long &a, const tc_cut_group &c, int32_t first,
                                             tc_long_rows<QUADS> *rows) {
  const bool low = a.cut.rule.order == TAILCUT_LOW;
  const int32_t n = c.group.n;
  rows->none = rows->stays = 0;
  if (((uintptr_t)c.scores & 15) == 0 && first + (QUADS - 1) * 128 + 4 <= n) {
    float4 four[QUADS];
#pragma unroll
    for (int v = 0; v < QUADS; v++) four[v] = __ldcg((const float4 *)(c.scores + first + v * 128));
#pragma unroll
    for (int v = 0; v < QUADS; v++) {
      rows->s[4 * v] = four[v].x, rows->s[4 * v + 1] = four[v].y;
      rows->s[4 * v + 2] = four[v].z, rows->s[4 * v + 3] = four[v].w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4 * QUADS; i++) {
      const int32_t row = tc_long_row(first, i);
      rows->s[i] = row < n ? __ldcg(c.scores + row) : 0.0f;
      rows->none |= (uint32_t)(row >= n) << i;
    }
  }
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) rows->s[i] = tc_ordered(rows->s[i], low);
  if (c.roles == nullptr) return;
  uint8_t roles[4 * QUADS];
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const int32_t row = tc_long_row(first, i);
    roles[i] = row < n ? __ldcg(c.roles + row) : TAILCUT_ROLE_ABSENT;
  }
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) {
    const bool candidate = tc_is_candidate(roles[i]);
    rows->none |= (uint32_t)!candidate << i;
    rows->stays |= (uint32_t)(!candidate && !tc_is_absent(roles[i])) << i;
  }
}

/* Row i's key; TC_KEY_NONE where it is no candidate. */
template <int QUADS>
__device__ __forceinline__ uint32_t tc_long_key(const tc_long_rows<QUADS> &rows, int i) {
  return rows.none >> i & 1 ? TC_KEY_NONE : tc_row_key(rows.s[i], false);
}

/* The tiles' statistics joined, in every thread; `tile` in shared memory. */
template <class Block>
__device__ __forceinline__ tc_stats tc_long_stats(Block &block, const tc_long &a,
                                                  const tc_long_tile &tile) {
  static_assert(TC_LONG_TILES <= TC_LONG_THREADS, "one tile a thread");
  tc_stats stats = tc_stats_none();
  if ((int32_t)threadIdx.x < tile.tiles) stats = a.stats[tile.first + (int32_t)threadIdx.x];
  return block.reduce(stats, tc_stats_none(), tc_stats_join());
}

/* What another block has left. */
__device__ __forceinline__ tc_best tc_load_best(const tc_best *from) {
  const uint4 w = __ldcg((const uint4 *)from);
  return {(uint64_t)w.y << 32 | w.x, w.z, w.w};
}

/* AUTO's exponent from the tiles' statistics; 0 for UNIT. */
__device__ __forceinline__ int32_t tc_long_exponent(tc_long_block &block, const tc_long &a,
                                                    const tc_long_tile &tile) {
  if (a.cut.rule.scale != TAILCUT_SCALE_AUTO) return 0;
  uint32_t m = 0;
  if ((int32_t)threadIdx.x < tile.tiles) {
    m = __ldcg(&a.stats[tile.first + (int32_t)threadIdx.x].magnitude);
  }
  return tc_scale_exponent(tc_float_bits(tc_block_most(block, tc_bits_float(m))));
}

/* ------------------------------------------------------------ begin and statistics, for all -- */

#define TC_BEGINNERS 33 /* blocks of begin: one lists, the others make zero */

/* Words of all the given memory, dealt to the blocks of begin behind the first. */
__device__ inline void tc_make_zero(int32_t number, void *memory, size_t stride, size_t bytes,
                                    int32_t pieces) {
  const int64_t each = (int64_t)(bytes / 16), step = (TC_BEGINNERS - 1) * TC_LONG_THREADS;
  for (int64_t i = (number - 1) * TC_LONG_THREADS + (int64_t)threadIdx.x; i < each * pieces;
       i += step) {
    ((uint4 *)((char *)memory + i / each * stride))[i % each] = make_uint4(0, 0, 0, 0);
  }
}

/* The tiles of the long groups, in order; those up to the bound say that they are none. */
__device__ inline void tc_list_groups(tc_long_block &block, const tc_long &a) {
  const tc_segments &s = a.cut.segments;
  const int32_t groups = tc_group_count(s, a.cut.groups);
  const bool by_warp = s.cu_seqlens != nullptr && s.start == nullptr; /* a whole warp judges one */
  const int32_t step = by_warp ? TC_LONG_WARPS : TC_LONG_THREADS;
  int32_t longs = 0;
  uint64_t used = 0; /* tiles << 32 | rows */
  for (int32_t base = 0; base < groups; base += step) {
    const int32_t number = base + (by_warp ? block.warp : (int32_t)threadIdx.x);
    tc_long_tile mine = {};
    bool is_long = false;
    if (number < groups) {
      const tc_cut_group c = tc_cut_open(a.cut, number);
      mine.group = c.group;
      mine.number = number;
      mine.flags = c.flags;
      is_long = c.group.n > a.most_left && (!by_warp || block.lane == 0);
    }
    if (!__syncthreads_or(is_long)) continue;
    const uint32_t which = __ballot_sync(TC_FULL, is_long);
    int32_t here;
    const int32_t earlier = block.before(__popc(which), &here);
    const int32_t ordinal = longs + earlier + __popc(which & ((1u << block.lane) - 1));
    longs += here;
    mine.slot = ordinal;
    is_long = is_long && ordinal < a.slots;
    mine.tiles = is_long ? max((mine.group.n + a.rows - 1) / a.rows, 1) : 0;
    const int32_t rows = is_long ? mine.group.n : 0;
    uint64_t all;
    const uint64_t before = used + block.prefix((uint64_t)mine.tiles << 32 | (uint32_t)rows, &all);
    mine.first = (int32_t)(before >> 32);
    mine.base = (int32_t)(uint32_t)before;
    used += all;
    for (uint32_t left = __ballot_sync(TC_FULL, is_long); left != 0; left &= left - 1) {
      tc_long_tile tile = tc_shuffle(mine, __ffs((int)left) - 1);
      for (tile.index = block.lane; tile.index < tile.tiles; tile.index += 32) {
        a.tiles[tile.first + tile.index] = tile;
      }
    }
  }
  tc_long_tile none = {};
  none.number = -1;
  for (int32_t i = (int32_t)(used >> 32) + (int32_t)threadIdx.x; i < a.bound;
       i += TC_LONG_THREADS) {
    a.tiles[i] = none;
  }
}

/* Block `number` of TC_BEGINNERS. Nobody else touches the scratch memory: it may be zeroed before
 * the wait. */
__device__ inline void tc_long_begin_block(tc_long_block::space &space, const tc_long &a,
                                           int32_t number, bool values, bool digits) {
  if (number > 0) {
    tc_make_zero(number, a.found, 0, (sizeof(uint32_t) * a.bound + 15) / 16 * 16, 1);
    if (values) {
      tc_make_zero(number, a.states, sizeof(tc_long_state), offsetof(tc_long_state, best), a.slots);
    }
    if (digits) {
      const size_t bytes = sizeof(uint32_t) * TC_LONG_LEVELS * TC_LONG_DIGITS;
      tc_make_zero(number, a.digits, bytes, bytes, a.slots);
    }
  }
  tc_wait_previous();
  tc_let_next_start();
  if (number > 0) return;
  tc_long_block block(space);
  tc_list_groups(block, a);
}

/* What is known of a tile's scores without their order. */
template <int QUADS>
__device__ inline void tc_long_make_stats(tc_long_block::space &space, const tc_long &a,
                                          const tc_long_tile &tile) {
  tc_long_block block(space);
  const tc_cut_group c = tc_long_group(a, tile);
  tc_long_rows<QUADS> rows;
  uint32_t keys[4 * QUADS];
  tc_long_load(a, c, tc_long_first<QUADS>(tile.index), &rows);
#pragma unroll
  for (int i = 0; i < 4 * QUADS; i++) keys[i] = tc_long_key(rows, i);
  const tc_stats own = tc_stats_of(block, keys, a.cut.rule);
  if (threadIdx.x == 0) a.stats[tile.first + tile.index] = own;
}

#endif /* TAILCUT_CUT_LONG_CUH_ */
