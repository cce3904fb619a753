/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cut_value: from scores to kept rows without sorting, one block per group, everything on chip.
 *
 * Formulas and strategy: cut_value.cuh. A thread holds the keys of its rows; the choice is made; ballots
 * and one exchange say how many stay; where a clamp moves that number, the k-th key is selected; kept
 * rows go out in order. Rules that ask for ranks in a run of equal values (CHORD, MASS) or neighbours,
 * spread, curve and ranks are cut_sort.cu's, and so is here, by the same code, a group in which too many
 * rows can win. Precision: exact, the same bits as src/cpu/cut.c. Limits: TC_CUT_SHORT rows.
 *
 * Ladder (H100, OTSU, chained, 576 / 2K / 4K / 8K rows): 1. block radix sort: 11.4, 19.4, 22.6, 36.6 us.
 * 2. the prototypes of this: 2.3-2.5, 3.2, 4.8, 6.4-6.9; TOPK 2.2 and 5.0 (576, 8K), THRESHOLD 1.2 and 2.5.
 * 3. this: not measured.
 */
#include "cut_block.cuh"
#include "cut_value.cuh"

namespace {

/* Rows that stay of a thread's: bits per item, kept and tied ones. */
template <class S>
struct votes {
  uint32_t stay[S::ITEMS], tied[S::ITEMS];
};

template <class S>
union space {
  tc_value_space<S> value;
  tc_block_space<S::THREADS, S::ITEMS> sorting;
  __device__ space() {}
};

/* Votes on the choice; returns, the same in all threads, how many candidates stay. *before: stays (low
 * half) and ties (high half) of the warps before; *fixed: rows in all that stay without being asked. */
template <class S>
__device__ inline int32_t vote(tc_value_space<S> &space, const tc_cut_group &c,
                               const uint32_t (&key)[S::ITEMS], tc_value_scale scale,
                               const tc_value_choice &choice, votes<S> *v, uint32_t *before,
                               int32_t *fixed) {
  const int lane = (int)(threadIdx.x & 31), warp = (int)(threadIdx.x / 32);
  uint32_t counted = 0, unasked = 0;
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const uint32_t k = key[i];
    bool stays, ties = false;
    if (choice.by_offset) {
      stays = k < TC_KEY_UNUSABLE && tc_value_offset(k, scale) <= choice.offset;
    } else {
      stays = k < choice.cutoff.key && k != TC_KEY_NONE;
      ties = k == choice.cutoff.key && k != TC_KEY_NONE && choice.cutoff.ties > 0;
    }
    if (c.roles != nullptr) {
      const int32_t row = warp * 32 * S::ITEMS + i * 32 + lane;
      const bool unranked = k == TC_KEY_NONE && row < c.group.n && tc_stays_unranked(c.roles, row);
      stays |= unranked;
      unasked += __popc(__ballot_sync(TC_FULL, unranked));
    }
    v->stay[i] = __ballot_sync(TC_FULL, stays);
    v->tied[i] = __ballot_sync(TC_FULL, ties);
    counted += __popc(v->stay[i]) + (__popc(v->tied[i]) << 16);
  }
  __syncthreads(); /* earlier counts have been read */
  if (lane == 0) {
    space.warps[warp] = counted;
    space.counts[warp] = unasked;
  }
  __syncthreads();
  const uint32_t others = lane < S::WARPS ? space.warps[lane] : 0;
  const uint32_t total = tc_value_total(others);
  *before = tc_value_total(lane < warp ? others : 0u);
  *fixed = (int32_t)tc_value_total(lane < S::WARPS ? space.counts[lane] : 0u);
  return (int32_t)(total & 0xFFFFu) - *fixed + min((int32_t)(total >> 16), choice.cutoff.ties);
}

/* Apart, so that its registers are not the common case's. */
template <class S>
__device__ __noinline__ void sort_instead(space<S> &shared, const tc_cut_args &args,
                                          const tc_cut_group &c) {
  __syncthreads();
  tc_cut_clear_mask(args, c, (int32_t)threadIdx.x, S::THREADS);
  tc_cut_block(shared.sorting, args, c);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1) cut_value(const __grid_constant__ tc_cut_args args) {
  __shared__ space<S> shared;
  tc_value_space<S> &space = shared.value;
  const int thread = (int)threadIdx.x, lane = thread & 31, warp = thread / 32;
  const int32_t base = warp * 32 * S::ITEMS + lane;
  const tailcut_rule &rule = args.rule;
  const bool low = rule.order == TAILCUT_LOW;
  if (args.early) tc_let_next_start();
#pragma unroll
  for (int e = 0; e < S::EACH; e++) space.bins[thread + e * S::THREADS] = 0;
  if (thread == 0) space.listed = 0;
  tc_wait_previous();
  const tc_cut_group c = tc_cut_open(args, (int32_t)blockIdx.x);
  const int32_t n = c.group.n;
  if (n > S::ROWS) return;
  uint32_t key[S::ITEMS];
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    key[i] = base + i * 32 < n ? tc_load_key(c, low, base + i * 32) : TC_KEY_NONE;
  }
  const tc_stats stats = tc_value_stats(space, key, tc_tau_key(rule));
  const tc_value_scale scale = tc_value_scale_of(
      rule.scale == TAILCUT_SCALE_AUTO ? tc_scale_exponent(stats.magnitude) : 0);
  tc_value_choice choice;
  bool whole;
  if (!tc_value_choose(space, rule, c.number, key, stats,
                       (c.flags & TAILCUT_FLAG_BAD_REFERENCE) != 0, scale, &choice, &whole)) {
    sort_instead<S>(shared, args, c);
    return;
  }
  votes<S> v;
  uint32_t before;
  int32_t fixed, k = vote(space, c, key, scale, choice, &v, &before, &fixed);
  const int32_t clamped = tc_clamp_count(&rule, k, stats.candidates);
  if (clamped != k) {
    choice.by_offset = false;
    choice.cutoff = tc_value_select(space, key, stats, clamped);
    k = vote(space, c, key, scale, choice, &v, &before, &fixed);
  }
  const uint32_t below = (1u << lane) - 1;
  const int32_t ties = choice.by_offset ? 0 : choice.cutoff.ties;
  int32_t seen = (int32_t)(before >> 16), next = (int32_t)(before & 0xFFFFu) + min(seen, ties);
#pragma unroll
  for (int i = 0; i < S::ITEMS; i++) {
    const bool tied = v.tied[i] >> lane & 1 && seen + __popc(v.tied[i] & below) < ties;
    const bool stays = v.stay[i] >> lane & 1 || tied;
    const uint32_t staying = v.tied[i] != 0 ? __ballot_sync(TC_FULL, stays) : v.stay[i];
    if (stays) c.kept[next + __popc(staying & below)] = c.group.first + base + i * 32;
    if (args.out.mask != nullptr && base + i * 32 < n) tc_cut_mask(args, c, base + i * 32, stays);
    next += __popc(staying);
    seen += __popc(v.tied[i]);
  }
  tc_cut_clear_mask(args, c, thread, S::THREADS);
  if (thread == 0) tc_cut_report(args, c, k + fixed, tc_flags_out(c.flags, stats, whole));
  if (args.groups.groups == 0) {
    tc_block<S::WARPS> block(space.block);
    tc_cut_done(block, args);
  }
  if (!args.early) tc_let_next_start();
}

typedef void (*cut_kernel)(tc_cut_args);
struct shape {
  cut_kernel kernel;
  int32_t threads, rows;
};
template <int THREADS, int ITEMS, int LOG>
shape shape_of() {
  typedef tc_value_shape<THREADS, ITEMS, LOG> S;
  return {cut_value<S>, THREADS, S::ROWS};
}
const shape SHAPES[] = {shape_of<128, 2, 8>(), shape_of<256, 3, 9>(), shape_of<512, 4, 9>(),
                        shape_of<1024, 4, 10>(), shape_of<1024, 8, 11>()};

}  // namespace

bool tc_cut_by_value(const tailcut_rule &rule) {
  switch (rule.detector) {
    case TAILCUT_OTSU:
      return rule.search_lo == 0.0 && rule.search_hi == 1.0;
    case TAILCUT_TOPK:
    case TAILCUT_RATIO:
    case TAILCUT_THRESHOLD:
    case TAILCUT_MEAN:
    case TAILCUT_IQR:
      return true;
    default:
      return false;
  }
}

cudaError_t tc_cut_value(const tc_cuda *, const tc_cut_args &args, const tc_chain *chain) {
  const int32_t most = args.segments.max_tokens - args.segments.prefix_rows;
  const shape *s = SHAPES;
  while (s->rows < most && s->rows < TC_CUT_SHORT) s++;
  return tc_launch(s->kernel, (unsigned)tc_group_count(args.segments, args.groups),
                   (unsigned)s->threads, 0, chain, args);
}

cudaError_t tc_cut_value_load() {
  for (const shape &s : SHAPES) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, s.kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
